"""A server that does nothing but write: what the kernel and the event loop alone take for a streamed token.

    python tools/bench_bare.py PORT PAUSE_S

Started by `bench_serving.py overhead` in turns with ours. Every PAUSE_S seconds each connection gets one ready-made event
of the size ours has, until it had as many as its request's `max_tokens`.
"""

from __future__ import annotations

import asyncio
import json
import sys

EVENT = json.dumps(
    {
        "id": f"chatcmpl-{'0' * 32}",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "echo",
        "system_fingerprint": None,
        "choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": None, "finish_reason": None}],
        "usage": None,
    },
    separators=(",", ":"),
)
END = (
    'data: {{"choices":[{{"index":0,"delta":{{}},"finish_reason":"length"}}]}}\n\n'
    'data: {{"choices":[],"usage":{{"prompt_tokens":1,"completion_tokens":{0}}}}}\n\ndata: [DONE]\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One request; `left` events are still to be written to it."""

    streams: set[Connection] = set()  # noqa: RUF012 - the one list of what is open
    piece = chunk(f"data: {EVENT}\n\n".encode())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the request."""
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Begin to stream once the body is there; anything but a POST is told that we are ready."""
        self.received += data
        if self.received.startswith(b"GET"):
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            self.transport.close()
        elif self.received.endswith(b"}"):
            body = self.received.partition(b"\r\n\r\n")[2]
            self.tokens = self.left = json.loads(body)["max_tokens"]
            self.transport.write(HEAD)
            self.streams.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it."""
        self.streams.discard(self)

    def step(self) -> None:
        """Write one event, or the end."""
        self.transport.write(self.piece)
        self.left -= 1
        if self.left == 0:
            self.streams.discard(self)
            self.transport.write(chunk(END.format(self.tokens).encode()) + chunk(b""))
            self.transport.close()


async def main(port: int, pause_s: float) -> None:
    """Serve until killed."""
    await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    while True:
        await asyncio.sleep(pause_s)
        for stream in list(Connection.streams):
            stream.step()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
