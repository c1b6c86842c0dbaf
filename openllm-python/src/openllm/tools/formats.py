"""The table of tool-call formats and of ways to mark reasoning, by the names that families and settings use.

A format is the texts around a call's name and arguments, and the reader that finds them again; the texts make the grammar of
a call that must come (`forced`) and show a call to models whose template knows none (`prompt`). Sources: the chat templates
that the models of each family carry, and for gpt-oss the harmony format's description.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from . import readers
from .source import Reader, Source


class ReadReasoning(Protocol):
    """Reads what stands before the answer."""

    def __call__(self, source: Source, *, opened: bool) -> Reader[None]:
        """`opened`: the prompt ends within it."""
        ...


@attrs.frozen(kw_only=True)
class ToolFormat:
    """How one family writes calls.

    Attributes:
        name: as settings and family files have it.
        read: finds the calls in a text.
        begin, end: around all calls of an answer.
        before, after: around one call's arguments; `{name}` in `before` is the function's.
        between: two calls; None where an answer holds one call at most.
        marks: tokens whose text must be seen, though tokenizers may call them special.
        spelled_out: arguments are written one by one between tags (`readers.spelled_out`), not as JSON.
        short_ids: ids of calls are nine letters and digits, as the templates of the family demand.
    """

    name: str
    read: Callable[[Source], Reader[None]]
    before: str
    after: str
    begin: str = ""
    end: str = ""
    between: str | None = "\n"
    marks: tuple[str, ...] = ()
    spelled_out: bool = False
    short_ids: bool = False

    def opening(self, name: str) -> str:
        """What stands before the arguments of a call to a function."""
        return self.before.replace("{name}", name)


@attrs.frozen(kw_only=True)
class ChatForm:
    """How one model speaks in a chat.

    Attributes:
        tools: its calls.
        reasoning: reads its reasoning; None where it has none of its own, or none that is to be told apart.
        channelled: reasoning, calls and text come in channels, so that every answer must be read by `tools`.
        knows_tools: its chat template takes tools.
    """

    tools: ToolFormat
    reasoning: ReadReasoning | None = None
    channelled: bool = False
    knows_tools: bool = True

    @property
    def reads_all(self) -> bool:
        """Whether every answer must be read, also where no tools were given."""
        return self.reasoning is not None or self.channelled


HERMES = ToolFormat(
    name="hermes",
    read=readers.tagged,
    before='<tool_call>\n{"name": "{name}", "arguments": ',
    after="}\n</tool_call>",
    marks=("<tool_call>", "</tool_call>"),
)
_FORMATS = (
    HERMES,
    attrs.evolve(HERMES, name="qwen"),
    attrs.evolve(
        HERMES,
        name="qwen3-coder",
        read=readers.spelled_out,
        before="<tool_call>\n<function={name}>\n",
        after="\n</function>\n</tool_call>",
        spelled_out=True,
    ),
    ToolFormat(
        name="llama3",
        read=readers.bare,
        before='{"name": "{name}", "parameters": ',
        after="}",
        between="; ",
        marks=("<|python_tag|>",),
    ),
    ToolFormat(
        name="mistral",
        read=readers.listed,
        begin="[TOOL_CALLS][",
        before='{"name": "{name}", "arguments": ',
        after="}",
        between=", ",
        end="]",
        marks=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
        short_ids=True,
    ),
    ToolFormat(
        name="deepseek",
        read=readers.deepseek,
        begin="<｜tool▁calls▁begin｜>",
        before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n",
        after="\n```<｜tool▁call▁end｜>",
        end="<｜tool▁calls▁end｜>",
        marks=(
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
        ),
    ),
    ToolFormat(
        name="gpt-oss",
        read=readers.channels,
        before="<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
        after="",
        between=None,
        marks=("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>"),
    ),
)
TOOL_FORMATS: dict[str, ToolFormat] = {found.name: found for found in _FORMATS}
REASONING: dict[str, ReadReasoning] = {"qwen": readers.think_tags, "deepseek": readers.think_tags}
"""gpt-oss is not among them: its channels hold reasoning and calls alike."""

CHANNELLED = "gpt-oss"
THINK_MARKS = (readers.THINK, readers.THINK_END)


def form_of(
    *, tools: str, reasoning: str, family_tools: str | None, family_reasoning: str | None, template: str | None
) -> ChatForm:
    """How a model speaks.

    Args:
        tools, reasoning: the settings: a name, `auto` for the family's, `none` (reasoning only).
        family_tools, family_reasoning: names of its family; None where that says nothing.
        template: its chat template; one that never speaks of tools is told of them in the system's message.
    """
    knows = template is not None and "tools" in template
    if tools == "auto":
        # The models of one family differ here: Qwen's coders, and Qwen 3.5 and later, spell arguments out.
        spelled = knows and template is not None and "<function=" in template and "<parameter=" in template
        tools = "qwen3-coder" if spelled else family_tools or HERMES.name
        if not knows and tools != CHANNELLED:
            tools = HERMES.name
    told = (family_reasoning or "none") if reasoning == "auto" else reasoning
    channelled = CHANNELLED in (tools, told)
    return ChatForm(
        tools=TOOL_FORMATS[CHANNELLED if channelled else tools],
        reasoning=REASONING.get(told),
        channelled=channelled,
        knows_tools=knows,
    )


def marks_of(form: ChatForm) -> tuple[str, ...]:
    """Texts of tokens that must be seen to read an answer."""
    return form.tools.marks + (THINK_MARKS if form.reasoning is not None else ())
