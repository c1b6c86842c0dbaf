"""AnswerParser: one choice's text in, in any pieces; text, reasoning and calls out.

Made by `service.chat` for each choice of a chat whose model reasons or was given tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .events import Event, Text
from .formats import ChatForm
from .source import Reader, Source


class AnswerParser:
    """Reads one answer.

    Args:
        form: how the model writes reasoning and calls.
        tools: that may be called: of each name, the JSON schema of its arguments, None for none. None where there are
            no tools, and what looks like a call is text.
        opened: the prompt ends within the model's reasoning.
    """

    def __init__(
        self, form: ChatForm, tools: Mapping[str, Mapping[str, Any] | None] | None, *, opened: bool = False
    ) -> None:
        self._source = Source(tools or {})
        self._reader: Reader[None] | None = _reading(self._source, form, tools is not None, opened)

    def push(self, text: str) -> list[Event]:
        """What new text made certain."""
        self._source.text += text
        return self._go_on() if text else []

    def close(self) -> list[Event]:
        """What was held back, now that nothing follows."""
        self._source.closed = True
        return self._go_on()

    def _go_on(self) -> list[Event]:
        source = self._source
        if self._reader is not None:
            try:
                next(self._reader)
            except StopIteration:
                self._reader = None
        if self._reader is None and source.text:  # behind the last call: models repeat themselves or close marks twice
            source.found.append(Text(source.take(len(source.text))))
        found, source.found = source.found, []
        return found


def _reading(source: Source, form: ChatForm, calls: bool, opened: bool) -> Reader[None]:
    if form.reasoning is not None:
        yield from form.reasoning(source, opened=opened)
    if form.channelled or calls:
        yield from form.tools.read(source)
    else:
        yield from source.pass_rest(Text)
