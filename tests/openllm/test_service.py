"""Use cases without a web framework: what the service hands to the engine and makes of what comes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from openllm.compose import unknown_family
from openllm.engine.embedding import Embedded
from openllm.engine.request import EngineRequest
from openllm.service import ServedModel, Service
from openllm.service.answers import Answer, collect
from openllm.service.requests import check_messages, plain_messages, prompts_of, sent_at
from openllm.service.use_cases import _as_family
from openllm_core.config.llm import LLMConfig
from openllm_core.errors import ContextLengthExceeded, EngineError, InvalidRequest, Overloaded
from openllm_core.families import registry
from openllm_core.limits import Limits
from openllm_core.options import ServerOptions
from openllm_core.schema import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    Delta,
    GenerateRequest,
    Usage,
)

CALLED = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CUT = {"id": "2", "type": "function", "function": {"name": "g", "arguments": '{"a'}}


class Stream:
    """A stream of given deltas; an exception among them is raised."""

    def __init__(self, items: Sequence[Delta | Exception], gap_s: float = 0.0) -> None:
        self.items, self.gap_s = list(items), gap_s
        self.closed = 0
        self.completion_tokens = 0

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        await asyncio.sleep(self.gap_s)
        if not self.items:
            raise StopAsyncIteration
        item = self.items.pop(0)
        if isinstance(item, Exception):
            raise item
        self.completion_tokens += len(item.token_ids)
        return item

    def listen(self, sink: Any) -> None:
        """Nothing is handed over early."""

    def usage(self) -> Usage:
        """Ten prompt tokens."""
        return Usage(
            prompt_tokens=10, completion_tokens=self.completion_tokens, total_tokens=10 + self.completion_tokens
        )

    def close(self) -> None:
        """Count."""
        self.closed += 1


@attrs.define
class FakeEngine:
    """Remembers what it was asked, answers with fresh streams, refuses the prompts it is told to."""

    state: str = "ready"
    ready_of: tuple[int, int] = (1, 1)
    adapters: Any = None
    info: Any = None
    failure: Any = None
    progress: tuple[str, float | None] = ("reading weights", 0.4)
    refuse: dict[str, Exception] = attrs.Factory(dict)
    asked: list[EngineRequest] = attrs.Factory(list)
    streams: list[Stream] = attrs.Factory(list)

    hindrance: Any = None

    async def add_all(self, requests: Sequence[EngineRequest]) -> list[Stream]:
        """Take requests that belong together, or none of them."""
        self.asked.extend(requests)
        await asyncio.sleep(0)
        for request in requests:
            if isinstance(request.prompt, str) and request.prompt in self.refuse:
                error: Any = self.refuse[request.prompt]
                error.param = request.prompt_param if error.param == "prompt" else error.param
                raise error
        made = [
            Stream([Delta(i, f"<{request.prompt}>", [1, 2], "stop") for i in range(request.sampling.n)])
            for request in requests
        ]
        self.streams.extend(made)
        return made

    def retry_after_s(self) -> float:
        """Constant."""
        return 3.0


class PlainChat:
    """Joins contents; says that it places no special tokens."""

    add_special_tokens = True

    async def start(self) -> None:
        """Nothing."""

    async def render(self, messages: Sequence[dict[str, Any]], **variables: Any) -> str:
        """Contents, joined."""
        return "|".join(f"{m['role']}:{m['content']}" for m in messages)

    async def aclose(self) -> None:
        """Nothing."""


class FakeEmbedder:
    """The vector of an input counts its characters or ids; so does the number of its tokens."""

    name: str | None = None
    available = True

    async def embed(self, inputs: Sequence[str | list[int]]) -> Embedded:
        """[length, 3, 4]."""
        return Embedded([array("f", [len(item), 3.0, 4.0]) for item in inputs], sum(map(len, inputs)))

    async def aclose(self) -> None:
        """Nothing."""


def service_of(engine: FakeEngine, family: str | None = None, **options: Any) -> Service:
    """A service over a fake engine."""
    spec = registry.find(family) if family else unknown_family()
    config = LLMConfig.for_model(spec, environ={})
    model = ServedModel(
        model_id="m", names=("one", "two"), config=config, backend="pt", family=spec if family else None
    )
    return Service(
        engine,  # type: ignore[arg-type]
        model=model,
        server_options=ServerOptions(**options),
        chat=PlainChat(),
        embedder=FakeEmbedder(),  # type: ignore[arg-type]
    )


def chat_of(**more: Any) -> ChatCompletionRequest:
    """A chat request."""
    return ChatCompletionRequest(model="one", messages=[ChatMessage(role="user", content="hi")], **more)


async def test_chat_reaches_the_engine_rendered() -> None:
    """The prompt is the rendered conversation, with the renderer's word on special tokens, and the server's limits."""
    engine = FakeEngine()
    service = service_of(engine, server_timeout=7.0, max_tokens_default=33)
    answer = await service.chat(chat_of(temperature=0.3, stop="x", seed=4))
    asked = engine.asked[0]
    assert asked.prompt == "user:hi" and asked.add_special_tokens
    assert (asked.deadline_s, asked.max_tokens_default, asked.sampling.max_tokens) == (7.0, 33, None)
    assert (asked.sampling.temperature, asked.sampling.stop, asked.sampling.seed) == (0.3, ("x",), 4)
    assert answer.choices[0].message.content == "<user:hi>" and answer.usage.total_tokens == 12
    assert engine.streams[0].closed


async def test_family_recommendations_reach_openai_requests_and_are_overridden() -> None:
    """What the family recommends holds unless the request says otherwise."""
    engine = FakeEngine()
    service = service_of(engine, "smollm")
    await service.chat(chat_of())
    await service.chat(chat_of(temperature=1.5))
    recommended = registry.find("smollm").generation["temperature"]
    assert [r.sampling.temperature for r in engine.asked] == [recommended, 1.5]


async def test_generate_uses_the_familys_length_by_default() -> None:
    """`/v1/generate` without max_tokens takes the family's max_new_tokens as a default that a short context may cut."""
    engine = FakeEngine()
    service = service_of(engine, "smollm")
    made = await service.generate(GenerateRequest(prompt="p"))
    assert engine.asked[0].max_tokens_default == registry.find("smollm").generation["max_new_tokens"]
    assert engine.asked[0].sampling.max_tokens is None and engine.asked[0].add_special_tokens
    assert made.response.responses == ["<p>"] and made.details is None and made.ignored == ()
    await service.generate(GenerateRequest(prompt="p", llm_config={"max_new_tokens": 5}))
    assert engine.asked[1].sampling.max_tokens == 5


