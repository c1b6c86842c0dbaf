"""What a request must satisfy before the backend sees it, and what it becomes: pure functions, called by `Engine.add`.

Order: cheap length check, tokenise, exact context check, ranges that depend on the model. Every refusal names the field.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from openllm_core.config.guide import Guide
from openllm_core.config.sampling import SamplingParams
from openllm_core.errors import (
    AdapterNotFound,
    ContextLengthExceeded,
    InvalidRequest,
    InvalidSamplingParams,
    UnsupportedFeature,
)

from ..backends.base import BackendInfo, TokenGuide, TokenSampling
from ..tokenizer import Tokenizer
from .request import EngineRequest

LOWEST_BIAS = -1e9


@contextlib.contextmanager
def named(request: EngineRequest) -> Generator[None]:
    """Call the prompt in refusals as the request's caller does."""
    try:
        yield
    except InvalidRequest as error:
        if error.param == "prompt":
            error.param = request.prompt_param
        raise


def check_features(request: EngineRequest, info: BackendInfo) -> None:
    """Refuse what this model or backend cannot do, before any work is spent on it.

    Raises:
        AdapterNotFound, UnsupportedFeature, InvalidSamplingParams: with the field named.
    """
    sampling = request.sampling
    if not info.capabilities.generate:
        raise UnsupportedFeature("This model makes embeddings and generates no text.", param="model")
    if request.adapter is not None and not info.capabilities.adapters:
        raise AdapterNotFound(f"There is no adapter {request.adapter[:96]!r}.", param="adapter_name")
    if sampling.logprobs is not None and not info.capabilities.logprobs:
        raise UnsupportedFeature(f"The {info.backend} backend has no logprobs.", param="logprobs")
    if sampling.guide is not None and not info.capabilities.structured:
        raise UnsupportedFeature(f"The {info.backend} backend cannot guide.", param=sampling.guide.param)
    stops = [token_id for token_id in sampling.stop_token_ids if token_id not in request.family_stop_ids]
    for name, ids in (("logit_bias", sampling.logit_bias), ("stop_token_ids", stops)):
        for token_id in ids:
            if not 0 <= token_id < info.vocab_size:
                raise InvalidSamplingParams(
                    f"{name}: {token_id} is no token id; the model has {info.vocab_size}.", param=name
                )


def check_length(request: EngineRequest, info: BackendInfo, tokenizer: Tokenizer) -> None:
    """Refuse a text that cannot fit however it is tokenised; costs nothing for the rest.

    Raises:
        ContextLengthExceeded: with `param` "prompt".
    """
    prompt = request.prompt
    if not isinstance(prompt, str):
        least = len(prompt)
    elif tokenizer.max_token_bytes is not None:
        least = -(-len(prompt) // tokenizer.max_token_bytes)  # a character is at least one byte
    else:
        return
    if least > info.max_prompt_len:
        raise _too_long(info, f"at least {least}")


def encode(request: EngineRequest, info: BackendInfo, tokenizer: Tokenizer) -> list[int]:
    """Token ids of the prompt; an empty prompt becomes the model's start token. May run in a thread.

    Raises:
        InvalidRequest: the prompt is empty and the model has no start token, or holds what cannot be encoded.
        ContextLengthExceeded: more tokens than a prompt may have.
    """
    prompt = request.prompt
    if isinstance(prompt, str):
        try:
            ids = tokenizer.encode(prompt, request.add_special_tokens)
        except (UnicodeEncodeError, TypeError):
            raise InvalidRequest("The prompt is not valid Unicode text.", param="prompt") from None
    else:
        ids = prompt
        if ids and not 0 <= min(ids) <= max(ids) < info.vocab_size:
            raise InvalidRequest(f"A token id of the prompt is not within 0..{info.vocab_size - 1}.", param="prompt")
    return fitting(ids, info)


def fitting(ids: list[int], info: BackendInfo) -> list[int]:
    """The ids of a prompt as the model gets them; see `encode` for the errors."""
    if not ids:
        if info.bos_token_id is None:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        return [info.bos_token_id]
    if len(ids) > info.max_prompt_len:
        raise _too_long(info, str(len(ids)))
    return ids


def token_sampling(
    request: EngineRequest, prompt_len: int, info: BackendInfo, eos_token_ids: frozenset[int]
) -> TokenSampling:
    """The token-level half of a request's sampling, with `max_tokens` settled.

    Raises:
        ContextLengthExceeded: an explicit `max_tokens` does not fit behind the prompt.
        InvalidSamplingParams: `min_tokens` above `max_tokens`.
    """
    sampling = request.sampling
    max_tokens = _max_tokens(request, prompt_len, info)
    if sampling.min_tokens > max_tokens:
        raise InvalidSamplingParams(
            f"min_tokens ({sampling.min_tokens}) must be <= max_tokens ({max_tokens}).",
            param="min_tokens",
            code="integer_above_max_value",
        )
    stops = frozenset(token_id for token_id in sampling.stop_token_ids if token_id < info.vocab_size)
    if not sampling.ignore_eos:
        stops |= eos_token_ids
    return TokenSampling(
        max_tokens=max_tokens,
        min_tokens=sampling.min_tokens,
        temperature=float(sampling.temperature),
        top_p=float(sampling.top_p),
        top_k=max(0, sampling.top_k),
        min_p=float(sampling.min_p),
        repetition_penalty=float(sampling.repetition_penalty),
        presence_penalty=float(sampling.presence_penalty),
        frequency_penalty=float(sampling.frequency_penalty),
        logit_bias={token: max(float(bias), LOWEST_BIAS) for token, bias in sampling.logit_bias.items()},
        seed=sampling.seed,
        stop_token_ids=tuple(sorted(stops)),
        logprobs=sampling.logprobs,
        guide=token_guide(sampling.guide),
    )


def token_guide(guide: Guide | None) -> TokenGuide | None:
    """A guide as the backend gets it."""
    if guide is None:
        return None
    value = guide.value if isinstance(guide.value, str) else list(guide.value)
    return TokenGuide(guide.kind, value, guide.param)


def seed_of(sampling: SamplingParams, index: int) -> int | None:
    """Seed of choice `index`: a given one must not make all choices the same."""
    if sampling.seed is None:
        return None
    return (sampling.seed + index + 2**63) % 2**64 - 2**63


def _max_tokens(request: EngineRequest, prompt_len: int, info: BackendInfo) -> int:
    """An explicit number that cannot fit is refused; a default is cut to what fits."""
    room = info.max_model_len - (0 if info.capabilities.seq2seq else prompt_len)
    asked = request.sampling.max_tokens
    if asked is not None and asked > room:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {info.max_model_len} tokens. However, you requested "
            f"{asked + info.max_model_len - room} tokens ({info.max_model_len - room} in the prompt, {asked} in the "
            "completion).",
            param="max_tokens",
        )
    if room < 1:
        raise _too_long(info, str(prompt_len))
    if asked is not None:
        return asked
    return min(room, request.max_tokens_default or room)


def _too_long(info: BackendInfo, length: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"This model takes prompts of up to {info.max_prompt_len} tokens. However, yours has {length}.", param="prompt"
    )
