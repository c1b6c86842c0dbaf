"""`openllm keys`: a key is shown once, the file keeps its digest, and whoever holds the file learns no key."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from openllm.access import Access
from openllm_core.errors import InvalidRequest
from openllm_core.options import ServerOptions

Run = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the variable says that the keys are; not there yet."""
    path = tmp_path / "keys"
    monkeypatch.setenv("OPENLLM_API_KEY_FILE", str(path))
    return path


def opens(file: Path, key: str) -> str:
    """Name of whom a key lets in; "" where it lets nobody."""
    try:
        return Access(ServerOptions(api_key_file=str(file))).identify([f"Bearer {key}"]).name
    except InvalidRequest:
        return ""


def test_add_prints_the_key_once(run: Run, file: Path) -> None:
    """Alone on stdout; it opens a server that is started with the file, and is nowhere else."""
    done = run("keys", "add", "ann")
    key = done.stdout.strip()
    assert done.exit_code == 0 and key.startswith("openllm-") and done.stdout.count("\n") == 1
    assert opens(file, key) == "ann" and file.stat().st_mode & 0o777 == 0o600
    assert key not in file.read_text() and key not in done.stderr
    for words in (("ls",), ("ls", "-o", "json"), ("ls", "-o", "porcelain")):
        shown = run("keys", *words)
        assert "ann" in shown.stdout and key not in shown.output
        assert json.loads(file.read_text())["sha256"] not in shown.output


def test_limits_and_models(run: Run, file: Path) -> None:
    """What is given stands in the file and in the list; with -o json it comes with the key."""
    limits = ("--requests-per-minute", "60", "--tokens-per-minute", "10000", "--concurrency", "4")
    done = run("keys", "add", "bob", *limits, "--model", "base", "--model", "poet", "--background", "-o", "json")
    made: dict[str, Any] = json.loads(done.stdout)
    assert opens(file, made.pop("key")) == "bob" and made.pop("path") == str(file)
    (listed,) = json.loads(run("keys", "ls", "-o", "json").stdout)
    assert listed == made and listed["models"] == ["base", "poet"] and listed["priority"] == "background"
    assert (listed["requests_per_minute"], listed["tokens_per_minute"], listed["concurrency"]) == (60, 10000, 4)
    row = run("keys", "ls").stdout.splitlines()[-1]
    assert row.split() == ["bob", made["created"], "60", "10,000", "4", "base,", "poet", "background"]


def test_rm_and_its_faults(run: Run, file: Path) -> None:
    """A key that is gone opens nothing; one that is not there, or a name that is taken, is wrong usage and says which."""
    keys = {name: run("keys", "add", name).stdout.strip() for name in ("ann", "bob")}
    assert run("keys", "rm", "ann").stdout == f"ann deleted from {file}.\n"
    assert (opens(file, keys["ann"]), opens(file, keys["bob"])) == ("", "bob")
    for words, told in (
        (("rm", "ann"), "it has bob"),
        (("rotate", "ann"), "no key 'ann'"),
        (("add", "bob"), "keys rotate bob"),
        (("add", "two words"), "no name"),
        (("add", "admin"), "taken"),
        (("add", "cid", "--concurrency", "0"), "--concurrency"),
        (("rotate", "bob", "--overlap", "soon"), "30m, 24h or 7d"),
        (("rotate", "bob", "--overlap", "99999999d"), "a year at most"),
    ):
        done = run("keys", *words)
        assert done.exit_code == 2 and told in done.stderr and not done.stdout, words
    assert run("keys", "ls", "-o", "porcelain").stdout == "bob\n"


def test_rotate_with_and_without_an_overlap(run: Run, file: Path) -> None:
    """Both keys open until it is over, with the same limits; of two rotations the first key ends; 0 ends the old one now."""
    first = run("keys", "add", "ann", "--concurrency", "2").stdout.strip()
    second = run("keys", "rotate", "ann", "--overlap", "7d").stdout.strip()
    (listed,) = json.loads(run("keys", "ls", "-o", "json").stdout)
    until = datetime.fromisoformat(listed["old_until"]) - datetime.now(UTC)
    assert timedelta(days=6.9) < until < timedelta(days=7.1) and listed["concurrency"] == 2
    assert [opens(file, key) for key in (first, second)] == ["ann", "ann"]
    third = json.loads(run("keys", "rotate", "ann", "-o", "json").stdout)["key"]
    assert [opens(file, key) for key in (first, second, third)] == ["", "ann", "ann"]
    done = run("keys", "rotate", "ann", "--overlap", "0")
    assert [opens(file, key) for key in (second, third, done.stdout.strip())] == ["", "", "ann"]
    assert "opens nothing any more" in done.stderr


def test_which_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag beats the variable; without either it is asked for; a broken or missing one ends with 78."""
    monkeypatch.delenv("OPENLLM_API_KEY_FILE", raising=False)
    done = run("keys", "ls")
    assert done.exit_code == 2 and "OPENLLM_API_KEY_FILE" in done.stderr
    missing = run("keys", "ls", "--api-key-file", str(tmp_path / "none"))
    assert missing.exit_code == 78 and "keys add NAME" in missing.stderr
    assert run("keys", "add", "ann", "--api-key-file", str(tmp_path / "keys")).exit_code == 0
    (tmp_path / "keys").chmod(0o644)
    loose = run("keys", "add", "bob", "--api-key-file", str(tmp_path / "keys"))
    assert loose.exit_code == 78 and "chmod 600" in loose.stderr and not loose.stdout


def test_a_start_is_refused_by_line_and_cause(run: Run, file: Path) -> None:
    """With a file that cannot be used nothing starts, gRPC neither: exit code 78, and the check says the same."""
    run("keys", "add", "ann")
    file.write_text(file.read_text() + "\nnonsense\n")
    for command in ("start", "start-grpc"):
        for words in (("--check",), ()):
            done = run(command, "--backend", "echo", "--port", "0", *words)
            assert done.exit_code == 78 and "line 3" in done.output, (command, words)
    for words in (("start",), ("start-grpc",), ("start", "--grpc-port", "0")):
        open_to_all = run(*words, "--backend", "echo", "--port", "0", "--host", "0.0.0.0", "--api-key-file", "")
        assert open_to_all.exit_code == 78, words


def test_a_check_names_what_is_relaxed(run: Run, file: Path) -> None:
    """Each on a line of its own, with what it means; a start goes on all the same."""
    run("keys", "add", "ann")
    done = run("start", "--check", "--backend", "echo", "--port", "0", "--cors")
    assert done.exit_code == 0 and "UNSAFE" in done.stdout and "--cors: every web page with a key" in done.stdout
    assert "1 API key" in done.stdout
    narrow = run("start", "--check", "--backend", "echo", "--port", "0", "--cors", "https://app.test")
    assert narrow.exit_code == 0 and "UNSAFE" not in narrow.stdout