@pytest.mark.parametrize(
    ("family", "expected"),
    [("llama", ["t"]), ("dolly-v2", [{"generated_text": "t"}]), ("chatglm", ["t", [["p", "t"]]]), ("opt", ["t"])],
)
def test_responses_have_the_type_old_clients_expect(family: str, expected: Any) -> None:
    """`responses` is what 0.3.5's post-processing of that family takes apart, as its published client was seen to do."""
    assert _as_family(["t"], "p", registry.find(family).response_style) == expected


def test_several_answers_are_told_apart_in_every_family() -> None:
    """With `n` there is one element for each answer, whatever the family's elements are."""
    for family in ("llama", "dolly-v2", "chatglm"):
        assert len(_as_family(["t", "u"], "p", registry.find(family).response_style)) == 2


async def test_prompts_are_admitted_all_or_none() -> None:
    """Several prompts reach the engine as one; if one is refused, the others never begin, and the refusal names it."""
    refusal = ContextLengthExceeded("too long", param="prompt")
    engine = FakeEngine(refuse={"bad": refusal})
    request = CompletionRequest(model="one", prompt=["a", "b", "bad", "c"])
    with pytest.raises(ContextLengthExceeded) as refused:
        await service_of(engine).completions(request)
    assert refused.value.param == "prompt[2]"
    assert len(engine.asked) == 4 and not engine.streams
    engine = FakeEngine(refuse={"bad": Overloaded("full", retry_after_s=2)})
    with pytest.raises(Overloaded):
        await service_of(engine).completions(request)
    assert not engine.streams


