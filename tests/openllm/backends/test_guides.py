"""Guides are compiled beside one another: one that takes for ever costs its own request, and later its own thread alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from openllm.backends import guides
from openllm.backends.base import TokenGuide
from openllm.backends.guides import GuideCompiler
from openllm_core.errors import InvalidRequest, Overloaded


class Scripted:
    """A compiler whose guides named "slow…" take until they are let go; it counts what it was asked."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked: list[str] = []

    def __call__(self, guide: TokenGuide) -> None:
        value = str(guide.value)
        self.asked.append(value)
        if value.startswith("slow"):
            self.go_on.wait(30)
        if value.startswith("bad"):
            raise InvalidRequest("response_format: no such word", param=guide.param)


def regex(text: str) -> TokenGuide:
    return TokenGuide("regex", text)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    monkeypatch.setattr(guides, "LIMIT_S", 0.1)
    monkeypatch.setattr(guides, "WAIT_S", 0.2)
    compiler = Scripted()
    yield compiler
    compiler.go_on.set()


async def test_a_slow_guide_delays_no_other(scripted: Scripted) -> None:
    """A good one passes and a bad one is refused while it is still being compiled; the slow one is refused in time."""
    found = GuideCompiler(scripted)
    slow = asyncio.create_task(found.check(regex("slow")))
    while "slow" not in scripted.asked:
        await asyncio.sleep(0.001)
    await found.check(regex("good"))
    with pytest.raises(InvalidRequest, match="no such word"):
        await found.check(regex("bad"))
    with pytest.raises(InvalidRequest, match="longer than") as caught:
        await slow
    assert caught.value.param == "response_format" and caught.value.retry_after_s
    found.close()


async def test_one_that_took_too_long_may_be_asked_for_again(scripted: Scripted) -> None:
    """It goes on and is not begun twice; once it is compiled, it passes."""
    found = GuideCompiler(scripted)
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="longer than"):
            await found.check(regex("slow"))
    assert scripted.asked.count("slow") == 1
    scripted.go_on.set()
    await found.check(regex("slow"))
    found.close()


async def test_when_every_thread_is_taken_the_next_is_told_to_come_back(scripted: Scripted) -> None:
    """No request is blamed for what others sent; and all is well again when one of those ends."""
    found = GuideCompiler(scripted)
    slow = [found.check(regex(f"slow {number}")) for number in range(guides.THREADS)]
    assert all(isinstance(error, InvalidRequest) for error in await asyncio.gather(*slow, return_exceptions=True))
    with pytest.raises(Overloaded):
        await found.check(regex("good"))
    assert "good" not in scripted.asked
    scripted.go_on.set()
    await found.check(regex("good"))
    found.close()


async def test_a_guide_waits_for_a_thread_without_losing_time(scripted: Scripted) -> None:
    """Its own limit counts from when it is begun: many good ones at once all pass."""
    found = GuideCompiler(scripted)
    await asyncio.gather(*(found.check(regex(f"good {number}")) for number in range(50)))
    found.close()


async def test_tables_that_the_first_guide_makes_are_not_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long they take, the first guide is not refused for it."""
    monkeypatch.setattr(guides, "LIMIT_S", 0.05)
    made = threading.Event()

    def compile_guide(guide: TokenGuide) -> None:
        if not made.is_set():
            threading.Event().wait(0.2)
            made.set()

    found = GuideCompiler(compile_guide)
    await asyncio.gather(found.check(regex("one")), found.check(regex("two")))
    found.close()
