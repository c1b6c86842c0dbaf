"""`openllm start` and `openllm run` for real, on the echo backend: what is said works as printed, and ends well."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pexpect
import psutil
import pytest
from click.testing import Result
from tests.openllm.cli.conftest import interrupt
from tests.openllm.serialisation import small

from openllm.cli.ready import curl_line, openai_arguments, python_snippet
from openllm.cli.start import at_version
from openllm.running import Ready, endpoint

Run = Callable[..., Result]
Start = Callable[..., "Started"]
ECHO = ("--backend", "echo", "--port", "0")


class Started:
    """A server that answers.

    Attributes:
        first: what it printed on stdout until it was ready.
        said: file with its stderr.
    """

    def __init__(self, process: subprocess.Popen[str], first: str, said: Path) -> None:
        self.process = process
        self.first = first
        self.said = said

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Run `openllm start` on the echo backend in a process of its own, until it is ready."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*words: str, output: str = "json", verb: str = "start", **environ: str) -> Started:
        said = tmp_path / f"said{len(processes)}.txt"
        with said.open("w") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "openllm", verb, *ECHO, "-o", output, *words],
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                env=os.environ | environ,
            )
        processes.append(process)
        assert process.stdout is not None
        first = ""
        while (output == "json" and not first.endswith("\n}\n")) or not first:
            line = process.stdout.readline() if output != "pretty" else ""
            first += line
            if output == "pretty" and "Stop  " in said.read_text():
                break
            assert process.poll() is None, said.read_text()
            time.sleep(0.01)
        return Started(process, first, said)

    yield begin
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


def test_what_start_prints_works_as_printed(start: Start):
    """The curl lines stream to `[DONE]`, the Python lines print an answer: copied from the terminal, unchanged."""
    server = start(output="pretty")
    text = server.said.read_text()
    shell = text[text.index("curl -N") : text.index("\n\nIn Python")]
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.rstrip().endswith("data: [DONE]")
    program = text[text.index("from openllm_client") : text.index("\nAs OpenAI")]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "sky" in done.stdout
    for word in ("Model", "Listening", "Device", "Ready in", "In a browser", "/docs"):
        assert word in text
    assert "\x1b" not in text
    assert server.stop(signal.SIGINT) == 0
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("org/name", None), ("org/name:v1", None)),
        (("pt-tiny", None), ("pt-tiny:v1", None)),
        (("opt", None), ("opt", "facebook/opt-1.3b:v1")),
        (("opt", "facebook/opt-125m"), ("opt", "facebook/opt-125m:v1")),
    ],
)
def test_a_version_of_the_model(words: tuple[str, str | None], expected: tuple[str, str | None]):
    """--model-version is the version of a stored model or the revision of a hub id, the family's own where none is named."""
    assert at_version(*words, "v1") == expected


@pytest.mark.parametrize("words", [(), ("./folder",), ("org/name:v2",)])
def test_a_version_of_nothing_is_wrong_usage(run: Run, words: tuple[str, ...]):
    """A folder has none, `id:revision` says it already."""
    result = run("start", *words, "--model-version", "v1")
    assert result.exit_code == 2 and "--model-version" in result.stderr


def test_start_grpc_says_where_it_serves_and_nothing_else(start: Start, run: Run):
    """stdout of `start-grpc -o json` is one object with the address that a gRPC client is given, `query` among them."""
    server = start(verb="start-grpc")
    host, _, port = json.loads(server.first)["endpoint"].rpartition(":")
    assert host == "127.0.0.1" and int(port) > 0
    grpc = ("--server-type", "grpc", "--endpoint", f"127.0.0.1:{port}")
    asked = run("query", "--raw", "echo me", "--sampling-params", "max_new_tokens", "7", *grpc, "-o", "json")
    assert asked.exit_code == 0, asked.stderr
    assert json.loads(asked.stdout)["responses"] == ["echo me"]
    assert run("query", "hi", *grpc).stdout.strip() != ""
    assert json.loads(run("embed", "a", *grpc).stdout)["num_tokens"] > 0
    assert server.stop() == 0
    gone = run("query", "hi", *grpc, "--timeout", "2")
    assert (gone.exit_code, gone.stdout) == (69, "")
    assert server.process.stdout is not None and server.process.stdout.read() == ""