async def test_choices_of_several_prompts_are_numbered_through() -> None:
    """prompt number x n + choice, whatever order the deltas come in; usage is the sum."""
    slow = Stream([Delta(0, "a0", [1]), Delta(1, "a1", [1], "stop"), Delta(0, "!", [2], "stop")], 0.02)
    fast = Stream([Delta(1, "b1", [1], "length"), Delta(0, "b0", [1], "stop")])
    answer = Answer("cmpl", "m", 2, [slow, fast])  # type: ignore[list-item]
    choices = await collect(answer)
    assert [(c.text, c.finish_reason) for c in choices] == [
        ("a0!", "stop"),
        ("a1", "stop"),
        ("b0", "stop"),
        ("b1", "length"),
    ]
    assert answer.usage() == Usage(prompt_tokens=20, completion_tokens=5, total_tokens=25)
    assert slow.closed == fast.closed == 1


async def test_an_answer_that_fails_is_closed() -> None:
    """The first error ends the whole answer and frees all of its streams."""
    good, bad = Stream([Delta(0, "a", [1])] * 50, 0.01), Stream([Delta(0, "b", [1]), EngineError("broken")])
    with pytest.raises(EngineError):
        await collect(Answer("cmpl", "m", 1, [good, bad]))  # type: ignore[list-item]
    assert good.closed and bad.closed


async def test_a_cancelled_answer_is_closed() -> None:
    """A caller that goes away takes its requests along."""
    streams = [Stream([Delta(0, "a", [1])] * 50, 0.05) for _ in range(2)]
    task = asyncio.create_task(collect(Answer("cmpl", "m", 1, streams)))  # type: ignore[list-item]
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(stream.closed for stream in streams)


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("loading", "engine_loading", "reading weights, 40%"),
        ("restarting", "engine_unavailable", "restarted"),
        ("draining", "shutting_down", "shutting down"),
        ("closed", "shutting_down", "shutting down"),
        ("failed", "engine_unavailable", "out of memory"),
    ],
)
def test_readiness_says_why_not(state: str, code: str, words: str) -> None:
    """Each state but ready is an error with its code, what is going on, and when to ask again unless it is final."""
    service = service_of(FakeEngine(state=state, failure=EngineError("out of memory")))
    with pytest.raises(EngineError) as refused:
        service.ready()
    assert refused.value.wire_code == code and words in refused.value.message
    assert (refused.value.retry_after_s is None) == (state == "failed")


def test_messages_become_plain() -> None:
    """Roles, text parts, names, refusals, assistants without content, and calls, whose arguments become objects."""
    messages = [
        ChatMessage(role="developer", content="d"),
        ChatMessage(role="user", content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], name="n"),
        ChatMessage(role="assistant", content=None, tool_calls=[CALLED, CUT], reasoning_content="r"),
        ChatMessage(role="tool", content="t", tool_call_id="1"),
    ]
    assert plain_messages(messages) == [
        {"role": "system", "content": "d"},
        {"role": "user", "content": "a\nb", "name": "n"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "r",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}},
                {"id": "2", "type": "function", "function": {"name": "g", "arguments": {"arguments": '{"a'}}},
            ],
        },
        {"role": "tool", "content": "t", "tool_call_id": "1"},
    ]
    for call, param in (({"id": "1"}, "function"), ({"function": {"name": 5}}, "function.name")):
        with pytest.raises(InvalidRequest) as refused:
            plain_messages([ChatMessage(role="assistant", tool_calls=[call])])
        assert refused.value.param == f"messages[0].tool_calls[0].{param}"
    with pytest.raises(InvalidRequest, match=r"4096"):
        check_messages([ChatMessage(role="user", content="x")] * 4097, Limits())


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]), ("", [""])],
)
def test_forms_of_a_prompt(given: Any, expected: Any) -> None:
    """Text, texts, ids and lists of ids."""
    assert prompts_of(CompletionRequest(model="m", prompt=given), 1, Limits()) == expected


def test_fields_are_named_where_they_were_sent() -> None:
    """A refusal of the engine names the field as `llm_config` had it."""
    assert sent_at("max_tokens", {"max_new_tokens": 5}) == "llm_config.max_new_tokens"
    assert (
        sent_at("max_tokens", {"generation_config": {"max_new_tokens": 5}})
        == "llm_config.generation_config.max_new_tokens"
    )
    assert sent_at("max_tokens", {"max_tokens": 5}) == "llm_config.max_tokens"
    assert sent_at("logprobs", {}) == "llm_config.logprobs"


def test_the_service_brings_no_framework() -> None:
    """Importing the service loads neither starlette nor uvicorn nor torch."""
    script = "import sys, openllm.service; print([m for m in ('starlette', 'uvicorn', 'torch', 'transformers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
