"""From bytes of an answer to typed values. Pure; shared by both clients.

Unknown keys are passed over, so that an older client reads a newer server; a missing key or a wrong type is an error,
never a guess. Events of a stream take a short way past the general reader, since there is one for every token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
import orjson

from openllm_core import serde
from openllm_core.errors import InvalidRequest, InvalidSetting, UnknownModel
from openllm_core.schema import (
    AdapterList,
    ChatCompletion,
    ChatCompletionChunk,
    ChunkChoice,
    ChunkDelta,
    EmbeddingsOutput,
    GenerateResponse,
    GenerationDetails,
    Metadata,
    ModelCard,
    ModelList,
    StreamFrame,
    Usage,
)

from ._errors import in_stream, malformed

if TYPE_CHECKING:
    from openllm_core.config.llm import LLMConfig

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class GenerationOutput:
    """Answer of `generate`.

    Attributes:
        responses: one per `n`; text, or what the model's family answered with in OpenLLM 0.3.5.
        configuration: the effective configuration, nested form.
        finish_reasons: one per response; with `detail=True`, as are the next two.
        usage: token counts, all responses together.
        logprobs: one list per response, when asked for.
    """

    responses: list[Any]
    configuration: dict[str, Any]
    finish_reasons: list[str] | None = None
    usage: Usage | None = None
    logprobs: list[Any] | None = None

    @property
    def texts(self) -> list[str]:
        """The text of each response."""
        return [text_of(response) for response in self.responses]

    @property
    def text(self) -> str:
        """The text of the first response."""
        return text_of(self.responses[0]) if self.responses else ""


@attrs.frozen(kw_only=True)
class Readiness:
    """Answer of `health`: true when the server takes requests.

    Attributes:
        message: what the server says it is doing, or why it refuses.
        retry_after_s: seconds after which it is worth asking again.
    """

    ready: bool
    status: int
    message: str = ""
    retry_after_s: float | None = None

    def __bool__(self) -> bool:
        return self.ready


def text_of(response: Any) -> str:
    """The text in one element of `responses`: some families answer with objects or pairs."""
    if isinstance(response, str):
        return response
    if isinstance(response, list) and response:
        return text_of(cast("list[Any]", response)[0])
    if isinstance(response, dict):
        fields = cast("dict[str, Any]", response)
        for name in ("text", "generated_text"):
            if isinstance(fields.get(name), str):
                return fields[name]
    return orjson.dumps(response).decode()


# -- one-shot answers ---------------------------------------------------------------------------------------------


def _data(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise malformed(f"The answer is not JSON: {str(error)[:200]}.") from None


def _structure(data: Any, cls: type[T]) -> T:
    try:
        return serde.structure(data, cls, unknown="collect")[0]
    except InvalidRequest as error:
        raise malformed(f"The answer is not a {cls.__name__}: {error.message}") from None


def read_generation(content: bytes) -> GenerationOutput:
    """Body of `/v1/generate`."""
    data = _data(content)
    answer = _structure(data, GenerateResponse)
    if data.get("details") is None:
        return GenerationOutput(responses=answer.responses, configuration=answer.configuration)
    details = _structure(data["details"], GenerationDetails)
    return GenerationOutput(
        responses=answer.responses,
        configuration=answer.configuration,
        finish_reasons=list(details.finish_reasons),
        usage=details.usage,
        logprobs=details.logprobs,
    )


def read_chat(content: bytes) -> ChatCompletion:
    """Body of `/v1/chat/completions`."""
    return _structure(_data(content), ChatCompletion)


def read_metadata(content: bytes) -> Metadata:
    """Body of `/v1/metadata`."""
    return _structure(_data(content), Metadata)


def read_configuration(metadata: Metadata) -> dict[str, Any]:
    """The server's configuration, which metadata carries as JSON text."""
    found = _data(metadata.configuration.encode())
    if not isinstance(found, dict):
        raise malformed("The server's configuration is not a JSON object.")
    return cast("dict[str, Any]", found)


