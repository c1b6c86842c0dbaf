"""A request as the engine host gets it -> a request of vLLM's engine core; every refusal names the field.

Called by `backend` for each sequence. Stop strings, text and end tokens are decided above: vLLM is told to make no text
and to end only on the ids it is given.
"""

from __future__ import annotations

from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.input_processor import InputProcessor

from openllm_core.errors import InvalidRequest, InvalidSamplingParams, OpenLLMError

from ..base import BackendRequest, TokenGuide, TokenSampling
from ..guides import guide_refusal

GREEDY_BELOW = 1e-5
TASKS = ("generate",)


def core_request(
    processor: InputProcessor, request: BackendRequest, end_token_ids: tuple[int, ...], lora: LoRARequest | None
) -> EngineCoreRequest:
    """What the engine core takes.

    Args:
        end_token_ids: of the model; a guided sequence ends with one of them, whatever else was asked for.

    Raises:
        InvalidRequest: vLLM refuses the request; `param` names the field where it can be told.
    """
    sampling = request.sampling
    try:
        params = sampling_params(sampling, end_token_ids)
        return processor.process_inputs(
            request.request_id,
            tokens_input(request.prompt_token_ids, cache_salt=request.cache_salt),
            params,
            TASKS,
            lora_request=lora,
        )
    except OpenLLMError:
        raise
    except (VLLMValidationError, ValueError, TypeError) as error:
        raise _refusal(error, sampling.guide) from error


def sampling_params(sampling: TokenSampling, end_token_ids: tuple[int, ...]) -> SamplingParams:
    """vLLM's parameters for one sequence."""
    guide = sampling.guide
    stops = sampling.stop_token_ids
    if guide is not None:
        stops = tuple(dict.fromkeys((*stops, *end_token_ids)))
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        temperature=0.0 if sampling.temperature < GREEDY_BELOW else sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        seed=None if sampling.seed is None else sampling.seed % 2**63,
        stop_token_ids=list(stops),
        ignore_eos=True,  # `stop_token_ids` holds the end tokens, unless they are to be ignored
        logprobs=sampling.logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=None if guide is None else structured_outputs(guide),
    )


def structured_outputs(guide: TokenGuide) -> StructuredOutputsParams:
    """vLLM's form of a guide."""
    if guide.kind == "json_object":
        return StructuredOutputsParams(json_object=True)
    value: Any = guide.value
    return StructuredOutputsParams(**{guide.kind: value})


def _refusal(error: Exception, guide: TokenGuide | None) -> InvalidRequest:
    text = str(error).strip()
    first = text.splitlines()[0][:400] if text else type(error).__name__
    if guide is not None:
        return guide_refusal(error, guide)
    param = getattr(error, "parameter", None)
    if isinstance(param, str):
        return InvalidSamplingParams(first, param=param)
    return InvalidRequest(first, param="prompt" if "prompt" in first or "token" in first else None)
