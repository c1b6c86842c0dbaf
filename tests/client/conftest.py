"""What the client's tests share: both twins driven the same way, and servers made of plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson
import pytest

from openllm_client import AsyncHTTPClient, HTTPClient

BASE = "http://test.invalid:3000"


class Driver:
    """Calls one of the twins from plain code, so that one test speaks of both."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.runner = asyncio.Runner() if kind == "async" else None
        self.made: list[Any] = []

    def client(self, handler: Any = None, address: str = BASE, **options: Any) -> Driver:
        transport = None if handler is None else httpx.MockTransport(handler)
        cls = AsyncHTTPClient if self.kind == "async" else HTTPClient
        self.it = cls(address, transport=transport, **options)
        self.made.append(self.it)
        return self

    def run(self, work: Any) -> Any:
        if self.runner is None or not inspect.isawaitable(work):
            return work

        async def wait() -> Any:
            return await work

        return self.runner.run(wait())

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.it, name)
        if not callable(found) or inspect.isawaitable(found):
            return self.run(found)
        return lambda *args, **kwargs: self.run(found(*args, **kwargs))

    def take(self, stream: Any, count: int | None = None) -> list[Any]:
        """The items of a stream; with `count`, leave it after so many."""

        async def collect() -> list[Any]:
            taken: list[Any] = []
            async for item in stream:
                taken.append(item)
                if len(taken) == count:
                    await stream.aclose()
                    break
            return taken

        if self.runner is not None:
            return self.runner.run(collect())
        taken: list[Any] = []
        for item in stream:
            taken.append(item)
            if len(taken) == count:
                stream.close()
                break
        return taken

    def shut(self) -> None:
        for client in self.made:
            self.run(client.aclose() if self.kind == "async" else client.close())
        if self.runner is not None:
            self.runner.close()


@pytest.fixture(params=["sync", "async"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """Each of the twins in turn, with no variable of the environment set."""
    for name in ("OPENLLM_ENDPOINT", "OPENLLM_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    driver = Driver(request.param)
    yield driver
    driver.shut()


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


FRAMES: list[dict[str, Any]] = [
    {"index": 0, "text": "Grüße", "token_ids": [5, 6], "finish_reason": None},
    {"index": 0, "text": " 😀", "token_ids": [7], "finish_reason": None},
    {
        "index": 0,
        "text": "",
        "token_ids": [2],
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    },
]
STREAM = b": ping\n\n" + b"".join(event(frame) for frame in FRAMES) + event(b"[DONE]")


def stream_of(body: bytes | Any, **headers: str) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8", **headers}, content=body)


def refusal(status: int, code: str | None = None, message: str = "no", **headers: str) -> httpx.Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return httpx.Response(status, json=body, headers=headers)


class SocketServer:
    """Accepts connections on loopback and hands each to `serve(connection, number)` in a thread.

    Attributes:
        requests: bytes of each request that was read with `read_request`.
        left: set when a client closed its end while `until_left` watched.
    """

    def __init__(self, serve: Callable[[socket.socket, int], None]) -> None:
        self.serve = serve
        self.requests: list[bytes] = []
        self.connections = 0
        self.left = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.open.append(connection)
            self.connections += 1
            threading.Thread(target=self._handle, args=(connection, self.connections - 1), daemon=True).start()

    def _handle(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            self.serve(connection, number)

    def read_request(self, connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                raise ConnectionResetError
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
        while len(body) < length:
            body += connection.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        return self.requests[-1]

    def until_left(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                pass
        self.left.set()

    def close(self) -> None:
        self.listener.close()
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@pytest.fixture
def socket_server() -> Iterator[Callable[[Callable[..., None]], SocketServer]]:
    """Makes servers that are closed when the test ends; `serve(server, connection, number)`."""
    made: list[SocketServer] = []

    def make(serve: Callable[[SocketServer, socket.socket, int], None]) -> SocketServer:
        server = SocketServer(lambda connection, number: serve(server, connection, number))
        made.append(server)
        return server

    yield make
    for server in made:
        server.close()


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: r-1\r\ntransfer-encoding: chunked\r\n\r\n"
)
