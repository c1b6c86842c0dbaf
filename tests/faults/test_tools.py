"""The tools that count: what tools/faults.py publishes of a run, and how tools/soak.py judges what it sampled."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from . import table

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
