"""openllm.Runner and openllm.AutoLLM over the echo backend: names, flags, and the forms of 0.3.5's calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.engine.test_embedding import engine_of
from tests.tiny_adapters import blank_adapter

import openllm
from openllm import LLM, AutoLLM, AutoModel, AutoVLLM, EmbeddingsOutput, Runner
from openllm.engine.embedder import Second
from openllm.engine.embedding import MAX_WAITING
from openllm.runner import StreamMethod
from openllm_core.config.classes import OPTConfig
from openllm_core.errors import ContextLengthExceeded, InvalidRequest, InvalidSetting


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """An embedded echo runner."""
    with Runner(backend="echo", embedded=True) as found:
        yield found


def test_names(runner: Runner) -> None:
    """What a runner is called, and what it says of its model."""
    assert (runner.name, runner.llm_type) == (
        f"llm-{runner.config.family.name}-runner",
        runner.config.family.model_name,
    )
    assert (runner.backend, runner.llm_tag, runner.models) == ("echo", "", [])
    assert set(runner.identifying_params) == {"configuration", "model_ids"}


def test_flags_of_a_model_without_embeddings(runner: Runner) -> None:
    """The flags tell the truth: what is False raises NotImplementedError, what is True works."""
    assert (runner.supports_embeddings, runner.supports_hf_agent, runner.has_adapters) == (False, True, False)
    with pytest.raises(NotImplementedError):
        runner.embeddings(["a"])
    assert runner.generate_one("hello") == [{"generated_text": "hello"}]


def test_flags_of_a_model_with_embeddings() -> None:
    """Both ways to ask for vectors answer."""
    with Runner(backend="echo", embedded=True, engine_arg={"embed": 4}) as runner:
        assert runner.supports_embeddings
        one, several = runner.embed("a"), runner.embeddings(["a", "bc"])
        assert isinstance(one, EmbeddingsOutput) and (one.num_tokens, several.num_tokens) == (1, 3)
        assert several.embeddings[:1] == one.embeddings
        assert runner.embed([]) == EmbeddingsOutput(embeddings=[], num_tokens=0)
        with pytest.raises(InvalidRequest) as caught:
            runner.embed(["a", ""])
        assert caught.value.param == "input[1]"


def test_flags_of_a_model_with_adapters(tmp_path: Path, runner: Runner) -> None:
    """`has_adapters` and the adapters' own configurations, by name."""
    given = f"{blank_adapter(tmp_path / 'a')}:poet"
    with_one = Runner(backend="echo", embedded=True, adapter_id=(given,))
    assert with_one.has_adapters
    found = with_one.peft_adapters
    assert found["success"] and found["result"]["poet"]["peft_type"] == "LORA"
    assert runner.peft_adapters["success"] is False and runner.peft_adapters["error_msg"]


def test_a_program_embeds_as_many_texts_as_it_has() -> None:
    """The bound of a server is for a crowd: one caller's list has none, and a refusal names its place in that list."""
    with LLM(backend="echo", embedded=True, engine_arg={"embed": 2}) as llm:
        texts = [f"{i}" for i in range(MAX_WAITING + 1)]
        found = llm.embed(texts)
        assert found.num_tokens == sum(map(len, texts)) and len(found.embeddings) == len(texts)
        for place in (0, 5000, MAX_WAITING):
            assert found.embeddings[place] == llm.embed(texts[place]).embeddings[0]
        texts[5000] = ""
        with pytest.raises(InvalidRequest, match=r"input\[5000\] is an empty text") as caught:
            llm.embed(texts)
        assert caught.value.param == "input[5000]"
        texts[5000] = "x" * 5000
        with pytest.raises(ContextLengthExceeded, match=r"input\[5000\] has 5000 tokens") as caught:
            llm.embed(texts)
        assert caught.value.param == "input[5000]"


