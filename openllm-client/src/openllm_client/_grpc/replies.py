"""From the messages of openllm.v1 to the values that the HTTP clients answer with. Pure.

What the two ways say in different words is made the same here, so that a caller can change the way and nothing else.
"""

from __future__ import annotations

from typing import Any, cast

from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict

from openllm_core import serde
from openllm_core.errors import InvalidRequest
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb
from openllm_core.schema import (
    AdapterList,
    ChatCompletion,
    ChatCompletionChunk,
    ChunkChoice,
    ChunkDelta,
    EmbeddingsOutput,
    Metadata,
    ModelCard,
    StreamFrame,
    Usage,
)

from .._errors import malformed
from .._replies import GenerationOutput


def generation(message: pb.GenerateResponse, body: Any) -> GenerationOutput:
    """What `generate` answers; finish reasons and the rest where `detail` was asked for."""
    responses = [plain(response) for response in message.responses]
    configuration = plain(message.configuration)
    if not body.get("detail"):
        return GenerationOutput(responses=responses, configuration=configuration)
    logprobs = [_plain_logprobs(choice.logprobs) for choice in message.choices]
    return GenerationOutput(
        responses=responses,
        configuration=configuration,
        finish_reasons=[choice.finish_reason for choice in message.choices],
        usage=_usage(message.usage),
        logprobs=logprobs if any(logprobs) else None,
    )


def frame(message: pb.GenerateChunk, body: Any) -> StreamFrame:
    """One frame of `generate_stream`."""
    made = StreamFrame(message.index, message.text, list(message.token_ids))
    if message.HasField("finish_reason"):
        made.finish_reason = cast("Any", message.finish_reason)
    if message.HasField("usage"):
        made.usage = _usage(message.usage)
    if message.logprobs:
        made.logprobs = _plain_logprobs(message.logprobs)
    return made


def chat(message: pb.ChatResponse, body: Any) -> ChatCompletion:
    """What `chat` answers."""
    data = {
        "id": message.id,
        "created": message.created,
        "model": message.model,
        "usage": _usage_fields(message.usage),
        "choices": [
            {
                "index": choice.index,
                "message": _message(choice.message),
                "finish_reason": choice.finish_reason,
                "logprobs": _chat_logprobs(choice.logprobs),
            }
            for choice in message.choices
        ],
    }
    return _structure(data, ChatCompletion)


def chunk(message: pb.ChatChunk, body: Any) -> ChatCompletionChunk | None:
    """One chunk of a streamed chat; None for the one that only brings the usage, where that was not asked for."""
    choices = message.choices
    if len(choices) == 1 and not choices[0].logprobs and not choices[0].HasField("finish_reason"):
        delta = choices[0].delta
        if delta.HasField("content") and not delta.role and not delta.tool_calls:
            new = ChunkChoice(index=choices[0].index, delta=ChunkDelta(content=delta.content))
            return ChatCompletionChunk(id=message.id, created=message.created, model=message.model, choices=[new])
    if not choices and not _wants_usage(body):
        return None
    data: dict[str, Any] = {
        "id": message.id,
        "created": message.created,
        "model": message.model,
        "choices": [
            {
                "index": choice.index,
                "delta": _message(choice.delta),
                "finish_reason": choice.finish_reason if choice.HasField("finish_reason") else None,
                "logprobs": _chat_logprobs(choice.logprobs),
            }
            for choice in choices
        ],
    }
    if not choices and message.HasField("usage"):
        data["usage"] = _usage_fields(message.usage)
    return _structure(data, ChatCompletionChunk)


def _wants_usage(body: Any) -> bool:
    options: Any = body.get("stream_options")
    return bool(options) and bool(options.get("include_usage"))


def embeddings(message: pb.EmbedResponse, body: Any) -> EmbeddingsOutput:
    """What `embed` answers."""
    rows = [list(row.values) for row in message.embeddings]
    return EmbeddingsOutput(embeddings=rows, num_tokens=message.num_tokens)


def metadata(message: pb.MetadataResponse, body: Any) -> Metadata:
    """What `metadata` answers."""
    return Metadata(
        model_id=message.model_id,
        timeout=message.timeout,
        model_name=message.model_name,
        backend=message.backend,
        configuration=message.configuration,
        supports_embeddings=message.supports_embeddings,
        supports_hf_agent=message.supports_hf_agent,
        family=message.family,
        served_model_names=list(message.served_model_names),
        context_length=message.context_length if message.HasField("context_length") else None,
    )


def models(message: pb.ModelsResponse, body: Any) -> list[ModelCard]:
    """What `models` answers."""
    return [
        ModelCard(
            id=model.id,
            created=model.created,
            max_model_len=model.max_model_len if model.HasField("max_model_len") else None,
            root=model.root if model.HasField("root") else None,
        )
        for model in message.models
    ]


def adapters(message: pb.AdaptersResponse, body: Any) -> AdapterList:
    """What `adapters` and the calls that change them answer."""
    data = {
        "result": {one.name: plain(one.configuration) for one in message.adapters},
        "default": message.default if message.HasField("default") else None,
        "max_adapters": message.max_adapters,
        "adapters": [
            {
                "name": one.name,
                "state": one.state,
                "rank": one.rank,
                "base": one.base,
                "default": one.default,
                "error": one.error if one.HasField("error") else None,
            }
            for one in message.adapters
        ],
    }
    return _structure(data, AdapterList)


def plain(message: struct_pb2.Struct | struct_pb2.Value) -> Any:
    """Plain data; protobuf holds every number as a float, and whole ones become int again."""
    return _whole(MessageToDict(message))


def _whole(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_whole(item) for item in cast("list[Any]", value)]
    return value


def _structure(data: Any, cls: Any) -> Any:
    try:
        return serde.structure(data, cls, unknown="collect")[0]
    except InvalidRequest as error:
        raise malformed(f"The answer is not a {cls.__name__}: {error.message}") from None


def _usage(usage: pb.Usage) -> Usage:
    return Usage(**_usage_fields(usage))


def _usage_fields(usage: pb.Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def _message(message: pb.ChatMessage) -> dict[str, Any]:
    """A message or what is new of it, in OpenAI's shape."""
    data: dict[str, Any] = {"content": message.content if message.HasField("content") else None}
    if message.role:
        data["role"] = message.role
    if message.HasField("reasoning_content"):
        data["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        data["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    return data


def _tool_call(call: pb.ToolCall) -> dict[str, Any]:
    data: dict[str, Any] = {"function": {"arguments": call.function.arguments}}
    if call.function.name:
        data["function"]["name"] = call.function.name
    for name in ("id", "type"):
        if getattr(call, name):
            data[name] = getattr(call, name)
    if call.HasField("index"):
        data["index"] = call.index
    return data


def _plain_logprobs(entries: Any) -> list[dict[str, Any]]:
    """As `/v1/generate*` writes them."""
    return [
        {
            "token": entry.token,
            "token_id": entry.token_id,
            "logprob": entry.logprob,
            "top": [{"token": t.token, "token_id": t.token_id, "logprob": t.logprob} for t in entry.top],
        }
        for entry in entries
    ]


def _chat_logprobs(entries: Any) -> dict[str, Any] | None:
    """As OpenAI writes them."""
    if not entries:
        return None
    return {
        "content": [
            {
                "token": entry.token,
                "logprob": entry.logprob,
                "bytes": list(entry.bytes),
                "top_logprobs": [
                    {"token": t.token, "logprob": t.logprob, "bytes": list(t.token.encode())} for t in entry.top
                ],
            }
            for entry in entries
        ]
    }
