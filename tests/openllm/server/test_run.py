"""`serve` as a process: port first, signals, drain, exit codes. Each test runs a real server process on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.openllm.server.serving import events, text_body

from openllm.server.run import bind, check_port
from openllm_core.errors import PortInUse, ResourceError, UnsafeConfiguration
from openllm_core.options import ServerOptions

SCRIPT = """
import json, sys
from openllm.compose import build
from openllm.server.run import serve
from openllm_core.options import EngineOptions, ServerOptions

options, script = json.loads(sys.argv[1])
server_options = ServerOptions(port=0, **options)
composed = build(EngineOptions(backend="echo", engine_arg=script), server_options)
say = lambda *words: print(*words, flush=True)
code = serve(composed, server_options, on_listening=lambda host, port: say("listening", port), on_ready=lambda: say("ready"))
sys.exit(code)
"""


class Process:
    """A server process whose lines are read as they come."""

    def __init__(self, options: dict[str, Any], script: dict[str, Any], words: Sequence[str] = ()) -> None:
        command = [*words, sys.executable, "-c", SCRIPT, json.dumps([options, script])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.line().split()[1])
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def line(self) -> str:
        """Next line on stdout."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_ready(self) -> None:
        """Until `on_ready` was called."""
        assert self.line() == "ready"

    def wait_draining(self) -> None:
        """Until the server says that it shuts down: the first signal was taken."""
        end = time.monotonic() + 60
        while self.http.get("/readyz").status_code != 503:
            assert time.monotonic() < end, "the signal was not taken"
            time.sleep(0.01)

    def end(self, within_s: float = 45) -> int:
        """Exit code."""
        return self.process.wait(within_s)


@contextmanager
def running(options: dict[str, Any] | None = None, *, words: Sequence[str] = (), **script: Any) -> Iterator[Process]:
    """A server process; killed when the test ends. `words` stand before its command."""
    process = Process(options or {}, script, words)
    try:
        yield process
    finally:
        process.http.close()
        if process.process.poll() is None:
            process.process.kill()
        process.process.wait()
        assert process.process.stdout is not None
        process.process.stdout.close()


class Streaming(threading.Thread):
    """A streamed completion in a thread."""

    def __init__(self, process: Process, **more: Any) -> None:
        super().__init__(daemon=True)
        self.process, self.body, self.text = process, text_body(stream=True, **more), ""
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        with self.process.http.stream("POST", "/v1/completions", json=self.body) as answer:
            for part in answer.iter_text():
                self.text += part
                self.begun.set()


def test_sigterm_lets_streams_finish() -> None:
    """Streams that fit into the grace end with [DONE]; meanwhile /readyz is 503 and new requests are refused; exit 0."""
    with running({"drain_grace": 20.0}, reply="a" * 40, step_s=0.05) as process:
        process.wait_ready()
        stream = Streaming(process)
        assert stream.begun.wait(10)
        process.process.send_signal(signal.SIGTERM)
        process.wait_draining()
        assert process.http.get("/livez").status_code == 200
        for answer in (process.http.get("/readyz"), process.http.post("/v1/completions", json=text_body())):
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "shutting_down"
        assert process.end() == 0
        stream.join(5)
    assert events(stream.text)[-1] == "[DONE]"


def test_sigterm_tells_streams_that_outlive_the_grace() -> None:
    """At the end of the grace each stream gets an error event, then the server ends with 0."""
    with running({"drain_grace": 0.5}, reply="a" * 3000, step_s=0.05) as process:
        process.wait_ready()
        streams = [Streaming(process) for _ in range(4)]
        assert all(stream.begun.wait(10) for stream in streams)
        began = time.monotonic()
        process.process.send_signal(signal.SIGINT)
        assert process.end() == 0
        assert time.monotonic() - began < 30  # the streams themselves would take 150 s
        for stream in streams:
            stream.join(5)
            assert events(stream.text)[-1]["error"]["code"] == "shutting_down"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_forces(number: signal.Signals, code: int) -> None:
    """The second signal ends the server at once, with the exit code of that signal."""
    with running({"drain_grace": 60.0}, reply="a" * 3000, step_s=0.05) as process:
        process.wait_ready()
        stream = Streaming(process)
        assert stream.begun.wait(10)
        process.process.send_signal(signal.SIGTERM)
        process.wait_draining()
        process.process.send_signal(number)
        assert process.end(30) == code  # the grace is 60 s


