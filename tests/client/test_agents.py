"""`ask_agent` of both clients: smolagents' loop, with a scripted server that answers as a model with tools does."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

import httpx
import orjson
import pytest

from openllm_client import AgentCall, AgentStep, AsyncHTTPClient, HTTPClient
from openllm_core.errors import BadRequest, ClientError, InvalidRequest, MissingDependency, UnsupportedFeature

from .conftest import BASE, Driver, refusal
from .test_http import METADATA, MODELS, USAGE

pytestmark = pytest.mark.timeout(60)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
    return {"id": f"call_{name}", "type": "function", "function": function}


def says(content: str | None = None, *calls: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = list(calls)
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [choice],
        "usage": USAGE,
    }


class Model:
    """A server whose model says what it is told to, one answer after the other.

    Attributes:
        asked: bodies of the chat requests.
    """

    def __init__(self, *answers: Any, agents: bool = True) -> None:
        self.answers = list(answers)
        self.agents = agents
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/metadata":
            return httpx.Response(200, json=METADATA | {"supports_hf_agent": self.agents})
        if request.url.path == "/v1/models":
            return httpx.Response(200, json=MODELS)
        assert request.url.path == "/v1/chat/completions"
        self.asked.append(orjson.loads(request.content))
        answer = self.answers.pop(0)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    if a < 0:
        raise ValueError("a is negative")
    return a + b


ADDING = (says(None, call("add", a=2, b=3)), says(None, call("final_answer", answer="5")))


def test_a_tool_is_called_here_and_the_answer_comes_back(twin: Driver) -> None:
    """The model calls a function of ours; it gets the result in the next request; its answer is what is returned."""
    model = Model(*ADDING)
    assert twin.client(model).ask_agent("What is 2 + 3?", tools=[add], sampling={"temperature": 0}) == "5"
    first, second = model.asked
    assert (first["model"], first["tool_choice"], first["temperature"]) == ("m", "required", 0)
    offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in first["tools"]}
    assert set(offered) == {"add", "final_answer"}
    assert offered["add"]["properties"]["a"] == {"type": "integer", "description": "the first."}
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert "What is 2 + 3?" in first["messages"][1]["content"]
    assert "Observation:\n5" in second["messages"][-1]["content"]


def test_steps_are_streamed(twin: Driver) -> None:
    """Each step tells what was called and what came of it; the last one has the answer."""
    client = twin.client(Model(*ADDING))
    first, last = twin.take(client.ask_agent("What is 2 + 3?", tools=[add], stream=True))
    assert first == AgentStep(number=1, calls=(AgentCall(name="add", arguments={"a": 2, "b": 3}),), observations="5")
    assert (last.number, last.last, last.answer) == (2, True, "5")
    assert str(first) == "step 1: add(a=2, b=3)"


def test_leaving_a_stream_asks_nothing_more(twin: Driver) -> None:
    """The next step never begins."""
    model = Model(*ADDING)
    client = twin.client(model)
    assert len(twin.take(client.ask_agent("What?", tools=[add], stream=True), 1)) == 1
    assert len(model.asked) == 1


def test_steps_are_logged_and_nothing_is_printed(
    twin: Driver, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line at INFO for each step; smolagents' own panels stay away from stdout and stderr."""
    with caplog.at_level(logging.INFO, logger="openllm_client"):
        twin.client(Model(*ADDING)).ask_agent("What is 2 + 3?", tools=[add])
    lines = [r.getMessage() for r in caplog.records if r.name == "openllm_client.agents"]
    assert lines == ["agent step 1: add(a=2, b=3)", "agent step 2: final_answer(answer='5')"]
    assert capsys.readouterr() == ("", "")


def test_what_fails_in_a_tool_is_told_to_the_model(twin: Driver) -> None:
    """A tool that raises, an unknown tool and a message without a call cost a step each, not the run."""
    model = Model(says(None, call("add", a=-1, b=3)), says(None, call("divide", a=1)), says("I shall think."), *ADDING)
    client = twin.client(model)
    steps = twin.take(client.ask_agent("What is 2 + 3?", tools=[add], stream=True))
    assert "a is negative" in steps[0].error and "divide" in steps[1].error and "JSON" in steps[2].error
    assert "a is negative" in model.asked[1]["messages"][-1]["content"]
    assert steps[-1].answer == "5"


def test_the_steps_are_bounded(twin: Driver) -> None:
    """After `max_steps` the model is asked for an answer without tools, and that is the answer."""
    model = Model(says(None, call("add", a=1, b=1)), says("It may be 5."))
    client = twin.client(model)
    steps = twin.take(client.ask_agent("What?", tools=[add], stream=True, max_steps=1))
    assert "tools" not in model.asked[-1]
    assert (len(steps), steps[-1].answer, steps[-1].last) == (2, "It may be 5.", True)
    assert "used up" in steps[-1].error


def test_code_is_run_only_where_that_was_asked_for(twin: Driver) -> None:
    """Off, code that the model writes is an error of its step, and the interpreter is not among the base tools."""
    code = "<code>\nfinal_answer(add(a=2, b=3) * 7)\n</code>"
    model = Model(says(f"Thought: count. {code}"), says(None, call("final_answer", answer="no")))
    client = twin.client(model)
    steps = twin.take(client.ask_agent("What?", tools=[add], stream=True))
    assert steps[0].error and steps[0].code is None
    assert steps[-1].answer == "no"
    allowed = twin.client(Model(says(f"Thought: count. {code}")))
    (step,) = twin.take(allowed.ask_agent("What?", tools=[add], stream=True, allow_code=True))
    assert step.answer == 35 and "add(a=2, b=3) * 7" in step.code


