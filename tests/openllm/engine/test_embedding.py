"""Embeddings by an engine, and by a second one that starts with the first request for them."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from openllm.engine import embedder as module
from openllm.engine import embedding
from openllm.engine.channel import AskVectors
from openllm.engine.embedder import Embedder, Second
from openllm.engine.engine import Engine
from openllm.engine.supervisor import launch_embedded
from openllm.tokenizer import byte_tokenizer
from openllm_core.errors import (
    ContextLengthExceeded,
    EngineUnavailable,
    InvalidRequest,
    MissingDependency,
    ModelNotFound,
    OpenLLMError,
    Overloaded,
    ShuttingDown,
    UnsupportedFeature,
)
from openllm_core.options import EngineOptions


def engine_of(**script: object) -> Engine:
    """An echo engine in this process, not started."""
    options = EngineOptions(backend="echo", max_model_len=64, engine_arg=script)
    return Engine(options, byte_tokenizer(), launch=launch_embedded)


@asynccontextmanager
async def running(**script: object) -> AsyncIterator[Engine]:
    """The same, ready."""
    engine = engine_of(**script)
    await engine.start()
    try:
        await engine.wait_ready(30)
        yield engine
    finally:
        await engine.aclose()


@asynccontextmanager
async def embedding_with(second: Second, **script: object) -> AsyncIterator[Embedder]:
    """An embedder whose first engine has no embeddings."""
    async with running(**script) as engine:
        embedder = Embedder(engine, own=False, second=second)
        try:
            yield embedder
        finally:
            await embedder.aclose()


async def test_vectors_come_in_the_order_of_the_texts() -> None:
    """However the texts are portioned out: each has the vector it has alone, of length one; tokens are counted."""
    async with running(embed=4) as engine:
        texts = [f"text {i} " + "x" * (i % 40) for i in range(600)]
        found = await engine.embed(texts)
        assert found.num_tokens == sum(map(len, texts))
        for place in (0, 1, 39, 300, 599):
            assert found.vectors[place] == (await engine.embed([texts[place]])).vectors[0]
            assert math.hypot(*found.vectors[place]) == pytest.approx(1, abs=1e-6)
        assert len({tuple(vector) for vector in found.vectors}) > 500


async def test_ids_are_taken_as_they_are() -> None:
    """A list of ids has the vector of the text they stand for."""
    async with running(embed=4) as engine:
        text, ids = (await engine.embed(["abc", [97, 98, 99]])).vectors
        assert text == ids


@pytest.mark.parametrize(
    ("item", "kind", "says"),
    [
        ("", InvalidRequest, "empty"),
        ([], InvalidRequest, "no tokens"),
        ("x" * 64, ContextLengthExceeded, "64 tokens"),
        ([5, 10**6], InvalidRequest, "token id"),
        ("\ud800", InvalidRequest, "Unicode"),
    ],
)
async def test_a_refusal_names_the_text(item: str | list[int], kind: type[OpenLLMError], says: str) -> None:
    """`input[2]` is at fault, nothing of the request is computed, and the next one works."""
    async with running(embed=4) as engine:
        with pytest.raises(kind, match=says) as caught:
            await engine.embed(["fine", "fine too", item])
        assert caught.value.param == "input[2]"
        assert len((await engine.embed(["fine"])).vectors) == 1


async def test_an_engine_without_embeddings_says_so() -> None:
    """Before any text is looked at."""
    async with running() as engine:
        with pytest.raises(UnsupportedFeature):
            await engine.embed([""])


async def test_too_many_waiting_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound counts all requests together, and what is done makes room again."""
    monkeypatch.setattr(embedding, "MAX_WAITING", 10)
    async with running(embed=4, step_s=0.02) as engine:
        first = asyncio.create_task(engine.embed(["x"] * 8))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await engine.embed(["x"] * 3)
        assert caught.value.retry_after_s
        await first
        assert len((await engine.embed(["x"] * 3)).vectors) == 3


