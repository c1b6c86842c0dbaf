"""The supervisor's decisions, over lives that the test ends as it likes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import attrs
import pytest

from openllm.backends.base import BackendInfo, Capabilities
from openllm.engine.channel import Failed, Loading, Ping, Pong, Ready
from openllm.engine.supervisor import MAX_STARVED, Supervisor, Watch
from openllm_core.errors import EngineError, EngineUnavailable, OpenLLMError, OutOfMemory
from openllm_core.options import EngineOptions

INFO = BackendInfo("fake", Capabilities(), 10, 9, 1, 10)
QUICK = Watch(backoff_s=0.01, ping_s=0.02, stall_s=0.15, load_stall_s=0.3, stop_grace_s=0.1)


class FakeLife:
    """A host that does nothing by itself."""

    pid: int | None = 1
    cause: BaseException | None = None

    def __init__(self, on_frame: Any, on_lost: Any) -> None:
        self.say, self.lose = on_frame, on_lost
        self.sent: list[Any] = []
        self.stopped = False
        self.channel: Any = self
        self.answers = True
        self.starved = lambda: 0.0

    def starved_s(self) -> float:
        return self.starved()

    def send(self, frame: Any) -> None:
        self.sent.append(frame)
        if isinstance(frame, Ping) and self.answers:
            self.say(Pong(frame.number))

    async def stop(self, grace_s: float) -> None:
        self.stopped = True


class World:
    """Lives started so far, and what the listener was told."""

    def __init__(self, watch: Watch = QUICK) -> None:
        self.lives: list[FakeLife] = []
        self.downs: list[tuple[OpenLLMError, float | None]] = []
        self.readies = 0
        self.loading: list[str] = []
        self.late: str | None = None
        self.frames: list[Any] = []
        self.supervisor = Supervisor(EngineOptions(backend="echo"), self.launch, watch, self)

    async def launch(self, options: EngineOptions, on_frame: Any, on_lost: Any) -> Any:
        self.lives.append(FakeLife(on_frame, on_lost))
        return self.lives[-1]

    def on_ready(self, ready: Ready) -> None:
        self.readies += 1
        self.supervisor.mark_ready()

    def on_frame(self, frame: Any) -> None:
        self.frames.append(frame)

    def on_loading(self, text: str, share: float | None) -> None:
        self.loading.append(text)

    def overdue(self) -> str | None:
        return self.late

    def on_down(self, error: OpenLLMError, retry_in_s: float | None) -> None:
        self.downs.append((error, retry_in_s))

    async def life(self, number: int) -> FakeLife:
        async with asyncio.timeout(5):
            while len(self.lives) < number:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.002)
        return self.lives[number - 1]

    async def down(self, number: int) -> None:
        async with asyncio.timeout(5):
            while len(self.downs) < number:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("waits", range(4))
async def test_a_host_that_is_lost_as_the_engine_closes_is_the_last(waits: int) -> None:
    """Whichever comes first, and however close the other follows: closing ends, and no other host starts."""
    world = World()
    world.supervisor.start()
    life = await world.life(1)
    life.say(Ready(INFO))
    life.lose(EngineUnavailable("it ended by itself"))
    for _ in range(waits):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await world.supervisor.aclose()
    await asyncio.sleep(0.05)
    assert len(world.lives) == 1 and life.stopped


async def test_restarts_within_the_budget_then_gives_up() -> None:
    """Three deaths are followed by a restart, each later than the one before; the fourth is final."""
    world = World()
    world.supervisor.start()
    for number in range(1, 5):
        life = await world.life(number)
        life.say(Ready(INFO))
        life.lose(EngineUnavailable(f"death {number}"))
        await world.down(number)
        assert life.stopped
    assert [wait for _, wait in world.downs] == [0.01, 0.02, 0.04, None]
    assert world.downs[-1][0].message == "death 4"
    await asyncio.sleep(0.1)
    assert len(world.lives) == 4
    assert world.supervisor.restart_count == 3
    await world.supervisor.aclose()


async def test_old_deaths_are_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only deaths of the last ten minutes count."""
    world = World(attrs.evolve(QUICK, restarts=1, stall_s=1e9, load_stall_s=1e9))
    world.supervisor.start()
    clock = time.monotonic
    for number in range(1, 5):
        (await world.life(number)).lose(EngineUnavailable("x"))
        await world.down(number)
        monkeypatch.setattr(time, "monotonic", lambda jump=601 * number: clock() + jump)
    assert all(wait is not None for _, wait in world.downs)
    monkeypatch.undo()
    await world.supervisor.aclose()


async def test_zero_restarts_means_none() -> None:
    """With a budget of 0 the first death is final."""
    world = World(attrs.evolve(QUICK, restarts=0))
    world.supervisor.start()
    (await world.life(1)).lose(EngineUnavailable("x"))
    await world.down(1)
    assert world.downs[0][1] is None
    await world.supervisor.aclose()


