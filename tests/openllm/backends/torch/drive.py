"""Runs requests through a backend or a bare scheduler and gathers what came for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from openllm.backends.base import BackendRequest, SequenceDelta, StepOutput, TokenSampling
from openllm.backends.torch.scheduler import Scheduler

GREEDY = TokenSampling(max_tokens=12, temperature=0.0)
PROMPTS = ([10, 20, 30, 40], [11, 12, 13, 14, 15, 16, 17, 18, 19], [50, 51], [60, 60, 60, *range(70, 90)])


def request(name: str, prompt: Sequence[int], sampling: TokenSampling = GREEDY, **changes: Any) -> BackendRequest:
    """A request whose sampling differs from `sampling` in `changes`."""
    return BackendRequest(name, list(prompt), msgspec.structs.replace(sampling, **changes))


def tokens_of(outputs: Sequence[StepOutput]) -> dict[str, list[int]]:
    """Request id -> all its token ids."""
    found: dict[str, list[int]] = {}
    for output in outputs:
        for delta in output.deltas:
            found.setdefault(delta.request_id, []).extend(delta.token_ids)
    return found


def finals_of(outputs: Sequence[StepOutput]) -> dict[str, SequenceDelta]:
    """Request id -> its final delta; more than one is an error."""
    found: dict[str, SequenceDelta] = {}
    for output in outputs:
        for delta in output.deltas:
            if delta.finish_reason is not None:
                assert delta.request_id not in found
                found[delta.request_id] = delta
    return found


def run(scheduler: Scheduler, *requests: BackendRequest) -> list[StepOutput]:
    """Add requests and step until nothing is left."""
    outputs: list[StepOutput] = []
    refused = [delta for delta in map(scheduler.add, requests) if delta is not None]
    if refused:
        outputs.append(StepOutput(refused))
    while not scheduler.idle:
        outputs.append(scheduler.step())
    return outputs


def tokens(scheduler: Scheduler, *requests: BackendRequest) -> dict[str, list[int]]:
    """`run`, then `tokens_of`."""
    return tokens_of(run(scheduler, *requests))
