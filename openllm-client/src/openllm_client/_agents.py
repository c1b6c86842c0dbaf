"""`ask_agent` of the clients that wait: a task in, an answer out, with a server's model choosing among tools.

The loop is smolagents' (extra `agents`), which `_smolagents` drives; it is imported when an agent is first asked. Here are the
method, its words and its checks, which the asynchronous clients share. Must not know how a call travels.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, overload

import attrs

from openllm_core.errors import InvalidRequest, MissingDependency, UnsupportedFeature
from openllm_core.schema import ChatCompletion

if TYPE_CHECKING:
    from ._smolagents import Ask

EXTRA = 'pip install "openllm-client[agents]"'
MAX_SHOWN = 200  # characters of a text in a log line

_log = logging.getLogger("openllm_client.agents")


@attrs.frozen(kw_only=True)
class AgentCall:
    """One tool that the model called, with the arguments it gave."""

    name: str
    arguments: Any


@attrs.frozen(kw_only=True)
class AgentStep:
    """One turn of an agent: what the model said and called, and what came of it.

    Attributes:
        number: counted from 1.
        text: what the model said beside its calls.
        calls: tools it called, `final_answer` among them when it was done.
        code: Python that it wrote and that was run; only where that was allowed.
        observations: what the tools or the code gave back, as the model reads it in the next step.
        error: what went wrong in this step; the model is told and tries again.
        last: whether it ends the run; then `answer` is the result.
        answer: of any type that a tool can give; None before the last step.
    """

    number: int
    text: str = ""
    calls: tuple[AgentCall, ...] = ()
    code: str | None = None
    observations: str = ""
    error: str | None = None
    last: bool = False
    answer: Any = None

    def __str__(self) -> str:
        """One line: what was called, or what went wrong."""
        called = ", ".join(f"{call.name}({_shown(_arguments(call.arguments))})" for call in self.calls)
        parts = (called, f"error: {_shown(self.error)}" if self.error else "")
        return f"step {self.number}: {'; '.join(filter(None, parts)) or _shown(self.text) or 'nothing called'}"


@attrs.frozen(kw_only=True)
class AgentTask:
    """What was asked of `ask_agent`, checked.

    Attributes:
        tools: smolagents' tools, or functions with types and a documented `Args:` section.
        sampling: fields of each chat completion request.
        options: arguments of smolagents' agent.
    """

    task: str
    tools: Sequence[Any]
    allow_code: bool
    sampling: Mapping[str, Any]
    options: Mapping[str, Any]


class Asks(Protocol):
    """What an agent needs of a client."""

    @property
    def supports_hf_agent(self) -> bool:
        """Whether the server's model makes text."""
        ...

    def chat(
        self, messages: Any, *, model: str | None = None, stream: Literal[False] = False, **sampling: Any
    ) -> ChatCompletion:
        """One answer to a conversation."""
        ...


class AsksAgents:
    """The method of a client that waits."""

    @overload
    def ask_agent(
        self: Asks,
        task: str,
        *,
        agent_type: str = "hf",
        tools: Sequence[Any] = (),
        model: str | None = None,
        stream: Literal[False] = False,
        allow_code: bool = False,
        return_code: bool = False,
        remote: bool = False,
        sampling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any: ...

    @overload
    def ask_agent(
        self: Asks,
        task: str,
        *,
        agent_type: str = "hf",
        tools: Sequence[Any] = (),
        model: str | None = None,
        stream: Literal[True],
        allow_code: bool = False,
        return_code: bool = False,
        remote: bool = False,
        sampling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Generator[AgentStep]: ...

    def ask_agent(
        self: Asks,
        task: str,
        *,
        agent_type: str = "hf",
        tools: Sequence[Any] = (),
        model: str | None = None,
        stream: bool = False,
        allow_code: bool = False,
        return_code: bool = False,
        remote: bool = False,
        sampling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Have the server's model do a task with tools that run here.

        Args:
            task: what to do, in words.
            agent_type: "hf", the only one: smolagents, in whose place OpenLLM 0.3.5 had transformers' agents.
            tools: what it may call: smolagents' tools, or functions with types and a documented `Args:` section.
            model: a served model name; default: the first that the server lists.
            stream: give each step when it is done; the last one has the answer. Leaving early ends the run.
            allow_code: let the model write Python and run it in this process, whose limits are no sandbox. Off, it can do
                nothing but call `tools`.
            return_code, remote: of OpenLLM 0.3.5; must be false.
            sampling: fields of each chat completion request: max_tokens, temperature, ….
            options: arguments of smolagents' ToolCallingAgent (CodeAgent where code is allowed): max_steps, instructions, ….

        Returns:
            the answer, of whatever type the last tool gave; steps where `stream` is set.

        Raises:
            MissingDependency: smolagents is not installed.
            InvalidRequest, UnsupportedFeature: an argument is wrong, or the server's model serves no agents.
            ClientError: the server failed or refused; what fails in a tool is told to the model instead.
        """
        wanted = check(task, agent_type, tools, allow_code, return_code, remote, sampling, options)
        require_agents(self.supports_hf_agent)

        def ask(messages: list[dict[str, Any]], fields: dict[str, Any]) -> ChatCompletion:
            return self.chat(messages, model=model, **fields)

        steps = run(wanted, ask)
        return steps if stream else answer_of(steps)


def check(
    task: str,
    agent_type: str,
    tools: Sequence[Any],
    allow_code: bool,
    return_code: bool,
    remote: bool,
    sampling: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> AgentTask:
    """Refuse what cannot be done before the server is asked anything; see `AsksAgents.ask_agent`."""
    if agent_type != "hf":
        raise UnsupportedFeature(f"agent_type: {agent_type!r} is not one of hf.", param="agent_type")
    if remote:
        raise UnsupportedFeature(
            "remote: there are no hosted tools any more.", param="remote", hint="Give tools of your own."
        )
    if return_code:
        raise UnsupportedFeature(
            "return_code: an agent's code is run step by step, never returned unrun.",
            param="return_code",
            hint="stream=True with allow_code=True gives the code of each step.",
        )
    if not task.strip():
        raise InvalidRequest("task must not be empty.", param="task")
    return AgentTask(
        task=task, tools=tuple(tools), allow_code=allow_code, sampling=dict(sampling or {}), options=options
    )


def require_agents(supported: bool) -> None:
    """Refuse a server that says of itself that it serves none."""
    if not supported:
        raise UnsupportedFeature("The server's model makes no text, so it serves no agents.")


def run(task: AgentTask, ask: Ask) -> Generator[AgentStep]:
    """The steps of a task; the first is begun when it is asked for.

    Args:
        ask: sends messages and fields to the server and waits for the answer.

    Raises:
        MissingDependency, InvalidRequest: at once: smolagents is not there, or it takes no such tool or option.
    """
    try:
        from ._smolagents import start
    except ImportError as error:
        raise MissingDependency(f"smolagents cannot be imported: {error}", hint=EXTRA) from error
    return _logged(start(task, ask))


def answer_of(steps: Iterator[AgentStep]) -> Any:
    """The answer of a run, all of its steps done."""
    answer: Any = None
    for step in steps:
        answer = step.answer
    return answer


def _logged(steps: Iterator[AgentStep]) -> Generator[AgentStep]:
    for step in steps:
        _log.info("agent %s", step)
        yield step


def _arguments(given: Any) -> str:
    if not isinstance(given, dict):
        return str(given)
    return ", ".join(f"{name}={value!r}" for name, value in cast("dict[str, Any]", given).items())


def _shown(text: str) -> str:
    """A text that came from a model, on one line and not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 1] + "…"
