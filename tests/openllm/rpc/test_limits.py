"""gRPC's own limits: metadata, connections, deadlines, floods of frames, load; and fields that nobody knows. Real sockets."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from tests.openllm.rpc.calling import calling, sampling

from openllm.rpc.errors import DETAILS_KEY
from openllm.rpc.ignored import KEY
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RESET, SETTINGS, PING, GO_AWAY = 1, 3, 4, 6, 7
CALM = 11  # ENHANCE_YOUR_CALM


def frame(kind: int, payload: bytes = b"", stream: int = 0, flags: int = 0) -> bytes:
    """One frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def call_head(port: int) -> bytes:
    """Headers of a call, as literals that no table keeps (RFC 7541, 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/openllm.v1.OpenLLM/GenerateStream",
        ":authority": f"127.0.0.1:{port}",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


async def frames_of(reader: asyncio.StreamReader) -> list[tuple[int, bytes]]:
    """(kind, payload) of all that comes until the connection ends."""
    found: list[tuple[int, bytes]] = []
    try:
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            found.append((head[3], payload))
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return found


async def served_still(called: Any) -> None:
    """A call on another connection is answered."""
    made = await called.stub.Generate(pb.GenerateRequest(prompt="ab"), timeout=30)
    assert made.choices[0].text == "ab"


async def test_rapid_reset_harms_nobody() -> None:
    """2,000 calls, each begun and reset at once: the server lives, others are served, and nothing stays in the engine."""
    async with calling(step_s=0.001) as called:
        reader, writer = await asyncio.open_connection("127.0.0.1", called.port)
        writer.write(PREFACE + frame(SETTINGS))
        head = call_head(called.port)
        for number in range(2000):
            stream = 2 * number + 1
            writer.write(frame(HEADERS, head, stream, 0x4))
            writer.write(frame(RESET, struct.pack(">I", 8), stream))
            if number % 200 == 0:
                await asyncio.sleep(0)
        await served_still(called)
        writer.close()
        await served_still(called)
        assert not called.served.composed.engine.dispatcher.sequences  # type: ignore[union-attr]
        del reader


async def test_a_flood_of_pings_is_sent_away() -> None:
    """A client that does nothing but ask whether we are there is told to calm down, and its connection ends."""
    async with calling() as called:
        reader, writer = await asyncio.open_connection("127.0.0.1", called.port)
        writer.write(PREFACE + frame(SETTINGS) + frame(PING, b"12345678") * 50)
        async with asyncio.timeout(30):
            found = await frames_of(reader)
        away = [payload for kind, payload in found if kind == GO_AWAY]
        assert away and int.from_bytes(away[-1][4:8], "big") == CALM
        writer.close()
        await served_still(called)


async def test_a_client_that_breaks_the_protocol_is_alone() -> None:
    """Nonsense, half a preface, or a frame that is too long end their own connection."""
    async with calling() as called:
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            PREFACE + b"\xff" * 100,
            PREFACE + frame(SETTINGS) + b"\xff\xff\xff\0\0",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", called.port)
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(30):
                await frames_of(reader)
            writer.close()
        await served_still(called)


async def test_too_much_metadata() -> None:
    """RESOURCE_EXHAUSTED past --max-header-bytes, before the method is called; the next call is served."""
    async with calling(options={"max_header_bytes": 4096}) as called:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called.stub.Generate(pb.GenerateRequest(prompt="ab"), metadata=(("x", "y" * 8192),))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await served_still(called)


async def test_too_many_connections() -> None:
    """Past --max-connections one more connection is not served, while those there go on."""
    async with calling(options={"max_connections": 2}) as called:
        await served_still(called)  # the first connection
        held = [await asyncio.open_connection("127.0.0.1", called.port) for _ in range(8)]
        for _, writer in held:
            writer.write(PREFACE + frame(SETTINGS))
        ended = 0
        for reader, _ in held:
            try:
                async with asyncio.timeout(1.0):
                    await frames_of(reader)
                ended += 1
            except TimeoutError:
                pass
        assert ended >= 6
        await served_still(called)
        for _, writer in held:
            writer.close()


async def test_a_deadline_that_cannot_be_kept() -> None:
    """A client's own deadline ends its call, frees what it had, and the server's ends the others."""
    options = {"server_timeout": 1.0}
    long = pb.GenerateRequest(prompt="ab", sampling=sampling(max_tokens=300))
    async with calling(options=options, reply="ab" * 300, step_s=0.02) as called:
        for how in (0.001, 0.2):
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await called.stub.Generate(long, timeout=how)
            assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await called.stub.Generate(long, timeout=30)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        dispatcher = called.served.composed.engine.dispatcher  # type: ignore[union-attr]
        async with asyncio.timeout(10):
            while dispatcher.sequences:
                await asyncio.sleep(0.01)


async def test_load_is_refused_with_a_time_to_wait() -> None:
    """RESOURCE_EXHAUSTED with RetryInfo while the line is full; what is inside is served."""
    async with calling(options={"max_queue": 1}, max_num_seqs=1, step_s=0.02) as called:
        inside = [asyncio.create_task(_one(called)) for _ in range(2)]
        await asyncio.sleep(0.1)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called.stub.Generate(pb.GenerateRequest(prompt="ab"))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        trailers = dict(refused.value.trailing_metadata() or ())
        retry = RetryInfo()
        assert any(d.Unpack(retry) for d in Status.FromString(trailers[DETAILS_KEY]).details)  # type: ignore[arg-type]
        assert 1 <= retry.retry_delay.seconds <= 60
        assert all(len(made.choices[0].text) == 20 for made in await asyncio.gather(*inside))


async def _one(called: Any) -> Any:
    return await called.stub.Generate(pb.GenerateRequest(prompt="x" * 30))


# -- fields that nobody knows -----------------------------------------------------------------------------------------

UNKNOWN = b"\x98\x06\x01"  # field 99, a number


def nested(kind: int, inner: bytes) -> bytes:
    """A field of bytes: a message within a message."""
    return bytes([kind << 3 | 2, len(inner)]) + inner


METHODS = {method.name: method for method in pb.DESCRIPTOR.services_by_name["OpenLLM"].methods}


@pytest.mark.parametrize("name", METHODS)
async def test_every_method_refuses_unknown_fields_where_asked_to(name: str) -> None:
    """With --strict a field that no message has is INVALID_ARGUMENT with its number, on every method, at every depth."""
    method = METHODS[name]
    data = {"": UNKNOWN}
    for field in method.input_type.fields:
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            repeated = "[0]" if field.is_repeated else ""
            data[f"{field.name}{repeated}."] = nested(field.number, UNKNOWN)
    async with calling(options={"strict": True}) as called:
        for path, raw in data.items():
            one = called.channel.unary_stream if method.server_streaming else called.channel.unary_unary
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                call = one(f"/openllm.v1.OpenLLM/{name}")(raw)
                async for _ in call if method.server_streaming else _awaited(call):
                    pass
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert f"{path}99" in (refused.value.details() or "")


async def _awaited(call: Any) -> Any:
    yield await call


async def test_unknown_fields_are_named() -> None:
    """Without --strict the call is served, and trailing metadata says which fields had no effect."""
    request = pb.GenerateRequest(prompt="ab").SerializeToString() + UNKNOWN
    assert len(UnknownFieldSet(pb.GenerateRequest.FromString(request))) == 1
    async with calling() as called:
        call = called.channel.unary_unary("/openllm.v1.OpenLLM/Generate")(request)
        assert pb.GenerateResponse.FromString(await call).choices[0].text == "ab"
        assert dict(await call.trailing_metadata())[KEY] == "99"
        plain = called.stub.Generate(pb.GenerateRequest(prompt="ab"))
        await plain
        assert KEY not in dict(await plain.trailing_metadata())
