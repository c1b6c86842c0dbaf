"""What vLLM's engine core sends after a step -> one `StepOutput`.

The hot path of the engine host: runs once per step over all sequences in the batch, so it makes one small object per
sequence and nothing else. Called by `backend`.
"""

from __future__ import annotations

from vllm.v1.engine import EngineCoreEventType, EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.outputs import LogprobsLists

from openllm_core.errors import EngineError, NonFiniteLogits

from .. import base
from ..base import EngineStats, SequenceDelta, TokenLogprob

REASONS: dict[FinishReason, base.FinishReason] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.REPETITION: "stop",
}


def delta_of(output: EngineCoreOutput) -> SequenceDelta:
    """One sequence's share of a step."""
    reason, logprobs = output.finish_reason, output.new_logprobs
    if output.num_nans_in_logits:
        error = NonFiniteLogits("The model produced NaN or infinity for this request.").as_dict()
        return SequenceDelta(output.request_id, [], "error", error=error)
    if reason is None:
        if logprobs is None:
            return SequenceDelta(output.request_id, output.new_token_ids)
        return SequenceDelta(output.request_id, output.new_token_ids, logprobs=token_logprobs(logprobs))
    found = None if logprobs is None else token_logprobs(logprobs)
    if reason not in REASONS:
        error = EngineError("vLLM gave this request up.").as_dict()
        return SequenceDelta(output.request_id, output.new_token_ids, "error", error=error)
    stop = None
    if reason is FinishReason.STOP:
        stop = output.stop_reason if isinstance(output.stop_reason, int) else (output.new_token_ids or [None])[-1]
    return SequenceDelta(output.request_id, output.new_token_ids, REASONS[reason], stop, logprobs=found)


class CoreCounts:
    """What the core counts, summed since it was loaded: its own counts are of one step each."""

    def __init__(self) -> None:
        self._kv_cache_usage: float | None = None
        self._queries = self._hits = self._preemptions = self._draft = self._accepted = 0

    def add(self, outputs: EngineCoreOutputs) -> None:
        """Count one step."""
        for output in outputs.outputs:
            for event in output.events or ():
                self._preemptions += event.type is EngineCoreEventType.PREEMPTED
        stats = outputs.scheduler_stats
        if stats is None:
            return
        self._kv_cache_usage = stats.kv_cache_usage
        self._queries += stats.prefix_cache_stats.queries
        self._hits += stats.prefix_cache_stats.hits
        if (drafts := stats.spec_decoding_stats) is not None:
            self._draft += drafts.num_draft_tokens
            self._accepted += drafts.num_accepted_tokens

    def as_stats(self) -> EngineStats:
        """For the server."""
        return EngineStats(
            self._kv_cache_usage, self._queries, self._hits, self._preemptions, self._draft, self._accepted
        )


def token_logprobs(lists: LogprobsLists) -> list[TokenLogprob]:
    """Rows of [drawn token, most likely, second, ...] as ours; k = columns - 1."""
    made: list[TokenLogprob] = []
    for ids, values in zip(lists.logprob_token_ids.tolist(), lists.logprobs.tolist(), strict=True):
        made.append(TokenLogprob(ids[0], values[0], tuple(zip(ids[1:], values[1:], strict=True))))
    return made