def test_debug_shows_the_servers_log(start: Start):
    """With --debug each request is a line on stderr, with its status and id; stdout stays what it was."""
    server = start("--debug")
    answer = httpx.get(json.loads(server.first)["endpoint"] + "/livez", timeout=60)
    end = time.monotonic() + 20
    while f"({answer.headers['x-request-id']})" not in server.said.read_text() and time.monotonic() < end:
        time.sleep(0.01)
    (line,) = [line for line in server.said.read_text().splitlines() if "GET /livez" in line]
    assert "DEBUG   openllm.server: GET /livez: 200 after " in line
    assert server.stop(signal.SIGINT) == 0
    assert server.process.stdout is not None and server.process.stdout.read() == ""


def test_several_engines_end_when_none_is_left(start: Start):
    """With two engines and no restarts the first death leaves one that answers; the second ends the server with 69."""
    server = start("--engines", "2", "--restarts", "0")
    url = json.loads(server.first)["endpoint"]
    end = time.monotonic() + 60
    while httpx.get(url + "/readyz", timeout=60).json().get("engines_ready") != 2 and time.monotonic() < end:
        time.sleep(0.05)
    hosts = [
        child.pid
        for child in psutil.Process(server.process.pid).children()
        if "openllm.engine.host" in " ".join(child.cmdline())
    ]
    assert len(hosts) == 2
    os.kill(hosts[0], signal.SIGKILL)
    while httpx.get(url + "/readyz", timeout=60).json().get("engines_ready") != 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert httpx.get(url + "/readyz", timeout=60).json() == {"status": "ready", "engines_ready": 1, "engines": 2}
    reply = httpx.post(url + "/v1/completions", json={"model": "echo", "prompt": "hi", "max_tokens": 2}, timeout=60)
    assert reply.json()["choices"][0]["text"] == "hi"
    os.kill(hosts[1], signal.SIGKILL)
    assert server.process.wait(20) == 69
    assert "SIGKILL" in server.said.read_text()


def test_one_server_for_machines(start: Start, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """-o json: one object on stdout once it answers, and nothing else ever.

    The note for other commands stands while it runs. With OPENLLM_API_KEY the server wants the key (77 without), and
    commands send it by themselves: by chat template, raw, piped; a refused value is one line with the field named.
    """
    server = start("--served-model-name", "mine", OPENLLM_API_KEY="sk-1", XDG_RUNTIME_DIR=str(tmp_path))
    facts = json.loads(server.first)
    endpoint, note = facts["endpoint"], tmp_path / "openllm" / f"{server.process.pid}.json"
    assert (facts["model"], facts["pid"]) == ("mine", server.process.pid)
    assert httpx.get(endpoint + "/readyz").status_code == 200
    assert json.loads(note.read_text())["endpoint"] == endpoint

    monkeypatch.setenv("OPENLLM_ENDPOINT", endpoint)
    assert run("query", "hi").exit_code == 77
    monkeypatch.setenv("OPENLLM_API_KEY", "sk-1")
    assert "sea" in run("query", "Why is the sea salty?").stdout
    raw = run("query", "--raw", "echo me", "--sampling-params", "max_new_tokens=7", "-o", "json")
    assert json.loads(raw.stdout)["responses"] == ["echo me"]
    assert "hello" in run("chat", stdin="hello\n").stdout
    refused = run("query", "hi", "--sampling-params", "temperature=3")
    assert refused.exit_code == 1
    assert "temperature" in refused.stderr

    assert server.stop() == 0
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""
    assert not note.exists()


def test_an_engine_that_cannot_load_is_one_line_and_its_code(run: Run):
    """The engine's own error reaches the last line; no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "openllm", "start", *ECHO, "--restarts", "0", "--engine-arg", "fail_load=true"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 69, done.stderr
    assert done.stderr.splitlines()[-1].startswith(("Error:", "Hint:"))
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_port_in_use_is_told_before_anything_else(run: Run):
    """Exit 71, the port named, and nothing fetched: the model is not even looked for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("start", "no-such-model", "--port", port)
    assert result.exit_code == 71
    assert port in result.stderr
    assert "--port" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["./no/such/folder"], 66, "There is no folder ./no/such/folder."),
        (["--backend", "ecko"], 78, "Did you mean echo?"),
        (["--host", "0.0.0.0"], 78, "--no-auth"),
        (["flan-t6", "--model-id", "a/b"], 66, "flan-t5"),
        (["--help-me"], 2, "--help-me"),
    ],
)
def test_a_refused_start_names_cause_and_fix(run: Run, words: list[str], code: int, message: str):
    """One line, a hint, the documented code, stdout empty."""
    result = run("start", "--port", "0", *words)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_folder_without_weights_is_refused(run: Run, tmp_path: Path):
    """Exit 65: the folder is named with what it lacks."""
    (tmp_path / "empty").mkdir()
    result = run("start", str(tmp_path / "empty"), "--port", "0")
    assert result.exit_code == 65
    assert "safetensors" in result.stderr


