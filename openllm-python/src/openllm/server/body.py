"""Reads a request's JSON body within the limits and makes a wire message of it.

Called by the routes that take JSON; a route that takes none never reads its body. Knows which fields of OpenAI's API we
cannot do, so that a request is refused instead of half obeyed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from starlette.requests import Request
from starlette.types import Message, Receive

from openllm_core.errors import InvalidRequest, UnsupportedFeature
from openllm_core.limits import Limits
from openllm_core.serde import loads, structure

from .errors import ClientLeft
from .limits import MAX_IGNORED_HEADER_CHARS, RATE_WINDOW_S, SHORT_BODY_BYTES
from .protocol import EXTENSION, StreamWriter
from .unread import unread

T = TypeVar("T")

JSON_TYPES = ("application/json", "text/json")
IGNORED_HEADER = "x-openllm-ignored"
ADAPTER_HEADER = "x-openllm-adapter"


async def read_body(request: Request, limits: Limits, max_bytes: int | None = None) -> bytes:
    """The body of a request, refused as soon as it is known to be too long.

    Args:
        max_bytes: where it may be shorter only than any other body.

    Raises:
        InvalidRequest: too long, encoded, or too slow.
        ClientLeft: it never came whole.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise InvalidRequest(
            f"Content-Encoding {encoding[:40]!r} is not accepted; send the body as it is.",
            code="unsupported_media_type",
        )
    max_bytes = limits.max_body if max_bytes is None else max_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    arriving = _Arriving(limits)
    more = True
    while more:
        message = await arriving.next(request.receive)
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        arriving.came(len(part))
        more = message.get("more_body", False)
    return b"".join(parts)


async def drop_body(request: Request, limits: Limits) -> None:
    """Take a short body off the wire unread, so that its connection can go on after a refusal; a long one closes it."""
    writer: StreamWriter | None = request.scope.get("extensions", {}).get(EXTENSION)
    announced = request.headers.get("content-length", "")
    if (writer is None or not writer.arrived) and announced.isdigit() and int(announced[:20]) <= SHORT_BODY_BYTES:
        await read_body(request, limits)


class _Arriving:
    """The pace of one body: all of it within a time, and no slower than a rate for long."""

    def __init__(self, limits: Limits) -> None:
        self._clock = asyncio.get_running_loop().time
        now = self._clock()
        self._deadline = now + limits.body_timeout
        self._least = limits.min_body_rate * RATE_WINDOW_S
        self._window_ends = now + RATE_WINDOW_S
        self._window_bytes = 0

    async def next(self, receive: Receive) -> Message:
        """The next message.

        Raises:
            InvalidRequest: the body is too slow.
        """
        while True:
            try:
                async with asyncio.timeout_at(min(self._deadline, self._window_ends)):
                    return await receive()
            except TimeoutError:
                self._judge()

    def came(self, size: int) -> None:
        """So many bytes arrived; see `next`."""
        self._window_bytes += size
        self._judge()

    def _judge(self) -> None:
        now = self._clock()
        if now >= self._deadline:
            raise InvalidRequest("The request's body did not arrive in time.", code="request_timeout")
        if now >= self._window_ends:
            if self._window_bytes < self._least:
                raise InvalidRequest("The request's body arrives too slowly.", code="request_timeout")
            self._window_ends, self._window_bytes = now + RATE_WINDOW_S, 0


def _too_large(max_bytes: int) -> InvalidRequest:
    return InvalidRequest(f"The request's body is larger than {max_bytes} bytes.", code="content_too_large")


async def read_json(request: Request, limits: Limits) -> Any:
    """The parsed body.

    Raises:
        InvalidRequest: not JSON by its content type or by its content; see `read_body`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON_TYPES and not kind.endswith("+json"):
        shown = f"not {kind[:60]!r}" if kind else "and the request names none"
        raise InvalidRequest(f"Content-Type must be application/json, {shown}.", code="unsupported_media_type")
    return loads(await read_body(request, limits), limits.max_json_depth)


async def read_message(request: Request, cls: type[T], limits: Limits) -> T:
    """A message of our own routes, on which an unknown field is an error."""
    return structure(await read_json(request, limits), cls)


async def read_openai(
    request: Request, cls: type[T], unsupported: Mapping[str, Callable[[Any], bool]], limits: Limits, *, strict: bool
) -> tuple[T, list[str]]:
    """A message of an OpenAI route and the names of the fields we do not know.

    Args:
        unsupported: OpenAI's fields that we know but cannot do -> whether a value asks for nothing.
        strict: refuse unknown fields.

    Raises:
        UnsupportedFeature: one of `unsupported` asks for something.
    """
    return openai_message(await read_json(request, limits), cls, unsupported, strict=strict)


def openai_message(
    data: Any, cls: type[T], unsupported: Mapping[str, Callable[[Any], bool]], *, strict: bool
) -> tuple[T, list[str]]:
    """The same of a body that is read already."""
    if isinstance(data, dict):
        fields = cast("dict[str, Any]", data)
        for name in [name for name in fields if name in unsupported]:
            value = fields.pop(name)
            if value is not None and not unsupported[name](value):
                raise UnsupportedFeature(f"{name} is not supported with this value.", param=name)
    if not strict:
        message, ignored = structure(data, cls, unknown="collect")
        return message, [*ignored, *unread(data)]
    message = structure(data, cls)
    if (path := next(unread(data), None)) is not None:
        raise InvalidRequest(f"{path} is not a known field.", param=path, code="unknown_parameter")
    return message, []


def adapter_header(name: str | None) -> dict[str, str]:
    """The header that says which adapter answered; empty for the bare base."""
    return {} if name is None else {ADAPTER_HEADER: name}


def ignored_header(names: Sequence[str]) -> dict[str, str]:
    """The header that says what of a request had no effect; empty when all had."""
    if not names:
        return {}
    text = ", ".join("".join(c if c.isascii() and c.isprintable() and c != "," else "?" for c in n) for n in names)
    return {IGNORED_HEADER: text[:MAX_IGNORED_HEADER_CHARS]}


# -- OpenAI's fields that we know and cannot do: what asks for nothing is accepted --------------------------------------


def _among(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in neutral)


_BOTH: dict[str, Callable[[Any], bool]] = {
    "use_beam_search": _among(False),
    "length_penalty": _among(1),
    "service_tier": _among("auto", "default"),
    "store": _among(False),
}

CHAT_UNSUPPORTED = _BOTH | {
    "functions": _among([]),
    "function_call": _among("none", "auto"),
    "audio": _among(),
    "modalities": _among(["text"]),
    "prediction": _among(),
    "reasoning_effort": _among("none"),
    "verbosity": _among("medium"),
    "web_search_options": _among(),
    "chat_template": _among(),
    "chat_template_kwargs": _among({}),
    "documents": _among([]),
    "add_generation_prompt": _among(True),
    "continue_final_message": _among(False),
    "echo": _among(False),
    "best_of": _among(1),
}

COMPLETION_UNSUPPORTED = _BOTH | {"prompt_logprobs": _among(0), "max_completion_tokens": _among()}
