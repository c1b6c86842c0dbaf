"""Frames between the server process and its engine host: typed msgpack, length-prefixed, never pickle.

`SocketChannel` runs over an inherited socketpair, `memory_pair` joins two ends in one process; both carry the same bytes.
A frame is a tagged array; the tables of frames below are the whole protocol. Frames are delivered by callback, in order,
on the event loop. It must not know what a frame means.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec

from ..backends.base import BackendInfo, BackendRequest, StepOutput, TokenGuide

MAX_FRAME_BYTES = 64 * 1024 * 1024
PREFIX_BYTES = 4


class _Frame(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


# -- server to host -------------------------------------------------------------------------------------------------


class Start(_Frame, frozen=True, tag="start"):
    """First frame: `EngineOptions` as plain data."""

    options: dict[str, Any]


class Submit(_Frame, frozen=True, tag="submit"):
    """Sequences to run."""

    requests: list[BackendRequest]


class Abort(_Frame, frozen=True, tag="abort"):
    """Sequences to forget; unknown ids are ignored."""

    request_ids: list[str]


class Ping(_Frame, frozen=True, tag="ping"):
    """Asks for a `Pong`: the host's loop turns and its backend is healthy."""

    number: int


class OpenTokenizer(_Frame, frozen=True, tag="open_tokenizer"):
    """Open the tokenizer of the model in `folder`, which exists as Python code alone; from here on steps carry text."""

    folder: str
    trust_remote_code: bool


class AskIds(_Frame, frozen=True, tag="ask_ids"):
    """Asks for the token ids of a text."""

    number: int
    text: str
    special: bool


class AskText(_Frame, frozen=True, tag="ask_text"):
    """Asks for the text of token ids."""

    number: int
    ids: list[int]


class CheckGuide(_Frame, frozen=True, tag="check_guide"):
    """Asks whether a sequence can be held to a guide; the `Answer` has an error when not."""

    number: int
    guide: TokenGuide


class AskVectors(_Frame, frozen=True, tag="ask_vectors"):
    """Asks for the embeddings of token ids, [n][seq_len]."""

    number: int
    batch: list[list[int]]


class LoadAdapter(_Frame, frozen=True, tag="load_adapter"):
    """Asks to make the adapter in `folder` usable under `key`; the `Answer` has an error when it was refused."""

    number: int
    key: str
    folder: str


class UnloadAdapter(_Frame, frozen=True, tag="unload_adapter"):
    """Asks to forget an adapter once its last sequence has ended."""

    number: int
    key: str


class Shutdown(_Frame, frozen=True, tag="shutdown"):
    """Close the backend and end."""


# -- host to server -------------------------------------------------------------------------------------------------


class Loading(_Frame, frozen=True, tag="loading"):
    """What is being loaded and the share done, 0..1 or None."""

    text: str
    share: float | None


class Ready(_Frame, frozen=True, tag="ready"):
    """The model is loaded."""

    info: BackendInfo


class Failed(_Frame, frozen=True, tag="failed"):
    """The backend cannot go on: `OpenLLMError.as_dict()`. The host ends after it."""

    error: dict[str, Any]


class Step(_Frame, frozen=True, tag="step"):
    """One engine step: the deltas of every running sequence."""

    output: StepOutput


class Pong(_Frame, frozen=True, tag="pong"):
    """Answer to `Ping`; `error` is what the backend's health check raised."""

    number: int
    error: dict[str, Any] | None = None


class TokenizerOpened(_Frame, frozen=True, tag="tokenizer_opened"):
    """Answer to `OpenTokenizer`: ids that end a text."""

    eos_token_ids: tuple[int, ...]


class Answer(_Frame, frozen=True, tag="answer"):
    """Answer to one of the questions; `error` is why there is none, or what is wrong with the guide."""

    number: int
    ids: list[int] | None = None
    text: str = ""
    error: dict[str, Any] | None = None
    vectors: bytes = b""  # [n, hidden] float32 of this machine, to `AskVectors`


ToHost = (
    Start
    | Submit
    | Abort
    | Ping
    | OpenTokenizer
    | AskIds
    | AskText
    | CheckGuide
    | AskVectors
    | LoadAdapter
    | UnloadAdapter
    | Shutdown
)
ToServer = Loading | Ready | Failed | Step | Pong | TokenizerOpened | Answer
Frame = ToHost | ToServer

OnFrame = Callable[[Any], None]
OnClose = Callable[[Exception | None], None]

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {
    "host": msgspec.msgpack.Decoder(ToHost),
    "server": msgspec.msgpack.Decoder(ToServer),
}


class ProtocolError(Exception):
    """What arrived is no frame of ours: too long, or not of the expected shape."""