@pytest.mark.parametrize("error", [OutOfMemory("need 2, have 1"), EngineError("ValueError: bad config")])
async def test_a_load_that_failed_with_a_reason_is_final(error: OpenLLMError) -> None:
    """Loading is not tried again when the host said why it cannot; the error keeps its class and words."""
    world = World()
    world.supervisor.start()
    (await world.life(1)).say(Failed(error.as_dict()))
    await world.down(1)
    found, wait = world.downs[0]
    assert wait is None
    assert type(found) is type(error)
    assert found.message == error.message
    await world.supervisor.aclose()


async def test_a_death_without_a_reason_is_tried_again() -> None:
    """A host that just disappears while loading gets another chance."""
    world = World()
    world.supervisor.start()
    (await world.life(1)).lose(EngineUnavailable("killed"))
    await world.life(2)
    await world.supervisor.aclose()


async def test_a_silent_host_is_given_up() -> None:
    """A running host that answers no ping within the limit is stalled and replaced."""
    world = World()
    world.supervisor.start()
    life = await world.life(1)
    life.say(Ready(INFO))
    await asyncio.sleep(0.3)
    assert world.downs == []
    assert any(isinstance(frame, Ping) for frame in life.sent)
    life.answers = False
    await world.down(1)
    assert "sign of life" in world.downs[0][0].message
    assert life.stopped
    await world.life(2)
    await world.supervisor.aclose()


async def test_a_starved_host_is_left_alone() -> None:
    """Silence counts only while the host could have run; past six times the limit it is given up all the same."""
    world = World()
    world.supervisor.start()
    life = await world.life(1)
    life.say(Ready(INFO))
    life.answers, started = False, time.monotonic()
    last = started

    def starved() -> float:
        nonlocal last
        passed, last = time.monotonic() - last, time.monotonic()
        return passed

    life.starved = starved
    await asyncio.sleep(QUICK.stall_s * 3)
    assert world.downs == []
    await world.down(1)
    assert time.monotonic() - started > QUICK.stall_s * (MAX_STARVED - 1)
    await world.supervisor.aclose()


async def test_starvation_before_a_sign_of_life_excuses_nothing_after_it() -> None:
    """What a host waited before it was last heard does not lengthen the next silence."""
    world = World()
    world.supervisor.start()
    life = await world.life(1)
    life.say(Ready(INFO))
    waits = iter([5.0])
    life.starved = lambda: next(waits, 0.0)
    await asyncio.sleep(QUICK.ping_s * 4)
    life.say(Loading("alive", None))
    life.answers, silent_from = False, time.monotonic()
    await world.down(1)
    assert time.monotonic() - silent_from < QUICK.stall_s * (MAX_STARVED - 1)  # what a starved one is given
    await world.supervisor.aclose()


async def test_an_unhealthy_backend_is_given_up() -> None:
    """A pong that carries an error counts as a death, with that error."""
    world = World()
    world.supervisor.start()
    life = await world.life(1)
    life.say(Ready(INFO))
    life.say(Pong(1, EngineUnavailable("the device fell off").as_dict()))
    await world.down(1)
    assert world.downs[0][0].message == "the device fell off"
    await world.supervisor.aclose()


async def test_never_ready_is_given_up() -> None:
    """A host that lives and answers but is not ready in time is replaced."""
    world = World(attrs.evolve(QUICK, start_timeout_s=0.1))
    world.supervisor.start()
    life = await world.life(1)
    life.say(Loading("still at it", 0.1))
    await world.down(1)
    assert "not ready" in world.downs[0][0].message
    assert world.loading == ["still at it"]
    await world.supervisor.aclose()


async def test_overdue_steps_end_a_life() -> None:
    """What the engine finds overdue ends the host although it gives signs of life."""
    world = World()
    world.supervisor.start()
    (await world.life(1)).say(Ready(INFO))
    world.late = "no step for 9 s"
    await world.down(1)
    assert world.downs[0][0].message == "no step for 9 s"
    world.late = None
    await world.supervisor.aclose()


async def test_a_pause_of_our_own_loop_is_not_the_hosts_fault() -> None:
    """When this process stood still, what the host sent meanwhile is read before it is judged."""
    world = World()
    world.supervisor.start()
    life = await world.life(1)
    life.say(Ready(INFO))
    time.sleep(0.3)
    await asyncio.sleep(0.1)
    assert world.downs == []
    await world.supervisor.aclose()


async def test_a_launch_that_fails() -> None:
    """An error of ours while launching is final; one of the system's is tried again."""
    world = World()
    errors: list[Exception] = [OSError("no more processes"), OutOfMemory("no")]

    async def launch(options: Any, on_frame: Any, on_lost: Any) -> Any:
        raise errors.pop(0)

    world.supervisor = Supervisor(EngineOptions(), launch, QUICK, world)
    world.supervisor.start()
    await world.down(2)
    assert [wait is None for _, wait in world.downs] == [False, True]
    await world.supervisor.aclose()


async def test_closing_stops_the_life_and_the_watching() -> None:
    """aclose ends the present life; frames are dropped afterwards; nobody is told of a death."""
    world = World()
    world.supervisor.start()
    life = await world.life(1)
    await world.supervisor.aclose()
    assert life.stopped
    world.supervisor.send(Ping(9))
    assert Ping(9) not in life.sent
    assert world.downs == []
    await world.supervisor.aclose()
