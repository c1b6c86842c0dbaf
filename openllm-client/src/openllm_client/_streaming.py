"""Server-sent events by the standard, and the stream that `generate_stream` and `chat(stream=True)` return.

`SSEDecoder` is pure and works on bytes, so a chunk may be cut anywhere, inside a character too. A stream owns its
connection: closing it, or dropping it, closes the connection, which the server takes as an abort. `AsyncStream` is the
twin of `Stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import httpx

from openllm_core.errors import ClientError, StatusError

from ._config import Deadline
from ._errors import malformed
from ._wire import Call

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

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


class Source(Protocol[T_co]):
    """Where a stream comes from: an answer that may not have been asked for yet.

    Apart from `Stream`, so that dropping a stream frees it at once.
    """

    @property
    def request_id(self) -> str | None:
        """As the server named it, once it has."""
        ...

    def open(self) -> None:
        """Send the request and wait until the answer begins, unless that was done."""
        ...

    def pieces(self) -> Generator[T_co, None, None]:
        """Open, and give what comes; close when that ends or is left."""
        ...

    def close(self) -> None:
        """End the answer, if there is one. May be called again."""
        ...


class HTTPSource(Generic[T]):
    """Server-sent events of one response."""

    __slots__ = ("_call", "_connect", "_interrupted", "_response")

    def __init__(self, call: Call[T], connect: Callable[[Call[T]], httpx.Response], interrupted: Interrupted) -> None:
        self._call = call
        self._connect = connect
        self._interrupted = interrupted
        self._response: httpx.Response | None = None

    @property
    def request_id(self) -> str | None:
        """`X-Request-Id` of the answer, once it has begun."""
        return None if self._response is None else self._response.headers.get("x-request-id")

    def open(self) -> None:
        """Send the request, unless it was sent; return when the answer begins."""
        self._opened()

    def _opened(self) -> httpx.Response:
        if self._response is None:
            self._response = self._connect(self._call)
        return self._response

    def pieces(self) -> Generator[T, None, None]:
        """What the events say, one by one."""
        response = self._opened()
        read, feed = self._call.read, SSEDecoder().feed
        try:
            chunks = response.iter_raw() if is_plain(response) else response.iter_bytes()
            for chunk in chunks:
                for payload in feed(chunk):
                    if payload == DONE:
                        _drain(chunks)
                        return
                    yield read(payload)
            raise self._interrupted(None, self.request_id)
        except httpx.RequestError as error:
            raise self._interrupted(error, self.request_id) from error
        except StatusError as error:
            error.request_id = self.request_id
            raise
        finally:
            response.close()

    def close(self) -> None:
        """Close the connection, which the server takes as an abort."""
        if self._response is not None:
            self._response.close()


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

    def __init__(self, source: Source[T]) -> None:
        self._source = source
        self._pieces = source.pieces()

    def open(self) -> Stream[T]:
        """Send the request and wait until the answer begins; iteration does this by itself."""
        self._source.open()
        return self

    @property
    def request_id(self) -> str | None:
        """Id of the request in the server's log, once the answer has begun."""
        return self._source.request_id

    def __iter__(self) -> Iterator[T]:
        return self._pieces

    def __next__(self) -> T:
        return next(self._pieces)

    def close(self) -> None:
        """Leave the stream; the server stops generating. May be called again."""
        self._pieces.close()
        self._source.close()

    def __enter__(self) -> Stream[T]:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
