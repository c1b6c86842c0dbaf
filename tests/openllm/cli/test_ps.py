"""`openllm ps`: which servers are listed, and which notes are not believed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from openllm.cli import ready
from openllm.cli.ps import since
from openllm.cli.ready import Ready

Run = Callable[..., Result]
HERE = Ready(endpoint="http://127.0.0.1:3000", model="smollm", backend="pt", device="cpu")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "openllm"


def test_a_server_that_runs_is_listed(run: Run, notes: Path) -> None:
    """By its note: as a table, as JSON, or its endpoint alone; no more once it has stopped."""
    note = ready.remember(HERE)
    (listed,) = json.loads(run("ps", "-o", "json").stdout)
    assert listed.pop("started") > 0 and listed == HERE.as_data()
    assert run("ps", "-o", "porcelain").stdout == "http://127.0.0.1:3000\n"
    lines = run("ps").stdout.splitlines()
    assert lines[0].split() == ["Process", "Endpoint", "Model", "Backend", "Device", "Up"]
    assert lines[2].split()[:5] == [str(os.getpid()), HERE.endpoint, "smollm", "pt", "cpu"]
    ready.forget(note)
    assert run("ps", "-o", "json").stdout == "[]\n"


def test_a_note_of_one_that_was_killed_goes(run: Run, notes: Path) -> None:
    """A process id that nobody has, or that another process got since, is no server; what is no note is let be."""
    notes.mkdir()
    gone, reused, odd = notes / "4194399.json", notes / f"{os.getpid()}.json", notes / "notes.json"
    gone.write_text(json.dumps({**HERE.as_data(), "pid": 4194399, "started": 1}))
    reused.write_text(json.dumps({**HERE.as_data(), "started": 1}))
    odd.write_text("[")
    done = run("ps")
    assert (done.exit_code, done.stdout) == (0, "") and "No server runs here" in done.stderr
    assert [path.name for path in notes.iterdir()] == ["notes.json"]


def test_without_a_runtime_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known, and nothing fails."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert run("ps", "-o", "json").stdout == "[]\n"


def test_how_long() -> None:
    """In the unit people read."""
    assert [since(s) for s in (-1, 5, 120, 7200, 259200)] == ["0 s", "5 s", "2 min", "2 h", "3 d"]
