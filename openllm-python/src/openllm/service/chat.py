"""A chat request's tools, reasoning and form: what the model is told, what its answer must be, how it is read.

`Service.chat_stream` calls `Talk.of`, renders `messages` with `variables`, and asks the rest of the prompt that came of it.
Knows of requests and of `openllm.tools`; nothing of engines or HTTP.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import attrs

from openllm.tools import (
    AnswerParser,
    Arguments,
    Call,
    ChatForm,
    Event,
    Reasoning,
    calls_grammar,
    guide_behind,
    marks_of,
    tell_in_prompt,
)
from openllm_core.config.guide import Guide
from openllm_core.errors import InvalidRequest
from openllm_core.schema import CallDelta, ChatCompletionRequest, Delta, LogprobEntry, Tool
from openllm_core.serde import unstructure

from .requests import plain_messages

NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
THINK = "<think>"
_SHORT_ID = string.ascii_letters + string.digits


@attrs.frozen(kw_only=True)
class Talk:
    """One chat request, as far as tools and reasoning go.

    Attributes:
        form: how the model speaks.
        messages: as its template takes them.
        tools: that it is told of.
        callable: of those, the ones that `tool_choice` leaves.
        must_call: whether a call must come.
        several: whether an answer may hold more than one.
    """

    form: ChatForm
    messages: list[dict[str, Any]]
    tools: list[Tool]
    callable: list[Tool]
    must_call: bool
    several: bool

    @classmethod
    def of(cls, request: ChatCompletionRequest, form: ChatForm) -> Talk:
        """Read a request.

        Raises:
            InvalidRequest, UnsupportedFeature: a message, a tool or `tool_choice` is not as it must be; `param` names it.
        """
        _check_tools(request.tools or [])
        tools, named = _chosen(request)
        callable_ = [tool for tool in tools if named in (None, tool.function.name)]
        messages = plain_messages(request.messages)
        if not form.knows_tools:
            messages = tell_in_prompt(form.tools, messages, [_plain(tool) for tool in tools])
        return cls(
            form=form,
            messages=messages,
            tools=tools,
            callable=callable_,
            must_call=bool(tools) and (named is not None or request.tool_choice == "required"),
            several=request.parallel_tool_calls is not False and named is None,
        )

    @property
    def variables(self) -> dict[str, Any]:
        """What the template gets besides the messages."""
        return {"tools": [_plain(tool) for tool in self.tools]} if self.tools and self.form.knows_tools else {}

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts of tokens that must be seen to read the answer."""
        return marks_of(self.form) if self.is_read else ()

    @property
    def is_read(self) -> bool:
        """Whether the answer holds more than text."""
        return bool(self.tools) or self.form.reads_all

    def guide(self, asked: Guide | None, prompt: str) -> Guide | None:
        """What the answer must be.

        Args:
            asked: of `response_format` and its like.

        Raises:
            InvalidRequest: a call must come, and a form is asked for as well.
        """
        if self.must_call and asked is not None:
            raise InvalidRequest(
                f"{asked.param} and a tool_choice that demands a call exclude each other.", param=asked.param
            )
        opened = self._opened(prompt)
        if self.tools and (self.must_call or asked is not None):
            described = [(tool.function.name, tool.function.parameters) for tool in self.callable]
            part = calls_grammar(self.form, described, several=self.several, instead=asked)
            return guide_behind(part, opened=opened, param="tools" if asked is None else asked.param)
        return None if asked is None else guide_behind(asked, opened=opened, param=asked.param)

    def readers(self, prompt: str, count: int) -> list[AnswerReader] | None:
        """One for each choice; None where an answer is text and nothing else."""
        if not self.is_read:
            return None
        tools = {tool.function.name: tool.function.parameters for tool in self.tools} if self.tools else None
        opened = self._opened(prompt)
        return [
            AnswerReader(AnswerParser(self.form, tools, opened=opened), short_ids=self.form.tools.short_ids)
            for _ in range(count)
        ]

    def _opened(self, prompt: str) -> bool:
        return self.form.reasoning is not None and prompt.rstrip().endswith(THINK)


