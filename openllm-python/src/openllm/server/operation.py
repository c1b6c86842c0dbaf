"""One route as a value: what serves it and what the OpenAPI document says of it. `app.py` holds the list of all.

The document is made from the same classes that parse the requests, so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
from starlette.requests import Request
from starlette.types import ASGIApp

Endpoint = Callable[[Request], Awaitable[ASGIApp]]

BAD = ("invalid_value", "content_too_large", "unsupported_media_type")
BUSY = (
    "rate_limit_exceeded",
    "server_is_overloaded",
    "engine_loading",
    "engine_unavailable",
    "shutting_down",
    "deadline_exceeded",
)


@attrs.frozen(kw_only=True)
class Operation:
    """One path with its methods.

    Attributes:
        path: exact; no parameters.
        methods: HEAD comes with GET.
        endpoint: request -> ASGI response.
        summary: one line.
        tag: heading in /docs.
        request: class of the JSON body; None = no body is read.
        closed: whether a field of the body that is not known is refused.
        response: class of the JSON answer; None = `media` says what it is.
        event: class of one server-sent event, where the route streams.
        media: content type of a non-JSON answer.
        errors: codes of refusals besides those every route has.
        open: no key needed.
        admits: whether a request takes a place in the engine, so that it is refused at once while there is none.
        example: body to try in /docs.
    """

    path: str
    methods: tuple[str, ...]
    endpoint: Endpoint
    summary: str
    tag: str
    request: Any = None
    closed: bool = False
    response: Any = None
    event: Any = None
    media: str = "application/json"
    errors: tuple[str, ...] = ()
    open: bool = False
    admits: bool = False
    example: Mapping[str, Any] | None = None