async def test_many_lists_of_a_program_at_once_wait_for_each_other() -> None:
    """Together they are more than a server would take."""
    async with LLM(backend="echo", embedded=True, engine_arg={"embed": 2}) as llm:
        lists = [[f"{i}"] * 2000 for i in range(10)]
        found = await asyncio.gather(*(llm.aembed(texts) for texts in lists))
        assert [len(one.embeddings) for one in found] == [2000] * 10


async def test_embedding_in_a_program_with_a_loop() -> None:
    """`aembed` is `embed`, awaited."""
    async with LLM(backend="echo", embedded=True, engine_arg={"embed": 4}) as llm:
        assert (await llm.aembed("abc")).embeddings == llm.embed("abc").embeddings


def test_a_model_without_embeddings_asks_the_sentence_encoder() -> None:
    """`embed` works where `embeddings` does not: by a second engine."""
    with LLM(backend="echo", embedded=True) as llm:
        assert llm._embedder is not None and not llm.supports_embeddings
        llm._embedder.second = Second(name="small", make=lambda: engine_of(embed=3))
        assert len(llm.embed("a").embeddings[0]) == 3


def test_a_subclass_brings_its_own_embeddings() -> None:
    """Overriding `embeddings` is enough: the flag turns true and `embed` asks it; no engine is needed."""

    class Constant(LLM):
        def embeddings(self, prompts: list[str]) -> EmbeddingsOutput:
            return EmbeddingsOutput(embeddings=[[1.0]] * len(prompts), num_tokens=0)

    llm = Constant(backend="echo")
    assert llm.supports_embeddings and llm.embed(["a", "b"]).embeddings == [[1.0], [1.0]]


def test_a_subclass_without_generate_one_serves_no_agent() -> None:
    """The flag follows the method."""

    class Mute(LLM):
        generate_one = None  # type: ignore[assignment]

    assert not Mute(backend="echo").supports_hf_agent


def test_the_iterator_says_all_so_far(runner: Runner) -> None:
    """Each item has the whole text; the last one the reason and the counts; stop strings and echo as asked."""
    items = list(runner.generate_iterator("hello there", stream_interval=3))
    assert [item["finish_reason"] for item in items[:-1]] == [None] * (len(items) - 1) and len(items) > 2
    assert all(later["text"].startswith(item["text"]) for item, later in pairwise(items))
    assert (items[-1]["text"], items[-1]["finish_reason"]) == ("hello there", "stop")
    assert items[-1]["usage"]["total_tokens"] == 11 + 12
    (*_, last) = runner.generate_iterator("hello there", stop=["the"], echo=True)
    assert last["text"] == "hello there" + "hello "
    (*_, last) = runner.generate_iterator("hello", stop_token_ids=[ord("o")])
    assert last["text"].startswith("hell") and last["finish_reason"] == "stop"
    (*_, last) = runner.generate_iterator("hello", max_new_tokens=2)
    assert (last["text"], last["finish_reason"]) == ("he", "length")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"stop": [5]}, ValueError),
        ({"stream_interval": 0}, InvalidRequest),
        ({"n": 2}, InvalidRequest),
        ({"no_such": 1}, InvalidRequest),
    ],
)
def test_the_iterator_refuses_by_name(runner: Runner, fields: dict[str, Any], kind: type[Exception]) -> None:
    """A value it cannot take is refused before anything is generated."""
    with pytest.raises(kind):
        list(runner.generate_iterator("x", **fields))


def test_a_runner_is_called_like_a_function(runner: Runner) -> None:
    """The text of the completion; with `complete`, all of it."""
    assert runner("hello", max_new_tokens=3) == runner.llm.predict("hello", max_new_tokens=3) == "hel"
    assert runner.complete("hello").usage.prompt_tokens == 5


async def test_methods_have_run_and_async_run(runner: Runner) -> None:
    """The three forms of 0.3.5 give the same."""
    assert runner.generate.run("ab").text == (await runner.generate.async_run("ab")).text == runner.generate("ab").text
    texts = [item["text"] async for item in runner.generate_iterator.async_stream("abc", stream_interval=1)]
    assert texts[-1] == "abc" and len(texts) > 1


