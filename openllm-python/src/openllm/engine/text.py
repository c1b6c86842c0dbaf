"""Who makes ids of text and text of ids: `Texts` in the server process, `HostText` in the host where it must be there.

`Texts` serves the engine. Where the model's tokenizer exists as Python code alone it asks the host, in frames; the host
session then gives `HostText` what is submitted and sends its steps with their text. Neither knows of backends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from openllm_core.errors import EngineError, InvalidRequest

from ..backends.base import BackendInfo, BackendRequest, DeltaText, SequenceDelta, StepOutput
from ..python_tokenizer import HostTokenizer, PythonTokenizer
from ..tokenizer import Detokenizer, Tokenizer, WindowDetokenizer
from . import admission
from .channel import Answer, AskIds, AskText, OpenTokenizer, ToHost, TokenizerOpened
from .questions import Questions
from .request import EngineRequest

INLINE_CHARS = 1024
"""Prompts up to this length are tokenised on the loop: half a millisecond, less than a thread's detour under load."""


class HostText:
    """The host's end: puts text beside the tokens of every step and answers questions."""

    def __init__(self, tokenizer: PythonTokenizer) -> None:
        self.tokenizer = tokenizer
        self._sequences: dict[str, Detokenizer] = {}

    def submit(self, requests: Iterable[BackendRequest]) -> None:
        """Sequences that begin."""
        for request in requests:
            self._sequences[request.request_id] = WindowDetokenizer(self.tokenizer)

    def abort(self, request_ids: Iterable[str]) -> None:
        """Sequences to forget."""
        for request_id in request_ids:
            self._sequences.pop(request_id, None)

    def with_text(self, output: StepOutput) -> StepOutput:
        """The same step, its deltas with their text."""
        return msgspec.structs.replace(output, deltas=[self._with_text(delta) for delta in output.deltas])

    def _with_text(self, delta: SequenceDelta) -> SequenceDelta:
        text = self._sequences.get(delta.request_id)
        if text is None:
            return delta
        pieces = [text.push([token_id]) for token_id in delta.token_ids]
        if delta.finish_reason is not None:
            del self._sequences[delta.request_id]
            pieces.append(text.flush())
        found = {
            i for entry in delta.logprobs or () for i in (entry.token_id, *(token_id for token_id, _ in entry.top))
        }
        tokens = {token_id: self.tokenizer.token_text(token_id) for token_id in found}
        return msgspec.structs.replace(delta, text=DeltaText(pieces, tokens))

    async def answer(self, ask: AskIds | AskText) -> Answer:
        """Encode or decode in a thread; whatever code of a model's own raises becomes an error of ours."""
        try:
            if isinstance(ask, AskIds):
                return Answer(ask.number, ids=await asyncio.to_thread(self.tokenizer.encode, ask.text, ask.special))
            return Answer(ask.number, text=await asyncio.to_thread(self.tokenizer.decode, ask.ids))
        except Exception as error:
            failed = EngineError(f"The model's tokenizer failed: {type(error).__name__}: {str(error)[:200]}")
            return Answer(ask.number, error=failed.as_dict())


class Texts:
    """The server's end, of every model: ids of prompts and text of ids, made here or asked of the host."""

    def __init__(self, tokenizer: Tokenizer, send: Callable[[ToHost], None], questions: Questions) -> None:
        """Args:
        tokenizer: a `HostTokenizer` where the work is done in the host.
        send: hands a frame to the present host.
        questions: asks it.
        """
        self._tokenizer = tokenizer
        self._send = send
        self._ask = questions.ask
        self._threads = ThreadPoolExecutor(2, "tokenize")

    def open(self, trust_remote_code: bool) -> bool:
        """Ask a new host to open its tokenizer; True where it must answer before it can be asked for anything."""
        if isinstance(self._tokenizer, HostTokenizer):
            self._send(OpenTokenizer(self._tokenizer.folder, trust_remote_code))
            return True
        return False

    def on_frame(self, frame: Any) -> bool:
        """Take what the host says about text; True when it has just opened its tokenizer."""
        if isinstance(frame, TokenizerOpened) and isinstance(self._tokenizer, HostTokenizer):
            self._tokenizer.opened(frame.eos_token_ids)
            return True
        return False

    async def ids(self, request: EngineRequest, info: BackendInfo) -> list[int]:
        """Token ids of a request's prompt; long ones are made in a thread.

        Raises:
            InvalidRequest, ContextLengthExceeded: see `admission.encode`.
            OpenLLMError: the host's tokenizer failed, or the host went down.
        """
        prompt = request.prompt
        if isinstance(self._tokenizer, HostTokenizer) and isinstance(prompt, str):
            return admission.fitting(await self._ask_ids(prompt, request.add_special_tokens), info)
        if not isinstance(prompt, str) or len(prompt) <= INLINE_CHARS:
            return admission.encode(request, info, self._tokenizer)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, admission.encode, request, info, self._tokenizer)

    async def ids_of_all(self, texts: list[str]) -> list[list[int]]:
        """Token ids of many texts, of any length, with the special tokens the model puts around a text.

        Raises:
            OpenLLMError: the host's tokenizer failed, or the host went down.
        """
        if isinstance(self._tokenizer, HostTokenizer):
            return [await self._ask_ids(text, True) for text in texts]
        if sum(map(len, texts)) <= INLINE_CHARS:
            return self._tokenizer.encode_all(texts)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._tokenizer.encode_all, texts)

    async def text(self, ids: list[int]) -> str:
        """Text of token ids, special tokens left out.

        Raises:
            OpenLLMError: the host's tokenizer failed, or the host went down.
        """
        if isinstance(self._tokenizer, HostTokenizer):
            return (await self._ask(lambda number: AskText(number, ids))).text
        return self._tokenizer.decode(ids)

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask_ids(self, text: str, special: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("The prompt is not valid Unicode text.", param="prompt") from None
        return (await self._ask(lambda number: AskIds(number, text, special))).ids or []
