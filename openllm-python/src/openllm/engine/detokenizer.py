"""Text of one running sequence: ids in, text that may be sent out, cut before the first stop string.

One `TextStream` per sequence, driven by the engine. Stop strings are matched on text, whatever the token borders: what
comes out does not depend on how the text was split into tokens. It must not know of backends or HTTP.
"""

from __future__ import annotations

from ..tokenizer import Detokenizer


class StopMatcher:
    """Finds the stop string whose last character comes first, in text that arrives in pieces.

    If two end at the same character the longer one wins. Text that may still become a stop string is held back, and
    nothing else is. Each stop string is followed by its Knuth-Morris-Pratt automaton, so the work is linear in the text.
    """

    __slots__ = ("_firsts", "_held", "_idle", "_states", "_stops", "_tables")

    def __init__(self, stops: tuple[str, ...]) -> None:
        """Args:
        stops: non-empty strings.
        """
        self._stops = sorted(set(stops), key=len, reverse=True)
        self._tables = [_failure_table(stop) for stop in self._stops]
        self._states = [0] * len(self._stops)
        self._firsts = frozenset(stop[0] for stop in self._stops)
        self._idle = True  # no automaton has begun a match
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Take new text; return (text that may be sent, the stop string that was completed or None)."""
        if self._idle and self._firsts.isdisjoint(text):
            return text, None
        best_end, best = len(text) + 1, -1
        for index, stop in enumerate(self._stops):  # longest first, so an equal end keeps the longer one
            end = self._advance(index, stop, text)
            if end is not None and end < best_end:
                best_end, best = end, index
        buffer = self._held + text
        if best >= 0:
            stop = self._stops[best]
            cut = len(self._held) + best_end - len(stop)
            self._held = ""
            return buffer[:cut], stop
        hold = max(self._states)
        self._idle = hold == 0
        sent = len(buffer) - hold
        self._held = buffer[sent:]
        return buffer[:sent], None

    def flush(self) -> str:
        """The text held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held

    def _advance(self, index: int, stop: str, text: str) -> int | None:
        """Run one automaton over `text`; the end of its first match within `text`, else None."""
        state = self._states[index]
        if state == 0 and stop[0] not in text:
            return None
        table = self._tables[index]
        for position, char in enumerate(text):
            while state and char != stop[state]:
                state = table[state - 1]
            if char == stop[state]:
                state += 1
                if state == len(stop):
                    self._states[index] = 0
                    return position + 1
        self._states[index] = state
        return None


def _failure_table(pattern: str) -> list[int]:
    """table[i] = length of the longest proper prefix of pattern[: i + 1] that is also its suffix."""
    table = [0] * len(pattern)
    length = 0
    for index in range(1, len(pattern)):
        while length and pattern[index] != pattern[length]:
            length = table[length - 1]
        if pattern[index] == pattern[length]:
            length += 1
        table[index] = length
    return table


class TextStream:
    """One sequence's text: detokeniser and stop strings together.

    Attributes:
        stop: the stop string that ended the text, once one did.
        searches: a token can end the text by a stop string, so that tokens must be looked at one by one.
    """

    __slots__ = ("_count", "_matcher", "_min_tokens", "_push", "_rest", "searches", "stop")

    def __init__(self, detokenizer: Detokenizer, stops: tuple[str, ...], min_tokens: int = 0) -> None:
        """Args:
        stops: empty ones are ignored.
        min_tokens: text of the first so many tokens is not searched for stop strings.
        """
        stops = tuple(stop for stop in stops if stop)
        self._push, self._rest = detokenizer.push, detokenizer.flush
        self.searches = bool(stops)
        self._matcher = StopMatcher(stops) if stops else None
        self._min_tokens = min_tokens
        self._count = 0
        self.stop: str | None = None

    def push(self, ids: list[int]) -> str:
        """Text to send after these tokens; once `stop` is set the text is complete."""
        text = self._push(ids)
        if self._matcher is None:
            return text
        self._count += len(ids)
        if self._count <= self._min_tokens:
            return text
        text, self.stop = self._matcher.push(text)
        return text

    def flush(self) -> str:
        """What was held back, when the sequence ended by itself; a stop string may still be found in it."""
        text = self._rest()
        if self._matcher is None or self.stop is not None:
            return "" if self.stop is not None else text
        text, self.stop = self._matcher.push(text)
        return text if self.stop is not None else text + self._matcher.flush()