async def test_cancelling_a_stream_aborts_the_request() -> None:
    """Cancelled while the next item is made: the caller gets its own error, and the request its end, soon after."""
    with Runner(backend="echo", embedded=True, engine_arg={"step_s": 0.02}) as slow:
        engine = slow.llm._engine
        assert engine is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                async for item in slow.generate_iterator.async_stream("x" * 900, stream_interval=10):
                    assert item["finish_reason"] is None
        async with asyncio.timeout(5):
            while engine.num_running:
                await asyncio.sleep(0.01)


async def test_cancelling_a_stream_does_not_wait_for_its_next_item() -> None:
    """An item that takes long is waited for, and the iterator closed after it, where nobody is held up."""
    waits, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 1
            waits.set()
            go_on.wait(30)
            yield 2
        finally:
            closed.set()

    async def read() -> None:
        async for _ in StreamMethod(items).async_stream():
            pass

    task = asyncio.create_task(read())
    assert await asyncio.to_thread(waits.wait, 5)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done and task.cancelled() and not closed.is_set()
    go_on.set()
    assert await asyncio.to_thread(closed.wait, 5)


async def test_leaving_a_stream_closes_it() -> None:
    """At once: nothing is being made then."""
    closed: list[bool] = []

    def items() -> Iterator[int]:
        try:
            yield from range(3)
        finally:
            closed.append(True)

    async with aclosing(StreamMethod(items).async_stream()) as stream:
        assert await anext(stream) == 0
    assert closed == [True]


def test_the_batch_size_is_the_number_of_sequences_at_once() -> None:
    """`max_batch_size` reaches the engine; the other two are kept, and change nothing."""
    runner = Runner(backend="echo", embedded=True, max_batch_size=3, max_latency_ms=10)
    with runner:
        assert runner.start().max_batch == 3
    assert (runner.max_batch_size, runner.max_latency_ms) == (3, 10)
    with pytest.raises(InvalidSetting):
        Runner(backend="echo", max_batch_size=0)


def test_auto_classes_make_models_and_are_not_made() -> None:
    """`for_model` gives an LLM, whatever the family; the classes themselves cannot be instances."""
    for family in ("opt", "flan-t5", "llama", "./somewhere"):
        assert isinstance(AutoLLM.for_model(family), LLM)
    assert AutoModel is AutoLLM and openllm.AutoModel is AutoLLM
    assert AutoVLLM.for_model("opt").engine_options.backend == "vllm"
    for kind in (AutoLLM, AutoVLLM):
        with pytest.raises(OSError, match="for_model"):
            kind()


def test_create_runner_takes_a_runners_arguments() -> None:
    """Arguments of the runner and of the model stand side by side."""
    runner = AutoLLM.create_runner("opt", backend="echo", embedded=True, max_batch_size=2, max_latency_ms=5)
    assert isinstance(runner, Runner) and isinstance(runner.llm, LLM)
    assert (runner.max_batch_size, runner.max_latency_ms, runner.llm.engine_options.max_num_seqs) == (2, 5, 2)
    with pytest.raises(InvalidSetting, match="no_such"):
        AutoLLM.create_runner("opt", backend="echo", no_such=1)


def test_a_class_of_ones_own_is_registered_by_its_config() -> None:
    """Models of that family become instances of it; a second class for the same family is refused."""

    class Mine(LLM):
        pass

    class Other(LLM):
        pass

    try:
        AutoLLM.register(OPTConfig, Mine)
        assert AutoLLM.infer_class_from_name("opt") is Mine
        assert type(AutoLLM.for_model("opt", backend="echo")) is Mine
        assert type(AutoLLM.for_model("llama", backend="echo")) is LLM
        with pytest.raises(InvalidSetting):
            AutoLLM.register(OPTConfig, Other)
    finally:
        AutoLLM._registered.clear()
