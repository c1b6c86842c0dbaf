"""The engine loop's one turn: admit waiting prompts (a bounded chunk of prefill), decode every lane, draw, report.

`Scheduler.step` runs in the backend's step thread and nowhere else. Policy lives here: who is prefilled together, how much
prompt a step takes, which lane a row joins. Knows nothing of threads, event loops or text.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from openllm_core.errors import (
    AdapterNotFound,
    EngineError,
    EngineUnavailable,
    NonFiniteLogits,
    OpenLLMError,
    OutOfMemory,
)

from ..base import BackendRequest, SequenceDelta, StepOutput
from . import isolation
from .guiding import Matcher
from .isolation import failed
from .lanes import Lane, Prefilled, SoloLane, WindowLane
from .model import LoadedModel
from .prefill import First, Prefill
from .rows import Row
from .sampling import BatchSampler, Draw, check

SCAN = 64  # waiting requests looked at when choosing which prompts to compute together
MAX_WASTE = 1.25  # padded prompt tokens computed for each real one, at most


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds of one scheduler.

    Attributes:
        max_rows: sequences that run at once.
        max_len: tokens of prompt and completion (of the completion alone, for seq2seq).
        max_prompt_len: tokens of a prompt.
        prefill_tokens: prompt tokens one step computes at most.
        cache_bytes: memory that keys and values of all rows may take.
        bytes_per_token: memory of one token's keys and values.
        lane_cost: padded columns that cost as much time as stepping one more lane does.
    """

    max_rows: int
    max_len: int
    max_prompt_len: int
    prefill_tokens: int
    cache_bytes: int
    bytes_per_token: int
    lane_cost: int


