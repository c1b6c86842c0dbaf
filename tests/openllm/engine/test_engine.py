"""The engine over an embedded echo backend: admission, the line, fan-out, ends and failures of single requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from openllm.engine.dispatch import LOOK_AHEAD
from openllm.engine.engine import Engine
from openllm.engine.supervisor import launch_embedded
from openllm.engine.text import INLINE_CHARS
from openllm.tokenizer import byte_tokenizer
from openllm_core.errors import (
    AdapterNotFound,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineError,
    EngineLoading,
    InvalidRequest,
    NonFiniteLogits,
    OpenLLMError,
    OutOfMemoryInStep,
    Overloaded,
    ShuttingDown,
    UnsupportedFeature,
)
from openllm_core.options import EngineOptions

from .conftest import MakeEngine, read, request, text_of

SLOW: dict[str, Any] = {"step_s": 0.02}


async def eventually(condition: Any, limit_s: float = 5.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.002)


# -- answers ------------------------------------------------------------------------------------------------------------


async def test_echoes_with_reasons_and_usage(make_engine: MakeEngine) -> None:
    """Deltas join to the text; the last has the reason; usage counts the end token."""
    engine = await make_engine()
    async with await engine.add(request("héllo")) as stream:
        deltas = [delta async for delta in stream]
    assert "".join(delta.text for delta in deltas) == "héllo"
    assert [delta.finish_reason for delta in deltas] == [None] * 5 + ["stop"]
    assert [token for delta in deltas for token in delta.token_ids] == [*"héllo".encode(), 257]
    assert stream.prompt_token_ids == list("héllo".encode())
    usage = stream.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, 7, 13)


async def test_length_ends_with_what_was_held(make_engine: MakeEngine) -> None:
    """At max_tokens the text held back for a stop string is sent, and half a character becomes U+FFFD."""
    engine = await make_engine()
    assert await text_of(engine, "abcé", stop=("bcx",), max_tokens=3) == "abc"
    assert await text_of(engine, "abcé", max_tokens=4) == "abc\ufffd"


async def test_stop_string_ends_text_and_backend(make_engine: MakeEngine) -> None:
    """The text stops before the string, names it, and the backend is told to drop the sequence."""
    engine = await make_engine(**SLOW, reply="one two three" * 50)
    async with await engine.add(request("x", stop=("two", "zzz"))) as stream:
        deltas = [delta async for delta in stream]
    assert "".join(delta.text for delta in deltas) == "one "
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", "two")
    assert stream.completion_tokens == len("one two")
    assert engine.num_running == 0
    assert await text_of(engine, "y", max_tokens=2) == "on"


async def test_stop_token_is_named_and_has_no_text(make_engine: MakeEngine) -> None:
    """A stop token of the request is reported as stop_reason; the model's own end token is not; neither is text."""
    engine = await make_engine()
    async with await engine.add(request("abc", stop_token_ids=(ord("b"),))) as stream:
        deltas = [delta async for delta in stream]
    assert "".join(delta.text for delta in deltas) == "a"
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", ord("b"))
    async with await engine.add(request("abc")) as stream:
        deltas = [delta async for delta in stream]
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", None)


async def test_ignore_eos_goes_on(make_engine: MakeEngine) -> None:
    """ignore_eos leaves only the request's own stop tokens."""
    engine = await make_engine()
    assert await text_of(engine, "ab", ignore_eos=True, max_tokens=5) == "ababa"


async def test_choices_run_side_by_side(make_engine: MakeEngine) -> None:
    """n choices come interleaved under their index; a seed gives each its own, repeatably."""
    engine = await make_engine(peak=1.0)
    sampled = {"n": 3, "seed": 7, "max_tokens": 8, "temperature": 1.0}
    first = await read(await engine.add(request("hello", **sampled)))
    again = await read(await engine.add(request("hello", **sampled)))
    assert first == again
    assert sorted(first) == [0, 1, 2]
    assert len(set(first.values())) == 3
    alone = await text_of(engine, "hello", seed=7, max_tokens=8, temperature=1.0)
    assert first[0] == alone


