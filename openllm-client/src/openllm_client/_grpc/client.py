"""GrpcClient: a client of an OpenLLM server over gRPC, for code that waits.

What it can be asked stands in `Client`, which it shares with `HTTPClient`; `AsyncGrpcClient` is its twin: change both.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, TypeVar

import grpc

from openllm_core.errors import ClientError

from .._client import Client
from .._config import Deadline
from .._errors import closed
from .._replies import Readiness
from .._streaming import Stream
from .._wire import Call, Starting
from .base import GrpcBase, identity, serialised, streaming, unary
from .calls import method_of
from .channel import HEALTH
from .errors import Failure
from .streams import GrpcSource, Opened, Watch

T = TypeVar("T")


class GrpcClient(Client, GrpcBase):
    """Client of an OpenLLM server over gRPC. May be shared by threads. Needs the extra `grpc`.

    The same calls, answers and errors as `HTTPClient`'s.

    Args:
        address: `host:port` of the gRPC server; `https://host:port` where it speaks TLS. Default: `OPENLLM_ENDPOINT`,
            else http://localhost:3000.
        timeout: seconds a call may take, waits and retries included, which the server is told; on a stream, seconds
            until its first message, and between two.
        api_key: default: `OPENLLM_API_KEY` (the first of a comma list).
        max_retries: times a call is sent again, when that is safe.
        verify: a file or folder of certificates to trust; default: those that grpc brings.
        cert: what the client shows of itself: a PEM file with certificate and key, or a pair of files.
        proxy: an HTTP proxy's address; default: the usual environment variables, except for a loopback address.
        headers: sent with every call, as metadata.

    Raises:
        InvalidSetting: an argument or environment variable is unusable.

    Every call raises `ConnectionFailed`, `TimedOut`, a `StatusError` when the server refuses, or `ClientError` with the
    code `malformed_response` when the answer is not what its method answers.
    """

    def close(self) -> None:
        """Close all connections. May be called again."""
        self._closed = True
        if self._open is not None:
            self._open.close()
            self._open = None

    def _channel(self) -> Any:
        """Made when it is first needed."""
        if self._closed:
            raise closed(self.address)
        if self._open is None:
            name, credentials, options = self._target.name, self._target.credentials, self._target.options
            if credentials is None:
                self._open = grpc.insecure_channel(name, options=options)
            else:
                self._open = grpc.secure_channel(name, credentials, options=options)
        return self._open

    # -- sending --------------------------------------------------------------------------------------------------

    def _send(self, call: Call[T]) -> T:
        method = method_of(call)
        ask = method.ask(call.body)
        run = unary(self._channel(), method.path, serialised, method.parse)
        deadline = Deadline(self._settings.timeout_s)
        for attempt in itertools.count():
            _, metadata = self._metadata()
            try:
                answer = run(ask, timeout=max(deadline.left_s(), 0.001), metadata=metadata)
            except grpc.RpcError as error:
                self._wait(call, self._why(error), attempt, deadline)
            else:
                self._note_ignored_fields(answer)
                return method.read(answer, call.body)
        raise AssertionError("unreachable")

    def _wait(self, call: Call[Any], failed: Failure, attempt: int, deadline: Deadline) -> None:
        """Wait until the call may be made again.

        Raises:
            ClientError: it may not; this is how it ends.
        """
        wait = self._pause(call, failed, attempt=attempt, left_s=deadline.left_s())
        if wait is None:
            raise failed.error
        time.sleep(wait)

    def _stream(self, call: Call[T]) -> Stream[T]:
        return Stream(GrpcSource(call, method_of(call), self._connect, self._broken, self._settings.timeout_s))

    def _connect(self, call: Call[Any]) -> Opened:
        """Send a call, and again where that is safe, until its first message is there."""
        method = method_of(call)
        ask = method.ask(call.body)
        run = streaming(self._channel(), method.path, serialised, method.parse)
        deadline = Deadline(self._settings.timeout_s)
        for attempt in itertools.count():
            request_id, metadata = self._metadata()
            found = self._first(run(ask, metadata=metadata), request_id, deadline)
            if isinstance(found, Opened):
                self._note_ignored_fields(found.first)
                return found
            self._wait(call, found, attempt, deadline)
        raise AssertionError("unreachable")

    def _first(self, running: Any, request_id: str, deadline: Deadline) -> Opened | Failure:
        watch = Watch(max(deadline.left_s(), 0.001), running.cancel)
        try:
            return Opened(running, next(running, None), request_id)
        except grpc.RpcError as error:
            return self._why(error, silent=watch.fired)
        except BaseException:
            running.cancel()
            raise
        finally:
            watch.stop()

    # -- health ---------------------------------------------------------------------------------------------------

    def _check(self, seconds: float) -> bytes:
        run = unary(self._channel(), HEALTH, identity, identity)
        try:
            return run(b"", timeout=seconds, metadata=self._target.metadata)
        except grpc.RpcError as error:
            raise self._why(error).error from error

    def _ask_alive(self) -> None:
        self._check(self._settings.timeout_s)

    def _ask_ready(self) -> Readiness:
        return self._readiness_of(self._check(self._settings.timeout_s))

    def _look(self, seconds: float) -> Starting | None:
        try:
            found: bytes | ClientError = self._check(seconds)
        except ClientError as error:
            found = error
        return self._starting_of(found)
