"""One engine shared by many tests: a loan of it ends when a test closes it, and the engine goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from openllm.backends.base import BackendRequest, StepOutput
from openllm.backends.vllm import load
from openllm.backends.vllm.backend import VllmBackend
from openllm_core.options import EngineOptions


def engine(path: Path, **options: Any) -> VllmBackend:
    """An engine of its own with a small cache, uncompiled, in float32 so that batch mates change no bit that counts."""
    asked: dict[str, Any] = {
        "startup": "fast",
        "max_num_seqs": 8,
        "max_model_len": 256,
        "dtype": "float32",
        "device": "cpu",
    } | options
    arguments = {"kv-cache-memory-bytes": "67108864", **asked.pop("engine_arg", {})}
    backend = load(EngineOptions(model_path=str(path), engine_arg=arguments, **asked), lambda text, share: None)
    assert isinstance(backend, VllmBackend)
    return backend


class Borrowed:
    """A loan of a running engine: its own `steps` until `aclose`, which aborts what the test left running."""

    def __init__(self, lender: VllmBackend) -> None:
        self.info = lender.info
        self._lender = lender
        self._ids: set[str] = set()
        self._closed = asyncio.Event()
        self.embed, self.check_health = lender.embed, lender.check_health

    def submit(self, request: BackendRequest) -> None:
        self._ids.add(request.request_id)
        self._lender.submit(request)

    def abort(self, request_id: str) -> None:
        self._lender.abort(request_id)

    async def steps(self) -> AsyncIterator[StepOutput]:
        inner = self._lender.steps()
        closed = asyncio.ensure_future(self._closed.wait())
        while True:
            step = asyncio.ensure_future(anext(inner))
            await asyncio.wait((step, closed), return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
                return
            yield step.result()

    async def aclose(self) -> None:
        for request_id in self._ids:
            self._lender.abort(request_id)
        self._closed.set()

    async def load_adapter(self, name: str, path: str) -> None:
        await self._lender.load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        await self._lender.unload_adapter(name)