async def test_stop_string_of_one_choice_leaves_the_others(make_engine: MakeEngine) -> None:
    """Each choice ends by itself; the request ends with the last."""
    engine = await make_engine(peak=1.0)
    texts = await read(await engine.add(request("hello", n=4, seed=1, max_tokens=12, stop=("e", "l", "i"))))
    assert len(texts) == 4
    assert all(not set(text) & set("eli") for text in texts.values())
    assert engine.num_running == 0


async def test_logprobs_come_with_their_tokens(make_engine: MakeEngine) -> None:
    """One entry per token, with the token's text, bytes and alternatives, however the text is held back."""
    engine = await make_engine()
    async with await engine.add(request("é!", logprobs=2, max_tokens=3)) as stream:
        deltas = [delta async for delta in stream]
    for delta in deltas:
        assert delta.logprobs is not None
        assert [entry.token_id for entry in delta.logprobs] == delta.token_ids
    entries = [entry for delta in deltas for entry in delta.logprobs or ()]
    assert [entry.bytes for entry in entries] == [[0xC3], [0xA9], [ord("!")]]
    assert entries[2].token == "!"
    assert [(token, token_id) for token, token_id, _ in entries[2].top] == [("!", 33), ('"', 34)]


async def test_prompt_as_ids_and_empty_prompt(make_engine: MakeEngine) -> None:
    """Ids are taken as they are; an empty prompt becomes the start token."""
    engine = await make_engine()
    assert await text_of(engine, list(b"ids")) == "ids"
    async with await engine.add(request("")) as stream:
        assert stream.prompt_token_ids == [256]


@settings(max_examples=30, deadline=None)
@given(
    reply=st.text(max_size=30),
    stops=st.lists(st.text(min_size=1, max_size=3), max_size=3),
    step=st.integers(1, 40),
)
def test_stream_is_the_one_shot_text(reply: str, stops: list[str], step: int) -> None:
    """Through the whole engine: the joined deltas are the reply up to its first stop string, at any max_tokens."""

    async def run() -> str:
        options = EngineOptions(backend="echo", engine_arg={"reply": reply})
        engine = Engine(options, byte_tokenizer(), launch=launch_embedded)
        await engine.start()
        await engine.wait_ready(5)
        text = await text_of(engine, "p", stop=tuple(stops), max_tokens=step)
        await engine.aclose()
        return text

    whole = reply.encode()[:step].decode("utf-8", "replace")
    found = [(whole.index(s) + len(s), -len(s), s) for s in stops if s in whole]
    expected = whole[: min(found)[0] + min(found)[1]] if found else whole
    assert asyncio.run(run()) == expected


# -- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "fields", "kind", "param"),
    [
        ("x" * 20, {"max_tokens": 45}, ContextLengthExceeded, "max_tokens"),
        ("x" * 64, {}, ContextLengthExceeded, "prompt"),
        ("x" * 100_000, {}, ContextLengthExceeded, "prompt"),
        ("é" * INLINE_CHARS * 2, {}, ContextLengthExceeded, "prompt"),
        ([1] * 64, {}, ContextLengthExceeded, "prompt"),
        ([1, 260], {}, InvalidRequest, "prompt"),
        ([-1], {}, InvalidRequest, "prompt"),
        ("\ud800", {}, InvalidRequest, "prompt"),
        ("x", {"logit_bias": {260: 1.0}}, InvalidRequest, "logit_bias"),
        ("x", {"stop_token_ids": (999,)}, InvalidRequest, "stop_token_ids"),
        ("x", {"min_tokens": 9, "max_tokens": 3}, InvalidRequest, "min_tokens"),
        ("x", {"adapter": "nope"}, AdapterNotFound, "adapter_name"),
        ("x", {"n": 15}, InvalidRequest, "n"),
    ],
)
async def test_refused_before_the_backend_sees_it(
    make_engine: MakeEngine, prompt: Any, fields: dict[str, Any], kind: type[OpenLLMError], param: str
) -> None:
    """What cannot be served is refused with its field, and leaves nothing behind."""
    engine = await make_engine(max_model_len=64, slots=4, engine={"max_queue": 10})
    with pytest.raises(kind) as caught:
        await engine.add(request(prompt, **fields))
    assert caught.value.param == param
    assert engine.metrics.prompt_tokens == 0
    assert engine.queue_depth == engine.num_running == 0


