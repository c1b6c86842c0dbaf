"""Wire messages of every route, shared by client and server. The OpenAPI document is made from these very classes.

`serde.structure` turns JSON into them and refuses wrong types and ranges by field path; fields are declared with
`serde.field`. Names and shapes of the OpenAI routes are OpenAI's; those of `/v1/generate*` and `/v1/metadata` are
OpenLLM 0.3.5's.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

from .adapter_messages import AdapterCard as AdapterCard
from .adapter_messages import AdapterList as AdapterList
from .adapter_messages import AdapterRequest as AdapterRequest
from .agent_messages import AgentRequest as AgentRequest
from .agent_messages import GeneratedText as GeneratedText
from .deltas import CallDelta as CallDelta
from .deltas import Delta as Delta
from .deltas import LogprobEntry as LogprobEntry
from .serde import field
from .tool_messages import Tool as Tool
from .tool_messages import ToolCall as ToolCall
from .tool_messages import ToolCallDelta as ToolCallDelta
from .usage_messages import KeyUsage as KeyUsage
from .usage_messages import UsageList as UsageList

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

# -- shared -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Usage:
    """Token counts of one request: all choices together."""

    prompt_tokens: int = field(help="Tokens of the prompt, special tokens included.")
    completion_tokens: int = field(help="Tokens generated, the ending stop token included.")
    total_tokens: int = field(help="Sum of the two.")


@attrs.frozen(kw_only=True)
class ErrorDetail:
    """What went wrong, in OpenAI's shape."""

    message: str = field(help="One line for a person.")
    type: str = field(help="Kind of error: invalid_request_error, service_unavailable_error, server_error, …")
    param: str | None = field(default=None, help="Field at fault.")
    code: str | None = field(default=None, help="Stable code to branch on.")


@attrs.frozen(kw_only=True)
class ErrorBody:
    """Body of every refusal, on every route."""

    error: ErrorDetail = field(help="The error.")


# -- /v1/generate, /v1/generate_stream ------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class GenerateRequest:
    """Completion of a raw prompt with the family's own fields, as in 0.3.5."""

    prompt: str = field(help="Text to complete; no template is applied.")
    llm_config: dict[str, Any] = field(
        default=attrs.Factory(dict),
        help="Own, generation and sampling fields, flat or with `generation_config` nested.",
    )
    adapter_name: str | None = field(default=None, help="Adapter to use; default: the server's.")
    detail: bool = field(default=False, help="Add finish reasons, usage and logprobs to the answer.")
    echo: bool = field(default=False, help="Stream only: send the prompt first.")
    stream_options: dict[str, Any] | None = field(
        default=None, help="Accepted for symmetry; usage is always sent last."
    )


@attrs.frozen(kw_only=True)
class GenerateResponse:
    """Answer of `/v1/generate`: exactly two keys, unless `detail` was asked for."""

    responses: list[Any] = field(help="One per `n`; the completion without the prompt.")
    configuration: dict[str, Any] = field(help="The effective configuration, nested form.")


# -- /v1/metadata ---------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Metadata:
    """What is served, in 0.3.5's shape plus `family`, `served_model_names` and `context_length`."""

    model_id: str = field(help="Id of the model; the served name of a folder.")
    timeout: int = field(help="Deadline of a request, seconds.")
    model_name: str = field(help="Family in 0.3.5's words (one of its eleven).")
    backend: str = field(help="Backend that runs it.")
    configuration: str = field(help="Server configuration, JSON text.")
    supports_embeddings: bool = field(default=False, help="Whether /v1/embeddings works.")
    supports_hf_agent: bool = field(default=False, help="Whether /hf/agent works.")
    family: str = field(default="", help="The true family.")
    served_model_names: list[str] = field(default=attrs.Factory(list), help="Names accepted in `model`.")
    context_length: int | None = field(default=None, help="Tokens, prompt plus completion.")


# -- OpenAI ---------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class StreamOptions:
    """What a stream carries besides deltas."""

    include_usage: bool = field(default=False, help="Send a last chunk with usage and no choices.")


@attrs.frozen(kw_only=True)
class ChatMessage:
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = field(help="Who speaks.")
    content: str | list[dict[str, Any]] | None = field(default=None, help="Text, or a list of text parts.")
    name: str | None = field(default=None, help="Name of the speaker.")
    tool_calls: list[dict[str, Any]] | None = field(default=None, help="Calls the assistant made.")
    tool_call_id: str | None = field(default=None, help="Call that a tool message answers.")
    reasoning_content: str | None = field(default=None, help="Reasoning of the assistant, for templates that take it.")


