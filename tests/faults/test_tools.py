"""The tools that count: what they publish of a run, how portions add up, and how tools/soak.py judges what it sampled."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from . import sabotage, table

ROOT = Path(__file__).resolve().parents[2]
ABOUT: dict[str, Any] = {
    "command": "tools/faults.py full",
    "date": "2026-11-23",
    "commit": "abc1234",
    "cpu": "Some CPU",
    "versions": {},
}


def load(name: str) -> ModuleType:
    """A tool, as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_under_test", ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ran(survived: int, of: int) -> dict[str, Any]:
    return {"survived": survived, "of": of, "seconds": 1.0}


def row(published: dict[str, Any], name: str) -> dict[str, Any]:
    """One row of what was published."""
    return next(one for one in published["rows"] if one["id"] == name)


def test_what_ran_is_told_as_it_ran() -> None:
    """k of k for what ran, "not run" for what did not, a dash where the fault cannot be met; each with its own date."""
    figures = load("faults").figures
    first = figures({"F01-echo": ran(20, 20), "F24-echo": ran(19, 20)}, {}, ABOUT)
    assert (row(first, "F01")["echo"], row(first, "F24")["echo"]) == ("20 of 20", "19 of 20")
    assert row(first, "F01")["pt"] == "not run"
    assert row(first, "F07")["pt"] == "—"
    assert (first["totals"]["run"], first["totals"]["survived"], first["totals"]["of"]) == (2, 39, 40)
    later = ABOUT | {"date": "2026-12-01", "commit": "def5678"}
    second = figures({"F24-echo": ran(20, 20)}, first, later)
    assert row(second, "F24")["echo"] == "20 of 20"
    assert [second["cells"][name]["date"] for name in ("F01-echo", "F24-echo")] == ["2026-11-23", "2026-12-01"]
    assert second["cells"]["F01-echo"]["commit"] == "abc1234"
    assert [one["id"] for one in second["rows"]] == [one.id for one in table.read().rows]


def test_a_cell_that_is_no_more_is_forgotten() -> None:
    """What the table no longer has does not stay among the figures."""
    before = {"cells": {"F99-echo": ran(1, 1)}}
    assert load("faults").figures({}, before, ABOUT)["cells"] == {}


def test_tests_that_had_not_run_count_for_nothing(tmp_path: Path) -> None:
    """A cell that only looked up tests nobody had run is not published as run."""
    tally = tmp_path / "tally"
    lines = [{"cell": "F07-echo", **ran(0, 0)}, {"cell": "F01-echo", **ran(1, 1)}]
    tally.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert set(load("faults").counted(tally)) == {"F01-echo"}


def test_the_published_table_is_the_table() -> None:
    """docs/figures/faults.json, where it is there, has the rows of faults.yaml."""
    file = ROOT / "docs" / "figures" / "faults.json"
    if file.exists():
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        assert [(one["id"], one["title"], one["holds"]) for one in rows] == [
            (one.id, one.title, one.holds) for one in table.read().rows
        ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([100] * 50, 0.0), ([200] * 5 + [100] * 45, 0.0), ([100] * 25 + [110] * 25, 0.1), ([100] * 49 + [500], 0.0)],
)
def test_growth_is_between_the_warm_up_and_the_end(values: list[int], expected: float) -> None:
    """The first tenth is left out, and one odd sample decides nothing."""
    samples = [{"rss_bytes": value} for value in values]
    assert load("soak").growth(samples, "rss_bytes") == pytest.approx(expected)


def test_portions_of_a_cell_add_up() -> None:
    """Rounds of later runs are added where that is asked for, and each run keeps its date and commit; a failure is not lost."""
    figures = load("faults").figures
    first = figures({"F01-echo": ran(2, 2), "F24-echo": ran(1, 2)}, {}, ABOUT)
    later = ABOUT | {"date": "2026-12-01", "commit": "def5678"}
    second = figures({"F01-echo": ran(18, 18)}, first, later, add=True)
    third = figures({"F01-echo": ran(1, 1), "F24-echo": ran(18, 18)}, second, later, add=True)
    assert (row(third, "F01")["echo"], row(third, "F24")["echo"]) == ("21 of 21", "19 of 20")
    dates = [(one["of"], one["date"], one["commit"]) for one in third["cells"]["F01-echo"]["runs"]]
    assert dates == [(2, "2026-11-23", "abc1234"), (18, "2026-12-01", "def5678"), (1, "2026-12-01", "def5678")]


def test_what_a_cell_lacks() -> None:
    """As many rounds as the table says, without those it has; none of a cell that has them, or of one of a later lane."""
    planned, listed = load("faults").planned, table.cells(table.read())
    stated = {cell.name: cell.rounds.full for cell in listed}
    full = planned("full", 1000, {})
    assert full == {cell.name: cell.rounds.full for cell in listed if cell.spec.lane != "chaos"}
    before = {"F01-echo": ran(3, 3), "F24-echo": ran(stated["F24-echo"] - 1, stated["F24-echo"])}
    lacking = planned("full", 1000, before)
    assert lacking["F01-echo"] == stated["F01-echo"] - 3
    assert "F24-echo" not in lacking
    assert set(planned("full", 2, {}).values()) <= {1, 2}
    assert set(planned("quick", 1000, {})) < set(full) < set(planned("chaos", 1000, {}))


def test_a_guard_that_has_changed_was_not_tried() -> None:
    """What is known of a guard counts while it and its tests are the same; the file says which were not tried."""
    guards = load("guards")
    one, other = sabotage.read()[:2]
    tried = {"unnoticed_by": [], "seconds": 1.0, "mark": guards.mark(one)}
    stale = tried | {"unnoticed_by": ["tests/a.py::test_b"], "mark": guards.mark(other)}
    held = {"guards": {one.name: tried, other.name: stale | {"mark": "0"}, "a guard that is gone": tried}}
    assert guards.kept([one, other], held) == {one.name: tried}
    told = guards.figures([one, other], {one.name: tried}, ABOUT)
    assert (told["totals"], told["not_tried"]) == ({"guards": 2, "tried": 1, "noticed": 1}, [other.name])
    told = guards.figures([one, other], {one.name: tried, other.name: stale}, ABOUT)
    assert told["totals"] == {"guards": 2, "tried": 2, "noticed": 1}


REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_b[1]" time="2.04"><properties><property name="cuts" value="7"/></properties></testcase>
<testcase classname="tests.a" name="test_b[2]" time="1.00"><properties><property name="cuts" value="5"/></properties>
<failure message="x"/></testcase><testcase classname="tests.a" name="test_c" time="0"><skipped/></testcase>
</testsuite></testsuites>"""


def test_what_enumerators_counted(tmp_path: Path) -> None:
    """Each test's counts add up; one that failed or was skipped did not pass."""
    enumerated = load("enumerated")
    (tmp_path / "report.xml").write_text(REPORT, encoding="utf-8")
    tests = enumerated.told(tmp_path / "report.xml", ABOUT, 1)
    assert tests["test_b[1]"] == {
        "failed": False,
        "counts": {"cuts": 7},
        "size": 1,
        "seconds": 2.0,
        "date": "2026-11-23",
        "commit": "abc1234",
    }
    assert enumerated.totals(tests) == {"tests": 3, "failed": 2, "seconds": 3.0, "counts": {"cuts": 12}}
    assert [file for file, _, _ in enumerated.ENUMERATORS.values() if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("name", ["bad_inputs", "enumerated", "faults", "guards", "soak"])
def test_a_tool_runs_by_its_file(name: str) -> None:
    """As its help shows it, from any folder."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python tools/{name}.py" in done.stdout
