"""What the thread around the scheduler adds to it: aborts that reach outputs already made, and ends that end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.openllm.backends.torch.drive import request
from tests.tiny_models import tiny_checkpoint

from openllm.backends.base import StepOutput
from openllm.backends.torch.backend import TorchBackend
from openllm.backends.torch.scheduler import Scheduler
from openllm_core.errors import EngineUnavailable, InvalidRequest
from openllm_core.options import EngineOptions


@pytest.fixture
def backend(checkpoints: Path):
    """A backend on a tiny Llama."""
    options = EngineOptions(model_path=str(tiny_checkpoint("llama", checkpoints)), device="cpu")
    opened = TorchBackend.load(options, lambda text, share: None)
    yield opened
    opened.close()


async def test_abort_reaches_outputs_nobody_has_read(backend: TorchBackend) -> None:
    """Deltas made before an abort but not yet read are dropped too, and the id is forgotten afterwards."""
    backend.submit(request("gone", [1, 2, 3], max_tokens=5))
    while not any(delta.finish_reason for output, _ in list(backend._outputs) for delta in output.deltas):
        await asyncio.sleep(0.01)
    backend.abort("gone")
    backend.submit(request("next", [4, 5], max_tokens=3))
    seen: list[str] = []
    async for output in backend.steps():
        seen += [delta.request_id for delta in output.deltas]
        if any(delta.finish_reason for delta in output.deltas):
            break
    assert seen == ["next"] * 3
    assert not backend._aborted


async def test_unread_outputs_stop_the_thread(backend: TorchBackend) -> None:
    """When nobody reads, the step thread waits instead of filling memory; aborting and closing still work."""
    backend.submit(request("a", [1, 2, 3], max_tokens=200))
    deadline = time.monotonic() + 20
    while len(backend._outputs) < 64 and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert len(backend._outputs) == 64
    await backend.aclose()


async def test_a_dead_step_thread_is_reported(backend: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the loop itself breaks, the stream of steps and the health check raise instead of waiting for ever."""

    def broken(self: Scheduler) -> StepOutput:
        raise RuntimeError("the loop broke")

    monkeypatch.setattr(Scheduler, "step", broken)
    backend.submit(request("a", [1]))
    with pytest.raises(EngineUnavailable, match="the loop broke"):
        async with asyncio.timeout(20):
            async for _ in backend.steps():
                pass
    with pytest.raises(EngineUnavailable):
        await backend.check_health()


async def test_embedding_checks_its_input(backend: TorchBackend) -> None:
    """Texts that are empty, too long or outside the vocabulary are refused; good ones run beside generation."""
    backend.submit(request("a", [1, 2, 3], max_tokens=30))
    for bad in ([], [5000], [1] * 600):
        with pytest.raises(InvalidRequest):
            await backend.embed([bad])
    vectors = await backend.embed([[5, 6, 7], [8]])
    assert [len(vector) for vector in vectors] == [32, 32]
