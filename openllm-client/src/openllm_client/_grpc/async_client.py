"""AsyncGrpcClient: a client of an OpenLLM server over gRPC, for asyncio.

What it can be asked stands in `AsyncClient`, which it shares with `AsyncHTTPClient`; `GrpcClient` is its twin: change both.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, TypeVar

import grpc
import grpc.aio

from openllm_core.errors import ClientError

from .._async_client import AsyncClient
from .._async_streaming import AsyncStream
from .._config import Deadline
from .._errors import closed
from .._replies import Readiness
from .._wire import Call, Starting
from .base import GrpcBase, identity, serialised, streaming, unary
from .calls import method_of
from .channel import HEALTH
from .errors import Failure
from .streams import AsyncGrpcSource, Opened, next_message

T = TypeVar("T")


class AsyncGrpcClient(AsyncClient, GrpcBase):
    """Asynchronous client of an OpenLLM server over gRPC, for one event loop. Needs the extra `grpc`.

    The same calls, answers and errors as `AsyncHTTPClient`'s.

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

    async def aclose(self) -> None:
        """Close all connections. May be called again."""
        self._closed = True
        if self._open is not None:
            await self._open.close()
            self._open = None

    def _channel(self) -> Any:
        """Made when it is first needed, since it belongs to the running event loop."""
        if self._closed:
            raise closed(self.address)
        if self._open is None:
            name, credentials, options = self._target.name, self._target.credentials, self._target.options
            if credentials is None:
                self._open = grpc.aio.insecure_channel(name, options=options)
            else:
                self._open = grpc.aio.secure_channel(name, credentials, options=options)
        return self._open

    # -- sending --------------------------------------------------------------------------------------------------

    async def _send(self, call: Call[T]) -> T:
        method = method_of(call)
        ask = method.ask(call.body)
        run = unary(self._channel(), method.path, serialised, method.parse)
        deadline = Deadline(self._settings.timeout_s)
        for attempt in itertools.count():
            _, metadata = self._metadata()
            try:
                answer = await run(ask, timeout=max(deadline.left_s(), 0.001), metadata=metadata)
            except grpc.RpcError as error:
                await self._wait(call, self._why(error), attempt, deadline)
            else:
                self._note_ignored_fields(answer)
                return method.read(answer, call.body)
        raise AssertionError("unreachable")

    async def _wait(self, call: Call[Any], failed: Failure, attempt: int, deadline: Deadline) -> None:
        """Wait until the call may be made again.

        Raises:
            ClientError: it may not; this is how it ends.
        """
        wait = self._pause(call, failed, attempt=attempt, left_s=deadline.left_s())
        if wait is None:
            raise failed.error
        await asyncio.sleep(wait)

    def _stream(self, call: Call[T]) -> AsyncStream[T]:
        return AsyncStream(
            AsyncGrpcSource(call, method_of(call), self._connect, self._broken, self._settings.timeout_s)
        )

    async def _connect(self, call: Call[Any]) -> Opened:
        """Send a call, and again where that is safe, until its first message is there."""
        method = method_of(call)
        ask = method.ask(call.body)
        run = streaming(self._channel(), method.path, serialised, method.parse)
        deadline = Deadline(self._settings.timeout_s)
        for attempt in itertools.count():
            request_id, metadata = self._metadata()
            found = await self._first(run(ask, metadata=metadata), request_id, deadline)
            if isinstance(found, Opened):
                self._note_ignored_fields(found.first)
                return found
            await self._wait(call, found, attempt, deadline)
        raise AssertionError("unreachable")

    async def _first(self, running: Any, request_id: str, deadline: Deadline) -> Opened | Failure:
        try:
            return Opened(running, await next_message(running, max(deadline.left_s(), 0.001)), request_id)
        except TimeoutError:
            running.cancel()
            return self._why(running, silent=True)
        except grpc.RpcError as error:
            return self._why(error)
        except BaseException:
            running.cancel()
            raise

    # -- health ---------------------------------------------------------------------------------------------------

    async def _check(self, seconds: float) -> bytes:
        run = unary(self._channel(), HEALTH, identity, identity)
        try:
            return await run(b"", timeout=seconds, metadata=self._target.metadata)
        except grpc.RpcError as error:
            raise self._why(error).error from error

    async def _ask_alive(self) -> None:
        await self._check(self._settings.timeout_s)

    async def _ask_ready(self) -> Readiness:
        return self._readiness_of(await self._check(self._settings.timeout_s))

    async def _look(self, seconds: float) -> Starting | None:
        try:
            found: bytes | ClientError = await self._check(seconds)
        except ClientError as error:
            found = error
        return self._starting_of(found)
