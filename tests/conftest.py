"""How the suite runs as a whole: the order and the time of its lanes, no network in the fast ones, no silent skips.

`python3 tools/dev.py test` is one pytest run, so that pytest's own summary is its last word. The lanes are folders; they
run in the order of LANES, with two workers (`-n 2`) some of them beside the others, as tests/scheduling.py says. The minutes
that each took are printed before that summary.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
ALLOWED_SKIPS = TESTS / "allowed_skips.txt"


# Tests that start processes of their own or wait for a real clock (torch-free all the same). Whatever is not named here and
# is in no other lane's folder is a unit test: quick, in this process.
PROCESS_TESTS = (
    "client/test_import.py",
    "client/test_sockets.py",
    "core/families/test_adding.py",
    "core/test_speed.py",
    "core/typing",
    "openllm/bench/test_command.py",
    "openllm/bench/test_cpu.py",
    "openllm/bench/test_subjects.py",
    "openllm/cli/test_adapters_served.py",
    "openllm/cli/test_chat.py",
    "openllm/cli/test_cli.py",
    "openllm/cli/test_completion.py",
    "openllm/cli/test_env.py",
    "openllm/cli/test_extensions.py",
    "openllm/cli/test_generation.py",
    "openllm/cli/test_get_prompt.py",
    "openllm/cli/test_observed.py",
    "openllm/cli/test_query.py",
    "openllm/cli/test_reference.py",
    "openllm/cli/test_start.py",
    "openllm/engine/test_adapters.py",
    "openllm/engine/test_early_host.py",
    "openllm/engine/test_pool.py",
    "openllm/engine/test_process.py",
    "openllm/rpc/test_command.py",
    "openllm/server/test_run.py",
    "openllm/server/test_streams.py",
    "openllm/test_chat.py",
    "openllm/test_imports.py",
    "openllm/test_llm.py",
    "openllm/test_quantise.py",
)

# Such tests of the store and of what is built from it: they wait for processes and locks, and watch no clock.
STORE_TESTS = (
    "openllm/bundle/test_base_images.py",
    "openllm/bundle/test_build.py",
    "openllm/bundle/test_containerfile.py",
    "openllm/bundle/test_containers.py",
    "openllm/serialisation/faults",
    "openllm/serialisation/test_archive.py",
    "openllm/serialisation/test_command.py",
    "openllm/serialisation/test_fetch.py",
    "openllm/serialisation/test_package.py",
    "openllm/test_store.py",
    "openllm/test_telemetry.py",
)

# End-to-end tests that load models and compare answers: in whole processes, and no clock is watched either.
MODEL_TESTS = (
    "e2e/test_bundle.py",
    "e2e/test_families.py",
    "e2e/test_finetune.py",
    "e2e/test_playground.py",
    "e2e/test_quantised.py",
)


@dataclass
class Lane:
    """One kind of test.

    Attributes:
        folders: folders or files under tests/; the longest match wins, "" takes what no other lane does.
        budget_min: minutes after which the summary warns.
        network: whether its tests may leave this machine.
        beside: whether its tests may run beside others, on a busy machine: none of them watches a clock.
    """

    name: str
    folders: tuple[str, ...]
    budget_min: float
    network: bool = False
    beside: bool = False
    spent_s: float = 0.0
    tests: int = 0


LANES = [
    Lane("lint", ("lint/test_style.py",), 0.2),
    Lane("types", ("lint",), 3.5, beside=True),
    Lane("architecture", ("architecture",), 0.8),
    Lane("unit", ("",), 3.5),
    Lane("process", PROCESS_TESTS, 5),
    Lane("contract", ("contract",), 1),
    Lane("e2e", ("e2e", "openllm/test_chat_golden.py"), 10, network=True),
    Lane("vllm", ("e2e/test_vllm.py",), 4, network=True),
    Lane("enumerate", ("enumerate",), 3),
    Lane("ui", ("ui",), 1.2, network=True),
    Lane("faults", ("faults",), 3.4),  # after the lanes whose tests its table names
    Lane("docs", ("docs", "examples"), 8, network=True, beside=True),
    Lane(
        "vllm-engine",
        ("openllm/backends/vllm/engine", "openllm/backends/vllm/test_lane.py"),
        4,
        network=True,
        beside=True,
    ),
    Lane("pythons", ("packaging/test_pythons.py",), 5, network=True, beside=True),
    Lane(
        "torch",
        ("openllm/backends/torch", "openllm/serialisation/convert", "openllm/finetune"),
        4,
        beside=True,
    ),
    Lane("store", STORE_TESTS, 3, beside=True),
    Lane("models", MODEL_TESTS, 5, network=True, beside=True),
    Lane("recipes", ("recipes",), 1, beside=True),
    Lane("node", ("node",), 0.8, network=True, beside=True),
    Lane("packaging", ("packaging",), 1.5, network=True, beside=True),
]
TOTAL_BUDGET_MIN = 40


def lane_of(path: Path) -> Lane:
    """The lane a test file belongs to."""
    try:
        relative = path.relative_to(TESTS).as_posix()
    except ValueError:
        relative = ""
    matches = [
        (len(folder), lane)
        for lane in LANES
        for folder in lane.folders
        if folder == "" or relative == folder or relative.startswith(folder + "/")
    ]
    return max(matches, key=lambda match: match[0])[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--lane=unit` runs one lane; given several times, several. Without the sign "docs" would be the folder."""
    parser.addoption("--lane", action="append", choices=[lane.name for lane in LANES], help="run this lane alone")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave folders and files of other lanes unread: importing torch for tests that will not run takes longer than the unit tests."""
    asked: list[str] | None = config.getoption("--lane")
    if not asked:
        return None
    files = collection_path.rglob("test_*.py") if collection_path.is_dir() else [collection_path]
    return True if all(lane_of(path).name not in asked for path in files) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run lane after lane; the order inside a lane stays pytest's."""
    items.sort(key=lambda item: LANES.index(lane_of(item.path)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With workers: lanes marked `beside` run beside the others."""
    from tests.scheduling import TwoStreams

    return TwoStreams(config, log, lambda file: lane_of(TESTS.parent / file).beside)


def pytest_configure(config: pytest.Config) -> None:
    """A worker that runs tests beside others' leaves them the cores they want."""
    if hasattr(config, "workerinput"):
        from tests.scheduling import step_back

        step_back(config)


# -- minutes per lane


@dataclass
class Tally:
    """What this run has seen so far."""

    began: float = field(default_factory=time.monotonic)
    lane: Lane | None = None
    skips: list[tuple[str, str]] = field(default_factory=list)  # (node id, reason) without permission
    outcomes: dict[str, str] = field(default_factory=dict)  # of each test that ran, by node id
    unproven: list[str] = field(default_factory=list)  # cells of the fault table whose test did not run


TALLY = Tally()
CELL = "tests/faults/test_table.py::test_cell["


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Note whose time is being spent, fixtures included."""
    TALLY.lane = lane_of(item.path)
    try:
        return (yield)
    finally:
        TALLY.lane = None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up time; note how each test ended, and a skip nobody gave a reason for."""
    lane = lane_of(TESTS.parent / report.nodeid.split("::")[0])
    lane.spent_s += report.duration
    lane.tests += report.when == "setup"
    if report.outcome != "passed" or report.when == "call":
        TALLY.outcomes[report.nodeid] = report.outcome
    note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A whole module may skip itself while it is collected."""
    note_skip(report)


def note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Remember a skip (an expected failure is none) that allowed_skips.txt does not list."""
    if report.skipped and not hasattr(report, "wasxfail") and not is_allowed(report.nodeid):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        TALLY.skips.append((report.nodeid, reason.removeprefix("Skipped: ")))


def allowed_skips() -> list[tuple[str, str]]:
    """(node id pattern, reason) of each line of allowed_skips.txt; a line without a reason is an error."""
    pairs: list[tuple[str, str]] = []
    for line in ALLOWED_SKIPS.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = line.partition(" | ")
        if not reason.strip():
            raise pytest.UsageError(f"{ALLOWED_SKIPS}: {line!r} gives no reason")
        pairs.append((pattern.strip(), reason.strip()))
    return pairs


def is_allowed(node_id: str) -> bool:
    """Whether a node may be skipped."""
    return any(fnmatch.fnmatchcase(node_id, pattern) for pattern, _ in allowed_skips())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skip without permission fails the run, and so does a fault that was to be proven by a test which no process ran."""
    if not hasattr(session.config, "workerinput"):  # here the reports of all processes have come together
        TALLY.unproven = unproven_cells(TALLY.outcomes)
    if (TALLY.skips or TALLY.unproven) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def unproven_cells(outcomes: Mapping[str, str]) -> list[str]:
    """Cells of the fault table, of those that this run looked at, that name a test of which nothing was heard.

    One process may run the cell and another its tests, so the cell itself cannot tell. A file of which no test ran at all was not
    asked for.
    """
    if not any(node.startswith(CELL) for node in outcomes):
        return []
    from tests.faults import rounds, table  # only here: this file also stands alone, in the tests of the lanes

    named = {cell.name: cell.spec.tests for cell in table.cells(table.read()) if f"{CELL}{cell.name}]" in outcomes}
    return [f"{cell}: {node}" for cell, nodes in named.items() for node in rounds.never_ran(nodes, outcomes)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Minutes per lane, budgets passed, skips without permission; pytest's own summary line comes after this."""
    write = terminalreporter.write_line
    ran = [lane for lane in LANES if lane.tests]
    if len(ran) > 1:
        terminalreporter.section("lanes")
        for lane in ran:
            late = f"   over its budget of {lane.budget_min:g} min" if lane.spent_s > 60 * lane.budget_min else ""
            write(f"{lane.name:<13}{lane.tests:>5} tests  {lane.spent_s / 60:5.1f} min{late}", yellow=bool(late))
        total_min = (time.monotonic() - TALLY.began) / 60
        late = f"   over the budget of {TOTAL_BUDGET_MIN} min" if total_min > TOTAL_BUDGET_MIN else ""
        write(f"{'all':<13}{sum(lane.tests for lane in ran):>5} tests  {total_min:5.1f} min{late}", yellow=bool(late))
    if TALLY.unproven:
        terminalreporter.section("faults whose test did not run", red=True)
        for line in TALLY.unproven:
            write(f"FAILED {line}", red=True)
    if TALLY.skips:
        terminalreporter.section("skips that tests/allowed_skips.txt does not allow", red=True)
        for node_id, reason in TALLY.skips:
            write(f"FAILED {node_id} - skipped: {reason}", red=True)


@pytest.fixture(scope="session")
def outcomes() -> dict[str, str]:
    """How each test of this run has ended so far: passed, failed or skipped, by node id."""
    return TALLY.outcomes


# -- the default model, for the lanes that run it


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a store of our own that holds the default model, imported by the command a user would type.

    Workers import it once, as it takes a minute of a core, and share what backends measure and compile.
    OPENLLM_TEST_STORE names a store to keep between runs.
    """
    kept = os.environ.get("OPENLLM_TEST_STORE")
    home = Path(kept) if kept else tmp_path_factory.mktemp("bentoml")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-gw") else home
    environ = {"BENTOML_HOME": str(home), "OPENLLM_HOME": str(shared / "openllm-cache")}
    imported = home if kept or shared == home else shared / "imported"
    from tests.commands import openllm_command  # only here: this file also stands alone, in the tests of the lanes

    openllm_command(environ | {"BENTOML_HOME": str(imported)}, "import", "smollm", "-o", "json")
    if imported != home:
        shutil.copytree(imported, home, symlinks=True, dirs_exist_ok=True)
    return environ


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python of `.venv-vllm`, which `python3 tools/dev.py test` makes where vLLM's wheels can be had.

    Without it the tests of vLLM are skipped, and fail where CI is set.
    """
    python = TESTS.parent / ".venv-vllm" / "bin" / "python"
    if not (python.parent.parent / ".installed").exists():
        message = "there is no .venv-vllm; python3 tools/dev.py test makes it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return str(python)


# -- no network where none is needed


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: a test of a lane without network may talk to this machine only."""
    if event != "socket.connect" or TALLY.lane is None or TALLY.lane.network:
        return
    address = arguments[1]
    if not isinstance(address, tuple) or not address:  # a Unix socket
        return
    host = str(address[0])
    if host in ("localhost", ""):
        return
    try:
        local = ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        local = False
    if not local:
        raise RuntimeError(f"a test of the lane {TALLY.lane.name!r} tried to reach {host}; these run without a network")


sys.addaudithook(refuse_network)