async def test_requests_share_the_host_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short request is done long before a long list that came first."""
    monkeypatch.setattr(embedding, "PORTION_TEXTS", 5)
    async with running(embed=4, step_s=0.005) as engine:
        long = asyncio.create_task(engine.embed(["x"] * 200))
        await asyncio.sleep(0.05)
        await engine.embed(["short"])
        assert not long.done()
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        assert engine._questions._waiting == {} or len(engine._questions._waiting) <= embedding.IN_HOST


async def test_generation_goes_on_beside_embeddings() -> None:
    """Both kinds of request are answered by one engine."""
    async with running(embed=4) as engine:
        found = await asyncio.gather(*(engine.embed([f"{i}"]) for i in range(20)))
        assert len(found) == 20


def test_portions_hold_each_text_once_and_little_padding() -> None:
    """The longest first; no portion above its tokens unless one text alone is."""
    lengths = [1, 9000, 500, 3, 8000, 2] * 100
    made = embedding.portions(lengths)
    assert sorted(place for places in made for place in places) == list(range(600))
    for places in made:
        assert len(places) <= embedding.PORTION_TEXTS
        assert len(places) == 1 or len(places) * lengths[places[0]] <= embedding.PORTION_TOKENS


def test_a_shortened_vector_has_length_one() -> None:
    """The leading numbers keep their proportions; all zeros stay what they are."""
    assert list(embedding.shortened(array("f", [3, 4, 5]), 2)) == pytest.approx([0.6, 0.8])
    assert list(embedding.shortened(array("f", [0, 0, 5]), 2)) == [0, 0]


# -- a host that goes, a server that stops -----------------------------------------------------------------------------


async def lose_host(engine: Engine) -> None:
    """End the host's present life and wait until requests are refused for it."""
    engine._supervisor._give_up(EngineUnavailable("killed"))
    while engine.state == "ready":
        await asyncio.sleep(0.001)


async def test_a_host_lost_while_texts_are_tokenised_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for an answer of a host that never heard the question; the next host answers the next request."""
    async with running(embed=4) as engine:
        plain = engine._texts.ids_of_all

        async def slow(texts: list[str]) -> list[list[int]]:
            await lose_host(engine)
            return await plain(texts)

        monkeypatch.setattr(engine._texts, "ids_of_all", slow)
        with pytest.raises(EngineUnavailable):
            await asyncio.wait_for(engine.embed(["x"]), 5)
        monkeypatch.undo()
        await engine.wait_ready(10)
        assert (await engine.embed(["x"])).num_tokens == 1


async def test_a_question_between_two_hosts_is_refused() -> None:
    """It would be dropped, and its answer never come."""
    async with running(embed=4) as engine:
        await lose_host(engine)
        with pytest.raises(EngineUnavailable) as caught:
            await asyncio.wait_for(engine._questions.ask(lambda number: AskVectors(number, [[1]])), 5)
        assert caught.value.retry_after_s


async def test_draining_lets_embeddings_finish() -> None:
    """A request under way is answered before the drain ends; a new one is refused."""
    async with running(embed=4, step_s=0.2) as engine:
        under_way = asyncio.create_task(engine.embed(["x"]))
        await asyncio.sleep(0.02)
        draining = asyncio.create_task(engine.drain(10))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await engine.embed(["x"])
        await draining
        assert (await asyncio.wait_for(under_way, 0.1)).num_tokens == 1


@pytest.mark.parametrize("end", ["drain", "close"])
async def test_embeddings_that_outlive_the_end_are_told(end: str) -> None:
    """After the grace, or when the engine is closed, each request under way fails at once."""
    async with running(embed=4, step_s=0.1) as engine:
        under_way = asyncio.create_task(engine.embed(["x"] * 200))
        await asyncio.sleep(0.02)
        await (engine.drain(0.05) if end == "drain" else engine.aclose())
        with pytest.raises(ShuttingDown):
            await asyncio.wait_for(under_way, 1)
        assert engine.embeddings.waiting == 0


# -- the second engine ------------------------------------------------------------------------------------------------


async def test_the_second_engine_starts_with_the_first_request_and_ends_with_the_embedder() -> None:
    """Ten first requests share one start; nothing is made before them."""
    made: list[Engine] = []

    def make() -> Engine:
        made.append(engine_of(embed=4))
        return made[-1]

    async with embedding_with(Second(name="small", make=make)) as embedder:
        assert made == [] and embedder.available and embedder.name == "small"
        found = await asyncio.gather(*(embedder.embed(["x"]) for _ in range(10)))
        assert len(made) == 1 and len({tuple(one.vectors[0]) for one in found}) == 1
    assert made[0].state == "closed"
    with pytest.raises(ShuttingDown):
        await embedder.embed(["x"])


async def test_draining_lets_the_second_engine_finish() -> None:
    """What it computes is answered; nothing new is taken."""
    async with embedding_with(Second(name="small", make=lambda: engine_of(embed=4, step_s=0.2))) as embedder:
        await embedder.embed(["x"])
        under_way = asyncio.create_task(embedder.embed(["x"]))
        await asyncio.sleep(0.02)
        draining = asyncio.create_task(embedder.drain(10))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await embedder.embed(["x"])
        await draining
        assert (await asyncio.wait_for(under_way, 0.1)).num_tokens == 1


async def test_whoever_waits_for_the_second_engine_is_told_of_the_end() -> None:
    """A server that stops while it starts answers them, and says nothing of a failure."""
    async with embedding_with(Second(name="small", make=lambda: engine_of(embed=4, load_s=0.5))) as embedder:
        waits = asyncio.create_task(embedder.embed(["x"]))
        await asyncio.sleep(0.05)
        await embedder.drain(0.05)
        await embedder.aclose()
        with pytest.raises(ShuttingDown):
            await asyncio.wait_for(waits, 1)


async def test_whoever_leaves_during_the_start_leaves_it_to_the_others() -> None:
    """A client that gives up does not end the start."""
    async with embedding_with(Second(name="small", make=lambda: engine_of(embed=4, load_s=0.2))) as embedder:
        first = asyncio.create_task(embedder.embed(["x"]))
        second = asyncio.create_task(embedder.embed(["x"]))
        await asyncio.sleep(0.05)
        first.cancel()
        assert (await second).num_tokens == 1 and first.cancelled()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ModelNotFound("not in /home/me/store"), "not on this machine"),
        (MissingDependency("torch is not installed"), "torch is not installed"),
        (OpenLLMError("of /home/me"), "log says why"),
    ],
)
async def test_a_second_engine_that_cannot_be_had_is_told_and_tried_again_later(
    error: OpenLLMError, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 for a while, with no path of the machine in it; the engine that serves is not touched; then it may work."""
    tries: list[int] = []

    def make() -> Engine:
        tries.append(1)
        if len(tries) == 1:
            raise error
        return engine_of(embed=4)

    async with embedding_with(Second(name="small", make=make)) as embedder:
        for _ in range(2):
            with pytest.raises(EngineUnavailable, match=says) as caught:
                await embedder.embed(["x"])
            assert "/home/me" not in caught.value.message and caught.value.retry_after_s == module.RETRY_S
        assert len(tries) == 1 and not embedder.available
        assert embedder._engine.state == "ready"
        monkeypatch.setattr(module, "RETRY_S", 0.0)
        assert (await embedder.embed(["x"])).num_tokens == 1
        assert embedder.available


