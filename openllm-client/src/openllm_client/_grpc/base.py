"""What both gRPC clients share: how a call is dressed, when it is made again, what a look at the health service says. No I/O."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openllm_core.errors import ClientError, ServerError, StatusError

from .._base import POLL_S, BaseClient
from .._config import Certificate, resolve
from .._replies import Readiness
from .._retry import REFUSALS, TRANSIENT, pause_s
from .._wire import Call, Starting
from .channel import SERVING, target
from .errors import Failure, failure

STARTING = frozenset({500, 502, 503, 504})


class GrpcBase(BaseClient):
    """Address, metadata and errors of a gRPC client; what it is made with stands at `GrpcClient`."""

    def __init__(
        self,
        address: str | None = None,
        timeout: float = 30,
        *,
        api_key: str | None = None,
        max_retries: int = 2,
        verify: bool | str | ssl.SSLContext = True,
        cert: str | tuple[str, str] | None = None,
        proxy: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = resolve(address, timeout, api_key=api_key, max_retries=max_retries, headers=headers)
        self._target = target(self._settings, verify=verify, cert=Certificate.of(cert), proxy=proxy)
        self._open: Any = None
        self._closed = False

    def _metadata(self) -> tuple[str, Sequence[tuple[str, str]]]:
        """A new name for a request, by which the server's log knows it too, and what is sent with it."""
        request_id = secrets.token_hex(16)
        return request_id, [*self._target.metadata, ("x-request-id", request_id)]

    def _why(self, error: Any, *, begun: bool = False, silent: bool = False) -> Failure:
        return failure(error, self.address, self._settings.timeout_s, begun=begun, silent=silent)

    def _broken(self, request_id: str) -> Callable[[Any, bool], ClientError]:
        """Makes the error of a stream that failed after it had begun."""

        def error_of(error: Any, silent: bool) -> ClientError:
            found = self._why(error, begun=True, silent=silent).error
            if isinstance(found, StatusError):
                found.request_id = found.request_id or request_id
            return found

        return error_of

    def _pause(self, call: Call[Any], failed: Failure, *, attempt: int, left_s: float) -> float | None:
        """Seconds until the call may be made again; None when it may not."""
        if failed.final or attempt >= self._settings.max_retries:
            return None
        status = failed.error.status if isinstance(failed.error, StatusError) else None
        if call.repeatable:
            again = not failed.refused or status in TRANSIENT
        else:
            again = failed.unsent or (failed.refused and status in REFUSALS)
        return pause_s(failed.error.retry_after_s, attempt=attempt, left_s=left_s) if again else None

    def _note_ignored_fields(self, message: Any) -> None:
        ignored = getattr(message, "ignored", None)
        if ignored:
            self._warn_ignored(", ".join(ignored))

    def _readiness_of(self, answer: bytes) -> Readiness:
        """What the health service said."""
        if answer == SERVING:
            return Readiness(ready=True, status=200)
        return Readiness(ready=False, status=503, message=f"{self.address} is not serving.")

    def _starting_of(self, found: bytes | ClientError) -> Starting | None:
        """What keeps the server from being ready; None when it is.

        Raises:
            ClientError: waiting will not help.
        """
        if found == SERVING:
            return None
        if isinstance(found, bytes):
            return Starting(ServerError(f"{self.address} is not serving.", status=503), POLL_S)
        if isinstance(found, StatusError) and found.status not in STARTING:
            raise found
        return Starting(found, POLL_S)


def identity(data: bytes) -> bytes:
    """Messages of the health service are so short that they are read as bytes."""
    return data


def serialised(message: Any) -> bytes:
    """A message as bytes."""
    return message.SerializeToString()


def unary(channel: Any, path: str, ask: Any, answer: Any) -> Any:
    """A callable for one method of a channel of either kind."""
    return channel.unary_unary(path, request_serializer=ask, response_deserializer=answer)


def streaming(channel: Any, path: str, ask: Any, answer: Any) -> Any:
    """The same for a method that answers in many messages."""
    return channel.unary_stream(path, request_serializer=ask, response_deserializer=answer)