@attrs.frozen(kw_only=True)
class SamplingFields:
    """Sampling fields that both OpenAI routes take; None means the server's default."""

    model: str = field(help="A served model name.", min_length=1, max_length=256)
    max_tokens: int | None = field(default=None, ge=1, help="Tokens to generate at most.")
    temperature: float | None = field(default=None, ge=0, le=2, help="0 is greedy.")
    top_p: float | None = field(default=None, gt=0, le=1, help="Nucleus share.")
    top_k: int | None = field(default=None, ge=-1, help="Most likely tokens kept; 0 or -1 keeps all.")
    min_p: float | None = field(default=None, ge=0, le=1, help="Share of the best token's probability a token needs.")
    repetition_penalty: float | None = field(default=None, ge=0.01, le=10, help="Divides logits of tokens seen so far.")
    presence_penalty: float | None = field(default=None, ge=-2, le=2, help="Subtracted once from generated tokens.")
    frequency_penalty: float | None = field(default=None, ge=-2, le=2, help="Subtracted per occurrence.")
    logit_bias: dict[str, float] | None = field(default=None, help="Token id -> bias, -100..100.")
    n: int | None = field(default=None, ge=1, le=128, help="Choices.")
    seed: int | None = field(default=None, ge=-(2**63), le=2**63 - 1, help="Makes sampling repeatable.")
    stop: str | list[str] | None = field(default=None, help="Up to 4 strings that end the text; not returned.")
    stop_token_ids: list[int] | None = field(default=None, help="Ids that end the text.")
    ignore_eos: bool | None = field(default=None, help="Go on past the model's end token.")
    min_tokens: int | None = field(default=None, ge=0, help="Tokens before which no end token is drawn.")
    response_format: dict[str, Any] | None = field(
        default=None, help="`text`, `json_object` or `json_schema`; where the backend can guide."
    )
    guided_json: dict[str, Any] | str | None = field(default=None, help="JSON schema that the text must fit.")
    guided_regex: str | None = field(default=None, help="Regular expression that the text must match.")
    guided_choice: list[str] | None = field(default=None, help="Texts of which the answer is one.")
    guided_grammar: str | None = field(default=None, help="Grammar (EBNF) that the text must follow.")
    structured_outputs: dict[str, Any] | None = field(default=None, help="One of the above, in vLLM's newer form.")
    stream: bool | None = field(default=None, help="Answer as server-sent events.")
    stream_options: StreamOptions | None = field(default=None, help="Only with `stream`.")
    user: str | None = field(default=None, max_length=512, help="Caller's tag; not used.")


@attrs.frozen(kw_only=True)
class ChatCompletionRequest(SamplingFields):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = field(min_length=1, help="The conversation.")
    max_completion_tokens: int | None = field(default=None, ge=1, help="Newer name of `max_tokens`.")
    logprobs: bool | None = field(default=None, help="Return log-probabilities.")
    top_logprobs: int | None = field(default=None, ge=0, le=20, help="Most likely tokens beside each.")
    tools: list[Tool] | None = field(default=None, max_length=128, help="Functions that the model may call.")
    tool_choice: str | dict[str, Any] | None = field(
        default=None, help="`none`, `auto`, `required`, or the function that must be called."
    )
    parallel_tool_calls: bool | None = field(default=None, help="Whether an answer may hold several calls.")
    adapter_name: str | None = field(default=None, help="Adapter to use.")


@attrs.frozen(kw_only=True)
class CompletionRequest(SamplingFields):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]] = field(help="Text(s) or token ids to complete.")
    echo: bool | None = field(default=None, help="Return the prompt before the completion.")
    logprobs: int | None = field(default=None, ge=0, le=20, help="Most likely tokens to return log-probabilities of.")
    best_of: int | None = field(default=None, ge=1, help="Only equal to `n`.")
    suffix: str | None = field(default=None, help="Not supported; must be null.")
    adapter_name: str | None = field(default=None, help="Adapter to use.")


@attrs.frozen(kw_only=True)
class ModelCard:
    """One entry of `GET /v1/models`."""

    id: str = field(help="Name to use in `model`.")
    created: int = field(help="Unix time the server started.")
    object: Literal["model"] = field(default="model", help="Constant.")
    owned_by: str = field(default="openllm", help="Constant.")
    max_model_len: int | None = field(default=None, help="Context length, tokens.")
    root: str | None = field(default=None, help="Model an adapter stands on.")


