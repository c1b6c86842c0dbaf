"""What many clients saw of one server, and the rules that no such history may break. Pure: no server, no clock.

Every prompt carries a marker of its own, and echo repeats its prompt: so a text that holds another marker came from another
request. `anomalies` is the checker; `drive.py` makes real histories, and `test_history.py` plants mistakes in made-up ones.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import attrs

MARKER = re.compile(r"<[0-9a-f]{12}>")

End = Literal["finished", "error", "refused", "cut", "left"]
"""How a request ended for its client: whole, with an error of the server after it began, with a status, with a broken
connection, or because the client left itself."""


@attrs.define(kw_only=True)
class Call:
    """One request, as its client saw it.

    Attributes:
        marker: in its prompt, and in no other.
        expected: adapter -> the whole text that it answers; None is the base, which repeats the prompt.
        asked: adapter that was named; None where the server's default counts.
        began, ended: seconds, by one clock for all.
        answered: when the adapter was known to the client; None where it never was.
        adapter: that answered, by its own word.
        text: all that came.
        finish: reason of the last piece.
        ends: every end that the client saw: exactly one is right.
        code: of a refusal or an error.
        events_after: pieces that came after an end.
        cuttable: whether something between client and server breaks connections.
    """

    marker: str
    expected: Mapping[str | None, str]
    asked: str | None = None
    names_default: bool = False
    began: float = 0.0
    ended: float = 0.0
    answered: float | None = None
    adapter: str | None = None
    text: str = ""
    finish: str | None = None
    done: bool = False
    ends: list[End] = attrs.Factory(list[End])
    code: str | None = None
    events_after: int = 0
    cuttable: bool = False


@attrs.frozen(kw_only=True)
class Switch:
    """A change of the default adapter.

    Attributes:
        ended: when it was acknowledged.
    """

    adapter: str | None
    began: float
    ended: float


def anomalies(calls: Sequence[Call], switches: Sequence[Switch], first: str | None = None) -> list[str]:
    """Whatever is wrong with a history; empty when nothing.

    Args:
        switches: of the default adapter.
        first: the default before the first of them.
    """
    found = [f"{call.marker}: {fault}" for call in calls for fault in _faults_of(call)]
    return found + list(_out_of_order(calls, switches, first))


def _faults_of(call: Call) -> Iterator[str]:
    """What one client can say by itself."""
    foreign = {marker for marker in MARKER.findall(call.text) if marker != call.marker}
    if foreign:
        yield f"cross-talk: it got {sorted(foreign)}"
        return
    if len(call.ends) != 1:
        yield f"it ended {len(call.ends)} times: {call.ends}"
        return
    end = call.ends[0]
    if call.events_after:
        yield f"{call.events_after} pieces came after its end"
    if call.done != (end == "finished"):
        yield f"[DONE] {'came' if call.done else 'did not come'}, and it ended as {end}"
    if end == "finished" and call.finish not in ("stop", "length"):
        yield f"finished for the reason {call.finish!r}"
    if end == "cut" and not call.cuttable:
        yield "its connection broke, and nobody had cut it"
    if end in ("error", "refused") and not call.code:
        yield f"{end} without a code"
    if end == "refused" and call.text:
        yield "text came with a refusal"
    if call.asked is not None and call.answered is not None and call.adapter != call.asked:
        yield f"{call.adapter} answered, {call.asked} was asked"
    if not call.text and end != "finished":
        return
    whole = call.expected.get(call.adapter)
    if whole is None:
        yield f"an adapter answered that there is not: {call.adapter}"
    elif end == "finished" and call.finish == "stop" and call.text != whole:
        yield f"its text is {call.text!r}, not {whole!r}"
    elif not whole.startswith(call.text):
        yield f"its text {call.text!r} is not how {whole!r} begins"


def _out_of_order(calls: Sequence[Call], switches: Sequence[Switch], first: str | None) -> Iterator[str]:
    """Defaults that no order of the switches explains: one that was gone already, not there yet, or gone and back.

    A switch takes effect at some moment between its beginning and its acknowledgement, a request is admitted at some moment
    between its own beginning and its answer's: the history of one register.
    """
    register = _Register([Switch(adapter=first, began=float("-inf"), ended=float("-inf")), *switches])
    reads = [call for call in calls if call.names_default and call.answered is not None]
    explained: list[tuple[Call, float, float]] = []  # the earliest and the latest moment that its default may stem from
    for call in reads:
        possible = register.explaining(call)
        if possible:
            explained.append((call, min(w.began for w in possible), max(w.ended for w in possible)))
        else:
            yield f"{call.marker}: the default {call.adapter} was not in force at any moment of the request"
    by_answer = sorted(explained, key=lambda item: item[0].answered or 0.0)
    read, newest, place = None, float("-inf"), 0
    for call, _, latest in sorted(explained, key=lambda item: item[0].began):
        while place < len(by_answer) and (by_answer[place][0].answered or 0.0) < call.began:
            if by_answer[place][1] > newest:
                read, newest = by_answer[place][0], by_answer[place][1]
            place += 1
        if read is not None and latest < newest:
            yield f"{call.marker}: the default went back to {call.adapter}, after {read.marker} had got {read.adapter}"


class _Register:
    """The switches in order, for quick answers about a moment."""

    def __init__(self, writes: Sequence[Switch]) -> None:
        self._writes = sorted(writes, key=lambda w: w.began)
        self._begins = [w.began for w in self._writes]
        by_end = sorted(writes, key=lambda w: w.ended)
        self._ends = [w.ended for w in by_end]
        self._newest = list(accumulate((w.began for w in by_end), max))  # beginning of the newest that ended by then
        self._longest = max((w.ended - w.began for w in writes if w.began > float("-inf")), default=0.0)

    def explaining(self, call: Call) -> list[Switch]:
        """The switches whose adapter a request may have got: begun before its answer, not overwritten before it began."""
        settled = self._newest[bisect_left(self._ends, call.began) - 1]
        found: list[Switch] = []
        for place in range(bisect_right(self._begins, call.answered or 0.0) - 1, -1, -1):
            write = self._writes[place]
            if write.began < settled - self._longest:
                break
            if write.adapter == call.adapter and write.ended >= settled:
                found.append(write)
        return found


def summary(calls: Sequence[Call], switches: Sequence[Switch]) -> dict[str, Any]:
    """Counts of a history."""
    ends = [call.ends[0] if len(call.ends) == 1 else "not once" for call in calls]
    codes = sorted({call.code for call in calls if call.code})
    return {
        "calls": len(calls),
        "switches": len(switches),
        "ends": {end: ends.count(end) for end in sorted(set(ends))},
        "codes": {code: sum(call.code == code for call in calls) for code in codes},
        "adapters": {str(name): sum(c.adapter == name for c in calls) for name in {c.adapter for c in calls}},
    }
