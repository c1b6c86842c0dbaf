"""smolagents with a server of ours as its model: makes the agent, runs it, and turns what it yields into `AgentStep`s.

The one module that imports smolagents; `_agents` imports it when an agent is asked. Nothing is printed: steps are told as
values. What smolagents raises is turned into our errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

import attrs
from smolagents import (
    ActionStep,
    AgentError,
    BaseTool,
    ChatMessage,
    CodeAgent,
    FinalAnswerStep,
    LogLevel,
    MessageRole,
    Model,
    MultiStepAgent,
    TokenUsage,
    Tool,
    ToolCallingAgent,
    tool,
)
from smolagents.models import get_clean_message_list, get_tool_json_schema, tool_role_conversions

from openllm_core import serde
from openllm_core.errors import ClientError, InvalidRequest, OpenLLMError
from openllm_core.schema import ChatCompletion

from ._agents import AgentCall, AgentStep, AgentTask

Ask = Callable[[list[dict[str, Any]], dict[str, Any]], ChatCompletion]
"""Sends messages and further fields of a chat completion request, waits, and returns the answer."""

OURS = frozenset(
    {"self", "tools", "model", "kwargs", "stream_outputs", "verbosity_level", "logger", "return_full_result"}
)
INTERPRETER = "python_interpreter"


class ServedModel(Model):
    """A server's model as smolagents sees one.

    Args:
        ask: how the server is asked.
        sampling: fields of each request.
    """

    def __init__(self, ask: Ask, sampling: dict[str, Any]) -> None:
        super().__init__()
        self._ask = ask
        self._sampling = sampling

    def generate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Tool] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """The model's next message; a tool must be called where there are tools."""
        fields: dict[str, Any] = dict(kwargs)
        if stop_sequences:
            fields["stop"] = stop_sequences
        if response_format:
            fields["response_format"] = response_format
        if tools_to_call_from:
            fields["tools"] = [get_tool_json_schema(one) for one in tools_to_call_from]
            fields["tool_choice"] = "required"
        answer = self._ask(_plain(messages), fields | self._sampling)
        return _message_of(answer)


def _plain(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as the server's route takes them: texts, under the roles it knows."""
    found = get_clean_message_list(messages, role_conversions=tool_role_conversions, flatten_messages_as_text=True)
    return [{"role": MessageRole(one["role"]).value, "content": one["content"]} for one in found]


def _message_of(answer: ChatCompletion) -> ChatMessage:
    if not answer.choices:
        raise ClientError("The server's answer has no choices.", code="malformed_response")
    said: dict[str, Any] = serde.unstructure(answer.choices[0].message)
    return ChatMessage(
        role=MessageRole.ASSISTANT,
        content=said.get("content"),
        tool_calls=said.get("tool_calls") or None,
        token_usage=TokenUsage(answer.usage.prompt_tokens, answer.usage.completion_tokens) if answer.usage else None,
    )


def start(task: AgentTask, ask: Ask) -> Iterator[AgentStep]:
    """Make the agent of a task, and its run.

    Raises:
        InvalidRequest: a tool or an option is none that smolagents takes.
    """
    agent_class = CodeAgent if task.allow_code else ToolCallingAgent
    _check_options(agent_class, task)
    tools = [_tool_of(given, place) for place, given in enumerate(task.tools)]
    model = ServedModel(ask, dict(task.sampling))
    try:
        agent = agent_class(tools=tools, model=model, verbosity_level=LogLevel.OFF, **task.options)
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise InvalidRequest(f"smolagents refuses the agent: {error}") from error
    if not task.allow_code and not any(one.name == INTERPRETER for one in tools):
        agent.tools.pop(INTERPRETER, None)  # one of the base tools runs code, too
    return _steps(agent, task.task)


def _check_options(agent_class: type[MultiStepAgent], task: AgentTask) -> None:
    known = {*inspect.signature(agent_class).parameters, *inspect.signature(MultiStepAgent).parameters} - OURS
    for name in task.options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else None
            raise InvalidRequest(f"{agent_class.__name__} has no option {name!r}.", param=name, hint=hint)


def _tool_of(given: Any, place: int) -> BaseTool:
    """A tool as smolagents takes it; a function becomes one."""
    if isinstance(given, BaseTool):
        return given
    if not inspect.isfunction(given):
        raise InvalidRequest(f"tools[{place}] is neither a tool nor a function.", param=f"tools[{place}]")
    try:
        return tool(given)
    except OSError:
        why = "its source cannot be read; define it in a file"
    except Exception as error:  # smolagents has no base of its own for what it finds wrong with a function
        why = str(error).partition("\n")[0]
    raise InvalidRequest(f"tools[{place}]: {given.__name__} cannot be a tool: {why}.", param=f"tools[{place}]")


def _steps(agent: MultiStepAgent, task: str) -> Iterator[AgentStep]:
    """The run. The step that ends it is held back until its answer is known."""
    ending: AgentStep | None = None
    number = 0
    try:
        for event in agent.run(task, stream=True):
            if isinstance(event, ActionStep):
                if event.step_number <= number or not (event.model_output_message or event.error):
                    continue  # told before, or one that failed before the model said a word: the error follows
                number = event.step_number
                ending = _step_of(event)
                if not event.is_final_answer:
                    yield ending
                    ending = None
            elif isinstance(event, FinalAnswerStep):
                yield _ended(ending, number, event.output)
    except AgentError as error:
        if isinstance(error.__cause__, OpenLLMError):
            raise error.__cause__ from None
        raise ClientError(
            f"The agent failed: {str(error.__cause__ or error).strip()[:300]}", code="agent_failed"
        ) from error


def _step_of(step: ActionStep) -> AgentStep:
    said = step.model_output
    return AgentStep(
        number=step.step_number,
        text=said if isinstance(said, str) else "",
        calls=tuple(AgentCall(name=one.name, arguments=one.arguments) for one in step.tool_calls or ()),
        code=step.code_action,
        observations=step.observations or "",
        error=None if step.error is None else step.error.message,
    )


def _ended(step: AgentStep | None, number: int, output: Any) -> AgentStep:
    """The last step, with the answer as plain as it came; one of its own where the steps were used up."""
    answer = str(output) if isinstance(output, str) else output
    if step is not None:
        return attrs.evolve(step, last=True, answer=answer)
    return AgentStep(number=number + 1, error="the steps were used up", last=True, answer=answer)
