"""`openllm ps`: which servers are listed, and which notes are not believed."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import Result

from openllm import running
from openllm.cli.ps import since
from openllm.running import Ready, endpoint

Run = Callable[..., Result]
HERE = Ready(endpoint="http://127.0.0.1:3000", model="smollm", backend="pt", device="cpu")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "openllm"


def test_a_server_that_runs_is_listed(run: Run, notes: Path) -> None:
    """By its note: as a table, as JSON, or its endpoint alone; no more once it has stopped."""
    note = running.remember(HERE)
    (listed,) = json.loads(run("ps", "-o", "json").stdout)
    assert listed.pop("started") > 0 and listed == HERE.as_data()
    assert run("ps", "-o", "porcelain").stdout == "http://127.0.0.1:3000\n"
    lines = run("ps").stdout.splitlines()
    assert lines[0].split() == ["Process", "Endpoint", "Model", "Backend", "Device", "Up"]
    assert lines[2].split()[:5] == [str(os.getpid()), HERE.endpoint, "smollm", "pt", "cpu"]
    running.forget(note)
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


class Answers(BaseHTTPRequestHandler):
    """A server of one route, which is ready while its `status` says so."""

    status = 200

    def do_GET(self) -> None:
        """`/readyz`."""
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def answering() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield endpoint("127.0.0.1", server.server_port)
        server.shutdown()


def test_only_what_can_answer(run: Run, notes: Path, answering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """--ready asks, past any proxy of the environment: 0 while one is ready, 1 where it is not, or none is there."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert run("ps", "--ready").exit_code == 1
    note = running.remember(Ready(endpoint=answering, model="smollm", backend="pt", device="cpu"))
    done = run("ps", "--ready", "-o", "porcelain")
    assert (done.exit_code, done.stdout) == (0, answering + "\n")
    monkeypatch.setattr(Answers, "status", 503)
    done = run("ps", "--ready")
    assert (done.exit_code, done.stdout) == (1, "") and "can answer" in done.stderr
    assert run("ps").exit_code == 0
    running.forget(note)
    running.remember(Ready(endpoint="http://127.0.0.1:9", model="smollm", backend="pt", device="cpu"))
    assert run("ps", "--ready").exit_code == 1


def test_how_long() -> None:
    """In the unit people read."""
    assert [since(s) for s in (-1, 5, 120, 7200, 259200)] == ["0 s", "5 s", "2 min", "2 h", "3 d"]


def test_a_server_of_grpc_alone_is_listed(run: Run, notes: Path) -> None:
    """By its address; --ready asks whether it takes connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        note = running.remember(Ready(endpoint=address, model="m", backend="echo", device="cpu", protocol="grpc"))
        assert json.loads(run("ps", "-o", "json").stdout)[0]["protocol"] == "grpc"
        assert run("ps", "--ready", "-o", "porcelain").stdout == address + "\n"
    assert run("ps", "--ready").exit_code == 1
    running.forget(note)
