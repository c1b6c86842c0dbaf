"""Frames: both channels carry the same ones, in order, whole, bounded, and never pickle."""

from __future__ import annotations

import ast
import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from openllm import engine as engine_package
from openllm.backends.base import (
    BackendInfo,
    BackendRequest,
    Capabilities,
    SequenceDelta,
    StepOutput,
    TokenLogprob,
    TokenSampling,
)
from openllm.engine import channel as channel_module
from openllm.engine.channel import (
    Abort,
    Channel,
    Failed,
    Loading,
    Ping,
    Pong,
    ProtocolError,
    Ready,
    Shutdown,
    SocketChannel,
    Start,
    Step,
    Submit,
    memory_pair,
)

TO_HOST = [
    Start({"backend": "echo", "engine_arg": {"reply": "é"}}),
    Submit([BackendRequest("r1", [1, 2], TokenSampling(max_tokens=3, logit_bias={5: -1e9}, stop_token_ids=(1,)))]),
    Submit([BackendRequest("r2", [], TokenSampling(max_tokens=1, seed=-(2**63)), adapter="a", cache_salt="s")]),
    Abort(["r1", "r2"]),
    Ping(7),
    Shutdown(),
]
TO_SERVER = [
    Loading("reading", None),
    Loading("reading", 0.5),
    Ready(BackendInfo("echo", Capabilities(), 10, 9, 4, 260, (1, 2), None, decisions=("x",))),
    Step(StepOutput([], 0, 1, 0.25)),
    Step(StepOutput([SequenceDelta("r", [1, 2], None, None, None, [TokenLogprob(1, -0.5, ((1, -0.5), (2, -1.5)))])])),
    Step(StepOutput([SequenceDelta("r", [3], "stop", 3), SequenceDelta("s", [], "error", None, {"class": "X"})])),
    Pong(7),
    Pong(8, {"class": "EngineUnavailable", "message": "m"}),
    Failed({"class": "OutOfMemory", "message": "need 2, have 1"}),
]


class End:
    """What arrived at one end."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.closed: list[Exception | None] = []

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.frames) < count:
                await asyncio.sleep(0.001)

    async def wait_closed(self) -> None:
        async with asyncio.timeout(10):
            while not self.closed:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def joined(kind: str) -> AsyncIterator[tuple[Channel, End, Channel, End]]:
    """A connected pair: (server's channel, what it received, host's channel, what it received)."""
    server, host = End(), End()
    if kind == "memory":
        ours, theirs = memory_pair(
            (server.frames.append, server.closed.append), (host.frames.append, host.closed.append)
        )
    else:
        left, right = socket.socketpair()
        ours = await SocketChannel.connect(left, "server", server.frames.append, server.closed.append)
        theirs = await SocketChannel.connect(right, "host", host.frames.append, host.closed.append)
    yield ours, server, theirs, host
    ours.close()
    theirs.close()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["memory", "socket"])
async def test_frames_arrive_equal_and_in_order(kind: str) -> None:
    """Every kind of frame comes out as it went in, on both channels alike."""
    async with joined(kind) as (ours, server, theirs, host):
        for frame in TO_HOST:
            ours.send(frame)
        for frame in TO_SERVER:
            theirs.send(frame)
        await host.wait(len(TO_HOST))
        await server.wait(len(TO_SERVER))
        assert host.frames == TO_HOST
        assert server.frames == TO_SERVER


@pytest.mark.parametrize("kind", ["memory", "socket"])
async def test_both_ends_hear_of_the_close_once(kind: str) -> None:
    """Closing one end ends both, after what was sent; sending then is dropped, closing again is fine."""
    async with joined(kind) as (ours, server, theirs, host):
        ours.send(Ping(1))
        ours.close()
        await host.wait_closed()
        await server.wait_closed()
        theirs.send(Pong(1))
        ours.close()
        theirs.close()
        await asyncio.sleep(0.01)
        assert host.frames == [Ping(1)]
        assert host.closed == [None]
        assert server.closed == [None]


async def test_a_sent_object_is_never_shared() -> None:
    """In memory too, what arrives is a copy: changing the original changes nothing."""
    async with joined("memory") as (ours, _, _, host):
        frame = Submit([BackendRequest("r", [1], TokenSampling(max_tokens=1))])
        ours.send(frame)
        frame.requests.clear()
        await host.wait(1)
        assert len(host.frames[0].requests) == 1


async def test_frames_split_at_any_byte_are_put_together() -> None:
    """Bytes may arrive one by one or many frames at once."""
    end = End()
    left, right = socket.socketpair()
    sender = await SocketChannel.connect(left, "host", lambda f: None, lambda e: None)
    reader = SocketChannel("server", end.frames.append, end.closed.append)
    raw = bytearray()
    right.setblocking(False)
    for frame in TO_SERVER:
        sender.send(frame)
    async with asyncio.timeout(5):
        while True:
            await asyncio.sleep(0.01)
            try:
                raw += right.recv(65536)
            except BlockingIOError:
                break
    for byte in raw:
        reader.data_received(bytes([byte]))
    assert end.frames == TO_SERVER
    reader.data_received(bytes(raw) * 3)
    assert end.frames == TO_SERVER * 4
    sender.close()
    right.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\xff",  # announces 4 GiB
        b"\x00\x00\x00\x01\xc1",  # no msgpack
        b"\x00\x00\x00\x06\x91\xa4nope",  # no frame of ours
        b"\x00\x00\x00\x09\x92\xa4ping\xa1x\x00\x00",  # wrong type within
        b"\x00\x00\x00\x00",  # empty
    ],
)
async def test_anything_else_breaks_the_channel(raw: bytes) -> None:
    """A frame too long, garbled or of an unknown kind closes the channel with an error and delivers nothing."""
    end = End()
    left, right = socket.socketpair()
    await SocketChannel.connect(left, "host", end.frames.append, end.closed.append)
    right.send(raw)
    await end.wait_closed()
    assert end.frames == []
    assert isinstance(end.closed[0], Exception)
    await asyncio.sleep(0.01)
    right.setblocking(False)
    assert right.recv(1) == b""
    right.close()


async def test_too_long_a_frame_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound holds on the sending side, too."""
    monkeypatch.setattr(channel_module, "MAX_FRAME_BYTES", 100)
    async with joined("socket") as (ours, _, _, host):
        with pytest.raises(ProtocolError):
            ours.send(Abort(["x" * 200]))
        ours.send(Ping(1))
        await host.wait(1)
        assert host.frames == [Ping(1)]


async def test_a_slow_reader_holds_up_the_writer() -> None:
    """`writable` waits once the other end has fallen far behind, and returns when it has caught up."""
    left, right = socket.socketpair()
    right.setblocking(False)
    writer = await SocketChannel.connect(left, "host", lambda f: None, lambda e: None)
    await asyncio.wait_for(writer.writable(), 1)
    for _ in range(200):
        writer.send(Loading("x" * 10_000, None))
    waiting = asyncio.ensure_future(writer.writable())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    async with asyncio.timeout(10):
        while not waiting.done():
            try:
                right.recv(1 << 20)
            except BlockingIOError:
                await asyncio.sleep(0.001)
    writer.close()
    right.close()


def test_no_unsafe_decoding_in_the_engine() -> None:
    """No module of the engine imports pickle, marshal or shelve, or calls eval or exec."""
    for path in Path(str(engine_package.__path__[0])).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                {alias.name for alias in node.names}
                if isinstance(node, ast.Import)
                else {node.module or ""}
                if isinstance(node, ast.ImportFrom)
                else {node.func.id}
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                else set[str]()
            )
            assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "eval", "exec"}, path
