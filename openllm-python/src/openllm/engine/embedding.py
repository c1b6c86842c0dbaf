"""Vectors of texts by one engine: tokenised here, computed in its host in portions, so that nobody waits behind a long list.

Called by `Engine.embed`. A request sends its next portion when one of its last came back: requests share the host in turn,
and one whose caller has left sends no more. It must not know which model answers for which name: that is `embedder`.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Callable, Sequence

import attrs

from openllm_core.errors import ContextLengthExceeded, InvalidRequest, Overloaded, UnsupportedFeature

from ..backends.base import BackendInfo
from .channel import AskVectors
from .questions import Questions
from .text import Texts

Input = str | list[int]
"""A text, or its token ids as the model counts them."""

PORTION_TOKENS = 8192
PORTION_TEXTS = 256
IN_HOST = 2
"""Portions of one request in the host at once: one computes, the next is there when it ends."""
MAX_WAITING = 16_384
"""Texts of all requests together; past it a request is refused, so that a crowd cannot fill the memory."""


@attrs.frozen
class Embedded:
    """What came out.

    Attributes:
        vectors: for each input, [hidden] float32, L2-normalised.
        num_tokens: of all inputs together, special tokens included.
    """

    vectors: list[array[float]]
    num_tokens: int


class Embeddings:
    """Embedding requests under way at one engine.

    Attributes:
        waiting: texts of all of them.
    """

    def __init__(
        self,
        texts: Texts,
        questions: Questions,
        require_ready: Callable[[], BackendInfo],
        retry_after_s: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        """Args:
        texts: makes token ids.
        questions: asks the host.
        require_ready: the loaded model's facts; raises while no request is taken.
        retry_after_s: told to a request that is refused for load.
        on_change: called when a request has ended.
        """
        self._texts = texts
        self._ask = questions.ask
        self._require_ready = require_ready
        self._retry_after_s = retry_after_s
        self._on_change = on_change
        self.waiting = 0

    async def embed(self, inputs: Sequence[Input]) -> Embedded:
        """Vectors of texts or token ids, in their order.

        Args:
            inputs: at least one.

        Raises:
            EngineLoading, EngineUnavailable, ShuttingDown: not ready to take it.
            UnsupportedFeature: the model has no embeddings of its own.
            Overloaded: too many texts wait already.
            InvalidRequest, ContextLengthExceeded: an input is empty, too long or no valid text; `param` is `input[i]`.
            OpenLLMError: the host failed on it, or went down.
        """
        info = self._require_ready()
        if not info.capabilities.embed:
            raise UnsupportedFeature(f"The {info.backend} backend makes no embeddings of this model.", param="model")
        if self.waiting + len(inputs) > MAX_WAITING:
            raise Overloaded("Too many texts wait to be embedded.", retry_after_s=self._retry_after_s())
        self.waiting += len(inputs)
        try:
            ids = await self._ids(inputs, info)
            self._require_ready()  # the host may have gone meanwhile
            return Embedded(await self._vectors(ids), sum(map(len, ids)))
        finally:
            self.waiting -= len(inputs)
            self._on_change()

    async def _ids(self, inputs: Sequence[Input], info: BackendInfo) -> list[list[int]]:
        texts = {place: item for place, item in enumerate(inputs) if isinstance(item, str)}
        for place, text in texts.items():
            _check_text(text, place)
        made = dict(zip(texts, await self._texts.ids_of_all(list(texts.values())), strict=True))
        found = [item if isinstance(item, list) else made[place] for place, item in enumerate(inputs)]
        for place, ids in enumerate(found):
            _check_ids(ids, place, info)
        return found

    async def _vectors(self, batch: list[list[int]]) -> list[array[float]]:
        found: list[array[float]] = [array("f")] * len(batch)
        room = asyncio.Semaphore(IN_HOST)

        async def run(places: list[int]) -> None:
            try:
                answer = await self._ask(lambda number: AskVectors(number, [batch[place] for place in places]))
            finally:
                room.release()
            for place, vector in zip(places, _split(answer.vectors, len(places)), strict=True):
                found[place] = vector

        try:
            async with asyncio.TaskGroup() as group:
                for places in portions([len(ids) for ids in batch]):
                    await room.acquire()
                    group.create_task(run(places))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return found


def portions(lengths: Sequence[int]) -> list[list[int]]:
    """Places of texts that go to the host together: the longest first, each portion of texts about equally long."""
    made: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        last = made[-1] if made else []
        if last and len(last) < PORTION_TEXTS and lengths[last[0]] * (len(last) + 1) <= PORTION_TOKENS:
            last.append(place)
        else:
            made.append([place])
    return made


def shortened(vector: array[float], dimensions: int) -> array[float]:
    """The leading numbers of a vector, made a vector of length one again."""
    kept = vector[:dimensions]
    length = math.hypot(*kept)
    return array("f", [x / length for x in kept]) if length > 0 else kept


def _split(data: bytes, count: int) -> list[array[float]]:
    whole = array("f")
    whole.frombytes(data)
    size = len(whole) // count
    return [whole[start : start + size] for start in range(0, count * size, size)]


def _check_text(text: str, place: int) -> None:
    if not text:
        raise InvalidRequest(f"input[{place}] is an empty text, which has no embedding.", param=f"input[{place}]")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"input[{place}] is not valid Unicode text.", param=f"input[{place}]") from None


def _check_ids(ids: list[int], place: int, info: BackendInfo) -> None:
    param = f"input[{place}]"
    if not ids:
        raise InvalidRequest(f"{param} has no tokens, so it has no embedding.", param=param)
    if len(ids) > info.max_prompt_len:
        raise ContextLengthExceeded(
            f"{param} has {len(ids)} tokens; this model embeds texts of up to {info.max_prompt_len}.", param=param
        )
    if not 0 <= min(ids) <= max(ids) < info.vocab_size:
        raise InvalidRequest(f"A token id of {param} is not within 0..{info.vocab_size - 1}.", param=param)
