"""`ask_agent` of the asynchronous clients: the twin of `_agents`, whose checks and words it uses.

smolagents waits, so it runs in a thread; each question it has goes back to the event loop, to the client's own connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, Protocol, overload

from openllm_core.errors import RequestAborted
from openllm_core.schema import ChatCompletion

from ._agents import AgentStep, AgentTask, check, require_agents, run


class AsyncAsks(Protocol):
    """What an agent needs of an asynchronous client."""

    @property
    def supports_hf_agent(self) -> Coroutine[Any, Any, bool]:
        """Whether the server's model makes text."""
        ...

    def chat(
        self, messages: Any, *, model: str | None = None, stream: Literal[False] = False, **sampling: Any
    ) -> Coroutine[Any, Any, ChatCompletion]:
        """One answer to a conversation."""
        ...


class AsyncAsksAgents:
    """The method of an asynchronous client."""

    @overload
    async def ask_agent(
        self: AsyncAsks,
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
    async def ask_agent(
        self: AsyncAsks,
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
    ) -> AsyncGenerator[AgentStep]: ...

    async def ask_agent(
        self: AsyncAsks,
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
        require_agents(await self.supports_hf_agent)

        def ask(messages: list[dict[str, Any]], fields: dict[str, Any]) -> Coroutine[Any, Any, ChatCompletion]:
            return self.chat(messages, model=model, **fields)

        running = _InThread(wanted, ask)
        await running.start()
        if stream:
            return running.steps()
        answer: Any = None
        async for step in running.steps():
            answer = step.answer
        return answer


class _InThread:
    """One run: its steps are made in a thread, its questions asked on the event loop."""

    def __init__(self, task: AgentTask, ask: Any) -> None:
        self._task = task
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._asking: Future[ChatCompletion] | None = None
        self._left = False
        self._steps: Iterator[AgentStep] = iter(())

    async def start(self) -> None:
        """Make the agent; the import of smolagents takes a while."""
        self._steps = await asyncio.to_thread(run, self._task, self._from_thread)

    async def steps(self) -> AsyncGenerator[AgentStep]:
        """The steps as they are done; leaving, or being cancelled, aborts the question that is being answered."""
        try:
            while (step := await asyncio.to_thread(next, self._steps, None)) is not None:
                yield step
        finally:
            self._left = True
            if self._asking is not None:
                self._asking.cancel()

    def _from_thread(self, messages: list[dict[str, Any]], fields: dict[str, Any]) -> ChatCompletion:
        if self._left:
            raise RequestAborted("The run of the agent was left.")
        self._asking = asyncio.run_coroutine_threadsafe(self._ask(messages, fields), self._loop)
        if self._left:  # in the moment it was asked
            self._asking.cancel()
        return self._asking.result()