@attrs.frozen(kw_only=True)
class ModelList:
    """`GET /v1/models`."""

    data: list[ModelCard] = field(help="What is served.")
    object: Literal["list"] = field(default="list", help="Constant.")


# -- /v1/embeddings -------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class EmbeddingRequest:
    """`POST /v1/embeddings` in OpenAI's shape; the other shape is a bare array of texts."""

    model: str = field(help="A served model name, or the embedding model's own.", min_length=1, max_length=256)
    input: str | list[str] | list[int] | list[list[int]] = field(help="Text(s), or token ids of the embedding model.")
    encoding_format: Literal["float", "base64"] | None = field(
        default=None, help="`base64` is little-endian float32; default `float`."
    )
    dimensions: int | None = field(default=None, ge=1, help="Keep so many leading numbers, normalised anew.")
    user: str | None = field(default=None, max_length=512, help="Caller's tag; not used.")


@attrs.frozen(kw_only=True)
class Embedding:
    """One vector of an OpenAI answer."""

    index: int = field(help="Place of its text in `input`.")
    embedding: list[float] | str = field(help="The vector, of length one; text where base64 was asked for.")
    object: Literal["embedding"] = field(default="embedding", help="Constant.")


@attrs.frozen(kw_only=True)
class EmbeddingUsage:
    """Token counts of one embedding request."""

    prompt_tokens: int = field(help="Tokens of all texts, special tokens included.")
    total_tokens: int = field(help="The same.")


@attrs.frozen(kw_only=True)
class EmbeddingList:
    """Answer to an `EmbeddingRequest`."""

    data: list[Embedding] = field(help="One for each text, in their order.")
    model: str = field(help="Model that made them.")
    usage: EmbeddingUsage = field(help="Token counts.")
    object: Literal["list"] = field(default="list", help="Constant.")


@attrs.frozen(kw_only=True)
class EmbeddingsOutput:
    """Answer to a bare array of texts, and of every `embed` method.

    Attributes:
        embeddings: [texts, hidden], L2-normalised.
        num_tokens: tokens of all texts together, special tokens included.
    """

    embeddings: list[list[float]] = field(help="One vector of length one for each text, in their order.")
    num_tokens: int = field(help="Tokens of all texts, special tokens included.")


# -- answers of the OpenAI routes -----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class TopLogprob:
    """A likely token in a chat answer's log-probabilities."""

    token: str = field(help="Text of the token.")
    logprob: float = field(help="Natural log of its probability.")
    bytes: list[int] | None = field(default=None, help="Its UTF-8 bytes; a token may hold part of a character.")


@attrs.frozen(kw_only=True)
class TokenLogprob(TopLogprob):
    """A drawn token in a chat answer's log-probabilities."""

    top_logprobs: list[TopLogprob] = field(default=attrs.Factory(list), help="Most likely tokens in its place.")


@attrs.frozen(kw_only=True)
class ChatLogprobs:
    """Log-probabilities of a chat choice."""

    content: list[TokenLogprob] = field(help="One per token.")
    refusal: list[TokenLogprob] | None = field(default=None, help="Always null.")


@attrs.frozen(kw_only=True)
class AssistantMessage:
    """The message a chat choice answers with."""

    content: str | None = field(help="The text; null where there are only calls.")
    role: Literal["assistant"] = field(default="assistant", help="Constant.")
    refusal: str | None = field(default=None, help="Always null.")
    reasoning_content: str | None = field(default=None, omitted=True, help="What the model said to itself before.")
    tool_calls: list[ToolCall] | None = field(default=None, omitted=True, help="Functions to call now.")


@attrs.frozen(kw_only=True)
class ChatChoice:
    """One answer of a chat completion."""

    index: int = field(help="0..n-1.")
    message: AssistantMessage = field(help="The answer.")
    finish_reason: FinishReason = field(help="Why it ended.")
    logprobs: ChatLogprobs | None = field(default=None, help="When asked for.")


@attrs.frozen(kw_only=True)
class ChatCompletion:
    """Answer of `POST /v1/chat/completions`."""

    id: str = field(help="Starts with `chatcmpl-`.")
    created: int = field(help="Unix time.")
    model: str = field(help="Name that answered.")
    choices: list[ChatChoice] = field(help="n of them.")
    usage: Usage = field(help="Token counts.")
    object: Literal["chat.completion"] = field(default="chat.completion", help="Constant.")
    system_fingerprint: str | None = field(default=None, help="Always null.")

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return (self.choices[0].message.content or "") if self.choices else ""


