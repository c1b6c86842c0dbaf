"""What the engine loop promises around failures, aborts, limits and memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.openllm.backends.torch.conftest import MakeScheduler
from tests.openllm.backends.torch.drive import GREEDY, PROMPTS, finals_of, request, run, tokens, tokens_of

from openllm.backends.base import StepOutput
from openllm.backends.torch.model import LoadedModel


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


def test_a_prompt_that_raises_fails_alone(make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """When computing prompts together raises, each is tried by itself; only the guilty one fails."""
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
    assert error is not None and "cannot stand 51" in error["message"] and "\n" not in error["message"]
    assert {name: tokens_of(outputs)[name] for name in "02"} == {name: expected[name] for name in "02"}


def test_a_step_that_raises_ends_its_rows_and_nothing_else(
    make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a decode step failed, its sequences have one error each and the next request is served."""
    scheduler = make_scheduler()
    expected = tokens(make_scheduler(), request("later", [5, 6]))
    with monkeypatch.context() as patch:
        patch.setattr(
            LoadedModel, "decode", lambda *arguments: (_ for _ in ()).throw(RuntimeError("not enough memory"))
        )
        finals = finals_of(run(scheduler, request("a", [1, 2]), request("b", [3, 4])))
    assert [finals[name].error["class"] for name in "ab"] == ["OutOfMemory"] * 2  # type: ignore[index]
    assert scheduler.idle
    assert tokens(scheduler, request("later", [5, 6])) == expected


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