class Channel(Protocol):
    """One end. `send` never blocks; whoever produces without end awaits `writable` between frames."""

    def send(self, frame: Frame) -> None:
        """Queue one frame; dropped when the channel is closed."""
        ...

    async def writable(self) -> None:
        """Returns at once unless the other end has fallen behind."""
        ...

    def close(self) -> None:
        """Close this end after what was sent; the other end's `on_close` follows. Idempotent."""
        ...


class SocketChannel(asyncio.Protocol):
    """A channel over a connected stream socket; made by `connect`."""

    def __init__(self, reads: str, on_frame: OnFrame, on_close: OnClose) -> None:
        self._decode = _decoders[reads].decode
        self._on_frame = on_frame
        self._on_close = on_close
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def connect(cls, sock: socket.socket, reads: str, on_frame: OnFrame, on_close: OnClose) -> SocketChannel:
        """Take over one end of a socketpair.

        Args:
            sock: connected, stream; owned by the channel from here on.
            reads: whose frames arrive here are for: "host" or "server".
            on_frame: called with each frame, in order.
            on_close: called once, with the error that broke it or None at the peer's end of file.
        """
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(lambda: cls(reads, on_frame, on_close), sock=sock)
        return channel

    def send(self, frame: Frame) -> None:
        """One write per frame."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        packet = bytearray(PREFIX_BYTES)
        _encoder.encode_into(frame, packet, PREFIX_BYTES)
        size = len(packet) - PREFIX_BYTES
        if size > MAX_FRAME_BYTES:
            raise ProtocolError(f"A frame of {size} bytes is more than {MAX_FRAME_BYTES}.")
        packet[:PREFIX_BYTES] = size.to_bytes(PREFIX_BYTES, "big")
        transport.write(packet)

    async def writable(self) -> None:
        """Waits while the transport's buffer is above its high-water mark."""
        if not self._writable.is_set():
            await self._writable.wait()

    def close(self) -> None:
        """Flush and close."""
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Deliver every whole frame; keep the rest for later."""
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        try:
            while end - start >= PREFIX_BYTES:
                size = int.from_bytes(buffer[start : start + PREFIX_BYTES], "big")
                if size > MAX_FRAME_BYTES:
                    raise ProtocolError(f"A frame of {size} bytes is announced, more than {MAX_FRAME_BYTES}.")
                stop = start + PREFIX_BYTES + size
                if stop > end:
                    break
                frame = self._decode(bytes(buffer[start + PREFIX_BYTES : stop]))
                start = stop
                self._on_frame(frame)
        except (msgspec.MsgspecError, ProtocolError) as error:
            self._fail(error)
            return
        if start == end:
            buffer.clear()
        elif start:
            del buffer[:start]

    def pause_writing(self) -> None:
        """The other end reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The other end has caught up."""
        self._writable.set()

    def eof_received(self) -> bool:
        """The other end is gone: close ours."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, once."""
        self._writable.set()
        self._transport = None
        self._closed(exc)

    def _fail(self, error: Exception) -> None:
        self._buffer.clear()
        if self._transport is not None:
            self._transport.abort()
        self._closed(error)

    def _closed(self, error: Exception | None) -> None:
        on_close, self._on_close = self._on_close, _ignore
        on_close(error)


class MemoryChannel:
    """One end of a channel within one event loop; made by `memory_pair`."""

    def __init__(self, reads: str, on_frame: OnFrame, on_close: OnClose) -> None:
        self._decode = _decoders[reads].decode
        self._on_frame = on_frame
        self._on_close = on_close
        self.peer: MemoryChannel | None = None
        self._loop = asyncio.get_running_loop()

    def send(self, frame: Frame) -> None:
        """Encoded and decoded like on a socket, so that both ends never share an object."""
        if self.peer is not None:
            self._loop.call_soon(self.peer.receive, _encoder.encode(frame))

    async def writable(self) -> None:
        """Lets the other end run; it can never fall behind."""
        await asyncio.sleep(0)

    def close(self) -> None:
        """Both ends close."""
        peer, self.peer = self.peer, None
        if peer is not None:
            self._loop.call_soon(peer.lost)
            self._loop.call_soon(self.lost)

    def receive(self, data: bytes) -> None:
        """One encoded frame of the peer."""
        self._on_frame(self._decode(data))

    def lost(self) -> None:
        """Tell the owner, once."""
        self.peer = None
        on_close, self._on_close = self._on_close, _ignore
        on_close(None)


def memory_pair(server: tuple[OnFrame, OnClose], host: tuple[OnFrame, OnClose]) -> tuple[MemoryChannel, MemoryChannel]:
    """The server's and the host's end of a channel within the running loop; each gets its two callbacks."""
    ours = MemoryChannel("server", *server)
    theirs = MemoryChannel("host", *host)
    ours.peer, theirs.peer = theirs, ours
    return ours, theirs


def _ignore(error: Exception | None) -> None:
    """A channel closes once."""
