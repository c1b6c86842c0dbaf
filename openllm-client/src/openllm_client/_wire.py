"""A call before it is sent and what came of it: the values that the other modules of this package hand around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import attrs
import httpx

from openllm_core.errors import ClientError

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Call(Generic[T]):
    """One request to a route.

    Attributes:
        read: turns the body, or the data of one event of a stream, into the typed answer.
        body: what is asked, as plain data.
        content: the same as JSON.
        stream: the answer is server-sent events.
        repeatable: sending it twice does no more than sending it once.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    body: Any = None
    content: bytes | None = None
    stream: bool = False
    repeatable: bool = False


@attrs.frozen
class Reply:
    """A complete answer."""

    status: int
    headers: httpx.Headers
    content: bytes


@attrs.frozen
class Starting:
    """A server that is not ready yet.

    Attributes:
        reason: as it would be told.
        wait_s: seconds until the next look.
    """

    reason: ClientError
    wait_s: float


Outcome = Reply | httpx.RequestError
"""What came of sending a call once."""
