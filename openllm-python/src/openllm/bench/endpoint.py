"""A server under test: which model it serves, which optional fields it understands, and one timed request to it.

Used by `load` and `rounds`. Speaks the OpenAI shape only; knows nothing of processes.
"""

from __future__ import annotations

import time
from typing import Any, Literal, cast

import attrs
import orjson

from openllm_core.errors import (
    ConnectionFailed,
    InvalidSetting,
    NotFound,
    RateLimited,
    StatusError,
    TimedOut,
    Unauthorized,
)

from .answers import AnswerFailed, Failure, Sample, check_status, failure_of, read_stream
from .exchange import Address, ExchangeFailed, Reply
from .prompts import PROBE_WORDS, Questions, text_of, words_for

Route = Literal["chat", "completions"]
PATHS: dict[Route, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
OPTIONAL: dict[str, Any] = {"ignore_eos": True, "stream_options": {"include_usage": True}}
"""Fields that make answers equally long and tokens countable, where the server takes them."""
FIRST_TOKENS = 16
REFUSED: dict[str, tuple[type[StatusError], str | None]] = {
    "http_401": (Unauthorized, "Set OPENLLM_API_KEY."),
    "http_403": (Unauthorized, "Set OPENLLM_API_KEY."),
    "http_404": (NotFound, "Does the server speak OpenAI's API, and serve that model?"),
    "http_429": (RateLimited, None),
    "http_503": (RateLimited, "Wait until the server is ready."),
}
"""What the first request's refusal means."""
REFUSALS = ("http_400", "http_422")


@attrs.frozen(kw_only=True)
class RequestShape:
    """What every request of a run has in common.

    Attributes:
        input_tokens: length of the prompt, template included; None asks short questions of uneven length.
        output_tokens: most tokens of an answer; with `ignore_eos` and a server that knows it, exactly so many.
        extra: further fields of the body; they win.
        timeout_s: limit of one whole request.
    """

    route: Route = "chat"
    input_tokens: int | None = None
    output_tokens: int = 128
    ignore_eos: bool = True
    temperature: float = 0.0
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any])
    timeout_s: float = 600.0
    seed: int = 0


class Endpoint:
    """One model of one server. `open` it before use.

    Attributes:
        model: name in `model`.
        optional: fields the server understands of those that are not in every server.
        questions: the prompts.
        first_token_s: seconds until the first text of the very first request; None before `open`.
    """

    def __init__(self, address: Address, shape: RequestShape, model: str = "") -> None:
        self.address = address
        self.shape = shape
        self.model = model
        self.optional = dict(OPTIONAL) if shape.ignore_eos else {k: v for k, v in OPTIONAL.items() if k != "ignore_eos"}
        self.questions = Questions(seed=shape.seed)
        self.first_token_s: float | None = None

    async def open(self) -> None:
        """Ask for the model's name where none was given; find out what the server understands, and prompt lengths.

        Raises:
            ConnectionFailed, TimedOut: it cannot be reached.
            StatusError: it refuses the plainest request.
            InvalidSetting: a prompt length was asked for, but the server does not count prompts.
        """
        try:
            if not self.model:
                self.model = await self._first_model()
            await self._negotiate()
            if self.shape.input_tokens is not None:
                words = words_for(self.shape.input_tokens, await self._probe_counts())
                self.questions = Questions(words, self.shape.seed)
        except ExchangeFailed as error:
            kind = TimedOut if error.kind == "timeout" else ConnectionFailed
            raise kind(f"{self.address.url} does not answer: {error}.", hint="Is the server running?") from None
        except AnswerFailed as error:
            kind, hint = REFUSED.get(error.kind, (StatusError, None))
            raise kind(f"{self.address.url} refuses a plain request ({error.kind}): {error}", hint=hint) from None

    async def ask(self, number: int, due: float | None = None) -> Sample | Failure:
        """Send the `number`-th request as a stream; never raises for what the server does.

        Args:
            due: when it was to be sent (`time.perf_counter`); default now.
        """
        body = self._body(self.questions.question(number), self.shape.output_tokens)
        return await self._stream(body, time.perf_counter() if due is None else due)

    async def warm(self, number: int, tokens: int) -> Sample | Failure:
        """A request like those of the run, but for its length."""
        body = self._body(self.questions.question(number), min(tokens, self.shape.output_tokens))
        return await self._stream(body, time.perf_counter())

    async def _stream(self, body: bytes, due: float) -> Sample | Failure:
        try:
            return read_stream(await self._post(body), due)
        except (ExchangeFailed, AnswerFailed) as error:
            return failure_of(error)

    async def _post(self, body: bytes) -> Reply:
        return await self.address.request("POST", PATHS[self.shape.route], body, timeout_s=self.shape.timeout_s)

    def _body(self, prompt: str, max_tokens: int, **more: Any) -> bytes:
        asked = (
            {"messages": [{"role": "user", "content": prompt}]} if self.shape.route == "chat" else {"prompt": prompt}
        )
        common = {"model": self.model, "max_tokens": max_tokens, "temperature": self.shape.temperature, "stream": True}
        return orjson.dumps(asked | common | self.optional | more | self.shape.extra)

    async def _first_model(self) -> str:
        reply = await self.address.request("GET", "/v1/models", timeout_s=self.shape.timeout_s)
        check_status(reply)
        try:
            return str(cast("dict[str, Any]", orjson.loads(reply.body))["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            raise AnswerFailed("models", "GET /v1/models names no model; give --model") from None

    async def _negotiate(self) -> None:
        """Leave out the optional fields that the server refuses."""
        names = list(self.optional)
        for left_out in ([], ["ignore_eos"], ["stream_options"], names):
            trial = {name: OPTIONAL[name] for name in names if name not in left_out}
            previous, self.optional = self.optional, trial
            try:
                due = time.perf_counter()
                body = self._body(self.questions.question(0), FIRST_TOKENS)
                self.first_token_s = read_stream(await self._post(body), due).first_token_s
                return
            except AnswerFailed as error:
                if error.kind == "no_text":  # understood, but it had nothing to say
                    return
                if error.kind not in REFUSALS or not trial:
                    self.optional = previous
                    raise

    async def _probe_counts(self) -> tuple[int, int]:
        """Prompt tokens the server counts for a short and a long text."""
        short, long = [await self._prompt_tokens(words) for words in PROBE_WORDS]
        if short is None or long is None or long <= short:
            raise InvalidSetting(
                "The server does not count prompts, so their length cannot be chosen.", param="--input-tokens"
            )
        return short, long

    async def _prompt_tokens(self, words: int) -> int | None:
        body = self._body(text_of(words, self.shape.seed), FIRST_TOKENS)
        return read_stream(await self._post(body), 0.0).prompt_tokens
