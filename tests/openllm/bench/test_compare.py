"""Two results side by side: ratios, what got worse, and the exit code."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openllm.bench.compare import compare
from openllm.cli import cli
from openllm_core.errors import InvalidSetting

LEVEL = {
    "tokens_per_s": 100.0,
    "first_token_p50_s": 0.5,
    "total_p95_s": 2.0,
    "failed": 0,
    "server_cpu": {"server_us_per_token": 40.0},
}
RESULT: dict[str, Any] = {"medians": {"server": {"ready_s": 10.0, "8": LEVEL}}}


def changed(**figures: float) -> dict[str, Any]:
    result = copy.deepcopy(RESULT)
    result["medians"]["server"]["8"] |= figures
    return result


@pytest.mark.parametrize(
    ("figures", "worse"),
    [
        ({}, []),
        ({"tokens_per_s": 96.0, "first_token_p50_s": 0.52}, []),
        ({"tokens_per_s": 94.0}, ["tokens_per_s"]),
        ({"tokens_per_s": 200.0, "first_token_p50_s": 0.1}, []),
        ({"first_token_p50_s": 0.53}, ["first_token_p50_s"]),
        ({"failed": 1}, ["failed"]),
        ({"server_cpu": {"server_us_per_token": 43.0}}, ["server_us_per_token"]),
    ],
)
def test_what_got_worse_is_found(figures: dict[str, Any], worse: list[str]):
    """Fewer tokens, longer waits, more failures, more CPU: past the tolerance, in the bad direction only."""
    assert [change.figure for change in compare(RESULT, changed(**figures), 0.05) if change.worse] == worse


def test_ratios_are_new_to_old():
    """0.5 s to 0.25 s is 0.5; from nothing there is no ratio."""
    changes = {change.figure: change for change in compare(RESULT, changed(first_token_p50_s=0.25), 0.05)}
    assert changes["first_token_p50_s"].ratio == 0.5
    assert changes["failed"].ratio is None
    assert changes["ready_s"].where == "server"


def test_results_of_different_levels_cannot_be_compared():
    """Nothing in common is an error, not a green result."""
    other = {"medians": {"server": {"ready_s": 1.0, "32": LEVEL}}}
    with pytest.raises(InvalidSetting):
        compare(RESULT, other, 0.05)


def run(tmp_path: Path, old: Any, new: Any, *words: str) -> Result:
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    for file, data in zip(files, (old, new), strict=True):
        file.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return CliRunner().invoke(cli, ["bench", "--compare", *map(str, files), *words], prog_name="openllm")


def test_a_regression_is_the_exit_code(tmp_path: Path):
    """1 when something got worse past the tolerance, 0 otherwise; the table names it."""
    result = run(tmp_path, RESULT, changed(tokens_per_s=80.0))
    assert result.exit_code == 1
    assert "server/8" in result.stdout and "0.800" in result.stdout and "worse" in result.stdout
    assert run(tmp_path, RESULT, changed(tokens_per_s=80.0), "--tolerance", "0.25").exit_code == 0


def test_a_comparison_as_json(tmp_path: Path):
    """-o json: pure JSON with the number of what got worse."""
    data = json.loads(run(tmp_path, RESULT, changed(failed=2), "-o", "json").stdout)
    assert data["worse"] == 1
    assert [change["figure"] for change in data["changes"] if change["worse"]] == ["failed"]


@pytest.mark.parametrize("text", ["", "[]", '{"medians": 1}'])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str):
    """78 and the file's name, no traceback."""
    result = run(tmp_path, RESULT, text)
    assert result.exit_code == 78
    assert "new.json" in result.stderr
