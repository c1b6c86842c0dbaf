"""CPU a server spends per streamed chunk, for each ASGI server we could run on.

A bare ASGI app streams `--chunks` server-sent events to `--streams` connections at once, all woken by one shared step,
as the engine wakes its streams. The server runs in its own process and reports its own CPU time, so the cost of the load
generator does not count. Prints JSON; docs/performance.md quotes it. Run: python tools/bench_asgi.py -o asgi.json
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SERVERS = (
    "uvicorn-h11",
    "uvicorn-httptools",
    "uvicorn-httptools-uvloop",
    "granian",
    "granian-uvloop",
    "hypercorn",
    "floor",
)
CHUNK = b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"m",' \
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'  # fmt: skip
STEP_S = 0.01  # one engine step


# -- the app that is served --------------------------------------------------------------------------------------


class Steps:
    """Wakes everyone who waits, once per step, as one engine frame does."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            waiting, self.waiting = self.waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        """A future that the next step resolves."""
        loop = asyncio.get_running_loop()
        if self.task is None:
            self.task = loop.create_task(self._run())
        future = loop.create_future()
        self.waiting.append(future)
        return future


def make_app(chunks: int) -> Any:
    """GET /stream sends `chunks` events; GET /cpu answers the CPU seconds this process has used."""
    steps = Steps()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        headers = [(b"content-type", b"text/event-stream")]
        if scope["path"] == "/cpu":
            used = os.times()
            body = str(used.user + used.system).encode()
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-length", str(len(body)).encode())],
                }
            )
            await send({"type": "http.response.body", "body": body})
            return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(chunks):
            await steps.wait()
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


class Floor(asyncio.Protocol):
    """What asyncio itself costs: the same bytes written to the transport, with no HTTP server in between."""

    def __init__(self, chunks: int, steps: Steps) -> None:
        self.chunks, self.steps = chunks, steps

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Start to stream at the first bytes."""
        if data.startswith(b"GET /cpu"):
            used = os.times()
            body = str(used.user + used.system).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            self.transport.close()
        else:
            self.task = asyncio.get_running_loop().create_task(self.stream())

    async def stream(self) -> None:
        """Write the chunks, framed as HTTP/1.1 chunks."""
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        framed = b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK)
        for _ in range(self.chunks):
            await self.steps.wait()
            self.transport.write(framed)
        self.transport.write(b"0\r\n\r\n")
        self.transport.close()


def serve(name: str, port: int, chunks: int) -> None:
    """Run one candidate in this process until it is killed."""
    app = make_app(chunks)
    if name.endswith("uvloop") or name == "floor":
        import uvloop

        runner = uvloop.run
    else:
        runner = asyncio.run
    if name.startswith("uvicorn"):
        import uvicorn

        parser = "h11" if name == "uvicorn-h11" else "httptools"
        config = uvicorn.Config(
            app, port=port, http=parser, log_level="warning", access_log=False, lifespan="off", backlog=2048, ws="none"
        )
        runner(uvicorn.Server(config).serve())
    elif name.startswith("granian"):
        from granian.server.embed import Server

        runner(Server(app, port=port, interface="asginl", log_access=False).serve())
    elif name == "hypercorn":
        from hypercorn.asyncio import serve as hypercorn_serve
        from hypercorn.config import Config

        config = Config()
        config.bind = [f"127.0.0.1:{port}"]
        runner(hypercorn_serve(app, config))
    else:

        async def floor() -> None:
            steps = Steps()
            server = await asyncio.get_running_loop().create_server(lambda: Floor(chunks, steps), "127.0.0.1", port)
            await server.serve_forever()

        runner(floor())


# -- the load ----------------------------------------------------------------------------------------------------


class Reader(asyncio.Protocol):
    """Sends one request and counts what comes back."""

    def __init__(self, path: str, done: asyncio.Future[int], expected: int) -> None:
        self.path, self.done, self.expected, self.got = path, done, expected, 0
        self.tail = b""

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        self.transport = transport
        transport.write(f"GET {self.path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Count events."""
        self.got += data.count(b"data: {")
        self.tail = (self.tail + data)[-512:]
        answered = not self.expected and not self.tail.endswith(b"\r\n\r\n") and b"\r\n\r\n" in self.tail
        if answered or (self.expected and self.got >= self.expected):
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report what was read."""
        if not self.done.done():
            self.done.set_result(self.got)


async def request(port: int, path: str, expected: int) -> tuple[int, bytes]:
    """One request: events read, and the last bytes."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()
    _, reader = await loop.create_connection(lambda: Reader(path, done, expected), "127.0.0.1", port)
    return await done, reader.tail


async def cpu_of(port: int) -> float:
    """CPU seconds the server process reports."""
    _, tail = await request(port, "/cpu", 0)
    return float(tail.rsplit(b"\r\n\r\n", 1)[1])


async def load(port: int, streams: int, chunks: int) -> dict[str, float]:
    """One round of `streams` concurrent streams."""
    before, started = await cpu_of(port), time.perf_counter()
    answers = await asyncio.gather(*(request(port, "/stream", chunks) for _ in range(streams)))
    wall, after = time.perf_counter() - started, await cpu_of(port)
    read = sum(count for count, _ in answers)
    if read != streams * chunks:
        raise SystemExit(f"{read} of {streams * chunks} chunks arrived")
    return {"cpu_us_per_chunk": (after - before) / read * 1e6, "wall_s": wall}


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(name: str, streams: int, chunks: int, rounds: int) -> dict[str, Any]:
    """Start one candidate, warm it up, and take the best of `rounds`."""
    port = free_port()
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--serve",
        name,
        "--port",
        str(port),
        "--chunks",
        str(chunks),
    ]
    server = subprocess.Popen(command)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        samples = [asyncio.run(load(port, streams, chunks)) for _ in range(rounds + 1)][1:]
    finally:
        server.kill()
        server.wait()
    best = min(samples, key=lambda s: s["cpu_us_per_chunk"])
    return {"server": name, "best_cpu_us_per_chunk": round(best["cpu_us_per_chunk"], 2), "samples": samples}


def main() -> None:
    """Parse the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64, help="concurrent connections")
    parser.add_argument("--chunks", type=int, default=200, help="chunks per stream")
    parser.add_argument("--rounds", type=int, default=3, help="rounds per server after one warm-up; the best counts")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS), help="which to measure")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON here too")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.port, args.chunks)
        return
    results: list[dict[str, Any]] = []
    for name in args.servers:
        results.append(measure(name, args.streams, args.chunks, args.rounds))
        print(f"{name:28} {results[-1]['best_cpu_us_per_chunk']:6.1f} us/chunk", file=sys.stderr)
    names = ("uvicorn", "httptools", "h11", "uvloop", "granian", "hypercorn")
    document = {
        "what": "server CPU per streamed chunk, bare ASGI app",
        "streams": args.streams,
        "chunks": args.chunks,
        "step_s": STEP_S,
        "python": platform.python_version(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in names},
        "results": results,
    }
    text = json.dumps(document, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
