"""Tool calls and reasoning in a model's own words: how families write them, and how their text is read while it comes.

`service.chat` calls it. `formats` is the table of families, `readers` reads each form, `forced` says as a grammar what a
call must look like, `prompt` tells a model of tools whose template does not. Text in, values out: nothing here knows of
HTTP, engines or tokens.
"""

from __future__ import annotations

from .events import Arguments, Call, Event, Reasoning, Text
from .forced import calls_grammar, guide_behind
from .formats import REASONING, TOOL_FORMATS, ChatForm, ToolFormat, form_of, marks_of
from .parser import AnswerParser
from .prompt import tell_in_prompt

__all__ = [
    "REASONING",
    "TOOL_FORMATS",
    "AnswerParser",
    "Arguments",
    "Call",
    "ChatForm",
    "Event",
    "Reasoning",
    "Text",
    "ToolFormat",
    "calls_grammar",
    "form_of",
    "guide_behind",
    "marks_of",
    "tell_in_prompt",
]
