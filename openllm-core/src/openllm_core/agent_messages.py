"""Wire messages of `/hf/agent`; `schema` has them with all others. Shared by client and server.

The shape is that of Hugging Face's text-generation endpoints, which the agents of `transformers` 4 asked.
"""

from __future__ import annotations

from typing import Any

import attrs

from .serde import field


@attrs.frozen(kw_only=True)
class AgentRequest:
    """Body of `POST /hf/agent`: the prompt of one step of an agent."""

    inputs: str = field(help="Text to complete; no template is applied.")
    parameters: dict[str, Any] = field(
        help="`stop` (default: a line end), `max_new_tokens` (default 200), `return_full_text` (default false), and the "
        "fields of `llm_config` of /v1/generate."
    )


@attrs.frozen(kw_only=True)
class GeneratedText:
    """One element of the answer of `/hf/agent`."""

    generated_text: str = field(help="The completion, without the stop string that ended it.")
