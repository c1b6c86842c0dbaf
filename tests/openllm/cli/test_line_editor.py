"""Lines read on a terminal, as far as Python's readline is not there to read them; with it, tests/openllm/cli/test_chat.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from openllm.cli import line_editor


@pytest.mark.parametrize(
    ("there", "shown"), [(True, "\001\033[36m\002> \001\033[0m\002"), (False, "\033[36m> \033[0m")]
)
def test_a_prompt_has_marks_for_readline_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool, shown: str
):
    """Where Python lacks readline, a coloured prompt has none of the characters that only readline swallows."""
    seen: list[str] = []
    monkeypatch.setitem(sys.modules, "readline", __import__("readline") if there else None)
    monkeypatch.setattr(line_editor, "colours", lambda stream: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda prompt: seen.append(prompt) or "typed")
    with line_editor.LineEditor(history=tmp_path / "history") as editor:
        assert editor.read("> ") == "typed"
    assert seen == [shown]
