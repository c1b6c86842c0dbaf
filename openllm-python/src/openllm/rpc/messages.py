"""Protobuf messages to the schema's requests and the service's answers to messages; no I/O.

Used by `servicer` and `bento`. Values are judged by `openllm_core.serde`, as those of HTTP are; here they only change form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import attrs
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from openllm.service.answers import Choice
from openllm.service.use_cases import Generated
from openllm_core.config.generation import GenerationConfig, SamplingConfig
from openllm_core.errors import InvalidRequest, UnsupportedFeature
from openllm_core.fields import FIELDS, refuse
from openllm_core.fields.table import HONOURED
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb
from openllm_core.schema import (
    AdapterList,
    CallDelta,
    ChatCompletion,
    ChatCompletionRequest,
    Delta,
    GenerateRequest,
    LogprobEntry,
    Metadata,
    ModelList,
    Usage,
)
from openllm_core.serde import structure, unstructure

OVER_HTTP = "llm_config."
OLDER_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "num_return_sequences": "n"}
CLASSES = {fact.name: cls for cls in (GenerationConfig, SamplingConfig) for fact in attrs.fields(cls)}
CHAT_FIELDS = frozenset(fact.name for fact in attrs.fields(ChatCompletionRequest)) & frozenset(FIELDS)


# -- messages to plain data ---------------------------------------------------------------------------------------------


def plain(message: Message, path: str = "") -> Any:
    """The fields that are set, as JSON would have them: whole numbers of a Struct are ints.

    Args:
        path: where the message stands in the request, with a dot behind it; for errors.

    Raises:
        InvalidRequest: a number is NaN or infinite, which no field can be.
    """
    if isinstance(message, Value):
        kind = message.WhichOneof("kind")
        return _scalar(getattr(message, kind), path, free=True) if kind not in (None, "null_value") else None
    if isinstance(message, Struct):
        return {name: plain(value, f"{path}{name}.") for name, value in message.fields.items()}
    if isinstance(message, ListValue):
        return [plain(value, f"{path}{place}.") for place, value in enumerate(message.values)]
    made: dict[str, Any] = {}
    for fact, value in message.ListFields():
        name = f"{path}{fact.name}."
        if fact.message_type is not None and fact.message_type.GetOptions().map_entry:
            made[fact.name] = {str(key): _scalar(item, f"{name}{key}.") for key, item in value.items()}
        elif isinstance(value, (str, bytes, Message)) or not isinstance(value, Iterable):
            made[fact.name] = _scalar(value, name)
        else:
            items = cast("Iterable[Any]", value)
            made[fact.name] = [_scalar(item, f"{name}{place}.") for place, item in enumerate(items)]
    return made


def _scalar(value: Any, path: str, *, free: bool = False) -> Any:
    """One value. `free`: a number of JSON, which has one kind of them only."""
    if isinstance(value, Message):
        return plain(value, path)
    if isinstance(value, float):
        if not math.isfinite(value):
            name = path.removesuffix(".")
            raise InvalidRequest(f"{name} must be finite.", param=name)
        return int(value) if free and value.is_integer() else value
    return value


def struct(data: Mapping[str, Any]) -> Struct:
    """Plain data as a Struct."""
    made = Struct()
    made.update(unstructure(data))
    return made


def value(data: Any) -> Value:
    """Plain data as a Value."""
    return struct({"value": data}).fields["value"]


# -- requests -----------------------------------------------------------------------------------------------------------


def generate_request(message: pb.GenerateRequest) -> GenerateRequest:
    """What `/v1/generate` would have got.

    Raises:
        InvalidRequest: a value does not fit; `param` is the field's path in the message.
    """
    config = plain(message.family_fields, "family_fields.") | sampling_of(message.sampling)
    request = {"prompt": message.prompt, "llm_config": config, "detail": True, "echo": message.echo}
    if message.HasField("adapter_name"):
        request["adapter_name"] = message.adapter_name
    return structure(request, GenerateRequest)


def chat_request(message: pb.ChatRequest, model: str, column: str) -> ChatCompletionRequest:
    """What `/v1/chat/completions` would have got.

    Args:
        model: where the message names none.
        column: of the table of fields, for the server's backend.

    Raises:
        InvalidRequest: a value does not fit.
        UnsupportedFeature: a sampling field that a chat does not take asks for something.
    """
    request: dict[str, Any] = {"model": model} | plain(message)
    for name, sent in sampling_of(message.sampling).items():
        here = OLDER_NAMES.get(name, name)
        if here not in CHAT_FIELDS:
            if name in CLASSES:
                structure({name: sent}, CLASSES[name])
            refuse(name, sent, column, f"sampling.{name}")
            fact = FIELDS[name]
            if fact.supported(column) == HONOURED and sent not in fact.neutral:
                raise UnsupportedFeature(f"Chat does not take {name}; Generate does.", param=f"sampling.{name}")
        elif here == "logprobs":
            request |= {"logprobs": True, "top_logprobs": sent}
        elif request.setdefault(here, sent) != sent:
            raise InvalidRequest(f"{name} and {here} mean the same and differ.", param=name)
    request.pop("sampling", None)
    return structure(request, ChatCompletionRequest)


def sampling_of(message: pb.SamplingParams) -> dict[str, Any]:
    """The sampling fields that are set, by the names of the table of fields."""
    return plain(message, "sampling.")


def as_sent(path: str) -> str:
    """A path of `/v1/generate` as the message of `Generate` has it."""
    if not path.startswith(OVER_HTTP):
        return path
    rest = path.removeprefix(OVER_HTTP)
    return f"sampling.{rest}" if re.split(r"\W", rest)[0] in FIELDS else f"family_fields.{rest}"


@contextmanager
def named_as_sent(sent: Callable[[str], str] = as_sent) -> Generator[None]:
    """Errors name a field as the message of a method has it, not as the route does.

    Args:
        sent: path of the route -> of the message; default: those of `Generate`.
    """
    try:
        yield
    except InvalidRequest as error:
        if error.param is not None:
            param = sent(error.param)
            error.message, error.param = _renamed(error.message, error.param, param), param
        raise


def _renamed(message: str, name: str, other: str) -> str:
    """A message that calls a field by another name, where it names it."""
    return re.sub(rf"(?<![\w.]){re.escape(name)}(?!\w)", lambda _: other, message, count=1)


def as_sent_to_chat(message: pb.ChatRequest) -> Callable[[str], str]:
    """A path of `/v1/chat/completions` as this message of `Chat` has it: sampling fields stand in a message of their own."""
    told = {fact.name for fact, _ in message.sampling.ListFields()}
    names = {OLDER_NAMES.get(name, name): name for name in told} | {name: name for name in told}
    if "logprobs" in told:
        names["top_logprobs"] = "logprobs"

    def sent(path: str) -> str:
        name = re.split(r"\W", path)[0]
        return f"sampling.{names[name]}{path[len(name) :]}" if name in names else path

    return sent


def as_sent_to_embed(path: str) -> str:
    """A path of `/v1/embeddings` as the message of `Embed` has it."""
    return re.sub(r"^input\b", "texts", path)


# -- answers ------------------------------------------------------------------------------------------------------------


def usage(counts: Usage) -> pb.Usage:
    """Token counts."""
    return pb.Usage(
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        total_tokens=counts.total_tokens,
    )


def logprobs(entries: Sequence[LogprobEntry] | None) -> list[pb.TokenLogprob]:
    """Log-probabilities of drawn tokens."""
    return [
        pb.TokenLogprob(
            token=entry.token,
            token_id=entry.token_id,
            logprob=entry.logprob,
            bytes=bytes(entry.bytes),
            top=[pb.TopLogprob(token=token, token_id=number, logprob=share) for token, number, share in entry.top],
        )
        for entry in entries or ()
    ]


def generate_response(made: Generated) -> pb.GenerateResponse:
    """Answer of `Generate`."""
    details = made.details
    return pb.GenerateResponse(
        choices=[_generated(index, choice) for index, choice in enumerate(made.choices)],
        responses=[value(response) for response in made.response.responses],
        usage=usage(details.usage) if details is not None else None,
        configuration=struct(made.response.configuration),
        ignored=[as_sent(path) for path in made.ignored],
        adapter_name=made.adapter,
    )


def _generated(index: int, choice: Choice) -> pb.GeneratedChoice:
    return pb.GeneratedChoice(
        index=index,
        text=choice.text,
        token_ids=choice.token_ids,
        finish_reason=choice.finish_reason,
        logprobs=logprobs(choice.logprobs),
    )


def generate_chunk(delta: Delta) -> pb.GenerateChunk:
    """One piece of `GenerateStream`."""
    return pb.GenerateChunk(
        index=delta.index,
        text=delta.text,
        token_ids=delta.token_ids,
        finish_reason=delta.finish_reason,
        logprobs=logprobs(delta.logprobs) if delta.logprobs else None,
    )


def tool_call(call: CallDelta) -> pb.ToolCall:
    """A call that begins, which alone names it, or more of its arguments."""
    function = pb.FunctionCall(name=call.name or "", arguments=call.arguments)
    return pb.ToolCall(id=call.id or "", type="function" if call.id else "", function=function, index=call.index)


def chat_response(answer: ChatCompletion) -> pb.ChatResponse:
    """Answer of `Chat`."""
    data = unstructure(answer, omit_none=True)
    told = [choice.pop("logprobs", None) for choice in data["choices"]]
    made = ParseDict(data, pb.ChatResponse(), ignore_unknown_fields=True)
    for choice, entries in zip(made.choices, told, strict=True):
        for entry in entries["content"] if entries else ():
            likely = [pb.TopLogprob(token=top["token"], logprob=top["logprob"]) for top in entry["top_logprobs"]]
            text = bytes(entry.get("bytes", ()))
            choice.logprobs.add(token=entry["token"], logprob=entry["logprob"], bytes=text, top=likely)
    return made


def metadata_response(facts: Metadata) -> pb.MetadataResponse:
    """Answer of `Metadata`."""
    return ParseDict(unstructure(facts, omit_none=True), pb.MetadataResponse(), ignore_unknown_fields=True)


def models_response(found: ModelList) -> pb.ModelsResponse:
    """Answer of `ListModels`."""
    cards = [pb.Model(id=c.id, created=c.created, max_model_len=c.max_model_len, root=c.root) for c in found.data]
    return pb.ModelsResponse(models=cards)


def adapters_response(found: AdapterList) -> pb.AdaptersResponse:
    """Answer of every method about adapters."""
    made = pb.AdaptersResponse(default=found.default, max_adapters=found.max_adapters)
    for card in found.adapters:
        made.adapters.add(
            name=card.name,
            state=card.state,
            rank=card.rank,
            base=card.base,
            default=card.default,
            error=card.error,
            configuration=struct(found.result.get(card.name, {})),
        )
    return made
