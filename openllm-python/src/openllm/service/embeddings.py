"""The use cases of embeddings: bare texts as in 0.3.5, and OpenAI's request. `Service` hands them on.

Text in, vectors out; which engine makes them is the embedder's business. Knows no framework and no status number.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from openllm.access import caller
from openllm.engine.embedding import Embedded, Input, shortened
from openllm.observation import current, note
from openllm_core.errors import DeadlineExceeded, InvalidRequest, UnknownServedModel
from openllm_core.options import ServerOptions
from openllm_core.schema import Embedding, EmbeddingList, EmbeddingRequest, EmbeddingsOutput, EmbeddingUsage

if TYPE_CHECKING:
    from openllm.engine.embedder import Embedder

    from .use_cases import ServedModel


class EmbeddingService:
    """Embeddings of one server."""

    def __init__(self, embedder: Embedder, model: ServedModel, options: ServerOptions) -> None:
        self._embedder = embedder
        self._model = model
        self._deadline_s = options.server_timeout
        self._max_inputs = options.max_embedding_inputs
        self._widths: dict[str | None, int] = {}  # numbers of a vector, by who makes it, as answers have shown

    @property
    def available(self) -> bool:
        """Whether a request is likely to be answered."""
        return self._embedder.available

    async def drain(self, grace_s: float) -> None:
        """Wait up to `grace_s` for what the engine that was started for embeddings alone computes."""
        await self._embedder.drain(grace_s)

    async def aclose(self) -> None:
        """End the engine that was started for embeddings alone."""
        await self._embedder.aclose()

    async def plain(self, texts: Sequence[str]) -> EmbeddingsOutput:
        """Vectors of bare texts.

        Raises:
            InvalidRequest: no text, too many, or one that has no embedding; `param` is `input[i]`.
            UnknownServedModel: the caller may use none of the names that embeddings have here.
            OpenLLMError: see `Embedder.embed`.
        """
        if not self._names():
            raise UnknownServedModel("This server serves no embeddings that you may use.", param="model")
        found = await self._embed(texts)
        vectors = await asyncio.to_thread(lambda: [vector.tolist() for vector in found.vectors])
        return EmbeddingsOutput(embeddings=vectors, num_tokens=found.num_tokens)

    async def openai(self, request: EmbeddingRequest) -> EmbeddingList:
        """Vectors as OpenAI's API gives them; errors as `plain`.

        Raises:
            UnknownServedModel: `model` is neither served nor the one that makes the embeddings.
        """
        maker, names = self._embedder.name, self._names()
        if request.model not in names:
            served = ", ".join(names) or "nothing that you may use"
            raise UnknownServedModel(
                f"The model {request.model[:200]!r} does not exist; this server serves {served}.", param="model"
            )
        if (known := self._widths.get(maker)) is not None:
            _check_dimensions(request, known)
        found = await self._embed(_inputs(request.input))
        _check_dimensions(request, len(found.vectors[0]))
        return EmbeddingList(
            data=await asyncio.to_thread(_items, found.vectors, request),
            model=self._embedder.name or request.model,
            usage=EmbeddingUsage(prompt_tokens=found.num_tokens, total_tokens=found.num_tokens),
        )

    def _names(self) -> list[str]:
        """Names in `model` that the caller may use: the model's, and that of who makes the embeddings."""
        maker = self._embedder.name
        names = [*self._model.names, maker] if maker and maker not in self._model.names else self._model.names
        return list(filter(caller().allows, names))

    async def _embed(self, inputs: Sequence[Input]) -> Embedded:
        if not inputs:
            raise InvalidRequest("input must have at least one text.", param="input", code="empty_array")
        if len(inputs) > self._max_inputs:
            raise InvalidRequest(
                f"input must have at most {self._max_inputs} items, not {len(inputs)}.",
                param="input",
                code="array_above_max_length",
            )
        note("embeddings", self._embedder.name or self._model.names[0])
        try:
            async with asyncio.timeout(self._deadline_s):
                found = await self._embedder.embed(inputs)
        except TimeoutError:
            raise DeadlineExceeded(
                f"The request was not finished within its deadline of {self._deadline_s:g} s."
            ) from None
        caller().count_tokens(found.num_tokens)
        self._widths[self._embedder.name] = len(found.vectors[0])
        if (seen := current()) is not None:
            seen.embedded_tokens += found.num_tokens
        return found


def _inputs(given: str | list[str] | list[int] | list[list[int]]) -> list[Input]:
    """One text or array of token ids, or several."""
    if isinstance(given, str):
        return [given]
    ids = [item for item in given if isinstance(item, int)]
    return [ids] if ids else [item for item in given if not isinstance(item, int)]


def _check_dimensions(request: EmbeddingRequest, width: int) -> None:
    if request.dimensions is not None and request.dimensions > width:
        raise InvalidRequest(
            f"dimensions must be <= {width}, the length of this model's vectors.",
            param="dimensions",
            code="integer_above_max_value",
        )


def _items(vectors: list[array[float]], request: EmbeddingRequest) -> list[Embedding]:
    """Vectors as the request wants them; in a thread, since a long list takes the better part of a second."""
    as_text = request.encoding_format == "base64"
    items: list[Embedding] = []
    for index, whole in enumerate(vectors):
        vector = whole if request.dimensions is None else shortened(whole, request.dimensions)
        items.append(Embedding(index=index, embedding=_as_base64(vector) if as_text else vector.tolist()))
    return items


def _as_base64(vector: array[float]) -> str:
    """Little-endian float32, as OpenAI's clients read it."""
    ordered = array("f", vector)
    if sys.byteorder == "big":
        ordered.byteswap()
    return base64.b64encode(ordered.tobytes()).decode("ascii")
