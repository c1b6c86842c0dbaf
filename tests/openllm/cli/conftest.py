"""What the command-line tests share: a scripted server, a runner, and a real terminal."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pexpect
import pytest
from click.testing import CliRunner, Result

from openllm.cli import cli


class ScriptedServer:
    """Speaks the routes that commands use, and does what a test tells it to.

    Attributes:
        pieces: texts of the next answers, one chunk each; a second choice says the same in capitals.
        refuse: (status, body) to answer generation requests with, or None.
        cut: break the stream off before its end mark.
        hold: while set, a stream waits after its first piece.
        seen: bodies of the generation requests, in order.
    """

    def __init__(self) -> None:
        self.pieces = ["Hello", " there."]
        self.refuse: tuple[int, dict[str, Any]] | None = None
        self.cut = False
        self.hold = threading.Event()
        self.released = threading.Event()
        self.seen: list[dict[str, Any]] = []
        self.left_early = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()


def _handler(script: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's own output clean."""

        def do_GET(self) -> None:
            cards = [
                {"id": name, "created": 1, "object": "model", "owned_by": "openllm"} for name in ("tiny", "tiny:b")
            ]
            self._json(200, {"object": "list", "data": cards})

        def do_POST(self) -> None:
            script.seen.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            if script.refuse is not None:
                self._json(*script.refuse)
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            self.close_connection = True
            chat = self.path == "/v1/chat/completions"
            try:
                for piece in script.pieces:
                    self._event(_chunk(piece) if chat else _frame(piece))
                    if script.seen[-1].get("n") == 2:
                        self._event(_chunk(piece.upper(), index=1))
                    while script.hold.is_set() and not script.released.wait(0.02):
                        self.wfile.write(b": ping\n\n")  # a client that left shows here
                if not script.cut:
                    usage = {"prompt_tokens": 3, "completion_tokens": len(script.pieces), "total_tokens": 9}
                    for event in _ending(usage) if chat else [_frame("", "stop", usage)]:
                        self._event(event)
                    self.wfile.write(b"data: [DONE]\n\n")
            except OSError:
                script.left_early.set()

        def _event(self, data: dict[str, Any]) -> None:
            self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
            self.wfile.flush()

        def _json(self, status: int, data: dict[str, Any]) -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _chunk(text: str | None, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text} if text is not None else {}, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}


def _ending(usage: dict[str, int]) -> list[dict[str, Any]]:
    return [_chunk(None, "stop"), _chunk("") | {"choices": [], "usage": usage}]


def _frame(text: str, reason: str | None = None, usage: dict[str, int] | None = None) -> dict[str, Any]:
    frame: dict[str, Any] = {"index": 0, "text": text, "token_ids": [1], "finish_reason": reason}
    return frame | ({"usage": usage} if usage else {})


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    script = ScriptedServer()
    yield script
    script.close()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No variable of the person who runs the tests reaches a command; the store is empty."""
    for name in list(os.environ):
        if name.startswith(("OPENLLM_", "BENTOML_", "XDG_")) or name in ("NO_COLOR", "TRUST_REMOTE_CODE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command line in this process; stdout and stderr are kept apart."""

    def invoke(*words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, list(words), input=stdin, prog_name="openllm")

    return invoke


def interrupt(child: pexpect.spawn[str], shows: str) -> None:
    """Press Ctrl-C until `shows` appears: a line editor takes a signal that came between two of its waits at the next key."""
    for _ in range(20):
        child.sendintr()
        if child.expect_exact([shows, pexpect.TIMEOUT], timeout=1) == 0:
            return
    raise AssertionError(f"{shows!r} did not come after Ctrl-C")


@pytest.fixture
def terminal() -> Iterator[Callable[..., pexpect.spawn[str]]]:
    """Run a command line on a real terminal of 100 columns."""
    children: list[pexpect.spawn[str]] = []

    def spawn(*words: str, **environ: str) -> pexpect.spawn[str]:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "openllm", *words],
            env=os.environ | {"TERM": "xterm-256color"} | environ,
            dimensions=(40, 100),
            encoding="utf-8",
            timeout=60,
            # a suite that runs in the background has SIGINT ignored; a person's terminal has not
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        children.append(child)
        return child

    yield spawn
    for child in children:
        child.close(force=True)