def test_on_a_terminal_loading_shows_and_ctrl_c_stops_cleanly(terminal: Callable[..., pexpect.spawn[str]]):
    """A bar moves while the model loads and is gone when it answers; Ctrl-C ends with 0."""
    child = terminal("start", *ECHO, "--engine-arg", "load_s=0.5")
    child.expect_exact("Listening")
    child.expect_exact("━")
    child.expect_exact("Ready in")
    child.expect(r"Stop\S* +.*Ctrl-C")
    child.sendintr()
    child.expect_exact("Stopped.")
    child.expect_exact(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_run_serves_and_chats_and_leaves_nothing(terminal: Callable[..., pexpect.spawn[str]]):
    """`openllm run` is start and chat in one; Ctrl-C at the prompt does not reach the server; both end together."""
    child = terminal("run", "--backend", "echo")
    child.expect("echo at (http://[0-9.:]+)")
    assert child.match
    endpoint = child.match.group(1)
    child.expect_exact("› ")
    interrupt(child, "Ctrl-D or /exit leaves.")
    child.sendline("over and out")
    child.expect_exact("over and out")
    child.expect("first after")
    child.sendline("/exit")
    child.expect_exact(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(endpoint + "/livez")


def test_run_ends_as_its_server_did(run: Run):
    """When the server cannot start, its line and its exit code are run's."""
    done = subprocess.run(
        [sys.executable, "-m", "openllm", "run", "./no/such/folder"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 66
    assert "There is no folder" in done.stderr


def test_printed_lines_survive_odd_names():
    """Quotes in a served name break neither the shell line nor the Python lines; a key comes from the environment."""
    ready = Ready(endpoint="http://[::1]:1", model='it\'s "x"', backend="pt", device="cpu", key_needed=True)
    done = subprocess.run(
        ["bash", "-c", 'curl() { printf "%s\\n" "$@"; }; ' + curl_line(ready)],
        capture_output=True,
        text=True,
        env=os.environ | {"OPENLLM_API_KEY": "sk-1"},
        check=True,
    )
    words = done.stdout.splitlines()
    assert json.loads(words[-1])["model"] == ready.model
    assert "Authorization: Bearer sk-1" in words
    compile(python_snippet(ready), "snippet", "exec")
    compile(openai_arguments(ready), "arguments", "eval")


def test_addresses_are_printed_as_clients_write_them():
    """An address that means every interface is reached over loopback; IPv6 gets brackets."""
    assert [endpoint(host, 3000) for host in ("0.0.0.0", "::", "::1", "localhost")] == [
        "http://127.0.0.1:3000",
        "http://[::1]:3000",
        "http://[::1]:3000",
        "http://localhost:3000",
    ]


def test_where_a_server_that_did_not_bind_listens() -> None:
    """Its endpoint is that of the socket it was given, which whoever bound it has open too."""
    code = "from openllm import running; print(running.own_endpoint())"
    with socket.create_server(("127.0.0.1", 0)) as given:
        for passed, found in (((given.fileno(),), endpoint(*given.getsockname())), ((), "None")):
            said = subprocess.run([sys.executable, "-c", code], pass_fds=passed, stdout=subprocess.PIPE, text=True)
            assert said.stdout == f"{found}\n"


def test_a_variable_that_is_set_for_nothing_is_told(start: Start) -> None:
    """A misspelt one with the right name, one of earlier releases with why; the server starts all the same."""
    server = start(OPENLLM_GENERATION_TEMPRATURE="0.1", OPENLLM_DEV_BUILD="True")
    said = server.said.read_text()
    assert "did you mean OPENLLM_GENERATION_TEMPERATURE?" in " ".join(said.split())
    assert "OPENLLM_DEV_BUILD: nothing reads it any more" in " ".join(said.split())


def test_a_locked_start_serves_what_was_locked_or_nothing(start: Start, run: Run, tmp_path: Path) -> None:
    """A file of `openllm lock` starts model and flags as they were; one changed byte, and exit code 78 names the file."""
    folder = small.model_folder(tmp_path / "tiny")
    file = tmp_path / "a.lock.json"
    words = ["--backend", "echo", "--served-model-name", "locked"]
    assert run("lock", str(folder), str(file), *words).exit_code == 0
    running = start("--locked", str(file))
    assert json.loads(running.first)["model"] == "locked"
    assert running.stop() == 0

    (folder / "model.safetensors").write_bytes(small.safetensors(5))
    command = [sys.executable, "-m", "openllm", "start", "--port", "0", "--locked", str(file), "--dtype", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (78, "")
    for part in ("file model.safetensors: SHA-256", "--dtype: float32 here", "2 things differ"):
        assert part in done.stderr
    assert "Listening" not in done.stderr


TERMINATED = """
import os, signal, sys, time
from openllm.cli import cli, start
from openllm.engine import process

spawn = process.Spawned.__init__
def spawned(self, options):
    spawn(self, options)
    print(self._process.pid, flush=True)
process.Spawned.__init__ = spawned

def never(*words, **more):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
setattr(start, sys.argv[1], never)
cli.main(["start", "--backend", "echo", "--port", "0"])
"""


@pytest.mark.parametrize("place", ["find_model", "_serve"])
def test_sigterm_before_there_is_a_server(place: str) -> None:
    """SIGTERM while the model is looked for, and when the engine host runs and the server does not: 0, and no host is left."""
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED, place], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert [pid for pid in map(int, done.stdout.split()) if psutil.pid_exists(pid)] == []
    assert len(done.stdout.split()) == (place == "_serve")


@pytest.mark.parametrize("before", [[], ["nohup"]])
def test_a_closed_terminal_ends_its_server(before: list[str], tmp_path: Path) -> None:
    """Whoever closes the window ends what runs in it, as by SIGTERM; under nohup it runs on, and SIGHUP alone ends nothing."""
    words = [*before, sys.executable, "-m", "openllm", "start", *ECHO]

    def as_in_a_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may themselves run under nohup

    child = pexpect.spawn(
        "/usr/bin/env", words, timeout=60, encoding="utf-8", cwd=str(tmp_path), preexec_fn=as_in_a_terminal
    )
    try:
        child.expect("Ready in" if not before else "nohup")
        server = psutil.Process(child.pid)
        if before:  # it writes into a file: it listens once it has a connection to its engine host
            deadline = time.monotonic() + 60
            while not [c for c in server.net_connections() if c.status == psutil.CONN_LISTEN]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        server.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert server.is_running()
        os.close(child.child_fd)
        if before:
            time.sleep(0.5)
            assert os.waitpid(child.pid, os.WNOHANG) == (0, 0)
            server.terminate()
        assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 0
    finally:
        if psutil.pid_exists(child.pid):
            os.kill(child.pid, signal.SIGKILL)
