"""What the service hands to the engine and what it gets back. Text level; token ids stay below.

`EngineRequest` is one request with its n choices; `Engine.add` returns a `RequestStream` of `schema.Delta`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import attrs

from openllm_core.config.sampling import SamplingParams

from ..observation import Transcript

if TYPE_CHECKING:  # the engine host imports this module: the wire's messages would cost each of its starts 100 ms
    from openllm_core.schema import Usage


def new_request_id() -> str:
    """128 random bits in hex; ids are never reused, so a late answer can never reach another request."""
    return secrets.token_hex(16)


Priority = Literal["interactive", "background"]


@attrs.frozen(kw_only=True)
class EngineRequest:
    """One admitted request.

    Attributes:
        prompt: text, or token ids already made.
        prompt_param: what the prompt is called in errors.
        sampling: validated.
        family_stop_ids: of `sampling.stop_token_ids`, those that the model's family names: one that this model does not
            have is dropped, where a client's own would be refused.
        add_special_tokens: False when a chat template already placed them.
        marks: special tokens whose text is shown all the same; a reader of the answer looks for them.
        adapter: fixed at admission.
        priority: interactive goes before background, which may fill but half of the line.
        tenant: name of the key it came with, where there are several: the engine is fair between tenants, caps what one
            may hold, and lets none reuse what was computed of another's prompt. "" where there is one key or none.
        transcript: where the operator lets answers be logged, who keeps this one's text.
        on_end: called once with its token counts when it has ended, failed or was cut, unless it never left the line.
        deadline_s: seconds from admission after which it ends with DeadlineExceeded.
    """

    prompt: str | list[int]
    sampling: SamplingParams
    prompt_param: str = "prompt"
    request_id: str = attrs.field(factory=new_request_id)
    family_stop_ids: frozenset[int] = frozenset()
    add_special_tokens: bool = True
    marks: tuple[str, ...] = ()
    adapter: str | None = None
    priority: Priority = "interactive"
    tenant: str = ""
    on_end: Callable[[Usage], None] | None = None
    deadline_s: float = 600.0
    max_tokens_default: int | None = None
    transcript: Transcript | None = None
