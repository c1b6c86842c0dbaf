"""The standalone binary of this machine, used as a person would: asks real servers, and becomes a runtime that is installed beside it.

`hatch run binary` makes it first, with `python3 tools/dev.py binary`, which also tries it alone in an empty folder.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.e2e.conftest import ServerProcess, free_port, openllm_start
from tests.packaging.test_version import load

ROOT = Path(__file__).resolve().parents[2]
BINARY = load(ROOT / "tools" / "binary.py")
Terminal = Callable[..., Any]
READY = "start", "--backend", "echo", "--port"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of the archive that `dev.py binary` made, unpacked elsewhere, by a link to it."""
    archives = sorted((ROOT / "dist").glob(f"openllm-*-{BINARY.this_target()}.tar.gz"), key=os.path.getmtime)
    assert archives, "python3 tools/dev.py binary makes the archive of these tests"
    folder = tmp_path_factory.mktemp("binary")
    link = folder / "openllm"
    link.symlink_to(BINARY.unpack(archives[-1], folder / "opt"))
    return link


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An echo server of the installed package."""
    with openllm_start(tmp_path_factory.mktemp("server") / "log.txt", "--backend", "echo") as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a person who has set nothing, and has an empty home."""
    return BINARY.bare(tmp_path)


def run(program: Path, home: dict[str, str], *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environ = home | more
    return subprocess.run(
        [program, *words],
        env=environ,
        cwd=home["HOME"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        input="",
    )


def test_it_asks_a_server(program: Path, home: dict[str, str], server: ServerProcess):
    """A question, an embedding and a chat are answered as by the installed command."""
    asked = run(program, home, "query", "hello there", "--endpoint", server.url)
    assert asked.returncode == 0, asked.stderr
    ours = subprocess.run(
        [sys.executable, "-m", "openllm", "query", "hello there", "--endpoint", server.url],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == ours.stdout
    embedded = run(program, home, "embed", "hello", "--endpoint", server.url, "-o", "json")
    assert embedded.returncode == 0, embedded.stderr
    assert isinstance(json.loads(embedded.stdout), (list, dict))


def test_it_chats_in_a_terminal(program: Path, home: dict[str, str], server: ServerProcess, terminal: Terminal):
    """`openllm chat` reads lines, streams answers and leaves at end of input."""
    child = terminal(program, "chat", "--endpoint", server.url, env=home)
    child.sendline("hello there")
    child.expect("tokens")
    child.sendeof()
    assert ended(child) == 0


def test_it_trusts_who_is_told_to_be_trusted(program: Path, home: dict[str, str], tmp_path: Path):
    """HTTPS works with the libraries it carries: a stranger's certificate is refused, one of SSL_CERT_FILE's authority taken."""
    import http.server
    import threading

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        address = f"https://127.0.0.1:{listening.server_address[1]}"
        refused = run(program, home, "query", "x", "--endpoint", address)
        taken = run(program, home, "query", "x", "--endpoint", address, SSL_CERT_FILE=str(tmp_path / "ca.pem"))
        listening.shutdown()
    assert (refused.returncode, "certificate" in refused.stderr.lower()) == (69, True), refused.stderr
    assert "certificate" not in taken.stderr.lower()
    assert taken.returncode == 1  # that server knows none of our routes


@pytest.mark.parametrize("place", ["OPENLLM_RUNTIME", "beside", "data"])
def test_start_runs_on_a_runtime(program: Path, home: dict[str, str], terminal: Terminal, place: str):
    """Where this Python's environment is the runtime, a server starts, answers the binary, and ends on one signal."""
    prefix, environ = Path(sys.prefix), dict(home)
    beside = program.resolve().parent / "runtime"
    if place == "OPENLLM_RUNTIME":
        environ[place] = str(prefix)
    else:
        folder = beside if place == "beside" else Path(home["HOME"]) / ".local/share/openllm/runtime"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(prefix)
    port = str(free_port())
    try:
        child = terminal(program, *READY, port, env=environ)
        child.expect("curl")
    finally:
        beside.unlink(missing_ok=True)
    asked = run(program, home, "query", "hello", "--endpoint", f"http://127.0.0.1:{port}")
    assert asked.returncode == 0, asked.stderr
    assert Path(f"/proc/{child.pid}/exe").resolve() == Path(sys.executable).resolve()  # no second process between
    assert "_internal" not in Path(f"/proc/{child.pid}/environ").read_text(encoding="utf-8")
    if place == "data":
        child.sendintr()  # one Ctrl-C is one, and not two
    else:
        child.kill(signal.SIGTERM)
    assert ended(child) == 0, child.before


def ended(child: Any) -> int | None:
    """The exit code of a program on a terminal, once it ended."""
    child.read()
    child.close()
    return child.exitstatus


def test_what_it_says_without_a_runtime(program: Path, home: dict[str, str]):
    """The command it names makes exactly the folder in which it will look."""
    said = run(program, home, "start").stderr
    found = re.search(r"`python3 -m venv (\S+) && (\S+)/bin/pip install openllm", said)
    assert found is not None, said
    assert found[1] == found[2] == f"{home['HOME']}/.local/share/openllm/runtime"


def test_it_is_small_and_quick(program: Path, home: dict[str, str]):
    """Under 40 MB unpacked, and a second is enough for it to say its version."""
    assert BINARY.folder_bytes(program.resolve().parent) < BINARY.LIMIT_BYTES
    assert BINARY.start_s(program, Path(home["HOME"])) < 1
