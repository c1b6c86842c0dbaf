"""gRPC messages with any field at the edges of its type, and bytes that are no message: answered or refused, never a bug."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import DecodeError
from tests.enumerate.messages import Asked, bytes_of, messages_of
from tests.enumerate.reading import Strict, llm_config_schema
from tests.enumerate.requests import MESSAGES
from tests.enumerate.values import FILLER
from tests.enumerate.verdict import MOST_REPEATED_CHARS, parts_of
from tests.openllm.rpc.calling import Called, calling, told

REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}
FIELDS = Strict(llm_config_schema())
FLIPS = 150


async def outcome(called: Called, method: str, message: bytes) -> grpc.aio.AioRpcError | None:
    """Call a method with the bytes of a message; how it was refused, None where it was answered."""
    path = f"/openllm.v1.OpenLLM/{method}"
    kind = called.channel.unary_stream if method.endswith("Stream") else called.channel.unary_unary
    call = kind(path, request_serializer=bytes, response_deserializer=bytes)
    try:
        answer: Any = call(message, timeout=30)
        if method.endswith("Stream"):
            async for _ in answer:
                pass
        else:
            await answer
    except grpc.aio.AioRpcError as error:
        return error
    return None


def fault_of(asked: Asked, error: grpc.aio.AioRpcError | None) -> str | None:
    """What is wrong with an outcome."""
    bad = must_be_refused(asked)
    if error is None:
        return f"accepted, though {bad}" if bad else None
    if error.code() not in REFUSALS:
        return f"{error.code().name}: {error.details()}"
    shown = told(error)
    if not shown.code or not shown.message or not shown.request_id or "\n" in shown.message:
        return f"a refusal without its parts: {shown}"
    if (error.details() or "").count(FILLER) > 2 * MOST_REPEATED_CHARS or len(shown.message) > 1000:
        return f"repeats what was sent: {len(shown.message)} characters"
    named, changed = parts_of(shown.param), parts_of(asked.field)
    shorter = min(len(named), len(changed))
    related = named[:shorter] == changed[:shorter] or named[:1] == changed[:1]
    return None if related else f"names {shown.param!r}: {shown.message}"


def must_be_refused(asked: Asked) -> str | None:
    """Why the sampling fields of a message cannot be accepted, by the schemas of `llm_config`."""
    if not asked.field.startswith("sampling."):
        return None
    sent: dict[str, Any] = {}
    for fact, value in asked.message.sampling.ListFields():  # type: ignore[attr-defined]
        if fact.message_type is not None and fact.message_type.GetOptions().map_entry:
            sent[fact.name] = {str(key): item for key, item in value.items()}
        elif fact.message_type is None:
            sent[fact.name] = list(value) if fact.is_repeated else value
    for name, value in sent.items():
        numbers = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and (number != number or abs(number) == float("inf")) for number in numbers):
            return f"{name} is not finite"
    error = next(iter(FIELDS.iter_errors(sent)), None)
    return None if error is None else f"{error.json_path} {error.message[:100]}"


@pytest.mark.parametrize("method", MESSAGES)
async def test_fields(method: str):
    """Each field with each value: no method fails, no value that HTTP refuses is taken, and a refusal names its field."""
    async with calling(embed=4, max_model_len=512) as called:
        faults: list[str] = []
        for asked in messages_of(MESSAGES[method]):
            fault = fault_of(asked, await outcome(called, method, asked.message.SerializeToString()))
            if fault is not None:
                faults.append(f"{asked.name}: {fault[:300]}")
        assert faults == [], "\n".join(faults[:40])
        assert await outcome(called, "Metadata", b"") is None


@pytest.mark.parametrize("method", [name for name, message in MESSAGES.items() if message.ByteSize()])
async def test_bytes(method: str):
    """Bytes that are cut or changed: what is no message of the method is INVALID_ARGUMENT, the rest is as ever."""
    async with calling(embed=4, max_model_len=512) as called:
        for data in bytes_of(MESSAGES[method], seed=71, count=FLIPS):
            error = await outcome(called, method, data)
            try:
                type(MESSAGES[method])().ParseFromString(data)
            except DecodeError:
                assert error is not None and error.code() == grpc.StatusCode.INVALID_ARGUMENT, f"{data!r}: {error}"
            assert error is None or error.code() in REFUSALS, f"{data!r}: {error}"
        assert await outcome(called, "Metadata", b"") is None
