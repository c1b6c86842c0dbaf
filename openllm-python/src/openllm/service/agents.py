"""What a request of `/hf/agent` asks for, as the request of `/v1/generate` that it stands for; and its answer.

Called by `Service.agent`. The defaults are those of OpenLLM 0.3.5: an agent's step ends at a line end, after 200 tokens at most.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from openllm_core.errors import InvalidRequest
from openllm_core.schema import AgentRequest, GeneratedText, GenerateRequest, Usage

from .answers import Choice

MAX_NEW_TOKENS = 200
STOP = "\n"
WHOLE = "return_full_text"


@attrs.frozen(kw_only=True)
class StepText:
    """Answer to one step.

    Attributes:
        made: one for each choice.
        usage: token counts, all choices together.
        ignored: paths of parameters that were accepted but have no effect on a server.
        adapter: that answered; None for the bare base.
    """

    made: list[GeneratedText]
    usage: Usage
    ignored: tuple[str, ...] = ()
    adapter: str | None = None


def completion_of(request: AgentRequest) -> GenerateRequest:
    """The completion that a step asks for.

    Raises:
        InvalidRequest: `return_full_text` is neither true nor false.
    """
    fields = dict(request.parameters)  # null is "not said", but only of a field that there is
    whole: Any = fields.pop(WHOLE, None)
    if whole is not None and not isinstance(whole, bool):
        path = f"parameters.{WHOLE}"
        raise InvalidRequest(f"{path} must be true or false.", param=path, code="invalid_type")
    if fields.get("stop") is None:
        fields["stop"] = [STOP]
    if fields.get("max_tokens") is None and fields.get("max_new_tokens") is None:
        fields["max_new_tokens"] = MAX_NEW_TOKENS
    return GenerateRequest(prompt=request.inputs, llm_config=fields)


def texts_of(request: AgentRequest, choices: Sequence[Choice]) -> list[GeneratedText]:
    """The answer: completions alone, unless the whole text was asked for."""
    start = request.inputs if request.parameters.get(WHOLE) else ""
    return [GeneratedText(generated_text=start + choice.text) for choice in choices]


@contextmanager
def parameters_named() -> Generator[None]:
    """Let a refusal name the fields as they were sent here."""
    try:
        yield
    except InvalidRequest as error:
        if error.param == "prompt":
            error.param = "inputs"
        elif error.param is not None:
            (error.param,) = in_parameters([error.param])
            error.message = error.message.replace("llm_config.", "parameters.")
        raise


def in_parameters(paths: Sequence[str]) -> tuple[str, ...]:
    """Paths of `llm_config` as paths of `parameters`."""
    return tuple(path.replace("llm_config.", "parameters.", 1) for path in paths)
