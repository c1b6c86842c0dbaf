"""Ids and text of a model whose tokenizer runs in the host: asked for in frames, and beside the tokens of every step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.engine.conftest import QUICK, read, request, text_of
from tests.openllm.python_tokenizers import Bytes

from openllm.backends.base import (
    BackendInfo,
    BackendRequest,
    Capabilities,
    SequenceDelta,
    StepOutput,
    TokenLogprob,
    TokenSampling,
)
from openllm.engine.channel import Answer, AskIds, AskText
from openllm.engine.engine import Engine
from openllm.engine.questions import Questions
from openllm.engine.supervisor import launch_embedded
from openllm.engine.text import HostText, Texts
from openllm.python_tokenizer import HostTokenizer, PythonTokenizer
from openllm_core.errors import ContextLengthExceeded, CorruptModel, EngineError, EngineUnavailable, InvalidRequest
from openllm_core.options import EngineOptions

INFO = BackendInfo("echo", Capabilities(), 64, 63, 4, 260, eos_token_ids=(257,), bos_token_id=256)


def step(name: str, ids: list[int], **more: Any) -> StepOutput:
    """A step of one sequence."""
    return StepOutput([SequenceDelta(name, ids, **more)])


@pytest.fixture
def host() -> HostText:
    """The host's end, one sequence "a" under way."""
    text = HostText(PythonTokenizer(Bytes()))
    text.submit([BackendRequest("a", [1], TokenSampling(max_tokens=9))])
    return text


def test_each_token_brings_the_text_it_made_certain(host: HostText) -> None:
    """Half a character waits for its other half; at the end one more piece holds what never came."""
    found = [host.with_text(step("a", ids)).deltas[0].text for ids in ([104, 0xC3], [0xA9])]
    assert [text.pieces for text in found if text is not None] == [["h", ""], ["é"]]
    last = host.with_text(step("a", [0xC3], finish_reason="length")).deltas[0].text
    assert last is not None and last.pieces == ["", "\ufffd"]


def test_special_and_unknown_ids_have_no_text(host: HostText) -> None:
    """A model may have more columns than its tokenizer has tokens."""
    text = host.with_text(step("a", [258, 5000, 104, 257], finish_reason="stop", stop_token_id=257)).deltas[0].text
    assert text is not None and "".join(text.pieces) == "h"


def test_sequences_are_forgotten(host: HostText) -> None:
    """After their last delta or an abort; a step of an unknown one passes as it is."""
    host.with_text(step("a", [104], finish_reason="length"))
    assert host.with_text(step("a", [104])).deltas[0].text is None
    host.submit([BackendRequest("b", [1], TokenSampling(max_tokens=9))])
    host.abort(["b", "never"])
    assert host.with_text(step("b", [104])).deltas[0].text is None


def test_logprobs_bring_the_text_of_their_tokens(host: HostText) -> None:
    """The drawn token's and its rivals'; an unknown one has none."""
    entry = TokenLogprob(104, -0.1, ((104, -0.1), (105, -2.0), (5000, -3.0)))
    text = host.with_text(step("a", [104], logprobs=[entry])).deltas[0].text
    assert text is not None and text.tokens == {104: "h", 105: "i", 5000: ""}


async def test_questions_to_the_host(host: HostText) -> None:
    """Ids of a text, text of ids; what the tokenizer raises is an error of ours."""
    assert (await host.answer(AskIds(1, "hé", True))).ids == [256, 104, 0xC3, 0xA9]
    assert (await host.answer(AskIds(2, "h", False))).ids == [104]
    assert await host.answer(AskText(3, [256, 104])) == Answer(3, text="h")
    failed = await host.answer(AskIds(4, "boom", True))
    assert failed.number == 4 and failed.error is not None
    assert "ZeroDivisionError: boom" in failed.error["message"]