async def test_a_dead_second_engine_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its own restarts are spent, requests are refused for a while and then get another engine."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    made: list[Engine] = []

    def make() -> Engine:
        made.append(engine_of(embed=4))
        return made[-1]

    async with embedding_with(Second(name="small", make=make)) as embedder:
        await embedder.embed(["x"])
        made[0].failure = EngineUnavailable("it died")
        assert (await embedder.embed(["x"])).num_tokens == 1
        assert len(made) == 2 and made[0].state == "closed"


async def test_a_second_engine_without_embeddings_gives_way_to_another() -> None:
    """Loading it told; the other one's name is the answer's, and its own failure is what is told then."""
    made: list[str] = []

    def absent() -> Engine:
        made.append("same model")
        raise UnsupportedFeature("no embeddings of its own")

    def broken() -> Engine:
        made.append("small")
        raise ModelNotFound("not here")

    async with embedding_with(Second(name=None, make=absent, otherwise=Second(name="small", make=broken))) as embedder:
        with pytest.raises(EngineUnavailable, match="The embeddings of small"):
            await embedder.embed(["x"])
        assert (made, embedder.name) == (["same model", "small"], "small")


async def test_what_cannot_be_had_is_not_offered() -> None:
    """`available` tells before anybody asks."""
    second = Second(name="small", make=lambda: engine_of(embed=4), possible=lambda: False)
    async with embedding_with(second) as embedder:
        assert not embedder.available


async def test_the_serving_engine_is_preferred_until_it_turns_out_that_it_cannot() -> None:
    """`own` means "may be able to": what the loaded model says counts."""
    async with running(embed=4) as engine:
        embedder = Embedder(engine, own=True, second=Second(name="small", make=lambda: pytest.fail("not needed")))
        assert (embedder.name, (await embedder.embed(["x"])).num_tokens) == (None, 1)
    async with running() as engine:
        embedder = Embedder(engine, own=True, second=Second(name="small", make=lambda: engine_of(embed=4)))
        assert (embedder.name, (await embedder.embed(["x"])).num_tokens) == ("small", 1)
        await embedder.aclose()
