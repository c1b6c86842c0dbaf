"""The life of a gRPC server and of its calls: health, cancelling, deadlines, limits, load, draining, ports, TLS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.openllm.rpc.calling import Called, calling, sampling, told
from tests.openllm.server.serving import serving

from openllm.rpc.server import SERVICES
from openllm.server.run import check_port
from openllm_core.errors import InvalidSetting, MissingDependency, PortInUse, UnsafeConfiguration
from openllm_core.options import ServerOptions
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb

LONG = pb.GenerateRequest(prompt="hi", sampling=sampling(max_tokens=3000))
SLOW = {"reply": "a" * 4000, "step_s": 0.01}
STATUS = health_pb2.HealthCheckResponse


async def until(condition: Callable[[], object], within_s: float = 5) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


def idle(called: Called) -> bool:
    """Whether nothing runs or waits in the engine."""
    engine = called.served.composed.engine
    return not engine.num_running and not engine.queue_depth


@pytest.mark.parametrize("stream", [True, False])
async def test_closing_a_call_frees_its_slot(stream: bool) -> None:
    """A stream that is cancelled after its first pieces, or a call that waits for its answer: the engine drops it at once."""
    async with calling(**SLOW) as called:
        call = called.stub.GenerateStream(LONG) if stream else called.stub.Generate(LONG)
        await until(lambda: called.served.composed.engine.num_running)
        if stream:
            assert (await call.read()).text
        call.cancel()
        await until(lambda: idle(called))  # the answer itself would take 30 s
        text = (await called.served.http.get("/metrics")).text
        method = "GenerateStream" if stream else "Generate"
        assert f'method="/openllm.v1.OpenLLM/{method}",status="CANCELLED"}} 1.0' in text


async def test_a_lost_connection_frees_its_slots() -> None:
    """A client that goes away with all its calls leaves nothing running."""
    async with calling(**SLOW) as called:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{called.port}") as channel:
            stream = channel.unary_stream(
                "/openllm.v1.OpenLLM/GenerateStream",
                request_serializer=pb.GenerateRequest.SerializeToString,
                response_deserializer=pb.GenerateChunk.FromString,
            )(LONG)
            await stream.read()
        await until(lambda: idle(called))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deadline_ends_the_call_in_the_engine(stream: bool) -> None:
    """The caller gets DEADLINE_EXCEEDED when it said, and the sequence is gone soon after."""
    async with calling(**SLOW) as called:
        call = (called.stub.GenerateStream if stream else called.stub.Generate)(LONG, timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call if not stream else [chunk async for chunk in call]
        assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: idle(called), 2)


async def test_the_servers_own_deadline_is_told() -> None:
    """A call that outlives `--server-timeout` ends with the same status, and the words of HTTP."""
    async with calling(options={"server_timeout": 1.0}, **SLOW) as called:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called.stub.Generate(LONG)
        assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert told(refused.value).code == "deadline_exceeded"


async def test_health_mirrors_readiness() -> None:
    """NOT_SERVING while the model loads, SERVING once it answers, NOT_SERVING while it drains; watchers see each change."""
    async with calling(ready=False, load_s=0.3) as called:
        health = health_pb2_grpc.HealthStub(called.channel)
        watching = health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[0]))
        assert (await watching.read()).status == STATUS.NOT_SERVING
        for name in ("", *SERVICES):
            asked = health_pb2.HealthCheckRequest(service=name)
            assert (await health.Check(asked)).status == STATUS.NOT_SERVING
        await called.served.composed.engine.wait_ready(10)
        for name in ("", *SERVICES):
            asked = health_pb2.HealthCheckRequest(service=name)
            assert (await health.Check(asked)).status == STATUS.SERVING
        assert (await watching.read()).status == STATUS.SERVING
        assert called.served.composed.rpc is not None
        await called.served.composed.rpc.drain()
        assert (await watching.read()).status == STATUS.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_while_the_model_loads_calls_are_refused() -> None:
    """UNAVAILABLE, with when to ask again."""
    async with calling(ready=False, load_s=1.0) as called:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called.stub.Generate(LONG)
        error = told(refused.value)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert error.code == "engine_loading" and error.retry and error.retry_after_s >= 1


async def test_a_full_line_is_refused() -> None:
    """RESOURCE_EXHAUSTED with when to ask again, as HTTP's 503."""
    async with calling(options={"max_queue": 1}, max_num_seqs=1, **SLOW) as called:
        calls = [called.stub.GenerateStream(LONG) for _ in range(12)]
        done, rest = await asyncio.wait(
            [asyncio.ensure_future(call.read()) for call in calls], return_when=asyncio.FIRST_EXCEPTION
        )
        errors = [read.exception() for read in done if read.exception() is not None]
        assert errors and {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert all(told(error).code == "server_is_overloaded" and told(error).retry for error in errors)
        for read in rest:
            read.cancel()
        for call in calls:
            call.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await until(lambda: idle(called))


async def test_a_stream_that_fails_ends_with_a_status() -> None:
    """What came stays; the error comes in place of the last message."""
    async with calling(reply="abcdef", fail_at=3) as called:
        call, texts = called.stub.GenerateStream(LONG), []
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            async for chunk in call:
                texts.append(chunk.text)
                assert not chunk.HasField("usage")
        assert "".join(texts) == "ab"
        assert failed.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)


