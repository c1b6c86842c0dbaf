"""Figures in the documentation are those of the JSON files in docs/figures, and the tool that says so works."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures_under_test", ROOT / "tools" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIGURES = load()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A small repository with one page and one file of figures."""
    (tmp_path / "docs" / "figures").mkdir(parents=True)
    (tmp_path / "README.md").write_text("nothing\n", encoding="utf-8")
    data = {"medians": {"ours": {"32": 600.4}, "raw": {"32": 500.0}}, "cpu": "Some CPU", "rounds": [1, 2]}
    (tmp_path / "docs" / "figures" / "serving.json").write_text(json.dumps(data), encoding="utf-8")
    return tmp_path


def page_with(site: Path, what: str, text: str = "") -> Path:
    page = site / "docs" / "page.md"
    page.write_text(f"| <!-- figure: {what} -->{text}<!-- / --> |\n", encoding="utf-8")
    return page


def test_text_and_json_agree():
    """No page of this repository shows another figure than its JSON file holds."""
    assert FIGURES.main(["--check"]) == 0


def test_every_figure_file_says_where_it_comes_from():
    """Each JSON file, or each measurement in it, names the command, the commit, the machine and the date."""
    told = {"command", "commit", "cpu", "date", "versions"}
    for path in (ROOT / "docs" / "figures").glob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        measurements = data.values() if all(isinstance(part, dict) for part in data.values()) else [data]
        assert [sorted(part)[:9] for part in measurements if not told <= set(part)] == [], path.name


@pytest.mark.parametrize("page", ["performance.md", "comparison.md"])
def test_a_page_of_measurements_holds_no_loose_figure(page: str):
    """A number with a unit of speed, time or size stands in a figure comment, or names a goal."""
    text = FIGURES.FIGURE.sub("", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    text = re.sub(r"<!-- goals -->.*?<!-- / -->", "", text, flags=re.S)
    assert re.findall(r"\b\d[\d.,]* ?(?:tok/s|tokens/s|ms|µs|MB|GB)\b", text) == []


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("serving medians.ours.32 .0f", "600"),
        ("serving medians.ours.32 / medians.raw.32 .2f", "1.20"),
        ("serving medians.ours.32 .0f*1000", "600400"),
        ("serving cpu", "Some CPU"),
        ("serving rounds.1 d", "2"),
        ("another medians.ours.32 .0f", "not measured"),
        ("serving? medians.theirs.32 .0f", "not measured"),
        ("serving? medians.ours.32 .0f", "600"),
    ],
)
def test_written(site: Path, what: str, shown: str):
    """The value, a ratio, a scaled value, text; a file that is not there shows as not measured."""
    page = page_with(site, what)
    assert FIGURES.main([], site) == 0
    assert page.read_text(encoding="utf-8") == f"| <!-- figure: {what} -->{shown}<!-- / --> |\n"
    assert FIGURES.main(["--check"], site) == 0


def test_a_stale_figure_fails_the_check(site: Path):
    """Text and JSON that differ fail, and the page is left as it is."""
    page = page_with(site, "serving medians.ours.32 .0f", "700")
    assert FIGURES.main(["--check"], site) == 1
    assert "700" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("what", ["serving medians.theirs.32 .0f", "serving medians.ours.32 times two"])
def test_a_figure_that_cannot_be_read_fails(site: Path, what: str):
    """A wrong path in a file that is there is an error, not an unmeasured value."""
    page_with(site, what)
    assert FIGURES.main([], site) == 1


def test_rows_of_a_table(site: Path):
    """A list of objects becomes lines of a table, a column for each key that is named; without its file it says so."""
    data = {
        "rows": [{"id": "F01", "title": "a | b", "echo": "20 of 20"}, {"id": "F02", "title": "c", "echo": "not run"}]
    }
    (site / "docs" / "figures" / "faults.json").write_text(json.dumps(data), encoding="utf-8")
    page = site / "docs" / "page.md"
    head = "| id | what | echo |\n|---|---|---|\n"
    for file, lines in (
        ("faults", "| F01 | a \\| b | 20 of 20 |\n| F02 | c | not run |\n"),
        ("nowhere", "| not measured |  |  |\n"),
    ):
        begin = f"<!-- rows: {file} rows id title echo -->\n{head}"
        page.write_text(f"{begin}| stale |\n<!-- / -->\n", encoding="utf-8")
        assert FIGURES.main(["--check"], site) == 1
        assert FIGURES.main([], site) == 0
        assert page.read_text(encoding="utf-8") == f"{begin}{lines}<!-- / -->\n"
        assert FIGURES.main(["--check"], site) == 0
