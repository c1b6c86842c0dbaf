"""What an answer must look like where calls must come, as a structural tag: fixed texts with schemas between them.

A structural tag is xgrammar's JSON form of a grammar (xgrammar 0.2, structural_tag.py); both backends take it. Called by
`service.chat`. The model's own form is kept, so that one reader reads calls that must come and calls that may.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from openllm_core.config.guide import Guide

from .formats import ChatForm
from .readers import THINK_END

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
Part = dict[str, Any]


def calls_grammar(
    form: ChatForm,
    tools: Sequence[tuple[str, Mapping[str, Any] | None]],
    *,
    several: bool,
    instead: Guide | None = None,
) -> Part:
    """One or more calls and nothing else.

    Args:
        tools: name and JSON schema of the arguments of each that may be called.
        several: whether there may be more than one call.
        instead: what the answer may be where no call is made; None where one must be.
    """
    written = form.tools
    tags = [
        {
            "type": "tag",
            "begin": written.opening(name),
            "content": {
                "type": "json_schema",
                "json_schema": dict(parameters) if parameters else NO_ARGUMENTS,
                **({"style": "qwen_xml"} if written.spelled_out else {}),
            },
            "end": written.after,
        }
        for name, parameters in tools
    ]
    calls: Part = {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": written.between or "\n",
        "at_least_one": True,
        "stop_after_first": written.between is None or not several,
    }
    parts = [_text(written.begin), calls, _text(written.end)]
    whole = _sequence([part for part in parts if part is not None])
    return whole if instead is None else {"type": "or", "elements": [whole, _guided(instead)]}


def guide_behind(part: Part | Guide, *, opened: bool, param: str) -> Guide:
    """The guide for an answer that must be a part.

    Args:
        opened: the prompt ends within the model's reasoning, which goes on freely and ends first.
        param: the request's field, for messages.
    """
    if isinstance(part, Guide):
        if not opened:
            return part
        part = _guided(part)
    if opened:
        free = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": THINK_END}
        part = _sequence([free, part])
    return Guide("structural_tag", json.dumps({"type": "structural_tag", "format": part}), param)


def _text(value: str) -> Part | None:
    return {"type": "const_string", "value": value} if value else None


def _sequence(parts: list[Part]) -> Part:
    return parts[0] if len(parts) == 1 else {"type": "sequence", "elements": parts}


def _guided(guide: Guide) -> Part:
    """A guide as a part of a larger one."""
    match guide.kind:
        case "json_object":
            return {"type": "json_schema", "json_schema": {"type": "object"}}
        case "json":
            return {"type": "json_schema", "json_schema": json.loads(str(guide.value))}
        case "regex":
            return {"type": "regex", "pattern": guide.value}
        case "grammar":
            return {"type": "grammar", "grammar": guide.value}
        case "choice":
            return {"type": "or", "elements": [{"type": "const_string", "value": text} for text in guide.value]}
        case "structural_tag":
            return json.loads(str(guide.value))["format"]
