"""A running server as the commands see it: its models, and answers that stream. Stands on `openllm_client.HTTPClient`.

Used by `query`, `chat` and `run`. Knows options and words of the command line; how bytes travel is the client's business.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs
import click

from openllm.cli.command import Command
from openllm_core.errors import UnknownServedModel
from openllm_core.schema import ChatCompletionChunk, ChatCompletionRequest, StreamFrame, Usage

if TYPE_CHECKING:
    from openllm_client import GrpcClient, HTTPClient

F = TypeVar("F", bound=Callable[..., Any])
News = tuple[int, str, str | None]
"""What a frame tells of one choice: its index, new text, and how it ended if it did."""

# The names that /v1/generate uses, for those who are used to them.
OTHER_NAMES = {"max_new_tokens": "max_tokens", "stop_sequences": "stop", "num_return_sequences": "n"}
NOT_SAMPLING = frozenset({"model", "messages", "stream", "stream_options"})


def endpoint_options(function: F) -> F:
    """Add --endpoint and --timeout."""
    function = click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for the server, and for each piece of an answer.",
    )(function)
    return click.option(
        "--endpoint",
        metavar="URL",
        envvar="OPENLLM_ENDPOINT",
        show_envvar=True,
        help="Address of the server; `localhost:3000` will do.  [default: http://localhost:3000]",
    )(function)


server_type_option = click.option(
    "--server-type",
    type=click.Choice(["http", "grpc"]),
    default="http",
    show_default=True,
    help="What the server speaks at that address.",
)


class AskCommand(Command):
    """A command with `--sampling-params`, which is read in three forms: `k=v`, `k:v`, and `k v` as two words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make `--sampling-params k v` one word before click sees it."""
        return super().parse_args(ctx, join_pairs(args))


def join_pairs(args: list[str]) -> list[str]:
    """`--sampling-params k v` becomes `--sampling-params k=v`; all else stays as it is."""
    joined: list[str] = []
    rest = iter(args)
    for word in rest:
        joined.append(word)
        if word == "--":
            break
        if word.replace("_", "-") != "--sampling-params":
            continue
        key = next(rest, None)
        value = next(rest, None) if key is not None and key.replace("-", "_").isidentifier() else None
        joined.extend([] if key is None else [key if value is None else f"{key}={value}"])
    return [*joined, *rest]


def parse_sampling(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> dict[str, Any]:
    """click callback: words `key=value` or `key:value` to a dict; values are read as JSON, else as text."""
    found: dict[str, Any] = {}
    for word in words:
        cut = min((at for at in (word.find("="), word.find(":")) if at > 0), default=0)
        if not cut:
            raise click.BadParameter(f"{word!r} is not KEY=VALUE.", ctx, param)
        key, text = word[:cut].strip().replace("-", "_"), word[cut + 1 :].strip()
        try:
            value: Any = json.loads(text, parse_constant=_refuse_constant)
        except ValueError:
            value = text
        found.setdefault(key, value)
    return found


def _refuse_constant(text: str) -> Any:
    raise click.BadParameter(f"{text} is not a number that can be sent.", param_hint="--sampling-params")


sampling_option = click.option(
    "--sampling-params",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_sampling,
    help="Sampling field to send, as in temperature=0.2; repeatable.",
)


class Answer:
    """One streamed answer: iterate for the pieces of its first choice; then ask for texts, usage and times.

    Args:
        start: opens the stream; called at the first iteration, so that errors appear where answers are read.
        read: takes the choices' news and the usage out of one frame.
    """

    def __init__(self, start: Callable[[], Any], read: Callable[[Any], tuple[list[News], Usage | None]]) -> None:
        self._start = start
        self._read = read
        self._stream: Any = None
        self._texts: dict[int, list[str]] = {0: []}
        self.finish_reasons: dict[int, str] = {}
        self.usage: Usage | None = None
        self.first_piece_s: float | None = None
        self.seconds = 0.0
        self.configuration: dict[str, Any] = {}
        self.model = ""

    def __iter__(self) -> Iterator[str]:
        begun = time.monotonic()
        self._stream = self._start()
        for frame in self._stream:
            news, usage = self._read(frame)
            self.usage = usage or self.usage
            self.seconds = time.monotonic() - begun
            for index, text, reason in news:
                if reason:
                    self.finish_reasons[index] = reason
                if text:
                    if self.first_piece_s is None:
                        self.first_piece_s = self.seconds
                    self._texts.setdefault(index, []).append(text)
                    if index == 0:
                        yield text
        self.seconds = time.monotonic() - begun

    @property
    def texts(self) -> list[str]:
        """What came so far, one per choice."""
        return ["".join(self._texts[index]) for index in sorted(self._texts)]

    @property
    def text(self) -> str:
        """What came so far of the first choice."""
        return self.texts[0]

    def close(self) -> None:
        """Leave the stream; the server stops generating."""
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()

    def as_data(self) -> dict[str, Any]:
        """For `-o json`: 0.3.5's two keys, and what is known besides."""
        return {
            "responses": self.texts,
            "configuration": self.configuration,
            "model": self.model,
            "finish_reasons": [self.finish_reasons.get(index) for index in sorted(self._texts)],
            "usage": self.usage and attrs.asdict(self.usage),
        }


