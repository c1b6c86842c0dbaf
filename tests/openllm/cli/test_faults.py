"""A server that cannot be asked, or that answers badly: one clear line, nothing on stdout, and the documented exit code."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from click.testing import Result

from openllm.cli.failures import EXIT_CODES

if TYPE_CHECKING:
    from .conftest import ScriptedServer

Run = Callable[..., Result]
PAGE = b"<html>Welcome to nginx!</html>"
WEB_SERVER = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n%s" % (len(PAGE), PAGE)
NOT_TEXT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\n\xff\xfe\xfd\xfc"


@contextmanager
def saying(answer: bytes, *, close: bool = True) -> Iterator[str]:
    """The address of something that answers each connection with these bytes, whatever it is asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(65536)
            connection.sendall(answer)
            if close:
                connection.close()
            held.append(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in held:
            connection.close()


def failed(run: Run, endpoint: str, *words: str, timeout: str = "2") -> Result:
    """A query that cannot succeed: two lines at most on stderr, none on stdout, soon."""
    began = time.monotonic()
    result = run("query", "Hi?", "--endpoint", endpoint, "--timeout", timeout, *words)
    assert time.monotonic() - began < 10
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith("Error: ") and len(lines) <= 2, result.stderr
    assert "timeout=" not in result.stderr and "api_key=" not in result.stderr, "words of Python"
    assert result.exit_code in EXIT_CODES
    return result


@pytest.mark.parametrize("command", [["query", "Hi?"], ["embed", "a"], ["chat"], ["adapters", "ls"]])
def test_nobody_listens(run: Run, command: list[str]) -> None:
    """Every command that asks a server ends with 69 and names the address and what starts one."""
    result = run(*command, "--endpoint", "127.0.0.1:9", stdin="Hi?\n")
    assert (result.exit_code, result.stdout) == (69, "")
    assert "127.0.0.1:9" in result.stderr and "openllm start" in result.stderr


@pytest.mark.parametrize("scheme", ["ftp://127.0.0.1:1", "http://", "http://127.0.0.1:99999"])
def test_an_address_that_is_none(run: Run, scheme: str) -> None:
    """78, and how an address looks."""
    result = failed(run, scheme)
    assert result.exit_code == 78 and "http://localhost:3000" in result.stderr


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", 69, "does not speak HTTP"),
        (b"\0\0\x12\4\0\0\0\0\0", 69, "If a gRPC server listens there"),
        (b"", 69, "127.0.0.1"),
        (WEB_SERVER, 1, "Is an OpenLLM server of this version behind it?"),
        (NOT_TEXT, 1, "Is an OpenLLM server of this version behind it?"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 1, "Is an OpenLLM server behind this address?"),
        (b"HTTP/1.1 301 Moved\r\nlocation: https://elsewhere/\r\ncontent-length: 0\r\n\r\n", 1, "https://elsewhere/"),
    ],
    ids=["ssh", "gRPC", "silence", "web server", "not UTF-8", "404", "redirect"],
)
def test_a_server_that_is_no_openllm(run: Run, answer: bytes, code: int, text: str) -> None:
    """What listens there is something else: that is said."""
    with saying(answer) as address:
        result = failed(run, address)
    assert (result.exit_code, text in result.stderr) == (code, True), result.stderr


def test_a_path_of_openais_address(run: Run) -> None:
    """An address that ends with /v1, as other clients want it, is told from a server that is none."""
    with saying(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n") as address:
        assert "Leave /v1 out" in failed(run, f"{address}/v1").stderr


def test_nobody_listens_over_grpc(run: Run) -> None:
    """The hint names what gives a server a port for gRPC: often the address is that of its other port."""
    assert "--grpc-port" in failed(run, "127.0.0.1:9", "--server-type", "grpc").stderr


def test_https_where_http_is_spoken(run: Run, server: ScriptedServer) -> None:
    """A failed handshake is 69 and says SSL."""
    result = failed(run, server.url.replace("http:", "https:"))
    assert result.exit_code == 69 and "SSL" in result.stderr


def test_a_server_that_never_answers(run: Run) -> None:
    """The wait ends at --timeout, with 69 and the option that lengthens it."""
    with saying(b"", close=False) as address:
        result = failed(run, address, timeout="0.5")
    assert result.exit_code == 69 and "--timeout" in result.stderr


@pytest.mark.parametrize(
    ("status", "code"), [(400, 1), (401, 77), (403, 77), (404, 1), (413, 1), (422, 1), (429, 75), (500, 1), (502, 1)]
)
def test_a_refusal_says_what_the_server_says(run: Run, server: ScriptedServer, status: int, code: int) -> None:
    """The status decides the exit code; the message is the server's own."""
    kind = "invalid_request_error"
    server.refuse = (status, {"error": {"message": "Because.", "type": kind, "param": None, "code": "x"}})
    result = failed(run, server.url, "--raw")
    assert (result.exit_code, f"answered {status}: Because." in result.stderr) == (code, True), result.stderr


def test_a_missing_key_is_told_by_its_variable(run: Run, server: ScriptedServer) -> None:
    """401: the hint is what one types here, not an argument of Python."""
    server.refuse = (401, {"error": {"message": "No.", "type": "invalid_request_error", "code": "invalid_api_key"}})
    assert "Set OPENLLM_API_KEY" in failed(run, server.url).stderr


@pytest.mark.parametrize("form", ["pretty", "porcelain"])
def test_a_stream_that_is_cut(run: Run, server: ScriptedServer, form: str) -> None:
    """What came is shown, the end is an error, 69."""
    server.cut = True
    result = run("query", "Hi?", "--endpoint", server.url, "-o", form)
    assert (result.exit_code, result.stdout) == (69, "Hello there.")
    assert "ended before the answer did" in result.stderr