async def test_a_familys_end_of_text_that_the_model_does_not_have(make_engine: MakeEngine) -> None:
    """A small model of a family whose larger ones have that token: dropped, where a client's own id is refused."""
    engine = await make_engine(reply="fine")
    family = frozenset({50277})
    assert await text_of(engine, stop_token_ids=(50277,), family_stop_ids=family) == "fine"
    with pytest.raises(InvalidRequest, match="50278"):
        await engine.add(request(stop_token_ids=(50277, 50278), family_stop_ids=family))
    assert await text_of(engine, stop_token_ids=(105,), family_stop_ids=frozenset({105})) == "f"


async def test_exactly_what_fits_is_taken(make_engine: MakeEngine) -> None:
    """Prompt plus max_tokens may fill the context to the last token; a default is cut to it."""
    engine = await make_engine(max_model_len=64)
    async with await engine.add(request("x" * 20, max_tokens=44, ignore_eos=True)) as stream:
        async for _ in stream:
            pass
    assert stream.completion_tokens == 44
    async with await engine.add(request("x" * 60, ignore_eos=True, max_tokens_default=1000)) as stream:
        async for _ in stream:
            pass
    assert stream.completion_tokens == 4
    async with await engine.add(request("x" * 20, ignore_eos=True, max_tokens_default=3)) as stream:
        async for _ in stream:
            pass
    assert stream.completion_tokens == 3


async def test_logprobs_refused_where_the_backend_has_none(make_engine: MakeEngine) -> None:
    """A capability the backend lacks is refused by name."""
    engine = await make_engine(logprobs=False)
    with pytest.raises(UnsupportedFeature) as caught:
        await engine.add(request("x", logprobs=1))
    assert caught.value.param == "logprobs"


