"""AsyncHTTPClient: a client of an OpenLLM server, for asyncio.

What it sends and how answers are read is in `_base` and `_replies`; when it tries again in `_retry`. `HTTPClient` is
its twin: change both.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from openllm_core.errors import MissingDependency

from . import _base, _retry
from ._async_client import AsyncClient
from ._async_streaming import AsyncHTTPSource, AsyncStream
from ._config import Deadline, make, resolve, transport_options
from ._errors import closed
from ._replies import Readiness
from ._streaming import check_stream
from ._wire import Call, Outcome, Reply, Starting

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")


class AsyncHTTPClient(AsyncClient):
    """Asynchronous client of an OpenLLM server, for one event loop; connections are kept and used again.

    Names are those of `HTTPClient`, to be awaited, properties too: `await client.model_id`. Streams are iterated with
    `async for`.

    Args:
        address: `http://host:port`, with a path prefix if there is one; a missing scheme means http. Default:
            `OPENLLM_ENDPOINT`, else http://localhost:3000.
        timeout: seconds a call may take, waits and retries included; on a stream, seconds until the answer begins,
            and of silence in it.
        api_key: default: `OPENLLM_API_KEY` (the first of a comma list).
        max_retries: times a call is sent again, when that is safe; `Retry-After` is honoured.
        verify: False, or a file or folder of certificates, or an SSL context, for https.
        cert: what the client shows of itself: a PEM file with certificate and key, or a pair of files.
        proxy: proxy's address; default: the usual environment variables, except for a loopback address.
        headers: sent with every request.
        transport: an `httpx.AsyncBaseTransport` to send through instead of the network.

    Raises:
        InvalidSetting: an argument or environment variable is unusable.

    Every call raises `ConnectionFailed`, `TimedOut`, a `StatusError` when the server refuses, or `ClientError` with the
    code `malformed_response` when the answer is not what its route answers.
    """

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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = resolve(address, timeout, api_key=api_key, max_retries=max_retries, headers=headers)
        options = transport_options(self._settings, verify=verify, cert=cert, proxy=proxy)
        self._inner = make(lambda: httpx.AsyncClient(transport=transport, **options))
        self._openai: AsyncOpenAI | None = None

    async def aclose(self) -> None:
        """Close all connections. May be called again."""
        await self._inner.aclose()

    @property
    def openai(self) -> AsyncOpenAI:
        """OpenAI's client of this server, over the same connections: key, TLS and proxy are set.

        Raises:
            MissingDependency: the package `openai` is not installed.
        """
        if self._openai is None:
            try:
                from openai import AsyncOpenAI
            except ImportError as error:
                raise MissingDependency("The package openai is not installed.", hint=_base.OPENAI_EXTRA) from error
            self._openai = AsyncOpenAI(**self._openai_options(self._inner))
        return self._openai

    # -- sending --------------------------------------------------------------------------------------------------

    async def _send(self, call: Call[T]) -> T:
        outcome = await self._retrying(call)
        if isinstance(outcome, Reply) and outcome.status == 200:
            self._note_ignored(outcome.headers)
            return call.read(outcome.content)
        assert not isinstance(outcome, httpx.Response)
        raise self._failure(outcome)

    def _stream(self, call: Call[T]) -> AsyncStream[T]:
        return AsyncStream(AsyncHTTPSource(call, self._connect, self._interrupted))

    async def _connect(self, call: Call[Any]) -> httpx.Response:
        outcome = await self._retrying(call)
        if not isinstance(outcome, httpx.Response):
            raise self._failure(outcome)
        try:
            check_stream(outcome, self.address)
        except BaseException:
            await outcome.aclose()
            raise
        self._note_ignored(outcome.headers)
        return outcome

    async def _retrying(self, call: Call[Any]) -> httpx.Response | Outcome:
        deadline = Deadline(self._settings.timeout_s)
        for attempt in itertools.count():
            outcome = await self._once(call, deadline)
            if isinstance(outcome, httpx.Response) or (isinstance(outcome, Reply) and outcome.status == 200):
                return outcome
            retries, left = self._settings.max_retries, deadline.left_s()
            wait = _retry.wait_s(call, outcome, attempt=attempt, max_retries=retries, left_s=left)
            if wait is None:
                return outcome
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _ask_alive(self) -> None:
        outcome = await self._probe("/livez", self._settings.timeout_s)
        if not isinstance(outcome, Reply) or outcome.status != 200:
            raise self._failure(outcome)

    async def _ask_ready(self) -> Readiness:
        return self._readiness(await self._probe("/readyz", self._settings.timeout_s))

    async def _look(self, seconds: float) -> Starting | None:
        return self._starting(await self._probe("/readyz", seconds))

    async def _probe(self, path: str, seconds: float) -> Outcome:
        outcome = await self._once(_base.probe_call(path), Deadline(seconds))
        assert not isinstance(outcome, httpx.Response)
        return outcome

    async def _once(self, call: Call[Any], deadline: Deadline) -> httpx.Response | Outcome:
        """Send a call once: the open response of a stream that begins, else the whole reply or what went wrong."""
        if self._inner.is_closed:
            raise closed(self.address)
        try:
            async with asyncio.timeout(max(deadline.left_s(), 0.001)):
                request = self._inner.build_request(**self._request(call, deadline))
                response = await self._inner.send(request, stream=True)
                if call.stream and response.status_code == 200:
                    self._allow_silence(response)
                    return response
                return await self._read(response)
        except TimeoutError:
            return httpx.ReadTimeout("the answer was not complete in time")
        except httpx.RequestError as error:
            return error

    async def _read(self, response: httpx.Response) -> Reply:
        parts: list[bytes] = []
        size = 0
        try:
            async for part in response.aiter_bytes():
                parts.append(part)
                size += len(part)
                if response.status_code != 200 and size > _base.MAX_ERROR_BYTES:
                    break
        finally:
            await response.aclose()
        return Reply(response.status_code, response.headers, b"".join(parts))
