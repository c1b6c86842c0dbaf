"""The gRPC clients before servers that refuse, and before some that are none of ours: what is asked again, and what it is called."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as Any_
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from tests.contract.test_grpc_clients import KINDS, Caller

from openllm_core.errors import (
    ClientError,
    ConnectionFailed,
    NotFound,
    RateLimited,
    ServerError,
    StreamInterrupted,
    TimedOut,
    Unauthorized,
)
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb

Code = grpc.StatusCode
CLIENTS = ("grpc", "async grpc")
ANSWER = pb.GenerateResponse(choices=[pb.GeneratedChoice(text="ok", finish_reason="stop")])
FACTS = pb.MetadataResponse(model_id="m")


@attrs.define
class Script:
    """What a server does with one call after another; the last entry goes on for ever.

    Attributes:
        steps: a code to refuse with, an `Error` to refuse with as our server does, a google.rpc.Status as others do, or
            bytes to answer.
        calls: how many came.
    """

    steps: list[Any]
    calls: int = 0

    async def play(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """One call."""
        step = self.steps[min(self.calls, len(self.steps) - 1)]
        self.calls += 1
        if isinstance(step, bytes):
            return step
        if isinstance(step, Code):
            await context.abort(step, "not now")
        told, code = step
        if isinstance(told, Status):
            context.set_trailing_metadata((("grpc-status-details-bin", told.SerializeToString()),))
            await context.abort(code, told.message)
        context.set_trailing_metadata((("openllm-error-bin", told.SerializeToString()),))
        await context.abort(code, told.message)
        raise AssertionError("unreachable")


class Anything(grpc.GenericRpcHandler):
    """Every method that ends with one of some names, played by a script; others there are not."""

    def __init__(self, script: Script, names: tuple[str, ...]) -> None:
        self._script = script
        self._names = names

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method."""
        if not handler_call_details.method.endswith(self._names):
            return None
        if handler_call_details.method.endswith("Stream"):

            async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
                yield await self._script.play(request, context)

            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(self._script.play)


