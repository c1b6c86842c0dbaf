"""What the engine loop promises around failures, aborts, limits and memory."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from tests.openllm.backends.torch.conftest import MakeScheduler
from tests.openllm.backends.torch.drive import GREEDY, PROMPTS, finals_of, request, run, tokens, tokens_of

from openllm.backends.base import BackendRequest, StepOutput
from openllm.backends.torch import lanes, window
from openllm.backends.torch.guiding import Matcher
from openllm.backends.torch.lanes import WindowLane
from openllm.backends.torch.model import LoadedModel
from openllm.backends.torch.scheduler import Scheduler
from openllm_core.errors import EngineUnavailable


def test_a_nan_row_fails_alone(make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the model gives NaN for one sequence, that one ends with an error and the others get their own tokens."""
    scheduler = make_scheduler()
    requests = [request(str(at), prompt) for at, prompt in enumerate(PROMPTS)]
    expected = tokens(make_scheduler(), *requests)
    decode, calls = LoadedModel.decode, [0]

    def poisoned(self: LoadedModel, *arguments: Any) -> torch.Tensor:
        logits = decode(self, *arguments)
        calls[0] += 1
        if calls[0] == 4:
            at = [row.request_id for row in scheduler.lanes[0].rows].index("2")
            logits[at, 7] = torch.nan
        return logits

    monkeypatch.setattr(LoadedModel, "decode", poisoned)
    outputs = run(scheduler, *requests)
    finals = finals_of(outputs)
    error = finals["2"].error
    assert finals["2"].finish_reason == "error" and error is not None and error["class"] == "NonFiniteLogits"
    assert 0 < len(tokens_of(outputs)["2"]) < GREEDY.max_tokens
    assert {name: tokens_of(outputs)[name] for name in "013"} == {name: expected[name] for name in "013"}


