"""The clients against real sockets: cut, silent, slow and foreign servers, aborts, and connections used again."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import time

import httpx
import pytest

from openllm_client import AsyncHTTPClient, HTTPClient
from openllm_core.errors import ClientError, ConnectionFailed, StreamInterrupted, TimedOut

from .conftest import FRAMES, STREAM, STREAM_HEAD, chunk, event

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
MODELS = b'{"object":"list","data":[]}'
MODELS_ANSWER = JSON_HEAD + b"content-length: %d\r\n\r\n" % len(MODELS) + MODELS


def answering(*parts, then=None):
    """Serve the same bytes to every request on every connection."""

    def serve(server, connection, number):
        while True:
            server.read_request(connection)
            for part in parts:
                connection.sendall(part)
            if then is not None:
                then(server, connection)
                return

    return serve


def reset(server, connection):
    """End with RST, once the client has read what was sent: a reset throws away what it has not."""
    time.sleep(0.05)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(server, connection):
    pass


def wait_for_client(server, connection):
    server.until_left(connection)


# -- streams ----------------------------------------------------------------------------------------------------------


def test_whole_stream(twin, socket_server):
    """The ordinary case over a real socket, one frame a chunk."""
    site = socket_server(
        answering(STREAM_HEAD, *(chunk(event(f)) for f in FRAMES), chunk(event(b"[DONE]")), chunk(b""))
    )
    twin.client(address=site.address)
    assert "".join(f.text for f in twin.take(twin.it.generate_stream("x"))) == "Grüße 😀"


@pytest.mark.parametrize("ending", [hang_up, reset])
@pytest.mark.parametrize(
    "sent", [b"", chunk(STREAM[:60]), chunk(STREAM[:60])[:-10], b"5\r\nab", chunk(STREAM[:60]) + b"0\r\n\r\n"]
)
def test_cut_stream_is_interrupted(twin, socket_server, sent, ending):
    """However the connection ends, a stream without its end mark is StreamInterrupted and names the request."""
    site = socket_server(answering(STREAM_HEAD + sent, then=ending))
    twin.client(address=site.address)
    with pytest.raises(StreamInterrupted, match="r-1"):
        twin.take(twin.it.generate_stream("x"))
    assert site.connections == 1


def test_silent_stream_times_out(twin, socket_server):
    """Silence in a stream is bounded by the time-out; the frames before it were delivered."""
    site = socket_server(answering(STREAM_HEAD + chunk(event(FRAMES[0])), then=wait_for_client))
    twin.client(address=site.address, timeout=0.3)
    begun = time.monotonic()
    with pytest.raises(TimedOut, match="middle of a stream"):
        twin.take(twin.it.generate_stream("x"))
    assert 0.25 < time.monotonic() - begun < 5
    assert site.left.wait(5)


def test_long_stream_outlives_the_time_out(twin, socket_server):
    """The time-out bounds silence, not the length of a stream; comment lines are not silence."""

    def serve(server, connection, number):
        server.read_request(connection)
        connection.sendall(STREAM_HEAD)
        for _ in range(6):
            time.sleep(0.2)
            connection.sendall(chunk(b": ping\n\n"))
        connection.sendall(chunk(STREAM) + chunk(b""))
        server.until_left(connection)

    twin.client(address=socket_server(serve).address, timeout=0.6)
    assert len(twin.take(twin.it.generate_stream("x"))) == 3


def test_silence_is_allowed_anew_after_a_slow_start(twin, socket_server):
    """What the first wait used up is not taken from the silence allowed later."""

    def serve(server, connection, number):
        server.read_request(connection)
        time.sleep(0.4)
        connection.sendall(STREAM_HEAD)
        time.sleep(0.4)
        connection.sendall(chunk(STREAM) + chunk(b""))
        server.until_left(connection)

    def refuse_first(server, connection, number):
        if number == 0:
            server.read_request(connection)
            time.sleep(0.3)
            head = b"HTTP/1.1 503 Busy\r\nretry-after: 0\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            connection.sendall(head)
        else:
            serve(server, connection, number)

    twin.client(address=socket_server(refuse_first).address, timeout=0.9)
    assert len(twin.take(twin.it.generate_stream("x"))) == 3


def test_leaving_a_stream_closes_its_connection(twin, socket_server):
    """Closing a stream early is seen by the server at once, which then aborts."""
    site = socket_server(answering(STREAM_HEAD + chunk(event(FRAMES[0])), then=wait_for_client))
    twin.client(address=site.address)
    assert len(twin.take(twin.it.generate_stream("x"), count=1)) == 1
    assert site.left.wait(5)


def test_dropping_a_stream_closes_its_connection(socket_server):
    """A loop that breaks out, without closing anything, aborts too."""
    site = socket_server(answering(STREAM_HEAD + chunk(event(FRAMES[0])), then=wait_for_client))
    with HTTPClient(site.address) as client:
        for _ in client.generate_stream("x"):
            break
        assert site.left.wait(5)


async def test_dropping_an_asynchronous_stream_closes_its_connection(socket_server):
    """The event loop closes what a broken-off `async for` leaves behind."""
    site = socket_server(answering(STREAM_HEAD + chunk(event(FRAMES[0])), then=wait_for_client))
    async with AsyncHTTPClient(site.address) as client:
        async for _ in client.generate_stream("x"):
            break
        gc.collect()
        assert await asyncio.to_thread(site.left.wait, 5)


def test_with_block_closes_a_stream(socket_server):
    """A stream is a context manager; `next` works on it as well."""
    site = socket_server(answering(STREAM_HEAD + chunk(event(FRAMES[0])), then=wait_for_client))
    with HTTPClient(site.address) as client:
        with client.generate_stream("x") as stream:
            assert stream.request_id == "r-1"
            assert next(stream).text == "Grüße"
        assert site.left.wait(5)


async def test_cancelling_the_reader_closes_the_connection(socket_server):
    """A cancelled task leaves no request running on the server."""
    site = socket_server(answering(STREAM_HEAD + chunk(event(FRAMES[0])), then=wait_for_client))
    async with AsyncHTTPClient(site.address) as client:
        got = asyncio.Event()

        async def read():
            async for _ in client.generate_stream("x"):
                got.set()

        task = asyncio.create_task(read())
        await got.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(site.left.wait, 5)


def test_ended_stream_gives_its_connection_back(twin, socket_server):
    """After the end mark the connection serves the next call."""
    site = socket_server(answering(STREAM_HEAD, chunk(STREAM), chunk(b"")))
    twin.client(address=site.address)
    for _ in range(3):
        assert len(twin.take(twin.it.generate_stream("x"))) == 3
    assert site.connections == 1


def test_server_that_lingers_after_the_end_mark(twin, socket_server):
    """The answer is whole at its end mark: a server that does not end the body cannot spoil it."""
    site = socket_server(answering(STREAM_HEAD, chunk(STREAM), then=wait_for_client))
    twin.client(address=site.address, timeout=1)
    begun = time.monotonic()
    assert len(twin.take(twin.it.generate_stream("x"))) == 3
    assert time.monotonic() - begun < 4
    assert site.left.wait(5)


# -- calls ------------------------------------------------------------------------------------------------------------


def test_connections_are_used_again(twin, socket_server):
    """Calls one after another share a connection."""
    site = socket_server(answering(MODELS_ANSWER))
    twin.client(address=site.address)
    for _ in range(5):
        assert twin.models() == []
    assert (site.connections, len(site.requests)) == (1, 5)


def test_connection_that_the_server_closed_is_replaced(twin, socket_server):
    """A connection that went away between two calls is not an error, even for a call that is never repeated."""
    body = b'{"responses":["a"],"configuration":{}}'
    answer = JSON_HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    site = socket_server(answering(answer, then=hang_up))
    twin.client(address=site.address)
    for _ in range(3):
        assert twin.query("x") == "a"
        time.sleep(0.05)
    assert site.connections == 3


def test_silent_server_times_out(twin, socket_server):
    """A server that takes a request and never answers ends in TimedOut, on time, without a second try."""
    site = socket_server(answering(then=wait_for_client))
    twin.client(address=site.address, timeout=0.3)
    for call in (lambda: twin.generate("x"), twin.models, lambda: twin.take(twin.it.generate_stream("x"))):
        begun = time.monotonic()
        with pytest.raises(TimedOut, match=r"0\.3 s"):
            call()
        assert 0.25 < time.monotonic() - begun < 3
    assert len(site.requests) == 3


def test_dripping_answer_times_out(twin, socket_server):
    """An answer that comes a byte at a time is bounded as a whole."""

    def serve(server, connection, number):
        server.read_request(connection)
        connection.sendall(JSON_HEAD + b"content-length: 1000\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b" ")
            time.sleep(0.05)

    twin.client(address=socket_server(serve).address, timeout=0.6)
    begun = time.monotonic()
    with pytest.raises(TimedOut):
        twin.generate("x")
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00\x01\x02\x03" * 20, b"220 mail ready\r\n"])
def test_other_protocols_are_named(twin, socket_server, said):
    """Whatever else listens on the port, it is a typed error that says so."""
    site = socket_server(answering(said, then=hang_up))
    twin.client(address=site.address, max_retries=0)
    with pytest.raises(ConnectionFailed, match="does not speak HTTP"):
        twin.generate("x")


def test_server_that_hangs_up_without_an_answer(twin, socket_server):
    """Work is not repeated; a question is, as often as allowed."""
    site = socket_server(answering(then=hang_up))
    twin.client(address=site.address, max_retries=1)
    with pytest.raises(ConnectionFailed):
        twin.generate("x")
    assert len(site.requests) == 1
    with pytest.raises(ConnectionFailed):
        twin.models()
    assert len(site.requests) == 3


@pytest.mark.parametrize("ending", [hang_up, reset])
def test_answer_cut_in_its_body(twin, socket_server, ending):
    """A body shorter than announced is no answer."""
    site = socket_server(answering(MODELS_ANSWER[:-5], then=ending))
    twin.client(address=site.address, max_retries=0)
    with pytest.raises(ClientError):
        twin.models()


def test_every_cut_of_a_plain_answer_is_an_error(socket_server):
    """Without a length, only what JSON itself shows to be whole is taken."""
    body = b'{"responses":["Gr\xc3\xbc\xc3\x9fe"],"configuration":{}}'
    for cut in range(len(body)):
        transport = httpx.MockTransport(lambda request, cut=cut: httpx.Response(200, content=body[:cut]))
        with HTTPClient("h", transport=transport) as client, pytest.raises(ClientError):
            client.generate("x")


def test_nobody_listening(twin):
    """A refused connection is tried again, then named with its address and the way to start a server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    twin.client(address=f"127.0.0.1:{port}", max_retries=1)
    with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port}") as raised:
        twin.generate("x")
    assert "openllm start" in raised.value.hint


def test_server_that_comes_up_late(twin):
    """A connection refused at first is tried again, for work too: nothing had been sent."""
    tried = []

    def listen(request):
        tried.append(request)
        if len(tried) == 1:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"responses": ["a"], "configuration": {}})

    assert twin.client(listen).query("x") == "a"
    assert len(tried) == 2


def test_closed_client_says_so(twin, socket_server):
    """A call on a closed client is a programming error, told at once; closing twice is fine."""
    twin.client(address=socket_server(answering(MODELS_ANSWER)).address)
    for _ in range(2):
        twin.run(twin.it.aclose() if twin.kind == "async" else twin.it.close())
    with pytest.raises(ClientError, match="closed") as caught:
        twin.models()
    assert caught.value.wire_code == "client_closed"


async def test_many_streams_at_once(socket_server):
    """A client carries more streams at once than httpx's own limit of a hundred."""
    site = socket_server(answering(STREAM_HEAD, chunk(STREAM), chunk(b"")))
    async with AsyncHTTPClient(site.address) as client:

        async def read():
            return [frame async for frame in client.generate_stream("x")]

        answers = await asyncio.gather(*(read() for _ in range(150)))
    assert all(len(frames) == 3 for frames in answers)
