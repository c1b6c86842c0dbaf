"""When an engine that runs is not ready all the same."""

from __future__ import annotations

from typing import cast

import attrs
import pytest
from tests.openllm.server.serving import serving, text_body

from openllm.engine.dispatch import Dispatcher
from openllm.engine.readiness import Readiness
from openllm_core.errors import EngineUnavailable, Overloaded


@attrs.define
class Work:
    """What is asked of a dispatcher."""

    queue_depth: int = 0
    max_queue: int = 16
    in_host: int = 0
    last_step_at: float = 0.0


@attrs.define
class Clock:
    """Seconds that pass when told."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def work() -> Work:
    """An idle engine's."""
    return Work()


@pytest.fixture
def clock() -> Clock:
    """Starts at 100."""
    return Clock()


@pytest.fixture
def readiness(work: Work, clock: Clock) -> Readiness:
    """Of that engine, by that clock."""
    return Readiness(cast(Dispatcher, work), clock)


def test_a_line_that_stays_full(readiness: Readiness, work: Work, clock: Clock) -> None:
    """Five seconds of refusals make it unready, though a place is free now and then; when the line has shortened, or nobody
    was refused for as long, it is ready again."""
    work.queue_depth = 16
    for _ in range(6):
        readiness.refused()
        assert readiness.hindrance() is None
        clock.now += 1
    work.queue_depth = 15
    found = readiness.hindrance()
    assert isinstance(found, Overloaded) and found.wire_code == "queue_full" and "6 s" in found.message
    work.queue_depth = 11
    assert readiness.hindrance() is None
    work.queue_depth = 16
    clock.now += 6
    assert readiness.hindrance() is None


def test_an_earlier_rush_does_not_count(readiness: Readiness, work: Work, clock: Clock) -> None:
    """A line that was full a while ago, and has just become so again, is not yet full for long."""
    work.queue_depth = 16
    readiness.refused()
    clock.now += 60
    readiness.refused()
    assert readiness.hindrance() is None


def test_a_step_that_does_not_end(readiness: Readiness, work: Work, clock: Clock) -> None:
    """A minute in one step makes it unready; an idle engine takes none and is ready."""
    work.last_step_at = clock.now
    clock.now += 61
    assert readiness.hindrance() is None
    work.in_host = 1
    found = readiness.hindrance()
    assert isinstance(found, EngineUnavailable) and "61 s" in found.message
    work.last_step_at = clock.now
    assert readiness.hindrance() is None


async def test_readyz_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/readyz` is 503 with the reason and a Retry-After, `/livez` stays 200, and requests that come all the same are served."""
    why = Overloaded("The waiting line has been full for 7 s.", code="queue_full")
    monkeypatch.setattr(Readiness, "hindrance", lambda self: why)
    async with serving(reply="ok", options={"overload_status": 429}) as served:
        answer = await served.http.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
        assert answer.headers["retry-after"] == "1"
        assert (await served.http.get("/livez")).status_code == 200
        assert (await served.post("/v1/completions", text_body())).status_code == 200