# -- the server's end


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder without a tokenizer.json."""
    config = {"eos_token": "<|eos|>", "chat_template": "{{ messages[0].content }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 9}')
    return tmp_path


async def test_questions_wait_for_their_own_answer(folder: Path) -> None:
    """Answers may come in any order; one that nobody waits for is ignored; a lost host fails those under way."""
    sent: list[Any] = []
    questions = Questions(sent.append)
    texts = Texts(HostTokenizer(folder), sent.append, questions)
    one = asyncio.ensure_future(texts.ids(request("one"), INFO))
    two = asyncio.ensure_future(texts.text([1, 2]))
    await asyncio.sleep(0)
    assert sent == [AskIds(1, "one", True), AskText(2, [1, 2])]
    for answer in (Answer(2, text="two"), Answer(7, text="nobody"), Answer(1, ids=[5])):
        questions.on_answer(answer)
    assert (await one, await two) == ([5], "two")
    lost = asyncio.ensure_future(texts.text([3]))
    await asyncio.sleep(0)
    questions.fail(lambda: EngineUnavailable("gone"))
    with pytest.raises(EngineUnavailable, match="gone"):
        await lost
    texts.close()


async def test_prompts_that_are_refused(folder: Path) -> None:
    """Not Unicode: before the host is asked. Too long: after it has counted."""
    sent: list[Any] = []
    questions = Questions(sent.append)
    texts = Texts(HostTokenizer(folder), sent.append, questions)
    with pytest.raises(InvalidRequest, match="Unicode"):
        await texts.ids(request("\ud800"), INFO)
    assert sent == []
    long = asyncio.ensure_future(texts.ids(request("long"), INFO))
    await asyncio.sleep(0)
    questions.on_answer(Answer(1, ids=[1] * 64))
    with pytest.raises(ContextLengthExceeded, match="64"):
        await long
    texts.close()


# -- engine and host together

MakeHosted = Callable[..., Awaitable[Engine]]


@pytest.fixture
async def make_hosted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine on the echo backend, embedded, whose tokenizer runs in the host."""
    monkeypatch.setattr(PythonTokenizer, "open", classmethod(lambda cls, *_, **__: cls(Bytes())))
    made: list[Engine] = []

    async def make(**script: Any) -> Engine:
        options = EngineOptions(backend="echo", engine_arg=script, trust_remote_code=True)
        made.append(Engine(options, HostTokenizer(folder), launch=launch_embedded, watch=QUICK))
        await made[-1].start()
        return made[-1]

    yield make
    for engine in made:
        await engine.aclose()


async def test_a_request_from_text_to_text(make_hosted: MakeHosted) -> None:
    """The prompt is encoded and the answer decoded in the host; the engine knows the tokenizer's end of text."""
    engine = await make_hosted(reply="naïve answer")
    await engine.wait_ready(30)
    stream = await engine.add(request("hé"))
    assert stream.prompt_token_ids == [256, 104, 0xC3, 0xA9]
    assert await read(stream) == {0: "naïve answer"}
    assert await engine.decode([104, 256]) == "h"
    assert {9, 257} <= set(engine.tokenizer.eos_token_ids)


async def test_stop_strings_and_logprobs(make_hosted: MakeHosted) -> None:
    """Text is cut before a stop string; a token of the logprobs is spelled as its text."""
    engine = await make_hosted(reply="one two three")
    await engine.wait_ready(30)
    assert await text_of(engine, stop=("wo th",)) == "one t"
    deltas = [delta async for delta in await engine.add(request(logprobs=1, max_tokens=3))]
    entries = [entry for delta in deltas for entry in delta.logprobs or ()]
    assert [entry.token for entry in entries] == ["o", "n", "e"]


async def test_a_prompt_that_the_tokenizer_fails_on(make_hosted: MakeHosted) -> None:
    """Fails that request alone."""
    engine = await make_hosted(reply="fine")
    await engine.wait_ready(30)
    with pytest.raises(EngineError, match="boom"):
        await engine.add(request("boom"))
    assert await text_of(engine) == "fine"


async def test_a_tokenizer_that_cannot_be_opened(
    folder: Path, make_hosted: MakeHosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine fails for good, with the tokenizer's reason."""

    def refuse(cls: Any, *_: Any, **__: Any) -> Any:
        raise CorruptModel("no vocabulary")

    monkeypatch.setattr(PythonTokenizer, "open", classmethod(refuse))
    engine = await make_hosted(reply="never")
    with pytest.raises(CorruptModel, match="no vocabulary"):
        await engine.wait_ready(30)
