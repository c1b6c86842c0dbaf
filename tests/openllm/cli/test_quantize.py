"""`openllm quantize`: what is refused before a model is looked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line over a model that is nowhere, with an empty store and no gptqmodel."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.setitem(sys.modules, "gptqmodel", None)
    (tmp_path / "samples.txt").write_text("some text")
    return ["quantize", str(tmp_path / "absent"), "--calibration", str(tmp_path / "samples.txt")]


@pytest.mark.parametrize("size", ["0", "-2", "8", "48", "96", "2048"])
def test_groups_that_no_kernel_has_are_refused(run: Run, words: list[str], size: str) -> None:
    """Powers of two from 16 to 1024, or a whole row."""
    done = run(*words, "--group-size", size)
    assert done.exit_code == 78
    assert f"--group-size {size} is not one of -1, 16, 32, 64, 128, 256, 512, 1024" in done.stderr


def test_a_missing_gptqmodel_is_told_before_the_model_is_fetched(run: Run, words: list[str]) -> None:
    """Nothing is downloaded for a command that cannot end well; the hint is the line that brings it."""
    done = run(*words)
    assert done.exit_code == 78
    assert 'pip install "openllm[gptq]"' in done.stderr
    assert "absent" not in done.stderr