@asynccontextmanager
async def foreign(*steps: Any, names: tuple[str, ...] = ("",)) -> AsyncIterator[tuple[Script, Callable[..., Caller]]]:
    """A server that plays a script, and what makes a client of it."""
    script, server, made = Script(list(steps)), grpc.aio.server(), list[Caller]()
    server.add_generic_rpc_handlers((Anything(script, names),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def client(kind: str, **how: Any) -> Caller:
        made.append(Caller(KINDS[kind](f"127.0.0.1:{port}", **{"timeout": 20, **how})))
        return made[-1]

    try:
        yield script, client
    finally:
        for caller in made:
            await caller.aclose()
        await server.stop(None)


def refusal(code: grpc.StatusCode, **fields: Any) -> tuple[pb.Error, grpc.StatusCode]:
    """As our server refuses."""
    return pb.Error(message="Loading.", request_id="r", **fields), code


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
@pytest.mark.parametrize("call", ["generate", "generate_stream"])
async def test_work_that_was_refused_is_asked_again(kind: str, code: grpc.StatusCode, call: str) -> None:
    """After the time that the server names, as often as `max_retries` says, and then the answer is the answer."""
    busy = refusal(code, retry=True, retry_after_s=0.2)
    piece = pb.GenerateChunk(text="ok", finish_reason="stop") if call == "generate_stream" else ANSWER
    async with foreign(busy, busy, piece.SerializeToString()) as (script, client):
        began = time.monotonic()
        await client(kind).take(call, "Hi")
        assert script.calls == 3 and time.monotonic() - began >= 0.4
    async with foreign(busy) as (script, client):
        with pytest.raises((RateLimited, ServerError)) as refused:
            await client(kind, max_retries=1).take(call, "Hi")
        assert script.calls == 2 and refused.value.retry_after_s == pytest.approx(0.2)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
async def test_a_time_named_by_somebody_between_is_kept(kind: str, code: grpc.StatusCode) -> None:
    """A proxy or a mesh that refuses in gRPC's own terms, a RetryInfo among the details of the status: asked again, then."""
    details = [Any_(), Any_()]
    details[0].Pack(pb.Error(message="of some other kind"))
    details[1].Pack(RetryInfo(retry_delay=Duration(nanos=200_000_000)))
    busy = Status(code=code.value[0], message="too many of you", details=details), code
    async with foreign(busy, busy, ANSWER.SerializeToString()) as (script, client):
        began = time.monotonic()
        await client(kind).take("generate", "Hi")
        assert script.calls == 3 and time.monotonic() - began >= 0.4
    async with foreign(busy) as (script, client):
        with pytest.raises((RateLimited, ServerError), match="too many of you") as refused:
            await client(kind, max_retries=0).take("generate", "Hi")
        assert refused.value.retry_after_s == pytest.approx(0.2) and script.calls == 1
    unreadable = Status(details=[Any_(type_url=details[1].type_url, value=b"\xff")]), code
    async with foreign(unreadable) as (script, client):
        with pytest.raises(ClientError) as refused:
            await client(kind, max_retries=0).take("generate", "Hi")
        assert refused.value.retry_after_s is None


@pytest.mark.parametrize("kind", CLIENTS)
async def test_what_will_not_pass_is_asked_once(kind: str) -> None:
    """A server that says so, a wait that outlasts the time-out, and a failure in which the work may have been done."""
    final = refusal(Code.UNAVAILABLE)
    later = refusal(Code.RESOURCE_EXHAUSTED, retry=True, retry_after_s=30)
    for step, error in ((final, ServerError), (later, RateLimited), (Code.INTERNAL, ServerError)):
        async with foreign(step) as (script, client):
            began = time.monotonic()
            with pytest.raises(error):
                await client(kind).take("generate", "Hi")
            assert script.calls == 1 and time.monotonic() - began < 10


@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_question_is_repeated_where_work_is_not(kind: str) -> None:
    """UNAVAILABLE of something between, without a word of our server: only what merely reads is asked again."""
    async with foreign(Code.UNAVAILABLE, FACTS.SerializeToString()) as (script, client):
        assert await client(kind).take("model_id") == "m" and script.calls == 2
    async with foreign(Code.UNAVAILABLE) as (script, client):
        with pytest.raises(ConnectionFailed):
            await client(kind).take("generate", "Hi")
        assert script.calls == 1


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Code.UNIMPLEMENTED, NotFound),
        (Code.UNAUTHENTICATED, Unauthorized),
        (Code.PERMISSION_DENIED, Unauthorized),
        (Code.DEADLINE_EXCEEDED, TimedOut),
        (Code.UNKNOWN, ServerError),
        (Code.DATA_LOSS, ServerError),
    ],
)
async def test_each_status_is_a_typed_error(kind: str, code: grpc.StatusCode, error: type[ClientError]) -> None:
    """Without details too, one line that names the address."""
    async with foreign(code) as (_, client):
        for call in ("generate", "generate_stream"):
            with pytest.raises(error) as failed:
                await client(kind, max_retries=0).take(call, "Hi")
            assert "127.0.0.1" in str(failed.value) and "\n" not in str(failed.value)


@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_grpc_server_that_is_none_of_ours(kind: str) -> None:
    """It has no such methods, or answers what is no message of ours: told at once, with what to look at."""
    async with foreign(b"", names=("Elsewhere",)) as (_, client):
        for call, words in (("metadata", ()), ("generate", ("Hi",)), ("generate_stream", ("Hi",)), ("health", ())):
            with pytest.raises(NotFound) as missing:
                await client(kind).take(call, *words)
            assert "OpenLLM server" in (missing.value.hint or "")
        with pytest.raises(NotFound):
            await client(kind).take("wait_until_ready", 15)
    async with foreign(b"\xff\xff\xff") as (_, client):
        for call, words in (("metadata", ()), ("generate", ("Hi",)), ("generate_stream", ("Hi",))):
            with pytest.raises(ClientError) as garbled:
                await client(kind, max_retries=0).take(call, *words)
            assert not isinstance(garbled.value, StreamInterrupted)
            assert garbled.value.wire_code == "malformed_response"