def read_config(metadata: Metadata) -> LLMConfig:
    """The configuration as the typed object of the model's family; this machine's environment does not enter it.

    Raises:
        ClientError: the server names a family, or holds a value, that this version does not know.
    """
    from openllm_core.config.llm import LLMConfig  # reads the family files, which few callers need

    values = read_configuration(metadata)
    generation = values.pop("generation_config", None)
    try:
        return LLMConfig.for_model(
            metadata.family or metadata.model_name, generation_config=generation, environ={}, **values
        )
    except (UnknownModel, InvalidSetting, TypeError) as error:
        raise malformed(f"The server's configuration cannot be read: {error}") from error


def read_models(content: bytes) -> list[ModelCard]:
    """Body of `/v1/models`."""
    return _structure(_data(content), ModelList).data


def read_adapters(content: bytes) -> AdapterList:
    """Body of `/v1/adapters`."""
    return _structure(_data(content), AdapterList)


def read_embeddings(content: bytes) -> EmbeddingsOutput:
    """Body of `/v1/embeddings`; OpenLLM 0.3.5 wrapped it into a list of one."""
    data = _data(content)
    if isinstance(data, list) and len(cast("list[Any]", data)) == 1:
        data = cast("list[Any]", data)[0]
    if isinstance(data, dict):
        rows, count = (cast("dict[str, Any]", data).get(key) for key in ("embeddings", "num_tokens"))
        if type(count) is int and isinstance(rows, list) and all(map(_is_vector, cast("list[Any]", rows))):
            return EmbeddingsOutput(embeddings=cast("list[list[float]]", rows), num_tokens=count)
    return _structure(data, EmbeddingsOutput)  # which names what is wrong


def _is_vector(row: Any) -> bool:
    """A list of numbers; there may be a million of them, so they are looked at as a whole."""
    return type(row) is list and set(map(type, cast("list[Any]", row))) <= {float}


# -- events of a stream -------------------------------------------------------------------------------------------


def _event(payload: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise malformed(f"An event of the stream is not JSON: {str(error)[:200]}.") from None
    if type(data) is not dict:
        raise malformed("An event of the stream is not a JSON object.")
    found = cast("dict[str, Any]", data)
    if found.get("error") is not None:
        raise in_stream(found["error"], None)
    return found


def read_frame(payload: bytes) -> StreamFrame:
    """Data of one event of `/v1/generate_stream`."""
    data = _event(payload)
    try:
        index, text, ids, end = data["index"], data["text"], data["token_ids"], data["finish_reason"]
    except KeyError:
        return _structure(data, StreamFrame)
    if end is None and len(data) == 4 and type(index) is int and type(text) is str and type(ids) is list:
        for token_id in cast("list[Any]", ids):
            if type(token_id) is not int:
                break
        else:
            return StreamFrame(index, text, cast("list[int]", ids))
    return _structure(data, StreamFrame)


def read_chunk(payload: bytes) -> ChatCompletionChunk:
    """Data of one event of a streamed `/v1/chat/completions`."""
    data = _event(payload)
    return _plain_chunk(data) or _structure(data, ChatCompletionChunk)


def _plain_chunk(data: dict[str, Any]) -> ChatCompletionChunk | None:
    """The chunk, if it is of the common kind: one choice with new text and nothing else."""
    try:
        (choice,) = data["choices"]
        delta = choice["delta"]
        name, created, model, index, content = (
            data["id"],
            data["created"],
            data["model"],
            choice["index"],
            delta["content"],
        )
        said = (choice.get("finish_reason"), choice.get("logprobs"), data.get("usage"), data.get("system_fingerprint"))
        kind = data["object"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if said != _NOTHING or len(delta) != 1 or kind != "chat.completion.chunk":
        return None
    if type(content) is not str or type(name) is not str or type(model) is not str:
        return None
    if type(index) is not int or type(created) is not int:
        return None
    new = ChunkChoice(index=index, delta=ChunkDelta(content=content))
    return ChatCompletionChunk(id=name, created=created, model=model, choices=[new])


_NOTHING = (None, None, None, None)
