"""What every call passes: keys, request ids, errors and their details, counts."""

from __future__ import annotations

import logging

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from tests.openllm.rpc.calling import Called, calling, sampling, told

from openllm.rpc.errors import message_of, status_of, trailers_of
from openllm.rpc.proto import bentoml_v1_pb2, bentoml_v1_pb2_grpc
from openllm_core.errors import EngineUnavailable, InvalidRequest, OutOfMemory, Overloaded
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb
from openllm_core.proto.openllm.v1.openllm_pb2 import Error

HI = pb.GenerateRequest(prompt="hi", sampling=sampling(max_tokens=1))
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


async def refusal(call: grpc.aio.Call) -> grpc.aio.AioRpcError:
    """The error a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call if isinstance(call, grpc.aio.UnaryUnaryCall) else [message async for message in call]
    return refused.value


def every_call(called: Called, metadata: tuple[tuple[str, str], ...]) -> list[grpc.aio.Call]:
    """One call of each method of each service, health left out."""
    requests = {"Generate": HI, "GenerateStream": HI}
    methods = pb.DESCRIPTOR.services_by_name["OpenLLM"].methods
    calls = [
        getattr(called.stub, method.name)(
            requests.get(method.name) or getattr(pb, method.input_type.name)(), metadata=metadata
        )
        for method in methods
    ]
    bento = bentoml_v1_pb2_grpc.BentoServiceStub(called.channel)
    calls.append(bento.Call(bentoml_v1_pb2.Request(api_name="metadata_v1"), metadata=metadata))
    calls.append(bento.ServiceMetadata(bentoml_v1_pb2.ServiceMetadataRequest(), metadata=metadata))
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    stub = reflection_pb2_grpc.ServerReflectionStub(called.channel)
    calls.append(stub.ServerReflectionInfo(asked, metadata=metadata))
    return calls


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer other"),),
        (("authorization", "Bearer KEY"),),
        (("authorization", "Bearer key"), ("authorization", "Bearer key")),
        (("authorization", "Basic key"),),
        (("authorization", "key"),),
        (("x-api-key", "key"),),
    ],
)
async def test_every_method_needs_the_key(metadata: tuple[tuple[str, str], ...]) -> None:
    """Each method of each service, reflection included, is closed to whoever has no key, two, or a wrong one."""
    async with calling(options={"api_key": ("key", "second")}) as called:
        for call in every_call(called, metadata):
            error = await refusal(call)
            assert error.code() == UNAUTHENTICATED
            assert told(error).code == "invalid_api_key"


async def test_a_right_key_opens_and_health_needs_none() -> None:
    """Any key of the server's, in the words of HTTP; whoever looks after the process may always ask how it is."""
    async with calling(options={"api_key": ("key", "second")}) as called:
        for key in ("Bearer key", "bearer second"):
            assert (await called.stub.Generate(HI, metadata=(("authorization", key),))).choices[0].text == "h"
        health = health_pb2_grpc.HealthStub(called.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


async def test_each_call_has_an_id() -> None:
    """The caller's own where it is one, else a new one; refusals carry it too."""
    async with calling() as called:
        for given, kept in (("abc-1", True), ("not an id", False), ("x" * 65, False)):
            call = called.stub.Generate(HI, metadata=(("x-request-id", given),))
            await call
            found = dict(await call.trailing_metadata())["x-request-id"]
            assert (found == given) is kept and found
        bad = pb.GenerateRequest(prompt="hi", sampling=sampling(n=17))
        error = await refusal(called.stub.Generate(bad, metadata=(("x-request-id", "mine"),)))
        assert told(error).request_id == "mine" == dict(error.trailing_metadata())["x-request-id"]


async def test_details_are_googles_too() -> None:
    """A refusal is a google.rpc.Status that names the field, for clients that know no type of ours."""
    async with calling() as called:
        error = await refusal(called.stub.Generate(pb.GenerateRequest(prompt="hi", sampling=sampling(n=17))))
    status = rpc_status.from_call(error)
    assert status is not None and status.message == error.details() == told(error).message
    ours, fault = Error(), BadRequest()
    assert status.details[0].Unpack(ours) and ours == told(error)
    assert status.details[1].Unpack(fault) and fault.field_violations[0].field == "sampling.n"


def test_when_to_ask_again() -> None:
    """What may pass says when; what is final does not; seconds are whole, at least one, at most a minute."""
    for wait, seconds in ((None, 1), (0.2, 1), (2.5, 3), (600.0, 60)):
        error = Overloaded("full", retry_after_s=wait)
        assert message_of(error, "id").retry_after_s == seconds and message_of(error, "id").retry
        code, _, trailers = trailers_of(error, "id")
        status = rpc_status.status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"])
        pause = RetryInfo()
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert status.details[1].Unpack(pause) and pause.retry_delay.seconds == seconds
    spent = message_of(EngineUnavailable("gone"), "id")
    assert not spent.retry and not spent.HasField("retry_after_s")
    large = message_of(InvalidRequest("large", code="content_too_large"), "id")
    assert not large.retry and not large.HasField("retry_after_s")


async def test_our_own_bugs_stay_ours(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """INTERNAL with the request's id; the cause stands in the log alone."""
    async with calling() as called:

        def fail() -> None:
            raise ZeroDivisionError("secret of /a/path")

        monkeypatch.setattr(called.served.composed.service, "metadata", fail)
        with caplog.at_level(logging.ERROR, "openllm.rpc"):
            error = await refusal(called.stub.Metadata(pb.MetadataRequest(), metadata=(("x-request-id", "mine"),)))
    assert error.code() == grpc.StatusCode.INTERNAL and "secret" not in str(error)
    assert "mine" in error.details() and told(error).code == "internal_error"
    assert "mine" in caplog.text and "secret" in caplog.text
    assert status_of(OutOfMemory("x")) == grpc.StatusCode.INTERNAL
    assert "gib" not in message_of(OutOfMemory("needs 3 gib"), "id").message


async def test_calls_are_counted() -> None:
    """By method and status, where HTTP's are shown; health is not."""
    async with calling() as called:
        await called.stub.Generate(HI)
        await refusal(called.stub.Generate(pb.GenerateRequest(prompt="hi", sampling=sampling(n=17))))
        await health_pb2_grpc.HealthStub(called.channel).Check(health_pb2.HealthCheckRequest())
        text = (await called.served.http.get("/metrics")).text
    method = 'method="/openllm.v1.OpenLLM/Generate"'
    assert f'openllm_grpc_requests_total{{{method},status="OK"}} 1.0' in text
    assert f'openllm_grpc_requests_total{{{method},status="INVALID_ARGUMENT"}} 1.0' in text
    assert f"openllm_grpc_request_seconds_count{{{method}}} 2.0" in text
    assert "grpc.health" not in text


async def test_an_unknown_method_is_unimplemented() -> None:
    """gRPC's own answer, and the server goes on."""
    async with calling() as called:
        unknown = called.channel.unary_unary("/openllm.v1.OpenLLM/Nothing")
        assert (await refusal(unknown(b""))).code() == grpc.StatusCode.UNIMPLEMENTED
        assert (await called.stub.Generate(HI)).choices[0].text == "h"
