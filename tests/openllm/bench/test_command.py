"""`openllm bench` from the command line, against a scripted server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result
from tests.openllm.bench.fake import ending, event, piece

from openllm.cli import cli


class Scripted(ThreadingHTTPServer):
    """A server of two tokens per answer that keeps what it was sent."""

    daemon_threads = True
    request_queue_size = 64
    fail_every = 0
    fail_after = 10**6

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Scripted

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's own output clean."""

    def do_GET(self) -> None:
        self._send(200, b'{"data": [{"id": "scripted"}]}')

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        words = len(str(self.server.bodies[-1]["messages"]).split())
        self.server.keys.append(self.headers["authorization"])
        count = len(self.server.bodies)
        if (self.server.fail_every and count % self.server.fail_every == 0) or count > self.server.fail_after:
            self._send(503, b'{"error": {"message": "busy"}}')
        else:
            self._send(200, event(piece("a")) + event(piece("b")) + b"".join(ending(2, words)))

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    threading.Thread(target=scripted.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield scripted
    scripted.shutdown()
    scripted.server_close()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OPENLLM_")]:
        monkeypatch.delenv(name)


def bench(*words: str) -> Result:
    return CliRunner().invoke(cli, ["bench", *words], prog_name="openllm")


def test_a_table_and_a_file(server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One line per level on stdout; the file holds samples, medians, machine, versions and command, but no folder."""
    file = tmp_path / "r.json"
    words = [server.url, "--concurrency", "1,3", "--slo", "ttft=9", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["openllm", "bench", *words])
    result = bench(*words)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith("server")]
    assert [line.split()[1] for line in lines] == ["1", "3"]
    assert all(line.endswith("100 %") for line in lines)
    data = json.loads(file.read_text())
    assert data["medians"]["server"]["3"]["requests"] == 6
    assert data["rounds"][0]["server"]["levels"][1]["tokens"] == 12
    assert {"command", "date", "cpu", "cores", "load_average", "commit", "versions", "load"} <= set(data)
    assert data["command"] == f"openllm bench {server.url} --concurrency 1,3 --slo ttft=9 --json r.json"


def test_json_on_stdout_is_pure(server: Scripted):
    """-o json: the same as the file, nothing else on stdout."""
    data = json.loads(bench(server.url, "--concurrency", "2", "-o", "json").stdout)
    assert data["medians"]["server"]["2"]["tokens_per_s"] > 0


def test_what_is_asked_is_what_was_typed(server: Scripted, monkeypatch: pytest.MonkeyPatch):
    """Lengths, fields, model and key reach the server."""
    monkeypatch.setenv("OPENLLM_API_KEY", "secret,other")
    words = ("--num-prompts", "2", "--output-tokens", "9", "--field", "top_p=0.5", "--field", "user=me", "--model", "m")
    result = bench(f"{server.url}/v1", "--concurrency", "1", *words, "--no-ignore-eos", "-o", "json")
    body = server.bodies[-1]
    assert body | {"max_tokens": 9, "top_p": 0.5, "user": "me", "model": "m", "stream": True} == body
    assert "ignore_eos" not in body
    assert set(server.keys) == {"Bearer secret"}
    assert "secret" not in result.output


def test_errors_are_counted_and_told(server: Scripted):
    """The level goes on; the table counts, and stderr says what the server said."""
    server.fail_every = 4
    result = bench(server.url, "--concurrency", "2", "--num-prompts", "8", "--warmup", "0")
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if line.startswith("server"))
    assert row.split()[-1] == "2"
    assert "2 x http_503: busy" in result.stderr


def test_nothing_answered_is_no_success(server: Scripted):
    """Where not one request of a level was answered, the exit code is 1."""
    server.fail_after = 1
    result = bench(server.url, "--concurrency", "1", "--num-prompts", "2", "--warmup", "0")
    assert result.exit_code == 1
    assert "2 x http_503: busy" in result.stderr


def test_no_prompt_is_sent_twice(server: Scripted):
    """With a wanted length, warm-up, levels and rounds all ask different things: no cache of prefixes can help."""
    words = ("--concurrency", "1,2", "--rounds", "2", "--input-tokens", "40")
    assert bench(server.url, *words).exit_code == 0
    asked = [body["messages"][0]["content"] for body in server.bodies if body["max_tokens"] > 2]
    counted = [text for text in asked if not text.endswith((".", "?"))]  # the very first request is a question
    assert len(counted) == 2 * (2 + 4 + 4 + 4)  # two probes of length, warm-up, two levels
    assert len(set(counted)) == len(counted)


def test_rounds_are_medians(server: Scripted):
    """--rounds N measures N times; random prompts differ from round to round."""
    words = ("--concurrency", "1", "--num-prompts", "1", "--rounds", "3", "--input-tokens", "40")
    data = json.loads(bench(server.url, *words, "-o", "json").stdout)
    speeds = sorted(done["server"]["levels"][0]["tokens_per_s"] for done in data["rounds"])
    assert len(speeds) == 3
    assert data["medians"]["server"]["1"]["tokens_per_s"] == speeds[1]


@pytest.mark.parametrize(
    "words",
    [
        ("--concurrency", "0"),
        ("--concurrency", "x"),
        ("--rate", "-1"),
        ("--rate", "1", "--concurrency", "1"),
        ("--num-prompts", "1", "--duration", "1"),
        ("--field", "x"),
        ("--serve", "m"),
        ("--baseline", "other"),
    ],
)
def test_wrong_usage(server: Scripted, words: tuple[str, ...]):
    """Ends with 2 before anything is asked."""
    assert bench(server.url, *words).exit_code == 2
    assert server.bodies == []


@pytest.mark.parametrize(("words", "code"), [(("--slo", "x=1"), 78), (("--shape", "lama-2-13b"), 78)])
def test_wrong_values(words: tuple[str, ...], code: int):
    """A target or shape that does not exist says which there are."""
    result = bench(*words)
    assert result.exit_code == code
    assert "ttft" in result.stderr or "Did you mean llama-2-13b?" in result.stderr


@pytest.mark.parametrize("form", [("--header", "X-Api-Key=secret"), ("--header=X-Api-Key=secret",)])
def test_a_header_is_not_published(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
):
    """It may be a key: the command line in the result names it and leaves its value out."""
    words = [server.url, "--concurrency", "1", *form, "--json", str(tmp_path / "r.json")]
    monkeypatch.setattr(sys, "argv", ["openllm", "bench", *words])
    assert bench(*words).exit_code == 0
    text = (tmp_path / "r.json").read_text()
    assert "X-Api-Key=…" in json.loads(text)["command"] and "secret" not in text


def test_nobody_there():
    """69, and what to look at."""
    result = bench("127.0.0.1:9")
    assert result.exit_code == 69
    assert "Is the server running?" in result.stderr


def test_a_server_that_is_started_is_sent_key_header_and_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ours inherits OPENLLM_API_KEY and refuses who has it not; the model named is the one asked for."""
    monkeypatch.setenv("OPENLLM_API_KEY", "secret,other")
    words = ["--shape", "tiny", "--serve-arg", "--backend", "--serve-arg", "echo", "--concurrency", "1"]
    words += ["--num-prompts", "1", "--warmup", "0", "--output-tokens", "2", "-o", "json"]
    result = bench(*words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["medians"]["openllm"]["1"]["completed"] == 1
    assert "secret" not in result.output
    refused = bench(*words, "--header", "Authorization=Bearer wrong")
    assert refused.exit_code == 77 and "http_401" in refused.stderr
    unknown = bench(*words, "--model", "no-such-model")
    assert unknown.exit_code != 0 and "no-such-model" in unknown.stderr


def test_no_server_outlives_the_command(tmp_path: Path):
    """SIGTERM amid a measurement ends the server it started, too."""
    words = ["bench", "--serve", "none", "--concurrency", "1"]
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from openllm.bench import subjects\n"
        "import openllm.cli.bench as bench\n"
        "bench._folder = lambda model, out: Path(model)\n"
        "code = 'import os, sys, time; open(sys.argv[1], \"w\").write(str(os.getpid())); time.sleep(600)'\n"
        "command = [sys.executable, '-c', code, sys.argv[1]]\n"
        "subjects.ours = lambda *a, **k: subjects.Subject(name='x', command=command, ready_path='/', model='m')\n"
        "from openllm.cli import main\n"
        f"sys.exit(main({words!r}))\n"
    )
    note = tmp_path / "pid"
    command = subprocess.Popen([sys.executable, "-c", program, str(note)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (note.exists() and note.read_text()):
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    command.terminate()
    assert command.wait(30) == 143
    server = int(note.read_text())
    assert not psutil.pid_exists(server) or psutil.Process(server).status() == psutil.STATUS_ZOMBIE