class AnswerReader:
    """Turns the deltas of one choice into such that tell text, reasoning and calls apart."""

    def __init__(self, parser: AnswerParser, *, short_ids: bool = False) -> None:
        self._parser = parser
        self._short_ids = short_ids
        self._calls = 0
        self._ids: list[int] = []
        self._logprobs: list[LogprobEntry] | None = None

    def read(self, delta: Delta) -> Delta | None:
        """What a delta holds, with what was held back before; None where it holds nothing yet."""
        events = self._parser.push(delta.text)
        if delta.finish_reason is not None:
            events += self._parser.close()
        self._ids += delta.token_ids
        if delta.logprobs is not None:
            self._logprobs = (self._logprobs or []) + delta.logprobs
        if not events and delta.finish_reason is None:
            return None
        made = Delta(delta.index, "", self._ids, delta.finish_reason, self._logprobs, delta.stop_reason)
        self._ids, self._logprobs = [], None
        for event in events:
            self._add(made, event)
        if made.finish_reason == "stop" and self._calls:
            made.finish_reason = "tool_calls"
        return made

    def _add(self, made: Delta, event: Event) -> None:
        if isinstance(event, Call):
            made.calls = [*(made.calls or []), CallDelta(self._calls, self._new_id(), event.name)]
            self._calls += 1
        elif isinstance(event, Arguments):
            index = self._calls - 1
            if made.calls and made.calls[-1].index == index:
                made.calls[-1].arguments += event.text
            else:
                made.calls = [*(made.calls or []), CallDelta(index, arguments=event.text)]
        elif isinstance(event, Reasoning):
            made.reasoning = (made.reasoning or "") + event.text
        else:
            made.text += event.text

    def _new_id(self) -> str:
        if self._short_ids:
            return "".join(secrets.choice(_SHORT_ID) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"


class ReadDeltas:
    """The deltas of a request, read: an async iterator as the stream itself is."""

    def __init__(self, deltas: AsyncIterator[Delta], readers: Sequence[AnswerReader]) -> None:
        self._deltas = deltas
        self._readers = readers

    def __aiter__(self) -> ReadDeltas:
        return self

    async def __anext__(self) -> Delta:
        while True:
            delta = await anext(self._deltas)
            read = self._readers[delta.index].read(delta)
            if read is not None:
                return read


# -- tools of a request -----------------------------------------------------------------------------------------------


def _check_tools(tools: Sequence[Tool]) -> None:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        path, name = f"tools[{index}].function.name", tool.function.name
        if not NAME.fullmatch(name):
            raise InvalidRequest(
                f"{path} must hold letters, digits, '_', '-' and '.' alone.", param=path, code="invalid_value"
            )
        if name in names:
            raise InvalidRequest(f"{path}: there are two tools {name!r}.", param=path, code="invalid_value")
        names.add(name)


def _chosen(request: ChatCompletionRequest) -> tuple[list[Tool], str | None]:
    """The tools that count, and the one that must be called where `tool_choice` names one."""
    tools, choice = request.tools or [], request.tool_choice
    if isinstance(choice, dict):
        name = _named(choice)
        if name not in {tool.function.name for tool in tools}:
            raise InvalidRequest(
                f"tool_choice.function.name: there is no tool {name[:64]!r}.",
                param="tool_choice.function.name",
                code="invalid_value",
            )
        return list(tools), name
    if choice not in (None, "none", "auto", "required"):
        raise InvalidRequest(
            "tool_choice must be none, auto, required or a function.", param="tool_choice", code="invalid_value"
        )
    if choice == "required" and not tools:
        raise InvalidRequest("tool_choice: required needs tools.", param="tool_choice", code="invalid_value")
    return ([] if choice == "none" else list(tools)), None


def _named(choice: dict[str, Any]) -> str:
    function: Any = choice.get("function")
    name: Any = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
    if choice.get("type") != "function" or not isinstance(name, str):
        raise InvalidRequest(
            'tool_choice must be {"type": "function", "function": {"name": …}}.',
            param="tool_choice",
            code="invalid_value",
        )
    return name


def _plain(tool: Tool) -> dict[str, Any]:
    """A tool as templates know it."""
    function = unstructure(tool.function, omit_none=True)
    function.setdefault("parameters", {"type": "object", "properties": {}})
    function.pop("strict", None)
    return {"type": "function", "function": function}
