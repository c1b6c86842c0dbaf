"""Tools for models whose chat template knows none: a system message tells of them, calls and their results become text.

Called by `service.chat` before a conversation is rendered. Such a model was not trained on this; with `tool_choice` required
or named, its answer is held to the form all the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .formats import ToolFormat

Message = dict[str, Any]

TOLD = """You may call functions. Their signatures, as JSON:
<tools>
{tools}
</tools>

Call one by writing, with its name and arguments:
{example}"""
RESULT = "<tool_response>\n{content}\n</tool_response>"


def tell_in_prompt(
    form: ToolFormat, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None
) -> list[Message]:
    """The conversation with its tools, calls and results as plain text.

    Args:
        messages: as templates take them; arguments of calls as objects.
        tools: None where the model is to know of none now; earlier calls and results are written out all the same.
    """
    made = [_plain(form, message) for message in messages]
    if not tools:
        return made
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    example = write_calls(form, [{"function": {"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}}])
    told = TOLD.format(tools=listed, example=example)
    if made and made[0]["role"] == "system":
        return [{**made[0], "content": f"{made[0]['content']}\n\n{told}"}, *made[1:]]
    return [{"role": "system", "content": told}, *made]


def write_calls(form: ToolFormat, calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls as the model would write them."""
    written = [
        form.opening(call["function"]["name"]) + _arguments(form, call["function"]["arguments"]) + form.after
        for call in calls
    ]
    return form.begin + (form.between or "\n").join(written) + form.end


def _arguments(form: ToolFormat, given: Mapping[str, Any]) -> str:
    if not form.spelled_out:
        return json.dumps(given, ensure_ascii=False)
    texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in given.items()}
    return "\n".join(f"<parameter={key}>\n{text}\n</parameter>" for key, text in texts.items())


def _plain(form: ToolFormat, message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": RESULT.format(content=message["content"])}
    if calls := message.get("tool_calls"):
        text = "\n".join(filter(None, (message["content"], write_calls(form, calls))))
        return {"role": "assistant", "content": text}
    return message
