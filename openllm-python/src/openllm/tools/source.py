"""Text that arrives in pieces, for readers written as if all of it were there.

A reader is a generator that yields whenever it needs more text. What it finds goes to `Source.found`; where a piece ends
never changes what is found, only when. `readers` is written in terms of these.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from .events import Event

T = TypeVar("T")

Reader = Generator[None, None, T]
"""Yields to wait for more text, returns what it was asked for."""


class Source:
    """The text of one answer.

    Attributes:
        text: come and not read yet.
        closed: nothing follows.
        found: what readers made of it; the parser takes it away.
        tools: that may be called: of each name, the JSON schema of its arguments.
        kept: what was taken since `keep`, for a reader that may have to give it back; None where nobody asked.
    """

    __slots__ = ("closed", "found", "kept", "text", "tools")

    def __init__(self, tools: Mapping[str, Mapping[str, Any] | None]) -> None:
        self.text = ""
        self.closed = False
        self.found: list[Event] = []
        self.tools = tools
        self.kept: list[str] | None = None

    def take(self, count: int) -> str:
        """The next characters, which are read with that."""
        piece, self.text = self.text[:count], self.text[count:]
        if self.kept is not None:
            self.kept.append(piece)
        return piece

    def keep(self, given: str = "") -> None:
        """Remember what is taken from here on, `given` before it."""
        self.kept = [given]

    def forget(self) -> str:
        """Remember no more; what was taken since `keep`."""
        kept, self.kept = "".join(self.kept or ()), None
        return kept

    def peek(self) -> Reader[str]:
        """The next character that is no white space, not read with that; "" at the end. The space before it is read."""
        while True:
            stripped = self.text.lstrip()
            self.take(len(self.text) - len(stripped))
            if stripped or self.closed:
                return stripped[:1]
            yield

    def starts(self, mark: str) -> Reader[bool]:
        """Whether the mark comes next; it is read if so."""
        while len(self.text) < len(mark) and mark.startswith(self.text) and not self.closed:
            yield
        if not self.text.startswith(mark):
            return False
        self.take(len(mark))
        return True

    def before(self, mark: str) -> Reader[str]:
        """Text before a mark, which is left to read; all of it where there is none."""
        seen = 0
        while True:
            at = self.text.find(mark, max(0, seen - len(mark)))
            if at >= 0 or self.closed:
                return self.take(at if at >= 0 else len(self.text))
            seen = len(self.text)
            yield

    def up_to(self, mark: str) -> Reader[str]:
        """Text before a mark, which is read too; all of it where there is none."""
        before = yield from self.before(mark)
        self.take(len(mark))
        return before

    def pass_up_to(self, marks: Sequence[str], make: Callable[[str], Event]) -> Reader[str | None]:
        """Hand on text as it comes, up to the first of some marks, which is read too; white space before it is not
        handed on.

        Returns:
            The mark; None at the end.
        """
        while True:
            text = self.text
            places = [(at, mark) for mark in marks if (at := text.find(mark)) >= 0]
            if places:
                at, mark = min(places)
                self._hand_on(self.take(at).rstrip(), make)
                self.take(len(mark))
                return mark
            if self.closed:
                self._hand_on(self.take(len(text)), make)
                return None
            sure = len(text) - max((_begun(text, mark) for mark in marks), default=0)
            self._hand_on(self.take(len(text[:sure].rstrip())), make)
            yield

    def pass_rest(self, make: Callable[[str], Event]) -> Reader[None]:
        """Hand on everything."""
        while True:
            self._hand_on(self.take(len(self.text)), make)
            if self.closed:
                return
            yield

    def pass_json(self, take: Callable[[str], object]) -> Reader[bool]:
        """Hand on one JSON value as it comes, character by character as it is written.

        Returns:
            Whether it came to its end.
        """
        scan = _JsonEnd()
        while True:
            end = scan.find(self.text)
            piece = self.take(len(self.text) if end is None else end)
            if piece:
                take(piece)
            if end is not None or self.closed:
                return end is not None
            yield

    def _hand_on(self, text: str, make: Callable[[str], Event]) -> None:
        if text:
            self.found.append(make(text))


def _begun(text: str, mark: str) -> int:
    """Length of the longest end of the text that is a beginning of the mark."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


class _JsonEnd:
    """Finds where a JSON value ends by its brackets and quotes alone."""

    __slots__ = ("_begun", "_depth", "_escaped", "_quoted")

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = self._begun = False

    def find(self, text: str) -> int | None:
        """The place behind the value in text that follows what was given before; None where it goes on."""
        for place, char in enumerate(text):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._quoted = False
                    if not self._depth:
                        return place + 1
            elif char == '"':
                self._quoted = self._begun = True
            elif char in "{[":
                self._depth, self._begun = self._depth + 1, True
            elif char in "}]":
                self._depth -= 1
                if self._depth < 0:
                    return place  # the bracket of what the value stands in
                if not self._depth:
                    return place + 1
            elif not self._depth and self._begun and (char == "," or char.isspace()):
                return place  # behind a number, true, false or null
            elif not char.isspace():
                self._begun = True
        return None
