"""Server-sent events by the standard; no cut of a stream becomes a wrong answer."""

from __future__ import annotations

import asyncio
import gzip

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm_client import AsyncHTTPClient, HTTPClient, _streaming
from openllm_client._streaming import SSEDecoder
from openllm_core.errors import BadRequest, ClientError, RateLimited, ServerError, StatusError, StreamInterrupted
from openllm_core.schema import StreamFrame, Usage

from .conftest import BASE, FRAMES, STREAM, event, stream_of

WANTED = [
    StreamFrame(0, "Grüße", [5, 6]),
    StreamFrame(0, " 😀", [7]),
    StreamFrame(0, "", [2], "stop", Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7)),
]


def decode(*chunks):
    decoder = SSEDecoder()
    return [payload for chunk in chunks for payload in decoder.feed(chunk)]


@pytest.mark.parametrize(
    ("raw", "payloads"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b": ping\n\ndata: a\n\n", [b"a"]),
        (b"data: a\n: in between\ndata: b\n\n", [b"a\nb"]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"event: x\n\ndata: a\n\n", [b"a"]),
        (b"data\n\n", [b""]),
        (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\ndata: \xef\xbb\xbfb\n\n", [b"a", b"\xef\xbb\xbfb"]),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"database: a\n\n", []),
        (b"data: a\x0bb\x0cc\x1cd\xc2\x85e\xe2\x80\xa8f\n\n", [b"a\x0bb\x0cc\x1cd\xc2\x85e\xe2\x80\xa8f"]),
        (b"data: a: b\n\n", [b"a: b"]),
    ],
)
def test_events_by_the_standard(raw, payloads):
    """Line ends, joined data lines, comments, other fields and the byte order mark are read as the standard says."""
    assert decode(raw) == payloads
    assert decode(*(raw[i : i + 1] for i in range(len(raw)))) == payloads
    assert decode(b": start\n\n", raw.removeprefix(b"\xef\xbb\xbf")) == payloads


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["data: ", "data:", "data", ": ", "event: ", ""]),
            st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8),
            st.sampled_from(["\n", "\r", "\r\n"]),
        ),
        max_size=30,
    ),
    st.data(),
)
@settings(max_examples=300, deadline=None)
def test_cuts_do_not_matter(lines, data):
    """A stream cut anywhere, inside characters and line ends too, gives the same events as in one piece."""
    raw = b": start\n\n" + "".join("".join(line) for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert decode(*pieces) == decode(raw) == decode(*(raw[i : i + 1] for i in range(len(raw))))


def test_event_size_is_bounded(monkeypatch):
    """A line or event that never ends is given up on."""
    monkeypatch.setattr(_streaming, "MAX_EVENT_BYTES", 1000)
    for endless in (b"x" * 100, b"data: " + b"x" * 100 + b"\n"):
        decoder = SSEDecoder()
        with pytest.raises(ClientError, match="larger"):
            for _ in range(20):
                decoder.feed(endless)
    decoder = SSEDecoder()
    for _ in range(100):
        assert decoder.feed(b"data: " + b"x" * 100 + b"\n\n") == [b"x" * 100]


def frames_of(pieces):
    """The frames of one stream through each twin, which must agree; an error ends them."""

    def answer(request):
        return stream_of(iter(pieces))

    async def answer_async(request):
        async def body():
            for piece in pieces:
                yield piece

        return stream_of(body())

    found = []
    try:
        with HTTPClient(BASE, transport=httpx.MockTransport(answer)) as client:
            for frame in client.generate_stream("x"):
                found.append(frame)
    except ClientError as error:
        found.append(error)

    async def run():
        taken = []
        try:
            async with AsyncHTTPClient(BASE, transport=httpx.MockTransport(answer_async)) as client:
                async for frame in client.generate_stream("x"):
                    taken.append(frame)
        except ClientError as error:
            taken.append(error)
        return taken

    other = asyncio.run(run())
    assert [repr(item) for item in found] == [repr(item) for item in other]
    return found


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
@settings(max_examples=60, deadline=None)
def test_frames_survive_any_chunking(cuts):
    """However a stream is cut into chunks, both twins yield the same frames."""
    cuts = sorted(cuts)
    pieces = [STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]
    assert frames_of([piece for piece in pieces if piece]) == WANTED


def test_stream_cut_at_every_byte_is_never_whole():
    """A stream that ends early yields only true frames, then StreamInterrupted, at whatever byte it ends."""
    last = len(STREAM) - 1  # the very last byte is the line end that completes the end mark
    for cut in range(last + 1):
        *frames, error = frames_of([STREAM[:cut]] if cut else [])
        assert isinstance(error, StreamInterrupted), STREAM[:cut]
        assert frames == WANTED[: len(frames)]
    assert frames_of([STREAM]) == WANTED


def test_nothing_after_the_end_mark_counts(twin):
    """Frames after `[DONE]` are not part of the answer."""
    twin.client(lambda request: stream_of(STREAM + event(FRAMES[0])))
    assert twin.take(twin.it.generate_stream("x")) == WANTED


@pytest.mark.parametrize(
    ("code", "kind", "error"),
    [
        ("engine_unavailable", "service_unavailable_error", ServerError),
        ("server_is_overloaded", "service_unavailable_error", RateLimited),
        ("deadline_exceeded", "server_error", ServerError),
        ("non_finite_logits", "server_error", ServerError),
        ("invalid_value", "invalid_request_error", BadRequest),
        (None, "anything", ServerError),
    ],
)
def test_error_event_becomes_a_typed_error(twin, code, kind, error):
    """A failure in the middle arrives as an event: what came before is yielded, then the error with its code."""
    body = {"error": {"message": "the engine\x1b[31m died", "type": kind, "code": code, "param": None}}
    twin.client(lambda request: stream_of(event(FRAMES[0]) + event(body), **{"x-request-id": "r-9"}))
    stream = twin.it.generate_stream("x")
    assert twin.take(stream, count=1) == WANTED[:1]
    twin.client(lambda request: stream_of(event(FRAMES[0]) + event(body), **{"x-request-id": "r-9"}))
    with pytest.raises(error) as raised:
        twin.take(twin.it.generate_stream("x"))
    assert isinstance(raised.value, StatusError)
    assert raised.value.wire_code == (code or error.code)
    assert raised.value.request_id == "r-9"
    assert raised.value.status is None
    assert "the engine" in raised.value.message
    assert "\x1b" not in raised.value.message


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"1",
        b"null",
        b"{}",
        b'{"index":0,"text":"x"}',
        b'{"index":"0","text":"x","token_ids":[1],"finish_reason":null}',
        b'{"index":true,"text":"x","token_ids":[1],"finish_reason":null}',
        b'{"index":0,"text":null,"token_ids":[1],"finish_reason":null}',
        b'{"index":0,"text":"x","token_ids":["1"],"finish_reason":null}',
        b'{"index":0,"text":"x","token_ids":[true],"finish_reason":null}',
        b'{"index":0,"text":"x","token_ids":1,"finish_reason":null}',
        b'{"index":0,"text":"x","token_ids":[1],"finish_reason":5}',
        b'{"index":0,"text":"x","token_ids":[1],"finish_reason":null,"usage":{"prompt_tokens":1}}',
        b'{"index":0,"text":"\xff","token_ids":[1],"finish_reason":null}',
    ],
)
def test_event_that_is_no_frame_is_an_error(twin, payload):
    """A frame with a missing key or a wrong type is reported, not guessed."""
    twin.client(lambda request: stream_of(event(payload) + STREAM))
    with pytest.raises(ClientError) as raised:
        twin.take(twin.it.generate_stream("x"))
    assert raised.value.wire_code == "malformed_response"