async def test_a_far_too_long_prompt_is_not_tokenised(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes that cannot fit are refused by length alone."""
    engine = await make_engine()

    def fail(*args: Any) -> list[int]:
        raise AssertionError("tokenised")

    monkeypatch.setattr(engine.tokenizer, "encode", fail)
    with pytest.raises(ContextLengthExceeded):
        await engine.add(request("x" * 5_000_000))


# -- the line -----------------------------------------------------------------------------------------------------------


async def test_first_come_first_served(make_engine: MakeEngine) -> None:
    """With one slot, requests finish in the order they came."""
    engine = await make_engine(slots=1, engine={"max_queue": 50})
    order: list[int] = []

    async def one(number: int) -> None:
        await text_of(engine, "abc")
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(20)))
    assert order == list(range(20))


async def test_interactive_goes_before_background(make_engine: MakeEngine) -> None:
    """Background requests wait while interactive ones do, once the look-ahead is full."""
    engine = await make_engine(slots=1, engine={"max_queue": 50})
    order: list[str] = []

    async def one(priority: Any) -> None:
        await text_of(engine, "abc", priority=priority)
        order.append(priority)

    filling = [asyncio.ensure_future(text_of(engine, "abc")) for _ in range(1 + LOOK_AHEAD)]
    await asyncio.sleep(0)
    tasks = [asyncio.ensure_future(one("background")) for _ in range(3)]
    tasks += [asyncio.ensure_future(one("interactive")) for _ in range(3)]
    await asyncio.gather(*filling, *tasks)
    assert order == ["interactive"] * 3 + ["background"] * 3


async def test_background_fills_half_of_the_line(make_engine: MakeEngine) -> None:
    """What comes in the background beyond that is told to come back; the other half is there for who waits at a keyboard."""
    engine = await make_engine(slots=1, **SLOW, engine={"max_queue": 4})
    running = [asyncio.ensure_future(text_of(engine, "abcdef", priority="background")) for _ in range(3)]
    await eventually(lambda: engine.num_running == 1 and engine.queue_depth == 2)
    with pytest.raises(Overloaded, match="background's half") as caught:
        await engine.add(attrs.evolve(request(), priority="background"))
    assert caught.value.retry_after_s is not None
    with pytest.raises(Overloaded):
        engine.check_room("", "background")
    engine.check_room("", "interactive")
    running += [asyncio.ensure_future(text_of(engine, "abcdef")) for _ in range(2)]
    await eventually(lambda: engine.queue_depth == 4)
    with pytest.raises(Overloaded, match="The waiting line"):
        await engine.add(request())
    assert await asyncio.gather(*running) == ["abcdef"] * 5


async def test_a_full_line_refuses_at_once(make_engine: MakeEngine) -> None:
    """Beyond slots and line a request is refused immediately, with a time to come back, and others go on."""
    engine = await make_engine(slots=2, **SLOW, engine={"max_queue": 3})
    running = [asyncio.ensure_future(text_of(engine, "abcdef")) for _ in range(5)]
    await eventually(lambda: engine.num_running == 2 and engine.queue_depth == 3)
    started = time.perf_counter()
    with pytest.raises(Overloaded) as caught:
        await engine.add(request())
    assert time.perf_counter() - started < 1
    assert caught.value.retry_after_s is not None
    assert 1 <= caught.value.retry_after_s <= 60
    assert await asyncio.gather(*running) == ["abcdef"] * 5
    assert engine.metrics.refused_full == 1
    assert await text_of(engine) == "hello"


async def test_fan_out_is_all_or_nothing(make_engine: MakeEngine) -> None:
    """n choices need n places; where they are not, none of them is taken."""
    engine = await make_engine(slots=2, **SLOW, engine={"max_queue": 3})
    stream = await engine.add(request("abcdefghij", n=3))
    with pytest.raises(Overloaded):
        await engine.add(request(n=3))
    assert engine.num_running + engine.queue_depth == 3
    assert len(await read(stream)) == 3


async def test_a_batch_is_all_or_nothing(make_engine: MakeEngine) -> None:
    """Prompts that belong together are admitted together: one that cannot be served, or no room, and none begins."""
    engine = await make_engine(slots=2, step_s=0.01, engine={"max_queue": 2})
    short = [request(f"{i}", prompt_param=f"prompt[{i}]") for i in range(2)]
    with pytest.raises(ContextLengthExceeded) as refused:
        await engine.add_all([*short, request("x" * 5000, prompt_param="prompt[2]")])
    assert refused.value.param == "prompt[2]"
    assert not engine.dispatcher.sequences and engine.dispatcher.load == 0
    running = await engine.add_all([request(f"{i}") for i in range(4)])
    with pytest.raises(Overloaded):
        await engine.add_all([request("a"), request("b")])
    assert len(engine.dispatcher.sequences) == 4
    assert [(await read(stream))[0] for stream in running] == ["0", "1", "2", "3"]
    with pytest.raises(InvalidRequest, match="prompts x n must be <= 4"):
        await engine.add_all([request("a") for _ in range(5)])


async def test_a_batch_waits_as_one(make_engine: MakeEngine) -> None:
    """A batch that no slot came free for is refused as a whole; one that has begun goes on to its end."""
    engine = await make_engine(slots=1, step_s=0.01, engine={"queue_timeout_s": 0.1, "max_queue": 32})
    # five sequences fit beside each other in slot and look-ahead, so the last prompts wait far longer than the limit
    batch = await engine.add_all([request("0123456789abcdef") for _ in range(6)])
    with pytest.raises(Overloaded):
        await engine.add_all([request("late") for _ in range(3)])
    assert {s.stream for s in engine.dispatcher.sequences.values()} <= set(batch)
    assert [(await read(stream))[0] for stream in batch] == ["0123456789abcdef"] * 6


async def test_waiting_too_long_is_overload(make_engine: MakeEngine) -> None:
    """A request that gets no slot within queue_timeout_s is refused with Overloaded and leaves the line."""
    engine = await make_engine(slots=1, **SLOW, engine={"max_queue": 20, "queue_timeout_s": 0.1})
    held = [await engine.add(request("x" * 200, ignore_eos=True)) for _ in range(1 + LOOK_AHEAD)]
    with pytest.raises(Overloaded) as caught:
        await engine.add(request())
    assert "0.1 s" in caught.value.message
    assert caught.value.retry_after_s is not None
    assert engine.queue_depth == LOOK_AHEAD
    assert engine.metrics.refused_waited == 1
    for stream in held:
        await stream.aclose()
    assert await text_of(engine) == "hello"


async def test_leaving_the_line(make_engine: MakeEngine) -> None:
    """Cancelling `add` takes the request out of the line before the backend ever hears of it."""
    engine = await make_engine(slots=1, **SLOW, engine={"max_queue": 20})
    held = [await engine.add(request("x" * 200, ignore_eos=True)) for _ in range(1 + LOOK_AHEAD)]
    prompt_tokens = engine.metrics.prompt_tokens
    waiting = asyncio.ensure_future(engine.add(request()))
    await eventually(lambda: engine.queue_depth == LOOK_AHEAD + 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert engine.queue_depth == LOOK_AHEAD
    for stream in held:
        await stream.aclose()
    assert engine.queue_depth == engine.num_running == 0
    assert engine.metrics.prompt_tokens == prompt_tokens


async def test_default_line_length(make_engine: MakeEngine) -> None:
    """Twice the slots, at least 16."""
    assert (await make_engine(slots=64)).max_queue == 128
    assert (await make_engine(slots=1)).max_queue == 16


async def test_slots_and_look_ahead_bound_the_backend(make_engine: MakeEngine) -> None:
    """The backend never holds more than its slots plus the look-ahead."""
    engine = await make_engine(slots=2, **SLOW, engine={"max_queue": 50})
    tasks = [asyncio.ensure_future(text_of(engine, "abc")) for _ in range(30)]
    most = 0
    while not all(task.done() for task in tasks):
        most = max(most, engine.dispatcher.in_host)
        await asyncio.sleep(0.001)
    assert most == 2 + LOOK_AHEAD


# -- leaving, deadlines, failures -----------------------------------------------------------------------------------------


async def test_closing_a_stream_frees_its_slot(make_engine: MakeEngine) -> None:
    """aclose aborts in the backend at once; closing again and reading on are harmless."""
    engine = await make_engine(slots=1, **SLOW)
    stream = await engine.add(request("x" * 500, ignore_eos=True))
    await anext(stream)
    await stream.aclose()
    assert engine.num_running == 0
    await stream.aclose()
    assert await anext(stream, None) is None
    started = time.perf_counter()
    assert await text_of(engine, "ab") == "ab"
    assert time.perf_counter() - started < 5  # the 500 tokens would take ten seconds
    assert engine.metrics.finished["abort"] == 1


async def test_deadline_ends_a_running_request(make_engine: MakeEngine) -> None:
    """Past its deadline a request ends with DeadlineExceeded, after the text that came in time."""
    engine = await make_engine(**SLOW)
    seen = ""
    with pytest.raises(DeadlineExceeded):
        async with await engine.add(request("x" * 500, ignore_eos=True, deadline_s=0.2)) as stream:
            async for delta in stream:
                seen += delta.text
    assert 1 <= len(seen) < 500
    assert engine.num_running == 0


async def test_deadline_counts_while_waiting(make_engine: MakeEngine) -> None:
    """A request whose deadline passes in the line is refused from `add`."""
    engine = await make_engine(slots=1, **SLOW, engine={"max_queue": 20})
    held = [await engine.add(request("x" * 200, ignore_eos=True)) for _ in range(1 + LOOK_AHEAD)]
    with pytest.raises(DeadlineExceeded):
        await engine.add(request(deadline_s=0.05))
    for stream in held:
        await stream.aclose()


@pytest.mark.parametrize(
    ("fault", "kind"), [("fail_at", EngineError), ("nan_at", NonFiniteLogits), ("raise_at", EngineError)]
)
async def test_one_request_fails_alone(make_engine: MakeEngine, fault: str, kind: type[OpenLLMError]) -> None:
    """An error of one sequence, reported or raised inside the step, ends its request; batch mates and the engine go on."""
    engine = await make_engine(when="bad", **{fault: 3})
    mates = [asyncio.ensure_future(text_of(engine, f"good {i}")) for i in range(5)]
    seen = ""
    with pytest.raises(kind):
        async with await engine.add(request("bad one")) as stream:
            async for delta in stream:
                seen += delta.text
    assert seen == "ba"
    assert await asyncio.gather(*mates) == [f"good {i}" for i in range(5)]
    assert engine.state == "ready"


async def test_memory_that_runs_out_costs_the_newest_request(make_engine: MakeEngine) -> None:
    """Out of memory in a step: the newest request is told so and may come again; all others finish as ever."""
    engine = await make_engine(when="large", memory_at=3, step_s=0.02)
    older = [asyncio.ensure_future(text_of(engine, text)) for text in ("a large one", "small")]
    await eventually(lambda: engine.num_running == 2)
    with pytest.raises(OutOfMemoryInStep) as caught:
        await text_of(engine, "newest")
    assert caught.value.wire_code == "engine_out_of_memory" and caught.value.retry_after_s
    assert await asyncio.gather(*older) == ["a large one", "small"]
    assert await text_of(engine, "newest") == "newest"


async def test_a_bug_in_one_requests_text_stays_there(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception while making one request's text ends that request, is logged, and reaches nobody else."""
    engine = await make_engine(**SLOW)
    mate = asyncio.ensure_future(text_of(engine, "mate"))
    await eventually(lambda: engine.num_running == 1)
    found = engine.tokenizer.detokenizer()

    def broken(ids: list[int]) -> str:
        raise ZeroDivisionError

    class Broken:
        push, flush = staticmethod(broken), found.flush

    monkeypatch.setattr(engine.tokenizer, "detokenizer", lambda marks: Broken)
    with pytest.raises(EngineError, match="could not be made"):
        await text_of(engine, "x")
    assert await mate == "mate"
    assert engine.state == "ready"
    assert "ZeroDivisionError" in caplog.text


async def test_failure_of_one_choice_ends_the_request(make_engine: MakeEngine) -> None:
    """When one of n choices fails, the others are aborted and the request has one error."""
    engine = await make_engine(when="bad", fail_at=3)
    with pytest.raises(EngineError):
        await read(await engine.add(request("bad", n=3)))
    assert engine.num_running == engine.queue_depth == 0


async def test_a_slow_reader_gets_all_in_fewer_pieces(make_engine: MakeEngine) -> None:
    """Deltas that nobody reads are joined, so what is kept stays bounded and no text is lost."""
    engine = await make_engine()
    async with await engine.add(request("0123456789" * 40, n=2)) as stream:
        await eventually(lambda: stream.finished)
        assert len(stream._deltas) < 50
        texts = {0: "", 1: ""}
        ids = 0
        async for delta in stream:
            texts[delta.index] += delta.text
            ids += len(delta.token_ids)
    assert texts == {0: "0123456789" * 40, 1: "0123456789" * 40}
    assert ids == stream.completion_tokens == 802


# -- life ---------------------------------------------------------------------------------------------------------------


async def test_loading_refuses_and_shows_progress(make_engine: MakeEngine) -> None:
    """While the model loads requests are refused, progress is told, and a short wait times out by name."""
    engine = await make_engine(wait=False, load_s=0.3)
    assert engine.state == "loading"
    with pytest.raises(EngineLoading) as caught:
        await engine.add(request())
    assert caught.value.retry_after_s is not None
    with pytest.raises(EngineLoading, match="not ready"):
        await engine.wait_ready(0.1)
    assert engine.progress[0] == "loading echo"
    info = await engine.wait_ready(10)
    assert (engine.state, info.backend) == ("ready", "echo")


async def test_drain_lets_running_requests_finish(make_engine: MakeEngine) -> None:
    """Draining refuses new requests at once and returns when the last running one is done."""
    engine = await make_engine(**SLOW)
    running = asyncio.ensure_future(text_of(engine, "abcdef"))
    await eventually(lambda: engine.num_running == 1)
    draining = asyncio.ensure_future(engine.drain(10))
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await engine.add(request())
    await draining
    assert running.done() or await asyncio.wait_for(running, 1)
    assert running.result() == "abcdef"


async def test_drain_ends_what_outlives_the_grace(make_engine: MakeEngine) -> None:
    """After the grace each stream gets a terminal error."""
    engine = await make_engine(**SLOW)
    stream = await engine.add(request("x" * 500, ignore_eos=True))
    await engine.drain(0.1)
    with pytest.raises(ShuttingDown):
        await read(stream)


async def test_close_ends_everything(make_engine: MakeEngine) -> None:
    """aclose ends running and waiting requests; later ones are refused; closing twice is fine."""
    engine = await make_engine(slots=1, **SLOW, engine={"max_queue": 20})
    tasks = [asyncio.ensure_future(text_of(engine, "x" * 300)) for _ in range(9)]
    await eventually(lambda: engine.queue_depth == 8)
    await engine.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ShuttingDown] * 9
    assert engine.state == "closed"
    with pytest.raises(ShuttingDown):
        await engine.add(request())
    with pytest.raises(ShuttingDown):
        await engine.wait_ready(1)
    await engine.aclose()


