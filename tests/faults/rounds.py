"""How tests elsewhere in the suite went: in this run, or run again and again in a process of their own.

`test_table.py` calls `of_this_run` and `repeat`. Tests inside vLLM run with the Python that has it; in the suite one test runs
them all, and stands for them. As a pytest plugin (`-p tests.faults.rounds`) this module runs each test of a
process `OPENLLM_TEST_ROUNDS` times and writes down how each time ended. Knows nothing of faults.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
INSIDE_VLLM = "tests/openllm/backends/vllm/engine/"
STANDS_FOR_THEM = "tests/openllm/backends/vllm/test_lane.py::test_engine_tests"
ROUND = "fault_round"
TIMES, REPORT = "OPENLLM_TEST_ROUNDS", "OPENLLM_TEST_ROUNDS_REPORT"
TOLD_TIMES, TOLD_REPORT = int(os.environ.get(TIMES, "0")), os.environ.get(REPORT, "")
"""What this process was told, read at its start: tests of the command line take every variable of ours away."""


def of_this_run(nodes: Iterable[str], outcomes: Mapping[str, str]) -> tuple[int, int]:
    """(survived, of): (1, 1) when all of them that ran have passed, (0, 1) when one failed, (0, 0) when none has run.

    Args:
        nodes: node ids; one without brackets means all its parametrisations.
        outcomes: how each test of this run ended.
    """
    ended: list[str] = []
    for named in nodes:
        node = STANDS_FOR_THEM if named.startswith(INSIDE_VLLM) else named
        wanted = (node, node + "[")
        ended += [how for ran, how in outcomes.items() if ran == wanted[0] or ran.startswith(wanted[1])]
    counted = [how for how in ended if how != "skipped"]
    return int(bool(counted) and "failed" not in counted), int(bool(counted))


def never_ran(nodes: Iterable[str], outcomes: Mapping[str, str]) -> list[str]:
    """Those of some tests of which nothing was heard, not even that they were skipped, though others of their files ran."""
    missing: list[str] = []
    for named in nodes:
        node = STANDS_FOR_THEM if named.startswith(INSIDE_VLLM) else named
        file = node.partition("::")[0] + "::"
        if any(ran.startswith(file) for ran in outcomes):
            missing += [] if any(ran == node or ran.startswith(node + "[") for ran in outcomes) else [named]
    return missing


def inside_vllm() -> tuple[str, dict[str, str]]:
    """The Python that has vLLM, and the environment that an engine host of it would have."""
    from tests.openllm.backends.vllm.test_lane import ENVIRONMENT  # only here: it brings torch, and this is a plugin

    found = subprocess.run([VLLM_PYTHON, "-c", ENVIRONMENT], capture_output=True, text=True, check=True)
    return str(VLLM_PYTHON), json.loads(found.stdout)


def repeat(nodes: Sequence[str], times: int, folder: Path) -> tuple[int, int]:
    """Run tests so many times in one process; (rounds in which all ran and none failed, rounds)."""
    report = folder / f"rounds-{uuid.uuid4().hex[:8]}.jsonl"
    inside = nodes[0].startswith(INSIDE_VLLM)
    python, more = inside_vllm() if inside else (sys.executable, dict[str, str]())
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.faults.rounds", *nodes]
    environment = os.environ | more | {TIMES: str(times), REPORT: str(report)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    of_round: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    tests = 0
    for line in report.read_text(encoding="utf-8").splitlines() if report.exists() else ():
        told = json.loads(line)
        if "tests" in told:
            tests = told["tests"]
        else:
            of_round[told["round"]][told["test"]].add(told["how"])
    if not of_round:
        raise AssertionError(f"nothing ran: {(done.stdout + done.stderr)[-1500:]}")
    ran = [of_round[number] for number in range(times) if set().union(*of_round[number].values()) != {"skipped"}]
    # a process that broke off leaves rounds in which tests are missing: nobody knows how those would have ended
    survived = sum(len(one) == tests and "failed" not in set().union(*one.values()) for one in ran)
    if survived < len(ran):
        print(done.stdout[-3000:])
    return survived, len(ran)


# -- as a plugin


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test once for every round."""
    if TOLD_TIMES:
        metafunc.fixturenames.append(ROUND)
        metafunc.parametrize(ROUND, range(TOLD_TIMES), ids=lambda number: f"round{number}")


@pytest.fixture
def fault_round(request: pytest.FixtureRequest) -> int:
    """Which round this is; parametrised above."""
    return request.param


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write down how many tests each round has."""
    if TOLD_TIMES:
        _report({"tests": len(session.items) // TOLD_TIMES})


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Write down how each phase of each round ended."""
    number = item.callspec.params.get(ROUND) if isinstance(item, pytest.Function) else None
    if number is None or (call.when != "call" and call.excinfo is None):
        return
    how = (
        "passed"
        if call.excinfo is None
        else "skipped"
        if call.excinfo.errisinstance(pytest.skip.Exception)
        else "failed"
    )
    _report({"test": item.nodeid, "round": number, "how": how})


def _report(told: dict[str, Any]) -> None:
    with Path(TOLD_REPORT).open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
