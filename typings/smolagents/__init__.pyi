"""The part of smolagents 1.26 that the agents of openllm-client use; it ships no types."""

from collections.abc import Callable, Iterator
from enum import Enum, IntEnum
from typing import Any

class LogLevel(IntEnum):
    OFF = -1
    ERROR = 0
    INFO = 1
    DEBUG = 2

class MessageRole(str, Enum):  # noqa: UP042 - as smolagents has it
    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL_CALL = "tool-call"
    TOOL_RESPONSE = "tool-response"

class TokenUsage:
    input_tokens: int
    output_tokens: int
    def __init__(self, input_tokens: int, output_tokens: int) -> None: ...

class ToolCall:
    name: str
    arguments: Any
    id: str

class ChatMessage:
    role: MessageRole
    content: str | list[dict[str, Any]] | None
    def __init__(
        self,
        role: MessageRole,
        content: str | list[dict[str, Any]] | None = None,
        tool_calls: list[Any] | None = None,
        raw: Any | None = None,
        token_usage: TokenUsage | None = None,
    ) -> None: ...

class AgentError(Exception):
    message: str

class BaseTool:
    name: str

class Tool(BaseTool): ...

def tool(tool_function: Callable[..., Any]) -> Tool: ...

class Model:
    def __init__(self, model_id: str | None = None, **kwargs: Any) -> None: ...
    def generate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Tool] | None = None,
        **kwargs: Any,
    ) -> ChatMessage: ...

class ActionStep:
    step_number: int
    tool_calls: list[ToolCall] | None
    error: AgentError | None
    model_output_message: ChatMessage | None
    model_output: str | list[dict[str, Any]] | None
    code_action: str | None
    observations: str | None
    is_final_answer: bool

class FinalAnswerStep:
    output: Any

class MultiStepAgent:
    tools: dict[str, BaseTool]
    def __init__(self, tools: list[BaseTool], model: Model, verbosity_level: LogLevel = ..., **kwargs: Any) -> None: ...
    def run(self, task: str, stream: bool = False) -> Iterator[Any]: ...

class ToolCallingAgent(MultiStepAgent): ...
class CodeAgent(MultiStepAgent): ...
