"""BackendConformance: what every backend must do, as a pytest class. Ours pass it; so should a third party's.

    class TestMyBackend(BackendConformance):
        def load(self):
            return my_backend.load(options, lambda text, share: None)

Needs pytest to be collected, and nothing else: each test runs an event loop of its own. See `docs/how-to`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import msgspec

from openllm.backends.base import Backend, BackendRequest, SequenceDelta, TokenLogprob, TokenSampling
from openllm.engine.request import new_request_id

GREEDY = TokenSampling(max_tokens=8, temperature=0.0)
SAMPLED = TokenSampling(max_tokens=16, temperature=1.5)


class Outcome:
    """All that came for one request."""

    def __init__(self) -> None:
        self.deltas: list[SequenceDelta] = []
        self.done = asyncio.Event()

    @property
    def token_ids(self) -> list[int]:
        """Ids of all deltas."""
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def logprobs(self) -> list[TokenLogprob]:
        """Log-probabilities of all deltas."""
        return [found for delta in self.deltas for found in delta.logprobs or ()]

    @property
    def finish_reason(self) -> str | None:
        """Of the last delta."""
        return self.deltas[-1].finish_reason if self.deltas else None


class Drive:
    """Runs a backend's steps and sorts its deltas by request."""

    def __init__(self, backend: Backend, limit_s: float) -> None:
        self.backend = backend
        self.outcomes: dict[str, Outcome] = {}
        self.most_running = 0
        self.steps = 0
        self._limit_s = limit_s
        self._task = asyncio.create_task(self._consume())

    async def _consume(self) -> None:
        async for output in self.backend.steps():
            self.steps += 1
            self.most_running = max(self.most_running, output.num_running)
            for delta in output.deltas:
                outcome = self.outcomes[delta.request_id]
                outcome.deltas.append(delta)
                if delta.finish_reason is not None:
                    outcome.done.set()

    def submit(self, prompt: Sequence[int], sampling: TokenSampling) -> tuple[str, Outcome]:
        """Queue one request; its id and where its deltas go."""
        request_id = new_request_id()
        outcome = self.outcomes[request_id] = Outcome()
        self.backend.submit(BackendRequest(request_id, list(prompt), sampling))
        return request_id, outcome

    async def finish(self, *outcomes: Outcome) -> None:
        """Wait for final deltas."""
        async with asyncio.timeout(self._limit_s):
            for outcome in outcomes:
                await outcome.done.wait()

    async def run(self, prompt: Sequence[int], sampling: TokenSampling = GREEDY) -> Outcome:
        """One request from start to end."""
        _, outcome = self.submit(prompt, sampling)
        await self.finish(outcome)
        return outcome

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that steps bring about."""
        async with asyncio.timeout(self._limit_s):
            while not condition():
                await asyncio.sleep(0.001)

    async def ended(self) -> None:
        """Wait until `steps()` has ended."""
        async with asyncio.timeout(self._limit_s):
            await self._task


def _changed(sampling: TokenSampling, **changes: Any) -> TokenSampling:
    return msgspec.structs.replace(sampling, **changes)


class BackendConformance:
    """Subclass it, name the subclass `Test…`, and give `load`. Override the attributes where your model needs it.

    Attributes:
        prompts: token ids; at least three, of different lengths, none a special token.
        limit_s: seconds that one wait may take.
    """

    prompts: Sequence[Sequence[int]] = ([72, 101, 108], [87, 111, 114, 108, 100, 33], [79, 110], [65, 66, 67, 68])
    limit_s: float = 60.0

    def load(self) -> Backend:
        """A fresh backend with a loaded model; called within a running event loop."""
        raise NotImplementedError("give your conformance class a load() method")

    def broken_request(self, backend: Backend) -> BackendRequest:
        """A request that cannot run; the default one has a token outside the vocabulary."""
        return BackendRequest(new_request_id(), [backend.info.vocab_size + 7], GREEDY)

    def _with(self, test: Callable[[Drive], Awaitable[None]]) -> None:
        async def run() -> None:
            async with self._driving() as drive:
                await test(drive)

        asyncio.run(run())

    @contextlib.asynccontextmanager
    async def _driving(self) -> AsyncGenerator[Drive]:
        backend = self.load()
        drive = Drive(backend, self.limit_s)
        try:
            yield drive
        finally:
            await backend.aclose()
            await drive.ended()

    # -- facts --------------------------------------------------------------------------------------------------------

    def test_info_is_complete(self) -> None:
        """The facts that admission relies on are there and agree with each other."""

        async def test(drive: Drive) -> None:
            info = drive.backend.info
            assert info.backend
            assert info.capabilities.generate
            assert info.max_batch >= 1
            assert info.vocab_size >= 2
            assert info.max_prompt_len >= 1
            assert info.capabilities.seq2seq or info.max_prompt_len < info.max_model_len
            assert all(0 <= token < info.vocab_size for token in info.eos_token_ids)

        self._with(test)

    def test_is_healthy_while_it_runs(self) -> None:
        """`check_health` returns while requests are served."""

        async def test(drive: Drive) -> None:
            await drive.backend.check_health()
            await drive.run(self.prompts[0])
            await drive.backend.check_health()

        self._with(test)

    # -- what is drawn ------------------------------------------------------------------------------------------------

    def test_greedy_is_deterministic(self) -> None:
        """The same prompt at temperature 0 gives the same tokens each time."""

        async def test(drive: Drive) -> None:
            first = await drive.run(self.prompts[0])
            second = await drive.run(self.prompts[0])
            assert first.token_ids == second.token_ids
            assert first.token_ids

        self._with(test)

    def test_batch_mates_change_nothing(self) -> None:
        """Prompts run together give what each gives alone, greedy and seeded."""

        async def test(drive: Drive) -> None:
            samplings = [GREEDY, _changed(SAMPLED, seed=1), _changed(GREEDY, max_tokens=12), _changed(SAMPLED, seed=2)]
            jobs = list(zip(self.prompts, samplings, strict=False))
            alone = [(await drive.run(prompt, sampling)).token_ids for prompt, sampling in jobs]
            together = [drive.submit(prompt, sampling)[1] for prompt, sampling in jobs]
            await drive.finish(*together)
            assert [outcome.token_ids for outcome in together] == alone

        self._with(test)

    def test_joining_a_running_batch_changes_nothing(self) -> None:
        """A request that joins while another runs gives what it gives alone, and so does the other."""

        async def test(drive: Drive) -> None:
            long = _changed(GREEDY, max_tokens=24, stop_token_ids=())
            first_alone = (await drive.run(self.prompts[0], long)).token_ids
            second_alone = (await drive.run(self.prompts[1])).token_ids
            _, first = drive.submit(self.prompts[0], long)
            await drive.until(lambda: len(first.token_ids) >= 2)
            _, second = drive.submit(self.prompts[1], GREEDY)
            await drive.finish(first, second)
            assert first.token_ids == first_alone
            assert second.token_ids == second_alone

        self._with(test)

    def test_a_seed_makes_sampling_repeatable(self) -> None:
        """The same seed gives the same tokens; of several seeds some differ."""

        async def test(drive: Drive) -> None:
            first = [await drive.run(self.prompts[0], _changed(SAMPLED, seed=seed)) for seed in range(5)]
            again = [await drive.run(self.prompts[0], _changed(SAMPLED, seed=seed)) for seed in range(5)]
            assert [o.token_ids for o in first] == [o.token_ids for o in again]
            assert len({tuple(o.token_ids) for o in first}) > 1

        self._with(test)

    def test_narrow_sampling_is_greedy(self) -> None:
        """top_k 1, a tiny top_p or min_p 1 leave only the most likely token, whatever the temperature."""

        async def test(drive: Drive) -> None:
            greedy = (await drive.run(self.prompts[0])).token_ids
            for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
                found = await drive.run(self.prompts[0], _changed(GREEDY, temperature=1.5, seed=3, **narrow))
                assert found.token_ids == greedy, narrow

        self._with(test)

    def test_logit_bias_forces_and_forbids(self) -> None:
        """A large bias makes a token certain; -1e9 keeps it from ever being drawn."""

        async def test(drive: Drive) -> None:
            token = (await drive.run(self.prompts[0])).token_ids[0]
            other = (token + 1) % drive.backend.info.vocab_size
            forced = await drive.run(self.prompts[0], _changed(GREEDY, max_tokens=1, logit_bias={other: 1000.0}))
            assert forced.token_ids == [other]
            banned = await drive.run(self.prompts[0], _changed(GREEDY, logit_bias={token: -1e9}))
            assert token not in banned.token_ids

        self._with(test)

    # -- where it ends ------------------------------------------------------------------------------------------------

    def test_max_tokens_is_exact(self) -> None:
        """Without a stop token exactly `max_tokens` come, and the reason is "length"."""

        async def test(drive: Drive) -> None:
            for count in (1, 2, 7):
                outcome = await drive.run(self.prompts[1], _changed(GREEDY, max_tokens=count))
                assert len(outcome.token_ids) == count
                assert outcome.finish_reason == "length"

        self._with(test)

    def test_a_stop_token_ends_the_sequence(self) -> None:
        """The sequence ends with the stop token's first appearance, which is included and named."""

        async def test(drive: Drive) -> None:
            free = (await drive.run(self.prompts[0])).token_ids
            stop = free[-1]
            outcome = await drive.run(self.prompts[0], _changed(GREEDY, stop_token_ids=(stop,)))
            assert outcome.token_ids == free[: free.index(stop) + 1]
            assert outcome.finish_reason == "stop"
            assert outcome.deltas[-1].stop_token_id == stop

        self._with(test)

    def test_min_tokens_delays_stop_tokens(self) -> None:
        """No stop token is drawn before `min_tokens` tokens were."""

        async def test(drive: Drive) -> None:
            first = (await drive.run(self.prompts[0])).token_ids[0]
            sampling = _changed(GREEDY, stop_token_ids=(first,), min_tokens=4)
            outcome = await drive.run(self.prompts[0], sampling)
            assert len(outcome.token_ids) >= 4
            assert first not in outcome.token_ids[:4]

        self._with(test)

    def test_each_request_has_one_final_delta(self) -> None:
        """Exactly one delta carries a finish reason, and it is the last."""

        async def test(drive: Drive) -> None:
            outcomes = [drive.submit(prompt, GREEDY)[1] for prompt in self.prompts]
            await drive.finish(*outcomes)
            await drive.run(self.prompts[0])  # time for a wrong delta to come
            for outcome in outcomes:
                reasons = [delta.finish_reason for delta in outcome.deltas]
                assert reasons[-1] is not None
                assert reasons[:-1] == [None] * (len(reasons) - 1)

        self._with(test)

    # -- log-probabilities --------------------------------------------------------------------------------------------

    def test_logprobs_have_their_shape(self) -> None:
        """One entry per token, the most likely first, the greedy token the most likely; none unless asked for."""

        async def test(drive: Drive) -> None:
            silent = await drive.run(self.prompts[0])
            assert all(delta.logprobs is None for delta in silent.deltas)
            if not drive.backend.info.capabilities.logprobs:
                return
            outcome = await drive.run(self.prompts[0], _changed(GREEDY, logprobs=3))
            assert [found.token_id for found in outcome.logprobs] == outcome.token_ids
            for found in outcome.logprobs:
                assert found.logprob <= 1e-6
                assert len(found.top) == 3
                assert [p for _, p in found.top] == sorted((p for _, p in found.top), reverse=True)
                assert found.top[0][0] == found.token_id
                assert abs(found.top[0][1] - found.logprob) < 1e-4
            bare = await drive.run(self.prompts[0], _changed(GREEDY, logprobs=0))
            assert [found.top for found in bare.logprobs] == [()] * len(bare.token_ids)

        self._with(test)

    # -- coming and going ---------------------------------------------------------------------------------------------

    def test_an_aborted_request_is_silent(self) -> None:
        """After `abort` nothing more of the request comes, mates go on, and aborting again or an unknown id is fine."""

        async def test(drive: Drive) -> None:
            long = _changed(GREEDY, max_tokens=200)
            dropped_id, dropped = drive.submit(self.prompts[0], long)
            mate_alone = (await drive.run(self.prompts[1])).token_ids
            await drive.until(lambda: bool(dropped.deltas))
            drive.backend.abort(dropped_id)
            drive.backend.abort(dropped_id)
            drive.backend.abort("never-was")
            seen = len(dropped.deltas)
            mate = await drive.run(self.prompts[1])
            assert len(dropped.deltas) == seen
            assert not dropped.done.is_set()
            assert mate.token_ids == mate_alone

        self._with(test)

    def test_aborting_at_once_leaves_no_trace(self) -> None:
        """A request aborted before its first step never yields a delta."""

        async def test(drive: Drive) -> None:
            dropped_id, dropped = drive.submit(self.prompts[0], GREEDY)
            drive.backend.abort(dropped_id)
            await drive.run(self.prompts[1])
            assert dropped.deltas == []

        self._with(test)

    def test_more_requests_than_slots_all_finish(self) -> None:
        """What exceeds the batch waits and is served in turn; the batch never exceeds its bound."""

        async def test(drive: Drive) -> None:
            count = min(2 * drive.backend.info.max_batch + 3, 80)
            sampling = _changed(GREEDY, max_tokens=3)
            outcomes = [drive.submit(self.prompts[i % len(self.prompts)], sampling)[1] for i in range(count)]
            await drive.finish(*outcomes)
            assert [len(outcome.token_ids) for outcome in outcomes] == [3] * count
            assert drive.most_running <= drive.backend.info.max_batch

        self._with(test)

    def test_a_broken_request_fails_alone(self) -> None:
        """It ends with an error of its own; its mates' tokens are what they would have been."""

        async def test(drive: Drive) -> None:
            alone = (await drive.run(self.prompts[0])).token_ids
            broken = self.broken_request(drive.backend)
            bad = drive.outcomes[broken.request_id] = Outcome()
            _, mate = drive.submit(self.prompts[0], GREEDY)
            drive.backend.submit(broken)
            await drive.finish(mate, bad)
            assert bad.finish_reason == "error"
            assert bad.deltas[-1].error is not None
            assert mate.token_ids == alone

        self._with(test)

    def test_steps_wait_while_there_is_nothing_to_do(self) -> None:
        """An idle backend yields no steps."""

        async def test(drive: Drive) -> None:
            await drive.run(self.prompts[0])
            await asyncio.sleep(0.02)
            before = drive.steps
            await asyncio.sleep(0.05)
            assert drive.steps == before

        self._with(test)

    def test_closing_ends_the_steps(self) -> None:
        """`aclose` ends `steps()` even while a request runs; closing twice is fine."""

        async def test(drive: Drive) -> None:
            _, outcome = drive.submit(self.prompts[0], _changed(GREEDY, max_tokens=200))
            await drive.until(lambda: bool(outcome.deltas))
            await drive.backend.aclose()
            await drive.ended()
            await drive.backend.aclose()

        self._with(test)