class Remote:
    """A server and the model chosen on it; a context manager."""

    def __init__(self, client: HTTPClient | GrpcClient, endpoint: str) -> None:
        self.client = client
        self.endpoint = endpoint
        self.model = ""
        self._models: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.close()

    def models(self) -> list[str]:
        """Names the server takes in `model`, asked for once."""
        if not self._models:
            self._models = [card.id for card in self.client.models()]
        return self._models

    def choose(self, name: str | None) -> None:
        """Talk to this model from now on; None takes the server's first.

        Raises:
            UnknownServedModel: the server has no such model; the hint lists those it has.
            ConnectionFailed, TimedOut, StatusError: it could not be asked.
        """
        served = self.models()
        if not served:
            raise UnknownServedModel(f"{self.endpoint} serves no model.")
        if name is not None and name not in served:
            near = get_close_matches(name, served, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"It serves {', '.join(served)}."
            raise UnknownServedModel(f"{self.endpoint} does not serve {name!r}.", hint=hint)
        self.model = name or served[0]

    def ask(self, messages: list[dict[str, str]], sampling: dict[str, Any]) -> Answer:
        """The model's next message, by its chat template."""
        fields = _chat_fields(sampling)
        answer = Answer(
            lambda: self.client.chat(
                messages, model=self.model, stream=True, stream_options={"include_usage": True}, **fields
            ),
            _read_chunk,
        )
        answer.model, answer.configuration = self.model, fields
        return answer

    def complete(self, prompt: str, sampling: dict[str, Any]) -> Answer:
        """The continuation of a text, without a template."""
        answer = Answer(lambda: self.client.generate_stream(prompt, **sampling), _read_frame)
        answer.model, answer.configuration = self.model, sampling
        return answer


def _chat_fields(sampling: dict[str, Any]) -> dict[str, Any]:
    """Fields for the chat route; one it does not know is wrong usage, with the near ones."""
    known = {a.name for a in attrs.fields(ChatCompletionRequest)} - NOT_SAMPLING
    fields = {OTHER_NAMES.get(key, key): value for key, value in sampling.items()}
    for key in fields:
        if key not in known:
            near = get_close_matches(key, known, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else " `query --raw` takes a family's own fields."
            raise click.UsageError(f"--sampling-params: there is no field {key!r}.{hint}")
    return fields


def _read_chunk(chunk: ChatCompletionChunk) -> tuple[list[News], Usage | None]:
    return [(c.index, c.delta.content or "", c.finish_reason) for c in chunk.choices], chunk.usage


def _read_frame(frame: StreamFrame) -> tuple[list[News], Usage | None]:
    return [(frame.index, frame.text, frame.finish_reason)], frame.usage


def as_text(word: str) -> str:
    """A word of the command line as text: bytes that are no UTF-8 become the replacement character."""
    return os.fsencode(word).decode("utf-8", "replace")


def open_client(endpoint: str | None, timeout: float, server_type: str = "http") -> HTTPClient | GrpcClient:
    """The client of a server by its address; None takes the client's default. Opens no connection yet.

    Raises:
        MissingDependency: gRPC without the extra for it.
    """
    import openllm_client

    kind = openllm_client.GrpcClient if server_type == "grpc" else openllm_client.HTTPClient
    return kind(endpoint, timeout=timeout)


def connect(endpoint: str | None, timeout: float, server_type: str = "http") -> Remote:
    """A server as the commands see it; see `open_client`."""
    client = open_client(endpoint, timeout, server_type)
    return Remote(client, client.address)


def speed_text(answer: Answer) -> str:
    """`42 tokens · 38.1 tokens/s · first after 0.21 s`; what is unknown is left out."""
    words: list[str] = []
    if answer.usage is not None:
        count = answer.usage.completion_tokens
        words.append(f"{count} token{'s' if count != 1 else ''}")
        running = answer.seconds - (answer.first_piece_s or 0.0)
        if count > 1 and running > 0:
            words.append(f"{(count - 1) / running:.1f} tokens/s")
    if answer.first_piece_s is not None:
        words.append(f"first after {answer.first_piece_s:.2f} s")
    if "length" in answer.finish_reasons.values():
        words.append("cut at max_tokens")
    return " · ".join(words)