class Scheduler:
    """Continuous batching over one model.

    Args:
        model: what to run.
        limits: bounds; see `Limits`.
    """

    def __init__(self, model: LoadedModel, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self.waiting: deque[Row] = deque()
        self.lanes: list[Lane] = []
        self.prefill: Prefill | None = None
        self._order = itertools.count()
        self._wait_below: int | None = None  # memory ran out: nothing new until fewer rows than these run

    # -- what the backend calls --------------------------------------------------------------------------------------

    def add(self, request: BackendRequest, matcher: Matcher | None = None) -> SequenceDelta | None:
        """Queue a request; a delta with the error when it can never run.

        Args:
            matcher: holds it to its guide, where it has one.
        """
        prompt_len = len(request.prompt_token_ids)
        limits = self.limits
        error: OpenLLMError | None = None
        room = limits.max_len - (0 if self.model.seq2seq else prompt_len)
        row = Row(request, room, matcher, next(self._order))
        if not prompt_len:
            error = EngineError("The prompt holds no token.")
        elif prompt_len > limits.max_prompt_len or room < 1:
            error = EngineError(f"The prompt has {prompt_len} tokens; the model takes {limits.max_prompt_len}.")
        elif self._reserve(row) > limits.cache_bytes:
            error = OutOfMemory(
                f"The request may need {self._reserve(row):,} bytes of cache; {limits.cache_bytes:,} are set aside.",
                hint="Ask for fewer tokens, or start with a smaller --max-model-len.",
            )
        else:
            error = self._unknown_adapter(request.adapter) or check(row, self.model.vocab_size)
        if error is not None:
            return failed(row, error)
        self.waiting.append(row)
        return None

    def _unknown_adapter(self, name: str | None) -> OpenLLMError | None:
        if name is None or (self.model.adapters is not None and self.model.adapters.knows(name)):
            return None
        return AdapterNotFound(f"There is no adapter {name[:96]!r}.", param="adapter_name")

    def uses(self, adapter: str) -> bool:
        """Whether a row has this adapter."""
        running = [row for lane in self.lanes for row in lane.rows]
        begun = self.prefill.rows if self.prefill else []
        return any(row.request.adapter == adapter for row in (*running, *begun, *self.waiting))

    @torch.inference_mode()  # another row of its lane may take its place, in memory that was made so
    def abort(self, request_id: str) -> None:
        """Drop a request wherever it is; its memory is free when this returns."""
        for row in self.waiting:
            if row.request_id == request_id:
                self.waiting.remove(row)
                return
        if self.prefill is not None:
            for group in self.prefill.groups:
                for row in group:
                    if row.request_id == request_id:
                        row.limit = 0  # its prompt is computed with the others'; it is dropped when that is done
                        if all(r.limit == 0 for r in self.prefill.rows):
                            self.prefill = None
                        return
        for lane in self.lanes:
            for at, row in enumerate(lane.rows):
                if row.request_id == request_id:
                    lane.leave([at])
                    self._drop_empty_lanes()
                    return

    def release(self) -> None:
        """Let go of every row and of the model."""
        self.waiting.clear()
        self.lanes, self.prefill = [], None
        self.model.module = None

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not (self.waiting or self.lanes or self.prefill)

    @property
    def num_running(self) -> int:
        """Rows in lanes."""
        return sum(len(lane.rows) for lane in self.lanes)

    @property
    def num_waiting(self) -> int:
        """Rows accepted but not in a lane."""
        return len(self.waiting) + (len(self.prefill.rows) if self.prefill else 0)

    @property
    def cache_usage(self) -> float:
        """Share of the cache that is set aside which the rows in lanes may come to need, 0..1."""
        used = sum(self._reserve(row) for lane in self.lanes for row in lane.rows)
        return min(1.0, used / max(1, self.limits.cache_bytes))

    @torch.inference_mode()
    def step(self) -> StepOutput:
        """One turn. Rows that were just prefilled get their first token from the prefill and take the decode step of
        the next turn."""
        started = time.perf_counter()
        deltas: list[SequenceDelta] = []
        lanes = list(self.lanes)
        self._admit(deltas)
        for lane in lanes:
            if lane.rows:
                self._decode(lane, deltas)
        self._drop_empty_lanes()
        return StepOutput(deltas, self.num_running, self.num_waiting, time.perf_counter() - started)

    # -- prefill -----------------------------------------------------------------------------------------------------

    def _admit(self, deltas: list[SequenceDelta]) -> None:
        if self.prefill is None:
            chosen = self._choose()
            if not chosen:
                return
            self.prefill = Prefill(chosen)
        current = self.prefill
        try:
            with self.model.using([group[0].request.adapter for group in current.groups]):
                logits, source = self._compute(current)
            first = None if logits is None or source is None else self._draw_first(current, logits, source)
        except Exception as error:
            self.prefill = None
            if not self._put_back(current, error):
                self._isolate(current, error, deltas)
            return
        if first is None:
            return  # more chunks to come
        self.prefill = None
        self._start(first, deltas)

    def _fail_rows(self, rows: list[Row], error: Exception, deltas: list[SequenceDelta]) -> None:
        """End rows that have not ended yet, wherever they are."""
        over = {delta.request_id for delta in deltas if delta.finish_reason is not None}
        for row in rows:
            if row.limit and row.request_id not in over:
                self.abort(row.request_id)
                deltas.append(failed(row, error))

    def _put_back(self, current: Prefill, error: Exception) -> bool:
        """Memory ran out over prompts that have no token yet: they wait until something that runs has ended.

        Returns:
            False when the error is another one, or nothing runs whose end would help.
        """
        if not isolation.is_out_of_memory(error) or not self.lanes:
            return False
        self._wait_below = self.num_running
        self.waiting.extendleft(reversed([row for row in current.rows if row.limit]))
        return True

    def _choose(self) -> list[list[Row]]:
        """Waiting rows to prefill together: the oldest, and others of like length as far as budget, slots and memory go."""
        free = self.limits.max_rows - self.num_running
        if not self.waiting or free < 1:
            return []
        if self._wait_below is not None and self.lanes and self.num_running >= self._wait_below:
            return []
        self._wait_below = None
        oldest = self.waiting[0]
        used = sum(self._reserve(row) for lane in self.lanes for row in lane.rows)
        if used + self._reserve(oldest) > self.limits.cache_bytes:
            return []
        anchor = len(oldest.prompt)
        scanned = [row for row, _ in zip(self.waiting, range(SCAN), strict=False)]
        scanned.sort(key=lambda row: abs(len(row.prompt) - anchor))  # stable: the oldest stays first among equals
        scanned.remove(oldest)
        groups: dict[tuple[tuple[int, ...], str | None, str | None], list[Row]] = {}
        taken: set[int] = set()
        longest = total = 0
        for row in [oldest, *scanned]:
            key = (tuple(row.prompt), row.request.adapter, row.request.cache_salt)
            if len(taken) >= free or used + self._reserve(row) > self.limits.cache_bytes:
                break
            if key not in groups:
                new_longest, new_total = max(longest, len(row.prompt)), total + len(row.prompt)
                area = (len(groups) + 1) * new_longest
                if groups and (area > self.limits.prefill_tokens or area > MAX_WASTE * new_total):
                    continue
                if groups and not self.model.windowed:
                    continue
                longest, total = new_longest, new_total
            groups.setdefault(key, []).append(row)
            used += self._reserve(row)
            taken.add(id(row))
            if not self.model.windowed:
                break
        self.waiting = deque(row for row in self.waiting if id(row) not in taken)
        return list(groups.values())

    def _reserve(self, row: Row) -> int:
        """Bytes of cache a row may come to need."""
        return (len(row.prompt) + row.limit) * self.limits.bytes_per_token

    def _compute(self, current: Prefill) -> tuple[Tensor | None, Prefilled | None]:
        """One chunk; (None, None) while more are to come."""
        prompts = current.prompts
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        device = self.model.device
        if self.model.seq2seq:
            ids = torch.tensor([p + [0] * (longest - len(p)) for p in prompts], device=device)
            mask = torch.arange(longest, device=device) < torch.tensor(lengths, device=device).unsqueeze(1)
            logits, cache = self.model.encode(ids, mask)
            return logits, Prefilled(cache=cache, lengths=[1] * len(prompts), encoder_lengths=lengths)
        if current.cache is None:
            current.cache = self.model.new_cache()
        start, end = current.done, min(longest, current.done + self.limits.prefill_tokens)
        if len(prompts) > 1:
            end = longest  # a group fits the budget as a whole
        ids = torch.tensor([([0] * (longest - len(p)) + p)[start:end] for p in prompts], device=device)
        mask = None
        if min(lengths) < longest:
            mask = torch.arange(end, device=device) >= longest - torch.tensor(lengths, device=device).unsqueeze(1)
        logits = self.model.prefill(ids, mask, current.cache, start)
        current.done = end
        if end < longest:
            return None, None
        return logits, Prefilled(cache=current.cache, lengths=lengths)

    def _isolate(self, current: Prefill, error: Exception, deltas: list[SequenceDelta]) -> None:
        """A prefill raised: what was computed together is tried one by one, so that one fails alone."""
        parts = [[group] for group in current.groups]
        if len(parts) == 1:
            parts = [[[row]] for row in current.rows]
        if len(parts) == 1:
            self._check_alive(error)
            self._fail_rows(current.rows, error, deltas)
            return
        for groups in parts:
            alone = Prefill(groups)
            try:
                logits, source = None, None
                with self.model.using([groups[0][0].request.adapter]):
                    while source is None:
                        logits, source = self._compute(alone)
                assert logits is not None
                first = self._draw_first(alone, logits, source)
            except Exception as own:
                if not self._put_back(alone, own):
                    self._isolate(alone, own, deltas)
            else:
                self._start(first, deltas)

    def _draw_first(self, current: Prefill, logits: Tensor, source: Prefilled) -> First:
        """Draw the first tokens of prompts that were just computed; nothing is reported yet."""
        pairs = [(row, at) for at, group in enumerate(current.groups) for row in group if row.limit]
        rows, picks = [row for row, _ in pairs], [at for _, at in pairs]
        if not rows:  # all were aborted meanwhile
            return First(rows, picks, source, None)
        if picks != list(range(logits.shape[0])):
            logits = logits[picks]
        return First(rows, picks, source, BatchSampler(rows, self.model.vocab_size, self.model.device).draw(logits))

    def _start(self, first: First, deltas: list[SequenceDelta]) -> None:
        """Report first tokens and let the rows that go on join lanes."""
        rows, picks, source, draw = first.rows, first.picks, first.source, first.draw
        if draw is None:
            return
        ended = set(self._report(rows, draw, deltas))
        going = [i for i in range(len(rows)) if i not in ended]
        try:
            for lane, members in self._assign([(i, source.lengths[picks[i]]) for i in going]):
                tokens = [draw.token_ids[i] for i in members]
                lane.join([rows[i] for i in members], source, [picks[i] for i in members], tokens)
        except Exception as error:  # no memory for them beside what runs
            self._fail_rows([rows[i] for i in going], error, deltas)
            self._drop_empty_lanes()

    def _assign(self, rows: Sequence[tuple[int, int]]) -> list[tuple[Lane, list[int]]]:
        """Choose a lane for each (row, length): the one where the least is read for nothing, or a new one where even
        that costs more than stepping another lane."""
        chosen: list[tuple[Lane, list[int]]] = []
        for row, length in rows:
            best: tuple[int, Lane] | None = None
            for lane in self.lanes:
                padding = lane.padding(length)
                if padding is not None and (best is None or padding < best[0]):
                    best = padding, lane
            if best is not None and best[0] <= self.limits.lane_cost:
                lane = best[1]
            elif fresh := [lane for lane, _ in chosen if lane not in self.lanes and self.model.windowed]:
                lane = fresh[0]
            else:
                lane = WindowLane(self.model, self.limits.max_rows) if self.model.windowed else SoloLane(self.model)
            for known, members in chosen:
                if known is lane:
                    members.append(row)
                    break
            else:
                chosen.append((lane, [row]))
        self.lanes += [lane for lane, _ in chosen if lane not in self.lanes]
        return chosen

    # -- decode ------------------------------------------------------------------------------------------------------

    def _decode(self, lane: Lane, deltas: list[SequenceDelta]) -> None:
        draw: Draw | None = None
        while lane.rows and draw is None:
            try:
                draw = self._attempt(lane, None)
            except Exception as error:
                self._give_up_some(lane, error, deltas)
        if draw is None:
            return
        rows = list(lane.rows)
        lane.sampler().keep(draw)
        lane.feed(draw.tokens)
        if ended := self._report(rows, draw, deltas):
            lane.leave(ended)

    def _attempt(self, lane: Lane, part: slice | None) -> Draw:
        """One decode step of a lane or of a part of its rows; without effect until it is kept and fed."""
        rows = lane.rows if part is None else lane.rows[part]
        with self.model.using([row.request.adapter for row in rows]):
            logits = lane.step(part)
        sampler = lane.sampler() if part is None else BatchSampler(rows, self.model.vocab_size, self.model.device)
        return sampler.propose(logits)

    def _give_up_some(self, lane: Lane, error: Exception, deltas: list[SequenceDelta]) -> None:
        """A step raised: end the rows to blame, or the newest where memory ran out, so that the others take it again."""
        rows = list(lane.rows)
        if not lane.repeats:
            guilty = dict.fromkeys(range(len(rows)), error)
        elif isolation.is_out_of_memory(error):
            if self.prefill is not None and self._put_back(self.prefill, error):
                self.prefill = None  # what has not begun gives way first
                return
            newest = max(range(len(rows)), key=lambda at: rows[at].order)
            guilty = {newest: error}
        else:
            guilty = isolation.blamed(len(rows), error, lambda part: self._attempt(lane, part))
            if not guilty:  # no part raises by itself, the whole did: nobody can be told apart
                guilty = dict.fromkeys(range(len(rows)), error)
        if len(guilty) == len(rows):
            self._check_alive(error)
        deltas += [failed(rows[at], own) for at, own in guilty.items()]
        lane.leave(list(guilty))

    def _check_alive(self, error: Exception) -> None:
        """Nobody's step worked: their fault, or that of a device that has stopped working, where only a new host helps.

        Raises:
            EngineUnavailable: not even one token can be computed.
        """
        if isolation.is_out_of_memory(error):
            return
        try:
            self.model.whole([0], [])
        except Exception as broken:
            if not isolation.is_out_of_memory(broken):
                raise EngineUnavailable(f"Nothing can be computed any more: {type(broken).__name__}.") from broken

    def _report(self, rows: list[Row], draw: Draw, deltas: list[SequenceDelta]) -> list[int]:
        """Append one delta per row; return the positions of rows that ended."""
        ended: list[int] = []
        bad = frozenset(draw.bad)
        logprobs = draw.logprobs
        for at, (row, token) in enumerate(zip(rows, draw.token_ids, strict=True)):
            if at in bad:
                delta = failed(row, NonFiniteLogits("The model produced NaN or infinity for this request."))
            elif at in draw.errors:
                delta = failed(row, draw.errors[at])
            else:
                try:
                    delta = row.push(token, None if logprobs is None else logprobs[at])
                except Exception as error:  # its guide: nobody else's
                    delta = failed(row, error)
            if delta.finish_reason is not None:
                ended.append(at)
            deltas.append(delta)
        return ended

    def _drop_empty_lanes(self) -> None:
        self.lanes = [lane for lane in self.lanes if lane.rows]
