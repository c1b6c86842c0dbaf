"""The checker of histories finds what it is for: a mistake planted in a sound history, of each kind."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from tests.enumerate.history import Call, Switch, anomalies

EXPECTED = {"poet": "Roses are red", "cook": "Salt and pepper"}


def call(number: int, **changes: object) -> Call:
    """A sound call of the base: begun at `number`, answered half a second later."""
    marker = f"<{number:012x}>"
    text = f"say {marker} again"
    sound = Call(
        marker=marker,
        expected={None: text, **EXPECTED},
        began=float(number),
        answered=number + 0.5,
        ended=number + 0.9,
        text=text,
        finish="stop",
        done=True,
        ends=["finished"],
    )
    return attrs.evolve(sound, **changes)


def by_default(number: int, adapter: str | None) -> Call:
    """A sound call that left the adapter to the server."""
    made = call(number)
    return attrs.evolve(made, names_default=True, adapter=adapter, text=made.expected[adapter])


SWITCHES = [Switch(adapter="poet", began=10, ended=11), Switch(adapter="cook", began=20, ended=21)]


def sound() -> list[Call]:
    """A history without a fault, with every way of ending."""
    return [
        call(1),
        call(2, text="say <0000000000", finish=None, done=False, ends=["cut"], cuttable=True),
        call(3, text="", finish=None, done=False, ends=["refused"], code="server_is_overloaded", answered=None),
        call(4, text="say ", finish=None, done=False, ends=["error"], code="engine_unavailable"),
        call(5, text="say", finish="length"),
        call(6, asked="poet", adapter="poet", text="Roses are red"),
        call(7, text="", finish=None, done=False, ends=["left"], answered=None),
        by_default(8, None),
        by_default(10, None),  # during the switch: the old one
        by_default(12, "poet"),
        by_default(20, "cook"),  # during the switch: the new one
        by_default(22, "cook"),
    ]


def test_a_sound_history_has_no_fault():
    """Every end that may be is let through."""
    assert anomalies(sound(), SWITCHES) == []


FAULTS: dict[str, Callable[[Call], Call]] = {
    "cross-talk": lambda c: attrs.evolve(c, text="say <0000000000ff> again"),
    "its text is": lambda c: attrs.evolve(c, text=c.text[:-1]),
    "is not how": lambda c: attrs.evolve(c, text="sax", finish="length"),
    "ended 2 times": lambda c: attrs.evolve(c, ends=["finished", "error"]),
    "ended 0 times": lambda c: attrs.evolve(c, ends=[]),
    "[DONE] came": lambda c: attrs.evolve(c, ends=["error"], code="engine_unavailable"),
    "[DONE] did not come": lambda c: attrs.evolve(c, done=False),
    "finished for the reason": lambda c: attrs.evolve(c, finish=None),
    "nobody had cut it": lambda c: attrs.evolve(c, finish=None, done=False, ends=["cut"]),
    "without a code": lambda c: attrs.evolve(c, ends=["error"], done=False),
    "text came with a refusal": lambda c: attrs.evolve(c, ends=["refused"], done=False, code="x"),
    "pieces came after": lambda c: attrs.evolve(c, events_after=1),
    "poet answered, cook was asked": lambda c: attrs.evolve(c, asked="cook", adapter="poet", text="Roses are red"),
    "there is not": lambda c: attrs.evolve(c, adapter="nobody"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str):
    """One call goes wrong among sound ones; it alone is named, and how."""
    calls = [FAULTS[fault](call(1)), *sound()[1:]]
    found = anomalies(calls, SWITCHES)
    assert len(found) == 1 and found[0].startswith("<000000000001>") and fault in found[0], found


@pytest.mark.parametrize(
    ("number", "adapter"),
    [(9, "poet"), (9, "cook"), (12, None), (12, "cook"), (22, "poet"), (22, None)],
    ids=["too early", "much too early", "gone", "not yet", "gone again", "long gone"],
)
def test_a_default_out_of_its_time_is_found(number: int, adapter: str | None):
    """A request cannot get a default that was gone before it came, nor one that came after its answer."""
    found = anomalies([*sound(), by_default(number, adapter)], SWITCHES)
    assert len(found) == 1 and "not in force" in found[0], found


def test_a_default_that_goes_back_is_found():
    """While a switch is under way either may be had; but who comes after one who got the new one gets the new one."""
    slow = [Switch(adapter="poet", began=1, ended=9)]
    assert anomalies([by_default(2, None), by_default(4, "poet")], slow) == []
    found = anomalies([by_default(2, "poet"), by_default(4, None)], slow)
    assert len(found) == 1 and "went back" in found[0]


def test_switches_at_once_may_take_effect_in_either_order():
    """Two operators at the same time: whichever was last, but no third one."""
    both = [Switch(adapter="poet", began=1, ended=5), Switch(adapter="cook", began=2, ended=4)]
    for adapter in EXPECTED:
        assert anomalies([by_default(6, adapter)], both) == []
    assert len(anomalies([by_default(6, None)], both)) == 1
