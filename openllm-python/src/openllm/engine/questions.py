"""Asks the engine host something and waits for its answer: question and answer carry the same number.

`Texts` asks for ids and text, `Guides` whether a guide can be obeyed, `Embeddings` for vectors. It must not know what is asked.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from openllm_core.errors import OpenLLMError, from_dict

from .channel import Answer, AskIds, AskText, AskVectors, CheckGuide, LoadAdapter, UnloadAdapter

Question = AskIds | AskText | AskVectors | CheckGuide | LoadAdapter | UnloadAdapter


class Questions:
    """Questions under way."""

    def __init__(self, send: Callable[[Question], None]) -> None:
        """Args:
        send: hands a frame to the present host; raises where there is none, so that nobody waits for its answer.
        """
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(self, make: Callable[[int], Question]) -> Answer:
        """The host's answer.

        Args:
            make: the question, of its number.

        Raises:
            OpenLLMError: what the host answered with, or why the host is gone.
        """
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(make(number))
            answer = await self._waiting[number]
        finally:
            del self._waiting[number]
        if answer.error is not None:
            raise from_dict(answer.error)
        return answer

    def on_answer(self, answer: Answer) -> None:
        """Give an answer to whoever waits for it."""
        waiting = self._waiting.get(answer.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def fail(self, make_error: Callable[[], OpenLLMError]) -> None:
        """The host is gone: every question under way fails, each with an error of its own."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(make_error())
