"""From wire messages to what the engine takes: checked prompts and sampling parameters, each refusal naming its field.

Called by `Service` before the engine sees anything. Knows the limits of one request, nothing of HTTP or of backends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from openllm_core.config.guide import Guide
from openllm_core.config.sampling import SamplingParams
from openllm_core.errors import InvalidRequest, InvalidSamplingParams, UnsupportedFeature
from openllm_core.limits import Limits
from openllm_core.schema import ChatMessage, CompletionRequest, SamplingFields

MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIAS = 1024


def check_sampling(
    sampling: SamplingParams, limits: Limits, prefix: str = "", logprobs: str = "logprobs"
) -> SamplingParams:
    """Hold one request's sampling against the server's limits, and hand it back.

    Args:
        limits: of the server.
        prefix: where the fields stand in the request (`llm_config.`).
        logprobs: what their number is called there.

    Raises:
        InvalidSamplingParams: `param` names the field.
    """
    if sampling.n > limits.max_n:
        raise InvalidSamplingParams(
            f"{prefix}n must be <= {limits.max_n}.", param=prefix + "n", code="integer_above_max_value"
        )
    if sampling.logprobs is not None and sampling.logprobs > limits.max_logprobs:
        raise InvalidSamplingParams(
            f"{prefix}{logprobs} must be <= {limits.max_logprobs}.",
            param=prefix + logprobs,
            code="integer_above_max_value",
        )
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        raise InvalidSamplingParams(
            f"{prefix}min_tokens must be <= max_tokens.", param=prefix + "min_tokens", code="integer_above_max_value"
        )
    _check_stops(sampling.stop, prefix + "stop", limits)
    _check_ids(prefix + "stop_token_ids", sampling.stop_token_ids, MAX_STOP_TOKEN_IDS)
    _check_ids(prefix + "logit_bias", sampling.logit_bias, MAX_LOGIT_BIAS)
    check_guide(sampling.guide, limits)
    return sampling


def check_guide(guide: Guide | None, limits: Limits) -> None:
    """Refuse a schema, expression, list of choices or grammar that is too long to be compiled for one request.

    Raises:
        InvalidSamplingParams: `param` names the field it came in.
    """
    if guide is None:
        return
    parts = (guide.value,) if isinstance(guide.value, str) else guide.value
    size = sum(len(part.encode("utf-8", "surrogatepass")) for part in parts)
    if size > limits.max_guide_bytes:
        raise InvalidSamplingParams(
            f"{guide.param} must have at most {limits.max_guide_bytes} bytes, not {size}.",
            param=guide.param,
            code="string_above_max_length",
        )


def _check_stops(stops: Sequence[str], path: str, limits: Limits) -> None:
    if len(stops) > limits.max_stops:
        raise InvalidSamplingParams(
            f"{path} must have at most {limits.max_stops} strings, not {len(stops)}.",
            param=path,
            code="array_above_max_length",
        )
    for index, stop in enumerate(stops):
        name = f"{path}[{index}]" if len(stops) > 1 else path
        if not stop:
            raise InvalidSamplingParams(f"{name} must not be empty.", param=name, code="string_below_min_length")
        if len(stop.encode()) > limits.max_stop_bytes:
            raise InvalidSamplingParams(
                f"{name} must have at most {limits.max_stop_bytes} bytes.", param=name, code="string_above_max_length"
            )


def _check_ids(name: str, ids: Sequence[int] | Mapping[int, float], limit: int) -> None:
    if len(ids) > limit:
        kind = "object" if isinstance(ids, Mapping) else "array"
        raise InvalidSamplingParams(
            f"{name} must have at most {limit} entries, not {len(ids)}.", param=name, code=f"{kind}_above_max_length"
        )


def check_stream_options(request: SamplingFields) -> None:
    """`stream_options` means nothing without `stream`."""
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options needs stream: true.", param="stream_options")


def check_messages(messages: Sequence[ChatMessage], limits: Limits) -> None:
    """Refuse a conversation of too many messages."""
    if len(messages) > limits.max_messages:
        raise InvalidRequest(
            f"messages must have at most {limits.max_messages} items, not {len(messages)}.",
            param="messages",
            code="array_above_max_length",
        )


_OLDER = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens"}


def sent_at(name: str, llm_config: Mapping[str, Any]) -> str:
    """Where a field the engine refused stood in `llm_config`."""
    nested = llm_config.get("generation_config")
    for field in (name, _OLDER.get(name, name)):
        if llm_config.get(field) is not None:
            return f"llm_config.{field}"
        if isinstance(nested, dict) and nested.get(field) is not None:  # pyright: ignore[reportUnknownMemberType]
            return f"llm_config.generation_config.{field}"
    return f"llm_config.{name}"


# -- chat -------------------------------------------------------------------------------------------------------------


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates know them: text content, `developer` as `system`, no nulls.

    Raises:
        InvalidRequest: a message has no content.
        UnsupportedFeature: a part is not text.
    """
    return [_plain_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _plain_message(message: ChatMessage, path: str) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    made: dict[str, Any] = {"role": role, "content": _text_of(message, f"{path}.content")}
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            made[name] = value
    if message.tool_calls:
        made["tool_calls"] = _plain_calls(message.tool_calls, f"{path}.tool_calls")
    return made


def _plain_calls(calls: Sequence[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    """Calls of an earlier answer as templates know them: arguments as an object.

    Raises:
        InvalidRequest: one is not as it must be; `param` names it.
    """
    return [_plain_call(call, f"{path}[{index}]") for index, call in enumerate(calls)]


def _plain_call(call: dict[str, Any], path: str) -> dict[str, Any]:
    function: Any = call.get("function")
    if not isinstance(function, dict):
        raise InvalidRequest(
            f"{path}.function is required.", param=f"{path}.function", code="missing_required_parameter"
        )
    known = cast("dict[str, Any]", function)
    if not isinstance(known.get("name"), str):
        where = f"{path}.function.name"
        raise InvalidRequest(f"{where} must be a string.", param=where, code="invalid_type")
    arguments: Any = known.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:  # what a model broke off, or wrote wrong, goes back to it as it is
            arguments = {"arguments": arguments}
    return {**call, "type": "function", "function": {"name": known["name"], "arguments": arguments}}


def _text_of(message: ChatMessage, path: str) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    if content is None:
        if message.role != "assistant":
            raise InvalidRequest(f"{path} is required.", param=path, code="missing_required_parameter")
        return ""
    texts: list[str] = []
    for index, part in enumerate(content):
        kind = part.get("type")
        if kind not in ("text", "refusal"):
            raise UnsupportedFeature(
                f"{path}[{index}].type: this model takes text parts only.",
                param=f"{path}[{index}].type",
                code="unsupported_value",
            )
        text = part.get(cast(str, kind))
        if not isinstance(text, str):
            raise InvalidRequest(
                f"{path}[{index}].{kind} must be a string.", param=f"{path}[{index}].{kind}", code="invalid_type"
            )
        texts.append(text)
    return "\n".join(texts)


# -- completions ------------------------------------------------------------------------------------------------------


def check_completion(request: CompletionRequest) -> None:
    """Refuse fields of a completion request that contradict each other."""
    if request.echo and request.logprobs is not None:
        raise UnsupportedFeature("echo with logprobs is not supported: prompts are not scored.", param="logprobs")


def prompts_of(request: CompletionRequest, n: int, limits: Limits) -> list[str | list[int]]:
    """The prompts of a completion request: texts or token ids.

    Raises:
        InvalidRequest: none, too many, or an empty one.
    """
    given = request.prompt
    prompts: list[str | list[int]]
    if isinstance(given, str):
        prompts = [given]
    elif given and isinstance(given[0], int):
        prompts = [cast("list[int]", given)]
    else:
        prompts = list(cast("list[str | list[int]]", given))
    if not prompts:
        raise InvalidRequest("prompt must not be empty.", param="prompt", code="empty_array")
    if len(prompts) > limits.max_prompts:
        raise InvalidRequest(
            f"prompt must have at most {limits.max_prompts} items, not {len(prompts)}.",
            param="prompt",
            code="array_above_max_length",
        )
    if len(prompts) > 1 and len(prompts) * n > limits.max_prompts:
        raise InvalidRequest(f"prompts x n must be <= {limits.max_prompts}.", param="n", code="integer_above_max_value")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str) and not prompt:
            path = "prompt" if len(prompts) == 1 else f"prompt[{index}]"
            raise InvalidRequest(f"{path} must not be empty.", param=path, code="empty_array")
    return prompts
