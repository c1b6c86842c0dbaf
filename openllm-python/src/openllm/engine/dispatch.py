"""Requests under way: the one waiting line, what the host holds, and the turning of its steps into streams.

`Engine` admits requests into a `Dispatcher` and tells it of steps and of the host's death. It knows of sequences and
slots, not of processes, states or admission rules.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from openllm_core.errors import EngineError, InvalidRequest, OpenLLMError, Overloaded, RateLimitExceeded

from ..backends.base import BackendRequest, StepOutput, TokenSampling
from ..tokenizer import Tokenizer
from .admission import seed_of
from .channel import Abort, Submit
from .line import Line, requests_of
from .metrics import EngineMetrics
from .request import Priority, new_request_id
from .stream import RequestStream, Sequence, error_of

log = logging.getLogger("openllm.engine")

LOOK_AHEAD = 4
"""Sequences the backend may hold beyond its slots, so that a freed one is filled within the same step."""
LOOK_AHEAD_SHARE = 8
"""Between several tenants, one look-ahead for so many slots: who stands there goes before whoever comes to the line."""
MIN_QUEUE = 16

MakeError = Callable[[], OpenLLMError]


class Dispatcher:
    """Bounded line in front of the host's slots, which it shares between tenants.

    Once there are several tenants, each may have half as many sequences under way as may wait, or as many as there are
    slots: a request with more of them passes when nothing else of its tenant is under way.

    Attributes:
        slots: sequences the backend runs at once; 0 while unknown.
        in_host: sequences the backend holds, at most `slots` plus the look-ahead.
        sequences: all that are under way, in line and in the host, by the id the backend knows them by.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        metrics: EngineMetrics,
        send: Callable[[Submit | Abort], None],
        on_change: Callable[[], None],
        max_queue: int | None,
    ) -> None:
        """Args:
        send: hands a frame to the present host.
        on_change: called when requests ended, for whoever waits for that.
        max_queue: sequences that may wait beyond the slots; default 2 x slots, at least 16.
        """
        self.slots = 0
        self.in_host = 0
        self.sequences: dict[str, Sequence] = {}
        self.last_step_at = 0.0
        self._line = Line()
        self._reserved = 0
        self._held = Counter[str]()  # sequences in the host, by tenant
        self._under_way = Counter[str]()  # all of them and what is reserved, by tenant
        self._shared = False  # whether there are several tenants
        self._service_s = 1.0  # moving average of seconds from a slot to the end
        self._ended = 0
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._send = send
        self._on_change = on_change
        self._max_queue = max_queue

    # -- load ---------------------------------------------------------------------------------------------------------

    @property
    def max_queue(self) -> int:
        """Sequences that may wait beyond the slots."""
        return self._max_queue if self._max_queue is not None else max(MIN_QUEUE, 2 * self.slots)

    @property
    def num_running(self) -> int:
        """Sequences that have a slot."""
        return min(self.in_host, self.slots)

    @property
    def queue_depth(self) -> int:
        """Sequences that wait for a slot."""
        return len(self.sequences) - self.num_running

    def expected_wait_s(self, places: int | None = None) -> float:
        """Seconds until a newcomer would get a slot, by how long requests kept theirs lately.

        Args:
            places: how many are before it; default: all that wait.
        """
        before = self.queue_depth if places is None else places
        return self._service_s * (1 + before) / max(1, self.slots)

    @property
    def look_ahead(self) -> int:
        """Sequences the host may hold beyond its slots."""
        return min(LOOK_AHEAD, self.slots // LOOK_AHEAD_SHARE) if self._shared else LOOK_AHEAD

    @property
    def load(self) -> float:
        """Sequences under way and about to be, in line and in the host, per slot."""
        return (len(self.sequences) + self._reserved) / max(1, self.slots)

    @property
    def in_line(self) -> int:
        """Sequences that have not been handed to the host."""
        return len(self._line)

    @property
    def has_idle_slot(self) -> bool:
        """Whether the host could run more than there is."""
        return self.in_host < self.slots and not self.in_line

    def uses(self, adapter: str) -> bool:
        """Whether a sequence under way has this adapter."""
        return any(sequence.backend_request.adapter == adapter for sequence in self.sequences.values())

    def fits(self, count: int, priority: Priority = "interactive") -> bool:
        """Whether so many more sequences may come in."""
        return len(self.sequences) + self._reserved + count <= self.capacity(priority)

    def capacity(self, priority: Priority) -> int:
        """Sequences there may be when one comes in: in the background while half of the line stays free for the others."""
        return self.slots + (self.max_queue if priority == "interactive" else self.max_queue // 2)

    def check_room(self, count: int, tenant: str, priority: Priority) -> None:
        """Refuse what does not fit now; costs nothing but looking.

        Raises:
            InvalidRequest: more choices than could ever fit.
            Overloaded: the line is full.
            RateLimitExceeded: this tenant has its share under way.
        """
        capacity = self.capacity(priority)
        if count > capacity:
            raise InvalidRequest(f"n must be <= {capacity} here.", param="n", code="integer_above_max_value")
        own, most = self._under_way[tenant], max(self.slots, self.max_queue // 2)
        if tenant and own and own + count > most:
            raise RateLimitExceeded(
                f"This key has {own} requests under way; {most} may be while there are other keys.",
                retry_after_s=self.expected_wait_s(max(0, own - self._held[tenant])),
            )
        if not self.fits(count, priority):
            half = "The background's half of the line" if self.fits(count) else "The waiting line"
            raise Overloaded(f"{half} is full ({self.queue_depth}).")

    def reserve(self, count: int, tenant: str = "", priority: Priority = "interactive") -> None:
        """Hold places for requests while they are tokenised: all or none; `release` gives them back.

        Raises:
            InvalidRequest, Overloaded, RateLimitExceeded: see `check_room`.
        """
        self.check_room(count, tenant, priority)
        self._shared = self._shared or bool(tenant)
        self._reserved += count
        self._count(tenant, count)

    def release(self, count: int, tenant: str = "") -> None:
        """Give back reserved places."""
        self._reserved -= count
        self._count(tenant, -count)

    def _count(self, tenant: str, change: int) -> None:
        """Keep who has how many under way, and nobody who has none."""
        self._under_way[tenant] += change
        if not self._under_way[tenant]:
            del self._under_way[tenant]

    def _hold(self, sequence: Sequence, change: int) -> None:
        """Keep what the host holds, in all and by tenant."""
        tenant = sequence.stream.request.tenant
        self.in_host += change
        self._held[tenant] += change
        if not self._held[tenant]:
            del self._held[tenant]

    # -- in -----------------------------------------------------------------------------------------------------------

    def enter(self, stream: RequestStream, sampling: TokenSampling) -> None:
        """Put all choices of a request at the end of their line."""
        request = stream.request
        self._count(request.tenant, request.sampling.n)
        stream.open = request.sampling.n
        for index in range(request.sampling.n):
            request_id = new_request_id()
            own = sampling
            if index and sampling.seed is not None:
                own = msgspec.structs.replace(sampling, seed=seed_of(request.sampling, index))
            salt = request.tenant or None
            backend_request = BackendRequest(request_id, stream.prompt_token_ids, own, request.adapter, salt)
            sequence = Sequence(stream, index, backend_request, self._tokenizer)
            stream.sequences.append(sequence)
            self.sequences[request_id] = sequence
            self._line.put(sequence)

    def waiting(self) -> list[RequestStream]:
        """Requests of which no choice has been handed to the host, interactive before background."""
        return [r for r in requests_of(self._line) if all(s.state == "waiting" for s in r.sequences)]

    def move(self, stream: RequestStream, other: Dispatcher) -> None:
        """Put a request of `waiting` at the end of another dispatcher's line."""
        for sequence in stream.sequences:
            request_id = sequence.backend_request.request_id
            del self.sequences[request_id]
            self._line.remove(sequence)
            other.sequences[request_id] = sequence
            other._line.put(sequence)
        tenant = stream.request.tenant
        self._count(tenant, -len(stream.sequences))
        other._count(tenant, len(stream.sequences))

    def pump(self) -> None:
        """Hand sequences to the host, in the order of the line, while it has room."""
        most = self.slots + self.look_ahead
        submitted: list[BackendRequest] = []
        now = time.monotonic()
        if self.in_host == 0:
            self.last_step_at = now
        while self._line and self.in_host < most:
            sequence = self._line.next(self._held)
            sequence.state = "submitted"
            self._hold(sequence, 1)
            submitted.append(sequence.backend_request)
            stream = sequence.stream
            if sequence.index == 0 and not sequence.requeued:
                stream.submitted_at = now
                self._metrics.prompt_tokens += stream.prompt_tokens
                self._metrics.queue_time.observe(now - stream.admitted_at)
            stream.leave_line()
        if submitted:
            self._send(Submit(submitted))

    # -- steps --------------------------------------------------------------------------------------------------------

    def on_step(self, output: StepOutput) -> bool:
        """The hot path: every running request's new tokens become text and wake its reader.

        Returns:
            True when a sequence ended, so that there may be room for others.
        """
        now = self.last_step_at = time.monotonic()
        sequences, metrics = self.sequences, self._metrics
        tokens, ended = 0, False
        gaps: dict[float, int] = {}  # time of the token before -> sequences; nearly always one
        for delta in output.deltas:
            sequence = sequences.get(delta.request_id)
            if sequence is None:
                continue
            tokens += len(delta.token_ids)
            last = sequence.last_token_at
            if last:
                gaps[last] = gaps.get(last, 0) + 1
            else:
                sequence.state = "started"
                stream = sequence.stream
                stream.first_token_at = stream.first_token_at or now
                metrics.first_token.observe(now - stream.admitted_at)
            sequence.last_token_at = now
            reason = delta.finish_reason
            if reason in ("error", "abort"):
                self.fail(sequence.stream, error_of(delta), dropped=sequence)
                ended = True
                continue
            try:
                stopped = sequence.take(delta)
            except Exception:  # a bug met by one request's tokens must not end the others'
                log.exception("a step could not be turned into text")
                self.fail(sequence.stream, EngineError("The text of this request could not be made."))
                ended = True
                continue
            if stopped:  # by a stop string: the backend does not know yet
                self._send(Abort([delta.request_id]))
                self._finish(sequence, "stop")
                ended = True
            elif reason is not None:
                self._finish(sequence, reason)
                ended = True
        for last, count in gaps.items():
            metrics.between_tokens.observe(now - last, count)
        metrics.generation_tokens += tokens
        metrics.batch.observe(output.num_running or len(output.deltas))
        metrics.step_time.observe(output.step_s)
        if output.stats is not None:
            metrics.stats = output.stats
        return ended

    # -- out ----------------------------------------------------------------------------------------------------------

    def _finish(self, sequence: Sequence, reason: str) -> None:
        """A choice came to its end; the request ends with its last one."""
        self._remove(sequence)
        self._metrics.finished[reason] += 1
        stream = sequence.stream
        stream.finish_reasons.append(reason)
        stream.last_token_at = sequence.last_token_at
        stream.open -= 1
        if stream.open == 0:
            took_s = sequence.last_token_at - stream.admitted_at
            self._ended += 1
            held_s = took_s - (stream.submitted_at - stream.admitted_at)
            self._service_s += max(0.1, 1 / self._ended) * (held_s - self._service_s)
            self._metrics.request_time.observe(took_s)
            stream.end()

    def fail(self, stream: RequestStream, error: OpenLLMError, *, dropped: Sequence | None = None) -> None:
        """End a whole request with an error; choices the backend still holds are aborted there.

        Args:
            dropped: the choice that the backend has already let go of.
        """
        self.withdraw(stream, "error", dropped)
        stream.leave_line(error)
        stream.end(error)

    def fail_all(self, make_error: MakeError) -> None:
        """End every request, each with an error of its own."""
        for stream in requests_of(self.sequences.values()):
            self.fail(stream, make_error())
        self._on_change()

    def withdraw(self, stream: RequestStream, reason: str, dropped: Sequence | None = None) -> None:
        """Take all of a request's choices out of the line and out of the host."""
        aborted: list[str] = []
        for sequence in stream.sequences:
            if sequence.state == "done":
                continue
            if sequence.state in ("submitted", "started") and sequence is not dropped:
                aborted.append(sequence.backend_request.request_id)
            if sequence.state != "waiting":
                self._metrics.finished[reason] += 1
            stream.last_token_at = max(stream.last_token_at, sequence.last_token_at)
            self._remove(sequence)
        if aborted:
            self._send(Abort(aborted))

    def _remove(self, sequence: Sequence) -> None:
        request_id = sequence.backend_request.request_id
        del self.sequences[request_id]
        self._count(sequence.stream.request.tenant, -1)
        if sequence.state == "waiting":
            self._line.remove(sequence)
        else:
            self._hold(sequence, -1)
        sequence.state = "done"

    def host_lost(self, make_error: MakeError) -> None:
        """The host is gone: fail the requests it had begun, put back once, in front, those it had not."""
        lost = [s for s in self.sequences.values() if s.state in ("submitted", "started")]
        begun = {id(s.stream): s.stream for s in lost if s.state == "started" or s.requeued}
        for sequence in reversed(lost):
            self._hold(sequence, -1)
            sequence.state = "waiting"
            sequence.requeued = True
            self._line.put(sequence, first=True)
        for stream in begun.values():
            self.fail(stream, make_error())