def test_the_base_tools_come_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """`add_base_tools` adds what searches and reads; what runs code stays away, and is no tool when it is called."""
    import smolagents

    interpreter = smolagents.PythonInterpreterTool
    monkeypatch.setattr("smolagents.agents.TOOL_MAPPING", {"python_interpreter": interpreter})
    model = Model(says(None, call("python_interpreter", code="1 + 1")), says(None, call("final_answer", answer="no")))
    with HTTPClient(BASE, transport=httpx.MockTransport(model)) as client:
        steps = list(client.ask_agent("What?", stream=True, add_base_tools=True))
    assert [tool["function"]["name"] for tool in model.asked[0]["tools"]] == ["final_answer"]
    assert steps[0].error and "python_interpreter" in steps[0].error


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"agent_type": "langchain"}, UnsupportedFeature, "'langchain' is not one of hf"),
        ({"remote": True}, UnsupportedFeature, "no hosted tools"),
        ({"return_code": True}, UnsupportedFeature, "never returned unrun"),
        ({"task": " "}, InvalidRequest, "task must not be empty"),
        ({"tools": ["add"]}, InvalidRequest, r"tools\[0\] is neither"),
        ({"tools": [lambda x: x]}, InvalidRequest, r"tools\[0\]: <lambda> cannot be a tool"),
        ({"max_stepz": 3}, InvalidRequest, "no option 'max_stepz'"),
        ({"verbosity_level": 2}, InvalidRequest, "no option 'verbosity_level'"),
        ({"tools": [add, add]}, InvalidRequest, "unique name"),
    ],
)
def test_wrong_words_are_refused_before_the_model_is_asked(
    twin: Driver, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    """One clear line for each, and no request for a completion."""
    model = Model()
    with pytest.raises(error, match=says):
        twin.client(model).ask_agent(**{"task": "What?"} | arguments)
    assert model.asked == []


def test_a_server_that_serves_no_agents_is_refused(twin: Driver) -> None:
    """`supports_hf_agent` is asked first, and believed."""
    with pytest.raises(UnsupportedFeature, match="makes no text"):
        twin.client(Model(agents=False)).ask_agent("What?")


def test_errors_of_the_server_are_its_own(twin: Driver) -> None:
    """A refusal comes out as the typed error that `chat` raises, not as one of smolagents'."""
    model = Model(refusal(400, "unsupported_parameter", "tools are not supported"))
    with pytest.raises(BadRequest, match="tools are not supported"):
        twin.client(model).ask_agent("What?")
    with pytest.raises(ClientError):
        twin.client(Model(says() | {"choices": []})).ask_agent("What?")


def test_without_smolagents_the_extra_is_named(twin: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is also an ImportError, and its hint is the line that mends it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "smolagents"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "openllm_client._smolagents", raising=False)
    monkeypatch.setitem(sys.modules, "smolagents", None)
    with pytest.raises(MissingDependency) as caught:
        twin.client(Model()).ask_agent("What?")
    assert isinstance(caught.value, ImportError)
    assert caught.value.hint == 'pip install "openllm-client[agents]"'


async def test_the_event_loop_stays_free() -> None:
    """A tool that waits holds up its own agent alone; a second agent runs meanwhile."""
    waiting = threading.Event()

    def hold(a: int) -> int:
        """Wait.

        Args:
            a: a number.
        """
        assert waiting.wait(20)
        return a

    slow = Model(says(None, call("hold", a=1)), says(None, call("final_answer", answer="slow")))
    async with (
        AsyncHTTPClient(BASE, transport=httpx.MockTransport(slow)) as one,
        AsyncHTTPClient(BASE, transport=httpx.MockTransport(Model(*ADDING))) as other,
    ):
        task = asyncio.create_task(one.ask_agent("Wait", tools=[hold]))
        assert await other.ask_agent("What?", tools=[add]) == "5"
        assert not task.done()
        waiting.set()
        assert await task == "slow"


@pytest.mark.parametrize("early", [False, True])
async def test_cancelling_aborts_the_question_that_is_being_answered(
    early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request to the server ends with the task, even if it is sent in the very moment, and the agent asks nothing more."""
    begun, ended, cancelled = asyncio.Event(), asyncio.Event(), threading.Event()

    async def never(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(
                200, json=MODELS if request.url.path == "/v1/models" else METADATA | {"supports_hf_agent": True}
            )
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        raise AssertionError

    def held_back(question: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Future[Any]:
        running = run_coroutine_threadsafe(question, loop)
        assert cancelled.wait(10)  # the agent's thread learns what it waits for after the task was cancelled
        return running

    run_coroutine_threadsafe = asyncio.run_coroutine_threadsafe
    if early:
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", held_back)
    async with AsyncHTTPClient(BASE, transport=httpx.MockTransport(never)) as client:
        task = asyncio.create_task(client.ask_agent("Wait"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()
        await asyncio.wait_for(ended.wait(), 5)
