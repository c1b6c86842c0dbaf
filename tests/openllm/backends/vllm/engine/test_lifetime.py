"""How engines begin and end: loads that are refused, what does not fit, and a core that dies.

Every test makes its own engine. They have a file of their own because vLLM keeps the state of its workers for the whole
process: an engine that ends takes it from every other, so none may be lent out beside them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.backends.vllm.engine.borrowed import engine
from tests.tiny_models import tiny_checkpoint

from openllm.backends.base import BackendRequest
from openllm.backends.vllm import architectures
from openllm.engine.request import new_request_id
from openllm.testing import GREEDY
from openllm_core.errors import EngineUnavailable, OutOfMemory, UnsafeConfiguration, UnsupportedFeature

pytestmark = pytest.mark.timeout(600)
PROMPT = [72, 101, 108]


def test_loading_pickle_needs_the_typed_flag(folder: Path) -> None:
    """An engine argument does not undo a safety setting."""
    with pytest.raises(UnsafeConfiguration):
        engine(folder, engine_arg={"load_format": "pt"})


def test_what_does_not_fit_is_our_error(folder: Path) -> None:
    """vLLM's own refusal of a cache too small for the context is told as such, with what to do."""
    with pytest.raises(OutOfMemory) as caught:
        engine(folder, engine_arg={"kv-cache-memory-bytes": "4096"})
    assert caught.value.hint


def test_an_architecture_it_lacks(checkpoints: Path) -> None:
    """Said by name before anything is loaded; the list read from vLLM's source is vLLM's own."""
    with pytest.raises(UnsupportedFeature, match="MptForCausalLM"):
        engine(tiny_checkpoint("mpt", checkpoints))
    from vllm.model_executor.models.registry import ModelRegistry  # type: ignore[import-not-found]

    known = set(ModelRegistry.get_supported_archs())
    read = set(architectures._classes())
    assert read <= known
    assert {"LlamaForCausalLM", "FalconForCausalLM", "GPTNeoXForCausalLM", "GPTBigCodeForCausalLM"} <= read


def test_a_core_that_dies_is_told_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be computed any more, whoever asks: `steps` raises with the root cause, and the health check says the same."""
    backend = engine(folder)

    def broken(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError("the cable was pulled")

    async def told() -> None:
        async for _ in backend.steps():
            pass

    async def test() -> None:
        runner: Any = backend._core._engine.model_executor.driver_worker.worker.model_runner
        monkeypatch.setattr(runner, "_model_forward", broken)
        backend.submit(BackendRequest(new_request_id(), PROMPT, GREEDY))
        with pytest.raises(EngineUnavailable, match="the cable was pulled"):
            await asyncio.wait_for(told(), 60)
        with pytest.raises(EngineUnavailable, match="the cable was pulled"):
            await backend.check_health()
        await backend.aclose()

    asyncio.run(test())