async def test_metrics_are_exposed(make_engine: MakeEngine) -> None:
    """Counters, histograms and gauges of a request appear in a scrape, and leave with the engine."""
    registry = CollectorRegistry()
    engine = await make_engine(engine={"registry": registry})
    await text_of(engine, "hello")
    scraped = generate_latest(registry).decode()
    for line in (
        'openllm_prompt_tokens_total{engine="0"} 5.0',
        'openllm_generation_tokens_total{engine="0"} 6.0',
        'openllm_sequences_finished_total{engine="0",reason="stop"} 1.0',
        'openllm_time_to_first_token_seconds_count{engine="0"} 1.0',
        'openllm_inter_token_latency_seconds_count{engine="0"} 5.0',
        'openllm_requests_running{engine="0"} 0.0',
        'openllm_requests_waiting{engine="0"} 0.0',
        'openllm_engine_ready{engine="0"} 1.0',
        'openllm_engine_restarts_total{engine="0"} 0.0',
    ):
        assert line in scraped.splitlines()
    await engine.aclose()
    assert generate_latest(registry) == b""


async def test_what_the_backend_counts_is_exposed(make_engine: MakeEngine) -> None:
    """What the backend says of itself is in a scrape, and what it does not know is left out."""
    registry = CollectorRegistry()
    engine = await make_engine(slots=4, engine={"registry": registry})
    await text_of(engine, "hello")
    scraped = generate_latest(registry).decode().splitlines()
    assert 'openllm_kv_cache_usage_ratio{engine="0"} 0.0' in scraped
    assert 'openllm_slots{engine="0"} 4.0' in scraped
    assert 'openllm_queue_limit{engine="0"} 16.0' in scraped
    assert 'openllm_e2e_request_latency_seconds_count{engine="0"} 1.0' in scraped
    assert not any(line.startswith("openllm_preemptions") for line in scraped)


async def test_many_at_once_get_their_own_answers(make_engine: MakeEngine) -> None:
    """Hundreds of requests over few slots: nobody gets another's text."""
    engine = await make_engine(slots=8, engine={"max_queue": 500})
    prompts = [f"prompt number {i} " * (1 + i % 3) for i in range(300)]
    assert await asyncio.gather(*(text_of(engine, prompt) for prompt in prompts)) == prompts


def test_options_reach_the_engine() -> None:
    """The options given are kept as given."""
    options = EngineOptions(backend="echo", engine_arg={"reply": "x"})
    engine = Engine(options, byte_tokenizer(), launch=launch_embedded)
    assert engine.options == attrs.evolve(options)
