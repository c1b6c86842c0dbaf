from enum import Enum
from typing import Any

class RequestOutputKind(Enum):
    DELTA = 1

class StructuredOutputsParams:
    def __init__(self, **kind: Any) -> None: ...

class SamplingParams:
    structured_outputs: StructuredOutputsParams | None
    def __init__(
        self,
        *,
        max_tokens: int = ...,
        min_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        top_k: int = ...,
        min_p: float = ...,
        repetition_penalty: float = ...,
        presence_penalty: float = ...,
        frequency_penalty: float = ...,
        logit_bias: dict[int, float] | None = ...,
        seed: int | None = ...,
        stop_token_ids: list[int] = ...,
        ignore_eos: bool = ...,
        logprobs: int | None = ...,
        detokenize: bool = ...,
        output_kind: RequestOutputKind = ...,
        structured_outputs: StructuredOutputsParams | None = ...,
    ) -> None: ...