def test_sigterm_while_loading() -> None:
    """A server that still loads stops at once with 0, and leaves no engine host behind."""
    with running(load_s=60) as process:
        assert process.http.get("/readyz").json()["error"]["code"] == "engine_loading"
        process.process.send_signal(signal.SIGTERM)
        assert process.end(30) == 0  # loading takes 60 s


def test_the_engine_gone_for_good() -> None:
    """When the restart budget is spent the server ends with the exit code of the engine's failure."""
    with running({"restarts": 0}, reply="abcdef", die_at=3, exit_code=3) as process:
        process.wait_ready()
        stream = Streaming(process)
        assert process.end(15) == 69
        stream.join(5)
    last = events(stream.text)[-1]
    assert last["error"]["code"] == "engine_unavailable" and "[DONE]" not in stream.text


def test_the_engine_host_is_restarted() -> None:
    """A host that dies mid-stream: an error event, /readyz 503, then ready again, all by itself."""
    with running(reply="abcdef", die_at=3, when="die") as process:
        process.wait_ready()
        doomed = Streaming(process, prompt="die")
        doomed.join(10)
        assert events(doomed.text)[-1]["error"]["code"] == "engine_unavailable"
        deadline = time.monotonic() + 15
        seen = {process.http.get("/readyz").status_code}
        while 200 not in seen and time.monotonic() < deadline:
            time.sleep(0.05)
            seen.add(process.http.get("/readyz").status_code)
        assert 200 in seen
        assert process.http.post("/v1/completions", json=text_body()).json()["choices"][0]["text"] == "abcdef"
        process.process.send_signal(signal.SIGTERM)
        assert process.end() == 0


def test_no_part_of_an_answer_waits_for_an_acknowledgement() -> None:
    """Connections are made without Nagle's delay, which costs 40 ms for each answer that is written in two parts."""
    with bind(ServerOptions(port=0)) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_port() -> None:
    """Known before anything is loaded, and named; binding it twice never succeeds silently."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for attempt in (check_port, bind):
            with pytest.raises(PortInUse) as refused:
                attempt(ServerOptions(port=port))
            assert str(port) in refused.value.message and refused.value.exit_code == 71
            assert refused.value.hint is not None and "--port" in refused.value.hint
    check_port(ServerOptions(port=port))


def test_addresses_that_are_not_ours() -> None:
    """An address of another machine, or none at all, is named as such; a public one needs a key."""
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(ResourceError) as refused:
            check_port(ServerOptions(host=host, no_auth=True))
        assert host in refused.value.message
    with pytest.raises(UnsafeConfiguration):
        check_port(ServerOptions(host="0.0.0.0"))


def limited(files: int) -> list[str]:
    """Words that run a command with so many files."""
    return ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]


def test_a_flood_of_connections_leaves_a_server_with_few_files_alive() -> None:
    """With 64 files: what is too much is told 503 or closed, a running stream ends well, and the server recovers."""
    with running(words=limited(64), reply="a" * 60, step_s=0.05) as process:
        process.wait_ready()
        stream = Streaming(process)
        assert stream.begun.wait(20)
        held = [socket.create_connection(("127.0.0.1", process.port), timeout=30) for _ in range(200)]
        refused = 0
        for sock in reversed(held):  # the last ones first: they are surely too many
            sock.settimeout(0.1 if refused else 20)
            try:
                refused += sock.recv(12)[9:12] in (b"503", b"")
            except ConnectionResetError:
                refused += 1
            except TimeoutError:  # one of those that were taken, and says nothing
                pass
        assert refused >= 130
        for sock in held:
            sock.close()
        stream.join(60)
        assert stream.text.rstrip().endswith("data: [DONE]")
        end = time.monotonic() + 60
        while True:
            try:
                assert process.http.post("/v1/completions", json=text_body(max_tokens=2)).status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < end, "the server did not recover"
        process.process.send_signal(signal.SIGTERM)
        assert process.end() == 0


def test_too_few_files_to_start() -> None:
    """A server that could take no connections says so, before it listens, with the exit code of what a system refuses."""
    command = [*limited(24), sys.executable, "-m", "openllm", "start", "--backend", "echo", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 71 and "files may be open" in ended.stderr
