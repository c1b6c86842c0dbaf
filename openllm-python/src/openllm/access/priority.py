"""What a request says of its own urgency: one header of HTTP, one name in the metadata of gRPC, the same words for both.

`Access` reads it beside the key. A request may only step back: behind a key whose requests all wait behind others there is
nothing to gain by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from openllm_core.errors import InvalidRequest

PRIORITY_HEADER = "x-openllm-priority"
PRIORITIES = ("interactive", "background")


def steps_back(given: Sequence[str]) -> bool:
    """Whether a request lets others go first.

    Args:
        given: every such header it has; without one it is as urgent as its key allows.

    Raises:
        InvalidRequest: `invalid_value`, for another word, or for several.
    """
    if not given:
        return False
    if len(given) > 1 or given[0].strip().lower() not in PRIORITIES:
        raise InvalidRequest(
            "X-OpenLLM-Priority must be interactive or background.", code="invalid_value", param=PRIORITY_HEADER
        )
    return given[0].strip().lower() == "background"
