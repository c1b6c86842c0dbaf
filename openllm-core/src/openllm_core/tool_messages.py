"""Wire messages of tool calls, in OpenAI's shapes; part of the chat messages in `schema`."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from .serde import field


@attrs.frozen(kw_only=True)
class FunctionSpec:
    """A function that a model may call."""

    name: str = field(min_length=1, max_length=64, help="Letters, digits, `_`, `-` and `.`.")
    description: str | None = field(default=None, help="What it does and when to call it, for the model.")
    parameters: dict[str, Any] | None = field(default=None, help="JSON schema of its arguments; none without it.")
    strict: bool | None = field(default=None, help="Accepted: calls that must come follow the schema in any case.")


@attrs.frozen(kw_only=True)
class Tool:
    """One of the tools of a request."""

    type: Literal["function"] = field(help="Constant.")
    function: FunctionSpec = field(help="The function.")


@attrs.frozen(kw_only=True)
class FunctionCall:
    """What is called, with what."""

    name: str = field(help="Name of the function.")
    arguments: str = field(help="JSON text; the model wrote it, so check it.")


@attrs.frozen(kw_only=True)
class ToolCall:
    """One call of an answer."""

    id: str = field(help="Names the call in the message that brings its result.")
    function: FunctionCall = field(help="What is called.")
    type: Literal["function"] = field(default="function", help="Constant.")


@attrs.define(kw_only=True)
class FunctionCallDelta:
    """What a chunk adds to a call."""

    name: str | None = field(default=None, help="In the first chunk of a call.")
    arguments: str | None = field(default=None, help="More of the JSON text.")


@attrs.define(kw_only=True)
class ToolCallDelta:
    """A call that begins or goes on in a chunk."""

    index: int = field(help="Which call of the choice.")
    id: str | None = field(default=None, help="In the first chunk of a call.")
    function: FunctionCallDelta | None = field(default=None, help="What is new.")
    type: Literal["function"] | None = field(default=None, help="In the first chunk of a call.")