async def test_a_message_that_is_too_large_is_refused() -> None:
    """RESOURCE_EXHAUSTED from `--max-body` on, and the next call is served."""
    async with calling(options={"max_body": 2048}) as called:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called.stub.Generate(pb.GenerateRequest(prompt="a" * 3000))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await called.stub.Generate(pb.GenerateRequest(prompt="a b", sampling=sampling(max_tokens=1)))).choices


async def test_garbage_is_refused() -> None:
    """Bytes that are no message end their call alone; who has no key does not even get them read."""
    for options, code in (({}, "INVALID_ARGUMENT"), ({"api_key": ("key",)}, "UNAUTHENTICATED")):
        async with calling(options=options) as called:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await called.channel.unary_unary("/openllm.v1.OpenLLM/Generate")(b"\xff\xff\xff")
            assert refused.value.code().name == code
    async with calling() as called:
        assert (await called.stub.Metadata(pb.MetadataRequest())).model_id == "echo"


async def test_reflection_lists_every_service() -> None:
    """A tool like grpcurl finds the services and the file that describes ours."""
    async with calling() as called:
        stub = reflection_pb2_grpc.ServerReflectionStub(called.channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[0]),
        ]
        answers = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert names == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert any(b"GenerateStream" in proto for proto in answers[1].file_descriptor_response.file_descriptor_proto)


async def test_a_taken_port_is_an_error_and_no_silent_second_listener() -> None:
    """Before anything is loaded, and by the server itself, should another come in between."""
    async with calling() as first:
        with pytest.raises(PortInUse, match=str(first.port)) as error:
            check_port(ServerOptions(port=0, grpc_port=first.port))
        assert error.value.param == "--grpc-port" and error.value.exit_code == 71
        async with serving(options={"grpc_port": first.port}) as second:
            assert second.composed.rpc is not None
            with pytest.raises(PortInUse):
                await second.composed.rpc.start()


def test_what_does_not_fit_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One port for both, a public address without a key, a missing package."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InvalidSetting, match=str(port)):
        check_port(ServerOptions(port=port, grpc_port=port))
    check_port(ServerOptions(port=0, grpc_port=0))
    check_port(ServerOptions(port=port, grpc_port=port, http=False))
    with pytest.raises(UnsafeConfiguration):
        check_port(ServerOptions(host="0.0.0.0", grpc_port=0, http=False))
    monkeypatch.setattr("openllm.server.run.find_spec", lambda name: None)
    check_port(ServerOptions(port=0))
    with pytest.raises(MissingDependency, match="grpc_health") as error:
        check_port(ServerOptions(port=0, grpc_port=0))
    assert "openllm[grpc]" in str(error.value.hint)
