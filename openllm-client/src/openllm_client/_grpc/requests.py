"""From the body of an HTTP call to the message of openllm.v1 that asks the same. Pure.

A field goes where the service has it; what only a family has goes into `family_fields`. Values are not judged here but for
what protobuf cannot hold: the server says what it thinks of them, in the words it has for HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson
from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor

from openllm_core.errors import InvalidRequest, UnsupportedFeature
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb

SAMPLING: Mapping[str, Any] = pb.SamplingParams.DESCRIPTOR.fields_by_name
KINDS: Mapping[int, str] = {
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_INT32: "a whole number",
    FieldDescriptor.CPPTYPE_INT64: "a whole number",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number",
}
"""What a person calls the values that a field takes."""
CHAT_ONLY = frozenset({"model", "messages", "stream", "stream_options", "adapter_name", "tools", "tool_choice"})
MESSAGE = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"})

_log = logging.getLogger("openllm_client")


def generate(body: Any) -> pb.GenerateRequest:
    """The body of `/v1/generate` or `/v1/generate_stream`.

    Raises:
        InvalidRequest: a value is of a type that its field cannot hold.
    """
    config: dict[str, Any] = dict(body["llm_config"])
    nested: Any = config.pop("generation_config", None) or {}
    if not isinstance(nested, Mapping):
        path = "llm_config.generation_config"
        raise InvalidRequest(f"{path} must be an object.", code="invalid_type", param=path)
    nested = cast("Mapping[str, Any]", nested)
    sampling, own = _sampling({name: value for name, value in nested.items() if value is not None} | config)
    asked = pb.GenerateRequest(sampling=sampling, echo=bool(body.get("echo")))
    _put(asked, "prompt", body["prompt"])
    if "adapter_name" in body:
        _put(asked, "adapter_name", body["adapter_name"])
    if own:
        asked.family_fields.CopyFrom(_struct(own, "llm_config"))
    return asked


def chat(body: Any) -> pb.ChatRequest:
    """The body of `/v1/chat/completions`.

    Raises:
        InvalidRequest: a value is of a type that its field cannot hold.
        UnsupportedFeature: a message holds parts other than text.
    """
    fields = {name: value for name, value in body.items() if name not in CHAT_ONLY}
    parallel = fields.pop("parallel_tool_calls", None)
    most = fields.pop("top_logprobs", None)
    if fields.pop("logprobs", None):
        fields["logprobs"] = most or 0
    if "max_completion_tokens" in fields:
        fields["max_tokens"] = fields.pop("max_completion_tokens")
    sampling, unknown = _sampling(fields)
    if unknown:
        _log.warning("openllm.v1 has no place for %s: passed over", ", ".join(sorted(unknown)))
    asked = pb.ChatRequest(sampling=sampling, messages=[_message(m, i) for i, m in enumerate(body["messages"])])
    _put(asked, "model", body["model"])
    if "adapter_name" in body:
        _put(asked, "adapter_name", body["adapter_name"])
    for number, tool in enumerate(body.get("tools") or []):
        asked.tools.append(_struct(tool, f"tools[{number}]"))
    if body.get("tool_choice") is not None:
        asked.tool_choice.CopyFrom(_value(body["tool_choice"]))
    if parallel is not None:
        _put(asked, "parallel_tool_calls", parallel)
    return asked


def embed(body: Any) -> pb.EmbedRequest:
    """The body of `/v1/embeddings`: an array of texts.

    Raises:
        InvalidRequest: something in it is no text.
    """
    try:
        return pb.EmbedRequest(texts=body)
    except TypeError:
        raise InvalidRequest("The texts to embed must be text.", code="invalid_type", param="input") from None


def adapter(body: Any) -> pb.AdapterRequest:
    """The body of a `POST` below `/v1/adapters`."""
    asked = pb.AdapterRequest()
    _put(asked, "adapter_name", body["adapter_name"])
    return asked


def _sampling(fields: Mapping[str, Any]) -> tuple[pb.SamplingParams, dict[str, Any]]:
    """The fields that openllm.v1 has a place for, and the others."""
    sampling = pb.SamplingParams()
    others: dict[str, Any] = {}
    for name, value in fields.items():
        field = SAMPLING.get(name)
        if field is None:
            others[name] = value
        else:
            _put(sampling, name, _fitting(field, value))
    return sampling, others


def _fitting(field: Any, value: Any) -> Any:
    """The value as its field takes it: one for several, JSON schemas as text."""
    if field.name == "guided_json" and not isinstance(value, str):
        return orjson.dumps(value).decode()
    if field.name == "logit_bias" and isinstance(value, Mapping):
        try:
            return {int(key): bias for key, bias in cast("Mapping[Any, Any]", value).items()}
        except (TypeError, ValueError):
            return cast("Any", value)  # refused where it is set
    single = not isinstance(value, (list, tuple))
    return [value] if field.message_type is None and field.is_repeated and single else cast("Any", value)


def _put(message: Any, name: str, value: Any) -> None:
    """Set one field, whatever its kind.

    Raises:
        InvalidRequest: naming the field.
    """
    field = message.DESCRIPTOR.fields_by_name[name]
    place = getattr(message, name)
    try:
        if isinstance(place, struct_pb2.ListValue):
            place.extend(value)
            place.SetInParent()  # an empty list is said, too
        elif field.message_type is not None:
            place.update(value)
        elif field.is_repeated:
            place.extend(value)
        else:
            setattr(message, name, value)
    except (TypeError, ValueError, AttributeError) as error:
        kind = KINDS.get(field.cpp_type)
        if isinstance(error, TypeError) and kind is not None:
            what = f"each item of {name}" if field.is_repeated else name
            text = f"{what} must be {kind}, not {repr(value)[:100]}."
        else:
            text = f"{name}: {str(value)[:100]!r} does not fit: {error}."
        raise InvalidRequest(text, code="invalid_type", param=name) from None


def _struct(value: Any, name: str) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    try:
        made.update(value)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidRequest(f"{name} does not fit: {error}.", code="invalid_type", param=name) from None
    return made


def _value(value: Any) -> struct_pb2.Value:
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    return struct_pb2.Value(struct_value=_struct(value, "tool_choice"))


def _message(message: Mapping[str, Any], number: int) -> pb.ChatMessage:
    made = pb.ChatMessage()
    for name, value in message.items():
        path = f"messages[{number}].{name}"
        if name not in MESSAGE:
            raise InvalidRequest(f"{path} is not a field of a message.", code="unknown_parameter", param=path)
        if value is None:
            continue
        if name == "tool_calls":
            made.tool_calls.extend([_tool_call(call, path) for call in value])
        else:
            _put(made, name, _text(value, path) if name == "content" else value)
    return made


def _text(content: Any, path: str) -> Any:
    """Parts of text are joined, as the server joins them."""
    if not isinstance(content, (list, tuple)):
        return content
    texts: list[str] = []
    for part in cast("Sequence[Any]", content):
        text = cast("Mapping[str, Any]", part).get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise UnsupportedFeature(f"{path}: only parts of text are taken.", param=path)
        texts.append(text)
    return "\n".join(texts)


def _tool_call(call: Any, path: str) -> pb.ToolCall:
    function: Any = call.get("function") or {}
    try:
        return pb.ToolCall(
            id=call.get("id", ""),
            type=call.get("type", "function"),
            function=pb.FunctionCall(name=function.get("name", ""), arguments=function.get("arguments", "")),
        )
    except TypeError as error:
        raise InvalidRequest(f"{path} does not fit: {error}.", code="invalid_type", param=path) from None
