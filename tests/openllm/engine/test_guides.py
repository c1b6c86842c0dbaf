"""Guides are judged before their request stands in line: at once while all slots are busy, once for each guide."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.engine.conftest import MakeEngine, request, text_of
from tests.tiny_adapters import blank_adapter

from openllm.backends.base import TokenGuide
from openllm.backends.echo.backend import EchoBackend
from openllm.engine import guides
from openllm.engine.channel import Answer, CheckGuide
from openllm.engine.engine import Engine
from openllm.engine.guides import Guides
from openllm.engine.questions import Questions
from openllm.engine.supervisor import launch_embedded
from openllm.tokenizer import byte_tokenizer
from openllm_core.config.guide import Guide
from openllm_core.errors import EngineError, EngineUnavailable, InvalidRequest, Overloaded
from openllm_core.options import EngineOptions

GOOD = Guide("choice", ("yes", "no"))
BAD = Guide("grammar", "root ::= (((", "guided_grammar")


async def test_a_guided_request_says_what_it_is_told_to(make_engine: MakeEngine) -> None:
    """The guide reaches the backend."""
    engine = await make_engine(guides=True)
    assert await text_of(engine, guide=GOOD, max_tokens=3) == "yes"


async def test_a_bad_guide_is_refused_while_every_slot_is_busy(make_engine: MakeEngine) -> None:
    """Within 100 ms, the field named, where a good request would wait; and even where the line is full."""
    engine = await make_engine(guides=True, slots=1, step_s=0.2, engine={"max_queue": 6})
    running = [asyncio.create_task(text_of(engine, "x" * 40)) for _ in range(7)]
    while len(engine.dispatcher.sequences) < 7:
        await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await engine.add(request(guide=GOOD))
    seconds: list[float] = []
    for number in range(5):  # each a new one: verdicts are kept
        began = time.monotonic()
        with pytest.raises(InvalidRequest) as caught:
            await engine.add(request(guide=Guide("grammar", f'root ::= "{number}" (((', "guided_grammar")))
        seconds.append(time.monotonic() - began)
        assert caught.value.param == "guided_grammar"
    assert min(seconds) < 0.1  # the quickest: others use this machine too
    assert len(engine.dispatcher.sequences) == 7
    for task in running:
        task.cancel()


async def test_a_check_that_breaks_is_told(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a backend raises over a guide fails that request alone, and at once; no verdict is kept."""

    async def broken(*_: Any) -> None:
        raise RuntimeError("no such compiler")

    engine = await make_engine(guides=True)
    monkeypatch.setattr(EchoBackend, "check_guide", broken)
    with pytest.raises(EngineError, match="no such compiler"):
        await asyncio.wait_for(engine.add(request(guide=GOOD)), 5)
    monkeypatch.undo()
    assert await text_of(engine, guide=GOOD, max_tokens=3) == "yes"


async def test_an_adapter_is_held_while_the_guide_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is replaced meanwhile stays until the request that was given it has ended."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*_: Any) -> None:
        began.set()
        await go_on.wait()

    monkeypatch.setattr(EchoBackend, "check_guide", slow)
    options = EngineOptions(backend="echo", max_adapters=1, engine_arg={"guides": True})
    engine = Engine(options, byte_tokenizer(), launch=launch_embedded)
    await engine.start()
    await engine.wait_ready(20)
    await engine.adapters.load("beta#1", str(blank_adapter(tmp_path / "beta")))
    asked = asyncio.create_task(text_of(engine, guide=GOOD, max_tokens=3, adapter="beta#1"))
    await began.wait()
    gone = asyncio.create_task(engine.adapters.unload("beta#1"))
    await asyncio.sleep(0.05)
    assert not gone.done()
    go_on.set()
    assert await asked == "yes"
    await gone
    assert not engine.adapters.present("beta#1")
    await engine.aclose()


async def test_each_guide_is_asked_for_once() -> None:
    """A verdict, good or bad, is kept; a bad one is a new error each time."""
    sent: list[Any] = []
    questions = Questions(sent.append)
    found = Guides(questions)
    good, bad = TokenGuide("choice", ["a"]), TokenGuide("regex", "([", "guided_regex")
    await found.check(None)
    for guide, error in ((good, None), (bad, InvalidRequest("guided_regex: no", param="guided_regex").as_dict())):
        first = asyncio.ensure_future(found.check(guide))
        await asyncio.sleep(0)
        questions.on_answer(Answer(sent[-1].number, error=error))
        await asyncio.gather(first, return_exceptions=True)
    assert sent == [CheckGuide(1, good), CheckGuide(2, bad)]
    await found.check(good)
    errors: list[InvalidRequest] = []
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="guided_regex: no") as caught:
            await found.check(bad)
        errors.append(caught.value)
    assert len(sent) == 2 and errors[0] is not errors[1]
    again = asyncio.ensure_future(found.check(TokenGuide("regex", "([", "structured_outputs")))
    await asyncio.sleep(0)
    assert len(sent) == 3  # the verdict names the field
    again.cancel()


async def test_a_host_that_dies_gives_no_verdict() -> None:
    """The request fails as every other does, and the guide is asked for again."""
    sent: list[Any] = []
    questions = Questions(sent.append)
    found = Guides(questions)
    asked = asyncio.ensure_future(found.check(TokenGuide("regex", "a")))
    await asyncio.sleep(0)
    questions.fail(lambda: EngineUnavailable("gone"))
    with pytest.raises(EngineUnavailable):
        await asked
    again = asyncio.ensure_future(found.check(TokenGuide("regex", "a")))
    await asyncio.sleep(0)
    assert len(sent) == 2
    again.cancel()


async def test_what_is_remembered_and_asked_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the verdicts kept nor the grammars compiled at once grow without end."""
    monkeypatch.setattr(guides, "MAX_CHECKS", 2)
    monkeypatch.setattr(guides, "REMEMBERED", 1)
    sent: list[Any] = []
    questions = Questions(sent.append)
    found = Guides(questions)
    one, two, three = (TokenGuide("regex", text) for text in "abc")
    asked = [asyncio.ensure_future(found.check(guide)) for guide in (one, two)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await found.check(three)
    for question in list(sent):
        questions.on_answer(Answer(question.number))
    await asyncio.gather(*asked)
    await found.check(two)
    assert len(sent) == 2
    again = asyncio.ensure_future(found.check(one))  # forgotten when `two` came
    await asyncio.sleep(0)
    assert len(sent) == 3
    again.cancel()


async def test_a_guide_that_took_too_long_is_asked_for_again() -> None:
    """That is no verdict: the same guide may be compiled by then."""
    sent: list[Any] = []
    questions = Questions(sent.append)
    found = Guides(questions)
    guide = TokenGuide("json", "{}")
    slow = InvalidRequest("response_format: it takes longer than 1 s to compile.", retry_after_s=1.0)
    for error in (slow.as_dict(), None):
        asked = asyncio.ensure_future(found.check(guide))
        await asyncio.sleep(0)
        questions.on_answer(Answer(sent[-1].number, error=error))
        if error is not None:
            with pytest.raises(InvalidRequest, match="longer than 1 s"):
                await asked
    await asked
    assert len(sent) == 2