# One of each of these three is made for every token that a client reads: not frozen, which takes three times as long.
@attrs.define(kw_only=True)
class ChunkDelta:
    """What a chunk adds to a message."""

    role: Literal["assistant"] | None = field(default=None, help="In the first chunk of a choice.")
    content: str | None = field(default=None, help="New text.")
    reasoning_content: str | None = field(default=None, help="New text of the model to itself.")
    tool_calls: list[ToolCallDelta] | None = field(default=None, help="Calls that begin or go on.")


@attrs.define(kw_only=True)
class ChunkChoice:
    """One choice in a chunk."""

    index: int = field(help="0..n-1.")
    delta: ChunkDelta = field(help="What is new.")
    finish_reason: FinishReason | None = field(default=None, help="In the last chunk of a choice.")
    logprobs: ChatLogprobs | None = field(default=None, help="When asked for.")


@attrs.define(kw_only=True)
class ChatCompletionChunk:
    """One server-sent event of a streamed chat completion."""

    id: str = field(help="The same in all chunks.")
    created: int = field(help="Unix time.")
    model: str = field(help="Name that answers.")
    choices: list[ChunkChoice] = field(help="One; none in the usage chunk.")
    object: Literal["chat.completion.chunk"] = field(default="chat.completion.chunk", help="Constant.")
    usage: Usage | None = field(default=None, help="In the last chunk, when `stream_options.include_usage`.")
    system_fingerprint: str | None = field(default=None, help="Always null.")

    @property
    def text(self) -> str:
        """New text of the choice in this chunk; empty in the first, the last and the usage chunk."""
        return (self.choices[0].delta.content or "") if self.choices else ""


@attrs.frozen(kw_only=True)
class CompletionLogprobs:
    """Log-probabilities of a completion choice: four lists of one length."""

    tokens: list[str] = field(help="Text of each token.")
    token_logprobs: list[float | None] = field(help="Natural log of each probability.")
    top_logprobs: list[dict[str, float] | None] = field(help="Most likely tokens in each place.")
    text_offset: list[int] = field(help="Where each token starts in `text`, characters.")


@attrs.frozen(kw_only=True)
class CompletionChoice:
    """One answer of a completion; in a stream, what is new in it."""

    text: str = field(help="The text.")
    index: int = field(help="prompt number x n + choice.")
    finish_reason: FinishReason | None = field(default=None, help="Why it ended.")
    logprobs: CompletionLogprobs | None = field(default=None, help="When asked for.")


@attrs.frozen(kw_only=True)
class Completion:
    """Answer of `POST /v1/completions`, and each of its server-sent events."""

    id: str = field(help="Starts with `cmpl-`.")
    created: int = field(help="Unix time.")
    model: str = field(help="Name that answered.")
    choices: list[CompletionChoice] = field(help="n for each prompt; none in the usage event.")
    usage: Usage | None = field(default=None, help="Token counts.")
    object: Literal["text_completion"] = field(default="text_completion", help="Constant.")
    system_fingerprint: str | None = field(default=None, help="Always null.")


@attrs.frozen(kw_only=True)
class Health:
    """Answer of the health routes when all is well."""

    status: Literal["alive", "ready"] = field(help="What holds.")
    engines_ready: int | None = field(default=None, help="Engines that answer, where there are several.")
    engines: int | None = field(default=None, help="Engines there are, where there are several.")


# -- streamed and detailed answers of /v1/generate* -----------------------------------------------------------------


@attrs.frozen(kw_only=True)
class GenerationDetails:
    """`details` of `/v1/generate` when `detail` was asked for."""

    finish_reasons: list[FinishReason] = field(help="One per response.")
    usage: Usage = field(help="Token counts, all responses together.")
    logprobs: list[Any] | None = field(default=None, help="One list per response, when asked for.")


@attrs.define
class StreamFrame:
    """One server-sent event of `/v1/generate_stream`."""

    index: int = field(help="0..n-1.")
    text: str = field(help="New text.")
    token_ids: list[int] = field(help="Ids generated since the frame before.")
    finish_reason: Literal["stop", "length"] | None = field(default=None, help="In the last frame of a choice.")
    usage: Usage | None = field(default=None, help="In the very last frame.")
    logprobs: list[Any] | None = field(default=None, help="One entry per id, when asked for.")
