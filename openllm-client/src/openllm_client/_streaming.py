"""Server-sent events by the standard, and the stream that `generate_stream` and `chat(stream=True)` return.

`SSEDecoder` is pure and works on bytes, so a chunk may be cut anywhere, inside a character too. A stream owns its
connection: closing it, or dropping it, closes the connection, which the server takes as an abort. `AsyncStream` is the
twin of `Stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Generic, TypeVar

import httpx

from openllm_core.errors import ClientError, StatusError

from ._config import Deadline
from ._errors import malformed
from ._wire import Call

T = TypeVar("T")

DONE = b"[DONE]"
MAX_EVENT_BYTES = 64 * 1024 * 1024
DRAIN_S = 1.0


class SSEDecoder:
    """Bytes in, the data of complete events out.

    Follows the WHATWG standard: lines end with LF, CR or CRLF, several `data` lines are joined with LF, comments and
    the fields `event`, `id` and `retry` are passed over, an event not ended by an empty line is never delivered.
    """

    __slots__ = ("_after_cr", "_data", "_rest", "_size", "_started")

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # parts of a line that has not ended yet
        self._size = 0  # bytes held in `_rest` and `_data`
        self._data: list[bytes] = []
        self._after_cr = False
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the data of each event that they complete.

        Raises:
            ClientError: an event grows past `MAX_EVENT_BYTES`.
        """
        if (
            self._started
            and not self._rest
            and not self._data
            and not self._after_cr
            and chunk[:6] == b"data: "
            and chunk[-2:] == b"\n\n"
            and b"\r" not in chunk
        ):
            # What our server sends: whole events of one data line each.
            events = chunk[6:-2].split(b"\n\ndata: ")
            if chunk.count(b"\n") == 2 * len(events):
                return events
        return self._feed_lines(chunk)

    def _feed_lines(self, chunk: bytes) -> list[bytes]:
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\n" not in chunk and b"\r" not in chunk:
            if chunk:
                self._hold(chunk)
            return []
        self._after_cr = chunk.endswith(b"\r")
        # bytes.splitlines knows exactly the three line ends of the standard.
        lines = b"".join((*self._rest, chunk)).splitlines(keepends=True)
        self._rest = []
        self._size = sum(map(len, self._data))
        if not lines[-1].endswith((b"\n", b"\r")):
            self._hold(lines.pop())
        events: list[bytes] = []
        for line in lines:
            self._take_line(line.rstrip(b"\r\n"), events)
        return events

    def _hold(self, part: bytes) -> None:
        self._rest.append(part)
        self._grow(len(part))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_EVENT_BYTES:
            raise malformed(f"An event of the stream is larger than {MAX_EVENT_BYTES} bytes.")

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if not self._started:
            self._started = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._size -= sum(map(len, self._data))
                self._data = []
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._grow(len(value))


def check_stream(response: httpx.Response, address: str) -> None:
    """Refuse a 200 that is not a stream of events.

    Raises:
        ClientError: code `malformed_response`.
    """
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/event-stream":
        raise malformed(f"{address} answered with {kind[:100] or 'no content type'!r} instead of an event stream.")


def is_plain(response: httpx.Response) -> bool:
    """Whether the body is neither compressed nor, as from a mock transport, already in memory: read it as it comes."""
    encoding = response.headers.get("content-encoding", "identity")
    return encoding.lower() == "identity" and not response.is_stream_consumed


Interrupted = Callable[[httpx.RequestError | None, str | None], ClientError]


class _Source(Generic[T]):
    """A call, and its response once it is open. Apart from `Stream`, so that dropping a stream frees it at once."""

    __slots__ = ("call", "connect", "interrupted", "response")

    def __init__(self, call: Call[T], connect: Callable[[Call[T]], httpx.Response], interrupted: Interrupted) -> None:
        self.call = call
        self.connect = connect
        self.interrupted = interrupted
        self.response: httpx.Response | None = None

    def open(self) -> httpx.Response:
        if self.response is None:
            self.response = self.connect(self.call)
        return self.response


def _events(source: _Source[T]) -> Generator[T, None, None]:
    response = source.open()
    read, feed = source.call.read, SSEDecoder().feed
    request_id = response.headers.get("x-request-id")
    try:
        chunks = response.iter_raw() if is_plain(response) else response.iter_bytes()
        for chunk in chunks:
            for payload in feed(chunk):
                if payload == DONE:
                    _drain(chunks)
                    return
                yield read(payload)
        raise source.interrupted(None, request_id)
    except httpx.RequestError as error:
        raise source.interrupted(error, request_id) from error
    except StatusError as error:
        error.request_id = request_id
        raise
    finally:
        response.close()


def _drain(chunks: Iterator[bytes]) -> None:
    """Read what follows the end mark, which is the end of the body: the connection can then be used again."""
    deadline = Deadline(DRAIN_S)
    with suppress(httpx.RequestError):
        for _ in chunks:
            if deadline.left_s() <= 0:
                return


class Stream(Generic[T]):
    """Iterator over what a server sends, piece by piece.

    The request is sent when iteration begins. Close it, or use it in a `with` block, to leave before its end: the
    server then stops generating.

    Raises (from iteration):
        StatusError: the server refused, or reported a failure in the middle.
        StreamInterrupted: it ended without its end mark.
        TimedOut: nothing came for the client's time-out.
    """

    def __init__(self, call: Call[T], connect: Callable[[Call[T]], httpx.Response], interrupted: Interrupted) -> None:
        self._source = _Source(call, connect, interrupted)
        self._events = _events(self._source)

    def open(self) -> Stream[T]:
        """Send the request and wait until the answer begins; iteration does this by itself."""
        self._source.open()
        return self

    @property
    def request_id(self) -> str | None:
        """`X-Request-Id` of the answer, once it has begun."""
        response = self._source.response
        return None if response is None else response.headers.get("x-request-id")

    def __iter__(self) -> Iterator[T]:
        return self._events

    def __next__(self) -> T:
        return next(self._events)

    def close(self) -> None:
        """Leave the stream; the server stops generating. May be called again."""
        self._events.close()
        if self._source.response is not None:
            self._source.response.close()

    def __enter__(self) -> Stream[T]:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
