"""Requests that two servers would read differently, generated: each hides a second one behind the first.

`forms()` gives name and bytes. A server that is safe answers each with a refusal or the end of the connection, and never runs
the hidden request, whose path is `HIDDEN`.
"""

from __future__ import annotations

from collections.abc import Iterator

HIDDEN = "/hidden"
HOST = b"Host: 127.0.0.1\r\n"
NEXT = b"GET /hidden HTTP/1.1\r\n" + HOST + b"\r\n"

ENCODINGS = (
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: CHUNKED",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked, identity",
    b"Transfer-Encoding: chunked;q=0.5",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunk",
    b"Transfer-Encoding: gzip",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\t: chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"Transfer\xadEncoding: chunked",
    b"Transfer-Encoding\x00: chunked",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
)
LENGTHS = (
    b"-5",
    b"+5",
    b"0x5",
    b"5e0",
    b"5.0",
    b"5,5",
    b"5, 6",
    b"5;5",
    b"5 5",
    b"five",
    b"\xd9\xa5",
    b"5\x00",
    b"\x0b5",
    b"99999999999999999999999",
    b"18446744073709551621",
    b'"5"',
    b"5\r\n 6",
    b"0 0",
    b"--5",
    b"5-",
)
CHUNKS = (
    b"0x5\r\nhello",
    b"-5\r\nhello",
    b"+5\r\nhello",
    b" 5\r\nhello",
    b"5\nhello",
    b"5\rhello",
    b"5\x00\r\nhello",
    b"g\r\nhello",
    b"\r\nhello",
    b"FFFFFFFFFFFFFFFFF\r\nhello",
    b"10000000000000005\r\nhello",
    b"5\r\nhelloX",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5;a\nb\r\nhello",
    b"5;a\rb\r\nhello",
    b"5;a\x00\r\nhello",
    b"5 5\r\nhello",
    b"5,5\r\nhello",
    b"0x0\r\n\r\n",
    b"5.0\r\nhello",
)
NAMES = (
    b"X Y: z",
    b"X\tY: z",
    b"X : z",
    b"X\t: z",
    b": z",
    b"X",
    b"X\x00: z",
    b"X\x7f: z",
    b"X\xff: z",
    b"X(Y: z",
    b"X@Y: z",
    b"X[Y]: z",
    b"X{Y}: z",
    b'"X": z',
    b"X,Y: z",
    b"X;Y: z",
    b"X<Y: z",
    b"X=Y: z",
    b"X?Y: z",
    b"X/Y: z",
    b"X\\Y: z",
    b"X: y\x00z",
    b"X: y\r\n z",
    b"X: y\r\n\tz",
    b"X: y\rz",
    b"X: y\nZ: z",
    b"\rX: z",
)
LINES = (
    b"GET http://127.0.0.1/first HTTP/1.1\r\n" + HOST,
    b"GET https://elsewhere.test/first HTTP/1.1\r\n" + HOST,
    b"GET HTTP://127.0.0.1/first HTTP/1.1\r\n" + HOST,
    b"POST http://127.0.0.1:3000/first HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n",
    b"GET * HTTP/1.1\r\n" + HOST,
    b"GET first HTTP/1.1\r\n" + HOST,
    b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n" + HOST,
    b"CONNECT /first HTTP/1.1\r\n" + HOST,
    b"GET /first HTTP/1.1\r\n",
    b"GET /first HTTP/1.1\r\n" + HOST + HOST,
    b"GET /first HTTP/1.1\r\n" + HOST + b"Host: elsewhere.test\r\n",
    b"GET /first HTTP/1.1\r\nHost: 127.0.0.1\r\nhost: 127.0.0.1\r\n",
    b"GET /first HTTP/1.0\r\n" + HOST + HOST,
    b"GET\t/first\tHTTP/1.1\r\n" + HOST,
    b"GET /first HTTP/1.1 \r\n" + HOST,
    b"GET /first HTTP/1.1 x\r\n" + HOST,
    b"GET /first x HTTP/1.1\r\n" + HOST,
    b"get /first HTTP/1.1\r\n" + HOST,
    b"GET /first http/1.1\r\n" + HOST,
    b"GET /first HTTP/1.10\r\n" + HOST,
    b"GET /first HTTP/01.1\r\n" + HOST,
    b"GET /first HTTP/1,1\r\n" + HOST,
    b"GET /first HTTP/2.0\r\n" + HOST,
    b"GET /first HTTP/0.9\r\n" + HOST,
    b"GET /first HTTP\r\n" + HOST,
    b"GET /first\r\n" + HOST,
    b"PRI * HTTP/2.0\r\n",
    b"GET /fi\x00rst HTTP/1.1\r\n" + HOST,
    b"GET /fi\rrst HTTP/1.1\r\n" + HOST,
    b"G\x00ET /first HTTP/1.1\r\n" + HOST,
    b"EVIL /first HTTP/1.1\r\n" + HOST,
    b"GET /first HTTP/1.1\n" + HOST,
    b"GET /first HTTP/1.1\r" + HOST,
    b"GET /first HTTP/1.1\r\nHost: 127.0.0.1\n",
    b"GET /first HTTP/1.1\r\n\x00" + HOST,
    b"GET /first HTTP/1.1\r\n " + HOST,
)


def post(*headers: bytes) -> bytes:
    """Head of a first request with these headers."""
    return b"POST /first HTTP/1.1\r\n" + HOST + b"".join(header + b"\r\n" for header in headers) + b"\r\n"


def forms() -> Iterator[tuple[str, bytes]]:
    """Every form: (name, bytes)."""
    for number, encoding in enumerate(ENCODINGS):
        whole = b"5\r\nhello\r\n0\r\n\r\n" + NEXT
        yield f"encoding {number} before a length", post(encoding, b"Content-Length: 5") + whole
        yield f"encoding {number} behind a length", post(b"Content-Length: 5", encoding) + whole
        yield f"encoding {number} beside no body", post(encoding, b"Content-Length: 0") + whole
        yield f"encoding {number} over all", post(b"Content-Length: %d" % len(whole), encoding) + whole
    for number, length in enumerate(LENGTHS):
        field = b"Content-Length: " + length
        yield f"length {number}", post(field) + b"hello" + NEXT
        yield f"length {number} before another", post(field, b"Content-Length: 5") + b"hello" + NEXT
        yield f"length {number} behind another", post(b"Content-Length: 5", field) + b"hello" + NEXT
    for first, second in ((b"5", b"6"), (b"5", b"0"), (b"0", b"5"), (b"5", b"5")):
        both = (b"Content-Length: " + first, b"content-length: " + second)
        yield f"lengths {first!r} and {second!r}", post(*both) + b"hello" + NEXT
    for number, chunk in enumerate(CHUNKS):
        chunked = post(b"Transfer-Encoding: chunked")
        yield f"chunk {number}", chunked + chunk + b"\r\n0\r\n\r\n" + NEXT
        yield f"chunk {number} behind another", chunked + b"3\r\nabc\r\n" + chunk + b"\r\n0\r\n\r\n" + NEXT
    for number, field in enumerate(NAMES):
        yield f"header {number}", post(field, b"Content-Length: 5") + b"hello" + NEXT
        yield f"header {number} last", post(b"Content-Length: 5", field) + b"hello" + NEXT
    for number, line in enumerate(LINES):
        yield f"line {number}", line + b"\r\n" + NEXT
        yield f"line {number} with a body", line + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT
