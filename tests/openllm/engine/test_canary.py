"""The question an idle engine asks itself: when it counts, and what follows when the answer is another one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.openllm.server.serving import serving

from openllm.backends.echo.backend import EchoBackend
from openllm.backends.echo.model import EchoSequence
from openllm.engine import canary
from openllm.engine.engine import Engine
from openllm_core.errors import EngineUnavailable

from .conftest import MakeEngine, request, text_of
from .test_engine import eventually

OFTEN: dict[str, Any] = {"canary_s": 0.01}


async def test_the_same_answer_changes_nothing(make_engine: MakeEngine) -> None:
    """An idle engine asks again and again, and stays ready; nobody's tokens are counted."""
    engine = await make_engine(engine=OFTEN)
    await eventually(lambda: engine._canary.asked >= 4)
    assert engine.state == "ready" and engine.metrics.restarts == 0
    assert engine.metrics.generation_tokens == 0
    assert await text_of(engine) == "hello"


async def test_another_answer_has_the_model_loaded_anew(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model begins to say something else: the engine is unready at once, is started again, and says the right thing."""
    engine = await make_engine(engine=OFTEN, peak=1.0)
    await eventually(lambda: engine._canary.asked >= 2)
    target = EchoSequence._target
    with monkeypatch.context() as patch:
        patch.setattr(EchoSequence, "_target", lambda sequence: target(sequence) ^ 1)
        await eventually(lambda: engine.state == "restarting")
        with pytest.raises(EngineUnavailable):
            await engine.add(request())
    await engine.wait_ready(30)
    assert engine.metrics.restarts == 1
    assert await text_of(engine, temperature=0.0) == "hello"


async def test_a_slight_change_counts_and_rounding_does_not(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokens with other log-probabilities: told from kernels that add up in another order."""
    engine = await make_engine(engine=OFTEN, peak=1.0)
    await eventually(lambda: engine._canary.asked >= 2)
    logits, shift = EchoSequence._logits, 0.001

    def shifted(sequence: EchoSequence, target: int) -> list[float]:
        found = logits(sequence, target)
        found[target] += shift
        return found

    monkeypatch.setattr(EchoSequence, "_logits", shifted)
    before = engine._canary.asked
    await eventually(lambda: engine._canary.asked >= before + 4)
    assert engine.state == "ready"
    shift = 0.5
    await eventually(lambda: engine.metrics.restarts == 1)


async def test_answers_beside_requests_do_not_count(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """While requests run it neither asks nor judges: a batch changes the last digits of its members."""
    engine = await make_engine(engine={"canary_s": 0.05}, step_s=0.01)
    running = asyncio.ensure_future(text_of(engine, "x" * 100))
    await eventually(lambda: engine.num_running == 1)
    before = engine._canary.asked
    asked: list[Any] = []
    submit = EchoBackend.submit
    monkeypatch.setattr(EchoBackend, "submit", lambda backend, one: (asked.append(one), submit(backend, one)))
    await running
    assert asked == [] and engine._canary.asked == before
    await eventually(lambda: engine._canary.asked > before)


async def test_it_waits_after_loading(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who waited for the model come before the first question; without an interval there is none."""
    monkeypatch.setattr(canary, "FIRST_AFTER_S", 3600.0)
    for interval_s in (7200.0, 0.0):
        engine = await make_engine(engine={"canary_s": interval_s})
        assert await text_of(engine) == "hello"
        assert engine._canary.asked == 0


async def test_the_server_sets_how_often() -> None:
    """`--canary-interval` is what counts; while nothing is wrong, `/readyz` says nothing of it."""
    async with serving(options={"canary_interval": 0.05}) as served:
        engine = served.composed.engine
        assert isinstance(engine, Engine)
        await eventually(lambda: engine._canary.asked >= 3)
        assert (await served.http.get("/readyz")).status_code == 200