def test_unknown_keys_of_a_newer_server_are_passed_over(twin):
    """A frame may carry keys this version does not know."""
    frame = FRAMES[0] | {"new": 1, "stop_reason": "x"}
    twin.client(lambda request: stream_of(event(frame) + event(b"[DONE]")))
    assert twin.take(twin.it.generate_stream("x")) == WANTED[:1]


def test_logprobs_arrive(twin):
    """Log-probabilities stand in the frame when the server sends them."""
    frame = FRAMES[0] | {"logprobs": [{"token": "a", "logprob": -1.5}]}
    twin.client(lambda request: stream_of(event(frame) + event(b"[DONE]")))
    assert twin.take(twin.it.generate_stream("x"))[0].logprobs == [{"token": "a", "logprob": -1.5}]


def test_compressed_stream_is_read(twin):
    """A proxy that compresses although it was asked not to does no harm."""
    twin.client(lambda request: stream_of(gzip.compress(STREAM), **{"content-encoding": "gzip"}))
    assert twin.take(twin.it.generate_stream("x")) == WANTED


@pytest.mark.parametrize("kind", ["application/json", "text/html", "text/plain; charset=utf-8", ""])
def test_answer_that_is_no_stream_is_refused(twin, kind):
    """A 200 of another type is not parsed as events."""
    twin.client(lambda request: httpx.Response(200, headers={"content-type": kind} if kind else {}, content=STREAM))
    with pytest.raises(ClientError, match="instead of an event stream"):
        twin.take(twin.it.generate_stream("x"))


def test_refused_stream_is_the_same_error_as_a_refused_call(twin):
    """A refusal before the stream carries its status and reason."""
    body = {"error": {"message": "too long", "type": "invalid_request_error", "param": "prompt", "code": "c"}}
    twin.client(lambda request: httpx.Response(400, json=body, headers={"x-request-id": "r-1"}))
    with pytest.raises(BadRequest) as raised:
        twin.take(twin.it.generate_stream("x"))
    assert (raised.value.status, raised.value.param, raised.value.wire_code) == (400, "prompt", "c")
    assert raised.value.request_id == "r-1"


def test_nothing_is_sent_before_iteration(twin):
    """Making a stream sends nothing; closing it unread sends nothing either."""
    seen = []
    twin.client(lambda request: seen.append(request) or stream_of(STREAM))
    stream = twin.it.generate_stream("x")
    twin.run(stream.aclose() if twin.kind == "async" else stream.close())
    assert seen == []
    assert twin.take(stream) == []


def test_stream_has_the_servers_request_id(twin):
    """The id that finds the request in the server's log is on the stream."""
    twin.client(lambda request: stream_of(STREAM, **{"x-request-id": "r-2"}))
    stream = twin.it.generate_stream("x")
    assert stream.request_id is None
    twin.take(stream)
    assert stream.request_id == "r-2"