def test_a_prompt_that_raises_fails_alone(
    make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When computing prompts together raises, each is tried by itself; only the guilty one fails. Why stands in the log,
    and nowhere else."""
    scheduler = make_scheduler()
    prefill = LoadedModel.prefill

    def picky(self: LoadedModel, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if (ids == 51).any():
            raise RuntimeError("cannot stand 51\nmore lines")
        return prefill(self, ids, *rest)

    requests = [request(str(at), prompt) for at, prompt in enumerate([[9, 8], [50, 51], [7, 6]])]
    expected = tokens(make_scheduler(), *requests)
    monkeypatch.setattr(LoadedModel, "prefill", picky)
    outputs = run(scheduler, *requests)
    error = finals_of(outputs)["1"].error
    assert error is not None and error["code"] == "internal_error" and "cannot stand 51" not in error["message"]
    assert "cannot stand 51" in caplog.text
    assert {name: tokens_of(outputs)[name] for name in "02"} == {name: expected[name] for name in "02"}


class Spoilt:
    """A decode step that raises while a row of its lane is at a given place; counts its calls."""

    def __init__(self, scheduler: Scheduler, error: Exception, name: str, after: int = 3) -> None:
        self.scheduler, self.error, self.name, self.after = scheduler, error, name, after
        self.calls = 0
        self.decode = LoadedModel.decode

    def __call__(self, model: LoadedModel, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.calls += 1
        for lane in self.scheduler.lanes:
            assert isinstance(lane, WindowLane)
            part = lane.window.stepping or slice(0, len(lane.rows))
            names = {row.request_id: row.generated for row in lane.rows[part]}
            if names.get(self.name, 0) >= self.after:
                raise self.error
        return self.decode(model, ids, *rest)


MIXED: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 5},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
    {"temperature": 0.8, "seed": 9, "top_p": 0.9, "logprobs": 2},
]


def mixed(*, without: str = "") -> list[BackendRequest]:
    """Requests with every kind of state that a repeated step could spoil."""
    made = [request(str(at), prompt, **more) for at, (prompt, more) in enumerate(zip(PROMPTS, MIXED, strict=True))]
    return [one for one in made if one.request_id != without]


@pytest.mark.parametrize("name", ["0", "1", "3"])
def test_a_row_whose_step_raises_fails_alone(
    make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """One sequence makes every step that it takes part in raise: it alone ends; the others' tokens are those of a run
    without it, greedy, seeded and penalised ones alike, and none is drawn twice."""
    expected = tokens(make_scheduler(), *mixed(without=name))
    scheduler = make_scheduler()
    spoilt = Spoilt(scheduler, RuntimeError("shape mismatch\nmore"), name)

    def decode(model: LoadedModel, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        return spoilt(model, ids, *rest)

    monkeypatch.setattr(LoadedModel, "decode", decode)
    outputs = run(scheduler, *mixed())
    final = finals_of(outputs)[name]
    assert final.error is not None and final.error["code"] == "internal_error"
    found = tokens_of(outputs)
    assert len(found.pop(name)) == 3
    assert found == expected
    assert scheduler.idle
    assert caplog.text.count("shape mismatch") == 1


def test_memory_that_runs_out_costs_the_newest(make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of more than two rows find no memory: the newest end with a code that says so, the oldest two go on."""
    expected = tokens(make_scheduler(), *mixed(without="2")[:2])
    scheduler = make_scheduler()
    decode = LoadedModel.decode

    def scarce(model: LoadedModel, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(ids) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")
        return decode(model, ids, *rest)

    monkeypatch.setattr(LoadedModel, "decode", scarce)
    outputs = run(scheduler, *mixed())
    finals = finals_of(outputs)
    assert [finals[name].finish_reason for name in "0123"] == ["length", "length", "error", "error"]
    assert all(finals[name].error["code"] == "engine_out_of_memory" for name in "23")  # type: ignore[index]
    assert {name: tokens_of(outputs)[name] for name in "01"} == expected


@pytest.mark.parametrize("where", ["prefill", "column"])
def test_what_has_not_begun_waits_for_memory(
    make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Memory runs out over a prompt, or over a running row while a prompt is half computed: the prompt is computed later,
    and every sequence gets the tokens that it always gets."""
    short, long = request("short", [5, 6, 7], max_tokens=10), request("long", range(20, 60), max_tokens=4)
    expected = tokens(make_scheduler(), short) | tokens(make_scheduler(), long)
    scheduler = make_scheduler(prefill_tokens=8)
    scheduler.add(short)
    outputs = [scheduler.step()]
    scheduler.add(long)
    outputs += [scheduler.step(), scheduler.step()]
    assert scheduler.prefill is not None
    calls = 0
    target = "prefill" if where == "prefill" else "decode"
    computes = getattr(LoadedModel, target)

    def scarce(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise torch.OutOfMemoryError("out of memory")
        return computes(*arguments)

    monkeypatch.setattr(LoadedModel, target, scarce)
    outputs.append(scheduler.step())
    assert scheduler.prefill is None and [row.request_id for row in scheduler.waiting] == ["long"]
    while not scheduler.idle:
        outputs.append(scheduler.step())
    assert tokens_of(outputs) == expected
    assert {final.finish_reason for final in finals_of(outputs).values()} == {"length"}


def test_a_window_that_cannot_grow_stays_whole(make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory for the second layer of a longer window: the newest row ends, and the tokens of the others are right."""
    requests = [request(name, prompt, max_tokens=150) for name, prompt in zip("ab", PROMPTS, strict=False)]
    expected = tokens(make_scheduler(), requests[0])
    monkeypatch.setattr(lanes, "AHEAD", 1)
    scheduler, moved, calls = make_scheduler(), window._moved, 0  # pyright: ignore[reportPrivateUsage]

    def scarce(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        return moved(*arguments)

    monkeypatch.setattr(window, "_moved", scarce)
    outputs = run(scheduler, *requests)
    assert calls > 3
    assert finals_of(outputs)["b"].finish_reason == "error"
    assert tokens_of(outputs)["a"] == expected["a"]


def test_a_step_that_always_raises_ends_its_rows_and_nothing_else(
    make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no step works at all, its sequences have one error each, and the next request is served once steps work."""
    expected = tokens(make_scheduler(), request("later", [5, 6]))
    for message, kind in (("not enough memory", "OutOfMemoryInStep"), ("broken", "EngineError")):
        scheduler = make_scheduler()

        def broken(*rest: Any, message: str = message) -> torch.Tensor:
            raise RuntimeError(message)

        with monkeypatch.context() as patch:
            patch.setattr(LoadedModel, "decode", broken)
            finals = finals_of(run(scheduler, request("a", [1, 2]), request("b", [3, 4])))
        assert [finals[name].error["class"] for name in "ab"] == [kind] * 2  # type: ignore[index]
        assert scheduler.idle
        assert tokens(scheduler, request("later", [5, 6])) == expected


def test_a_device_that_has_stopped_working_ends_the_host(
    make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even a single token can be computed, no request is blamed: the step raises, and a new host is due."""
    scheduler = make_scheduler()

    def broken(*rest: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered")

    for name in ("prefill", "decode"):
        scheduler.add(request(name, [1, 2]))
        if name == "decode":
            scheduler.step()
        with monkeypatch.context() as patch:
            for computes in ("prefill", "decode", "whole"):
                patch.setattr(LoadedModel, computes, broken)
            with pytest.raises(EngineUnavailable, match="Nothing can be computed"):
                scheduler.step()
        scheduler.abort(name)


def test_a_row_alone_on_its_own_cache_is_never_stepped_again(
    make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An architecture whose cache keeps what a failed step wrote: its row ends, out of memory or not; others take their steps."""
    expected = tokens(make_scheduler("mamba"), request("b", [3, 4]))
    scheduler = make_scheduler("mamba")
    decode, calls = LoadedModel.decode, 0

    def once(*rest: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        return decode(*rest)

    monkeypatch.setattr(LoadedModel, "decode", once)
    outputs = run(scheduler, request("a", [1, 2]), request("b", [3, 4]))
    ended = {name: delta.error["code"] if delta.error else None for name, delta in finals_of(outputs).items()}
    assert sorted(ended.values(), key=str) == [None, "engine_out_of_memory"]
    (whole,) = (name for name, code in ended.items() if code is None)
    assert (
        tokens_of(outputs)[whole]
        == (expected if whole == "b" else tokens(make_scheduler("mamba"), request("a", [1, 2])))[whole]
    )


def test_a_guide_that_raises_ends_its_row(make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture) -> None:
    """Where it says what may follow, and where it takes what was drawn: its own sequence fails, the others do not notice."""

    class Broken:
        stops: frozenset[int] = frozenset()
        finished = False

        def __init__(self, fails: str) -> None:
            self.fails, self.steps = fails, 0

        def fill(self, mask: torch.Tensor, row: int) -> None:
            self.steps += 1
            mask[row] = -1
            if self.fails == "fill" and self.steps == 4:
                mask[row] = 0
                raise RuntimeError("no such state")

        def accept(self, token: int) -> bool:
            if self.fails == "accept" and self.steps == 4:
                raise RuntimeError("no such token")
            return True

    expected = tokens(make_scheduler(), *mixed(without="0"))
    for fails, words in (("fill", "no such state"), ("accept", "no such token")):
        scheduler = make_scheduler()
        scheduler.add(mixed()[0], cast(Matcher, Broken(fails)))
        outputs = run(scheduler, *mixed(without="0"))
        final = finals_of(outputs)["0"]
        assert final.error is not None and words in caplog.text
        found = tokens_of(outputs)
        assert len(found.pop("0")) == 3
        assert found == expected


@pytest.mark.parametrize("gone", [("0",), ("0", "1"), ("1", "2")])
@pytest.mark.parametrize("after", [2, 4])
def test_those_that_stay_move_up_between_two_steps(
    make_scheduler: MakeScheduler, gone: tuple[str, ...], after: int
) -> None:
    """Sequences are aborted outside a step, wherever they stand in their lane; the others say what they say alone."""
    requests = [request(str(at), prompt) for at, prompt in enumerate(PROMPTS)]
    expected = tokens(make_scheduler(), *requests)
    scheduler = make_scheduler()
    for one in requests:
        scheduler.add(one)
    outputs = [scheduler.step() for _ in range(after)]
    for name in gone:
        scheduler.abort(name)
    while not scheduler.idle:
        outputs.append(scheduler.step())
    stayed = {name: expected[name] for name in expected if name not in gone}
    assert {name: tokens_of(outputs)[name] for name in stayed} == stayed


@pytest.mark.parametrize("after", [0, 1, 3])
def test_abort_frees_at_once(make_scheduler: MakeScheduler, after: int) -> None:
    """An aborted sequence sends nothing more and its slot is free for the next, whether it waited, ran or was computed."""
    scheduler = make_scheduler(max_rows=2, prefill_tokens=4)
    mates = [request("mate", [4, 5, 6]), request("gone", [7, 8, 9, 10, 11, 12, 13, 14, 15])]
    expected = tokens(make_scheduler(), mates[0])
    for one in mates:
        scheduler.add(one)
    outputs = [scheduler.step() for _ in range(after)]
    scheduler.abort("gone")
    scheduler.abort("gone")
    scheduler.abort("never seen")
    assert scheduler.num_running + scheduler.num_waiting == 1
    rest = run(scheduler, request("next", [1, 2]))
    assert "gone" not in tokens_of(rest)
    assert tokens_of([*outputs, *rest])["mate"] == expected["mate"]
    assert len(tokens_of(rest)["next"]) == GREEDY.max_tokens
    assert scheduler.idle and not scheduler.lanes


def test_slots_bound_the_batch(make_scheduler: MakeScheduler) -> None:
    """Never more sequences run than there are slots; the rest wait and are counted."""
    scheduler = make_scheduler(max_rows=3)
    outputs = run(scheduler, *(request(str(at), [1 + at, 2], max_tokens=4 + at) for at in range(8)))
    assert max(output.num_running for output in outputs) == 3
    assert outputs[0].num_waiting == 5
    assert all(len(ids) == 4 + int(name) for name, ids in tokens_of(outputs).items())


def test_use_of_the_cache_is_told(make_scheduler: MakeScheduler) -> None:
    """As the share that running sequences may come to need: of two that fit exactly both, then one, then none."""
    scheduler = make_scheduler(cache_bytes=40, bytes_per_token=1)
    shares: list[float] = []
    for one in (request("a", [1, 2, 3, 4], max_tokens=16), request("b", [5, 6, 7, 8], max_tokens=16)):
        scheduler.add(one)
    scheduler.step()
    shares.append(scheduler.cache_usage)
    for name in ("a", "b"):
        scheduler.abort(name)
        shares.append(scheduler.cache_usage)
    assert shares == [1.0, 0.5, 0.0]


def test_cache_memory_bounds_the_batch(make_scheduler: MakeScheduler) -> None:
    """Sequences whose caches would not fit together take turns; one that could never fit is refused."""
    scheduler = make_scheduler(cache_bytes=45, bytes_per_token=1)
    requests = [request(str(at), [1 + at, 2, 3, 4], max_tokens=16) for at in range(4)]
    outputs = run(scheduler, *requests)
    assert max(output.num_running for output in outputs) == 2
    assert all(len(ids) == 16 for ids in tokens_of(outputs).values())
    refused = scheduler.add(request("huge", [1] * 30, max_tokens=16))
    assert refused is not None and refused.error is not None
    assert (
        refused.error["class"] == "OutOfMemory"
        and "46" in refused.error["message"]
        and "45" in refused.error["message"]
    )


def test_the_context_ends_a_sequence(make_scheduler: MakeScheduler) -> None:
    """A sequence that reaches the context's end stops there with reason length; a prompt that fills it is refused."""
    scheduler = make_scheduler(max_len=20, max_prompt_len=19)
    outputs = run(scheduler, request("a", [1] * 15, max_tokens=100), request("b", [1] * 20))
    assert len(tokens_of(outputs)["a"]) == 5
    finals = finals_of(outputs)
    assert finals["a"].finish_reason == "length"
    assert finals["b"].finish_reason == "error"


def test_stop_tokens_end_a_sequence(make_scheduler: MakeScheduler) -> None:
    """A stop token ends its sequence, is reported and is the last id; an ignored one does not."""
    free = tokens(make_scheduler(), request("a", PROMPTS[1]))["a"]
    stop = free[5]
    outputs = run(make_scheduler(), request("a", PROMPTS[1], stop_token_ids=(stop, 380)))
    assert tokens_of(outputs)["a"] == free[: free.index(stop) + 1]
    final = finals_of(outputs)["a"]
    assert (final.finish_reason, final.stop_token_id) == ("stop", stop)


def test_an_empty_prompt_is_refused(make_scheduler: MakeScheduler) -> None:
    """A request without any token ends with an error, not with a crash."""
    outputs: list[StepOutput] = run(make_scheduler(), request("a", []))
    assert finals_of(outputs)["a"].finish_reason == "error"


def test_first_token_comes_with_the_prefill(make_scheduler: MakeScheduler) -> None:
    """The step that computes a prompt already brings its first token."""
    scheduler = make_scheduler()
    scheduler.add(request("a", PROMPTS[0]))
    assert [len(delta.token_ids) for delta in scheduler.step().deltas] == [1]
