"""A bit that flips in the memory of a loaded model is noticed by the engine's question to itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny_models import tiny_checkpoint

from openllm.backends.torch.backend import TorchBackend
from openllm.engine.engine import Engine
from openllm.engine.supervisor import Watch, launch_embedded
from openllm.tokenizer import byte_tokenizer
from openllm_core.options import EngineOptions


async def test_a_flipped_bit_has_the_model_loaded_anew(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The highest bit of one weight's exponent: the engine restarts by itself, and the new weights are right."""
    loaded: list[TorchBackend] = []
    load = TorchBackend.load.__func__  # type: ignore[attr-defined]

    def note(cls: type[TorchBackend], *arguments: Any) -> TorchBackend:
        loaded.append(load(cls, *arguments))
        return loaded[-1]

    monkeypatch.setattr(TorchBackend, "load", classmethod(note))
    options = EngineOptions(backend="pt", model_path=str(tiny_checkpoint("llama", checkpoints)), device="cpu")
    engine = Engine(options, byte_tokenizer(), launch=launch_embedded, watch=Watch(backoff_s=0.01), canary_s=0.05)
    try:
        await engine.start()
        await engine.wait_ready(120)
        await until(lambda: engine._canary.asked >= 3)
        assert engine.metrics.restarts == 0
        weight = loaded[0]._model.module.model.embed_tokens.weight
        row = engine._start_token
        bits = weight.data.view(torch.int32 if weight.dtype == torch.float32 else torch.int16)
        bits[row, 0] ^= 1 << (30 if weight.dtype == torch.float32 else 14)
        await until(lambda: engine.metrics.restarts == 1)
        before = engine._canary.asked
        await until(lambda: engine._canary.asked >= before + 3)
        assert engine.state == "ready" and engine.metrics.restarts == 1
    finally:
        await engine.aclose()


async def until(condition: Any) -> None:
    """Wait for it, for long."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)
