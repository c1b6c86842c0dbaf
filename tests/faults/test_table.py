"""The fault suite: one test of each cell of `faults.yaml`, and the rules of that file.

A cell runs a scenario of this folder, as often as the table says, or names tests elsewhere that inject the same fault, or has
both, where a run of the suite shall not take the scenario's time. In the quick lane those have run with the suite already, and what became of them is looked up; in the other lanes
(`OPENLLM_TEST_FAULTS=full` or `chaos`, as `tools/faults.py` sets it) they run here, as often as the table says, or as a plan does:
`OPENLLM_TEST_FAULTS_PLAN` is a JSON object of cells and rounds. Past `OPENLLM_TEST_FAULTS_UNTIL` no further round begins.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.architecture.test_claims import names_in

from . import rounds, table
from .lab import Lab

LANE = os.environ.get("OPENLLM_TEST_FAULTS", "quick")
TALLY = os.environ.get("OPENLLM_TEST_FAULTS_TALLY", "")
PLAN: dict[str, int] = json.loads(os.environ.get("OPENLLM_TEST_FAULTS_PLAN", "{}"))
UNTIL = float(os.environ.get("OPENLLM_TEST_FAULTS_UNTIL", "inf"))
"""Seconds since the epoch."""
TABLE = table.read()
CELLS = [cell for cell in table.cells(TABLE) if table.in_lane(cell, LANE) and (not PLAN or cell.name in PLAN)]

pytestmark = pytest.mark.timeout(420 if LANE == "quick" else 3600)


def scenario(name: str) -> Any:
    """The function that a cell names."""
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"tests.faults.{module}"), function)


def file_and_name(node: str) -> tuple[str, str]:
    """`tests/a.py` and `Class::test_b` of a node id."""
    file, _, name = node.partition("::")
    return file, name.partition("[")[0]


def times_of(cell: table.Cell) -> int:
    """Rounds of a cell in this lane."""
    return PLAN.get(cell.name, cell.rounds.quick if LANE == "quick" else cell.rounds.full)


def survive(cell: table.Cell, lab: Lab) -> tuple[int, int, Exception | None]:
    """Run a scenario for all its rounds: how many it survived, of how many, and what broke the first one that it did not."""
    run, here, failure, survived, times = scenario(cell.spec.run), lab.on(cell.backend), None, 0, 0
    while times < times_of(cell) and (times == 0 or time.time() < UNTIL):
        times += 1
        try:
            asyncio.run(run(here))
            survived += 1
        except Exception as error:
            failure = failure or error
            here.forget()  # whatever it left behind is no ground for the next round
    return survived, times, failure


def note(cell: table.Cell, survived: int, of: int, seconds: float) -> None:
    """Write down how a cell went, where somebody asked for it."""
    if TALLY:
        with Path(TALLY).open("a", encoding="utf-8") as file:
            line = {"cell": cell.name, "survived": survived, "of": of, "seconds": round(seconds, 1)}
            file.write(json.dumps(line) + "\n")


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_cell(cell: table.Cell, lab: Lab, outcomes: dict[str, str], request: pytest.FixtureRequest) -> None:
    """What the row says must hold, does, in every round."""
    began, failure = time.monotonic(), None
    if cell.spec.run and not (LANE == "quick" and cell.spec.tests):
        survived, times, failure = survive(cell, lab)
    elif LANE == "quick":
        survived, times = rounds.of_this_run(cell.spec.tests, outcomes)
    else:
        survived, times = rounds.repeat(cell.spec.tests, times_of(cell), lab.folder)
    note(cell, survived, times, time.monotonic() - began)
    if time.time() >= UNTIL:
        request.session.shouldstop = "its time is over"
    if survived < times:
        raise AssertionError(f"{cell.name}: survived {survived} of {times}") from failure


def test_every_fault_meets_every_backend() -> None:
    """No cell is missing: each says how it is proven, or why the fault cannot meet the backend; never both."""
    for row in TABLE.rows:
        assert tuple(row.cells) == table.BACKENDS, row.id
        for backend, spec in row.cells.items():
            assert bool(spec.run or spec.tests) != bool(spec.why_not), f"{row.id}-{backend}"


def test_rows_are_told_once_and_whole() -> None:
    """Ids are their own, titles too, and the reasons given are those that the file explains."""
    for what in ("id", "title"):
        assert [text for text, times in Counter(getattr(row, what) for row in TABLE.rows).items() if times > 1] == []
    used = {spec.why_not for row in TABLE.rows for spec in row.cells.values() if spec.why_not}
    assert used == set(TABLE.reasons)
    assert all(row.inject and row.holds for row in TABLE.rows)
    assert len(TABLE.rows) == 61


def test_what_a_cell_names_is_there() -> None:
    """Each scenario is a coroutine function, each test exists."""
    missing: list[str] = []
    for cell in table.cells(TABLE):
        if cell.spec.run and not inspect.iscoroutinefunction(scenario(cell.spec.run)):
            missing.append(f"{cell.name}: {cell.spec.run}")
        for node in cell.spec.tests:
            file, name = file_and_name(node)
            if name not in names_in(file):
                missing.append(f"{cell.name}: {node}")
    assert missing == []


def test_rounds_are_positive() -> None:
    """A cell that runs, runs at least once in its lane."""
    assert [cell.name for cell in table.cells(TABLE) if min(cell.rounds.quick, cell.rounds.full) < 1] == []


@pytest.mark.parametrize(
    ("ran", "expected"),
    [
        ({}, (0, 0)),
        ({"tests/a.py::test_b": "passed"}, (1, 1)),
        ({"tests/a.py::test_b[1]": "passed", "tests/a.py::test_b[2]": "failed"}, (0, 1)),
        ({"tests/a.py::test_b": "skipped"}, (0, 0)),
        ({"tests/a.py::test_bc": "failed"}, (0, 0)),
    ],
)
def test_looking_up_what_ran(ran: dict[str, str], expected: tuple[int, int]) -> None:
    """A test that failed in any form was not survived; one that did not run, or was skipped, counts for nothing."""
    assert rounds.of_this_run(("tests/a.py::test_b",), ran) == expected


@pytest.mark.parametrize(
    ("ran", "missing"),
    [
        ([], []),
        (["tests/other.py::test_c"], []),
        (["tests/a.py::test_b", "tests/a.py::test_c"], []),
        (["tests/a.py::test_b[1]"], []),
        (["tests/a.py::test_bc"], ["tests/a.py::test_b"]),
    ],
)
def test_a_test_that_no_process_ran_is_missed_at_the_end(ran: list[str], missing: list[str]) -> None:
    """Of a file that was asked for; nothing is missed of one that was not."""
    assert rounds.never_ran(("tests/a.py::test_b",), dict.fromkeys(ran, "passed")) == missing


def test_tests_inside_vllm_are_stood_for() -> None:
    """Those that the suite runs in one child process are as that one test was."""
    nodes = (f"{rounds.INSIDE_VLLM}test_engine.py::test_a", f"{rounds.INSIDE_VLLM}test_engine.py::test_b")
    assert rounds.of_this_run(nodes, {}) == (0, 0)
    assert rounds.of_this_run(nodes, {rounds.STANDS_FOR_THEM: "passed"}) == (1, 1)
    assert rounds.of_this_run(nodes, {rounds.STANDS_FOR_THEM: "failed"}) == (0, 1)
    file, name = file_and_name(rounds.STANDS_FOR_THEM)
    assert name in names_in(file) and Path(rounds.ROOT, rounds.INSIDE_VLLM).is_dir()
    inside = [node for cell in table.cells(TABLE) for node in cell.spec.tests if node.startswith(rounds.INSIDE_VLLM)]
    assert inside
    for cell in table.cells(TABLE):  # one process runs them, with one Python
        assert len({node.startswith(rounds.INSIDE_VLLM) for node in cell.spec.tests}) <= 1, cell.name


def test_running_again_and_again(tmp_path: Path) -> None:
    """Tests elsewhere are run so many rounds in one process; a round in which one of them fails was not survived."""
    file = tmp_path / "test_sometimes.py"
    file.write_text(
        "CALLS = []\n\n\ndef test_steady():\n    pass\n\n\n"
        "def test_sometimes():\n    CALLS.append(1)\n    assert len(CALLS) != 2\n",
        encoding="utf-8",
    )
    assert rounds.repeat((f"{file}::test_steady", f"{file}::test_sometimes"), 3, tmp_path) == (2, 3)


def test_a_run_that_breaks_off_is_not_survived(tmp_path: Path) -> None:
    """Where the process ends in the middle, the rounds in which a test is missing count as failed, though none of them did."""
    file = tmp_path / "test_ends.py"
    file.write_text(
        "import os\n\nCALLS = []\n\n\ndef test_steady():\n    pass\n\n\n"
        "def test_ends():\n    CALLS.append(1)\n    if len(CALLS) == 2:\n        os._exit(0)\n",
        encoding="utf-8",
    )
    assert rounds.repeat((f"{file}::test_steady", f"{file}::test_ends"), 3, tmp_path) == (1, 3)


def test_where_nothing_runs_nothing_is_survived(tmp_path: Path) -> None:
    """A test that is not there is said to be missing; it makes no round."""
    file = tmp_path / "test_less.py"
    file.write_text("def test_there():\n    pass\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="nothing ran"):
        rounds.repeat((f"{file}::test_there", f"{file}::test_gone"), 2, tmp_path)


def test_a_test_that_clears_its_environment_is_counted(tmp_path: Path) -> None:
    """Those of the command line take every variable of ours away, the one that says where to report among them."""
    file = tmp_path / "test_clears.py"
    file.write_text(
        "import os\n\n\ndef test_clears(monkeypatch):\n    for name in list(os.environ):\n"
        "        monkeypatch.delenv(name)\n    assert False\n",
        encoding="utf-8",
    )
    assert rounds.repeat((f"{file}::test_clears",), 2, tmp_path) == (0, 2)
