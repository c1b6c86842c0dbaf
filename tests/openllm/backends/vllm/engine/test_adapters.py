"""LoRA adapters on vLLM: loaded by folder, chosen by request, unloaded again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.openllm.backends.vllm.engine.borrowed import engine
from tests.tiny_adapters import blank_adapter, forcing_adapter
from tests.tiny_models import tiny_checkpoint

from openllm.backends.base import BackendRequest
from openllm.engine.request import new_request_id
from openllm.testing import GREEDY, Drive, Outcome
from openllm_core.errors import AdapterIncompatible, UnsupportedFeature

pytestmark = pytest.mark.timeout(600)
PROMPT = [72, 101, 108] * 60  # longer than a block of the prefix cache
RANKS = {70: 8, 80: 4, 90: 16, 100: 8}


async def say(drive: Drive, name: str | None) -> Outcome:
    """One greedy answer with an adapter, or of the bare base."""
    request_id = new_request_id()
    outcome = drive.outcomes[request_id] = Outcome()
    drive.backend.submit(BackendRequest(request_id, PROMPT, GREEDY, adapter=name))
    await drive.finish(outcome)
    return outcome


def test_a_mixed_batch_mixes_nothing(checkpoints: Path, tmp_path: Path) -> None:
    """Adapters of unlike ranks that each force a token, one long prompt and the base share a batch: none sees another's
    columns or cached prefix, also when a slot is used again by another adapter, and a broken adapter ends nobody."""
    path = tiny_checkpoint("llama", checkpoints, wide=True)
    backend = engine(path, max_adapters=3, max_adapter_rank=16)
    folders = {token: forcing_adapter(path, token, tmp_path / str(token), rank=rank) for token, rank in RANKS.items()}

    async def test() -> None:
        drive = Drive(backend, 120)
        base = (await say(drive, None)).token_ids
        for token in (70, 80, 90):
            await backend.load_adapter(f"{token}#1", str(folders[token]))
        for _ in range(3):
            found = await asyncio.gather(*(say(drive, name) for name in ("70#1", None, "80#1", "90#1", "70#1", None)))
            assert [set(outcome.token_ids) for outcome in found] == [{70}, set(base), {80}, {90}, {70}, set(base)]
            assert found[1].token_ids == base
        with pytest.raises(AdapterIncompatible, match="made for another model"):
            await backend.load_adapter("bad", str(blank_adapter(tmp_path / "bad", size=48)))
        with pytest.raises(AdapterIncompatible, match="rank 24"):
            await backend.load_adapter("bad", str(blank_adapter(tmp_path / "high", size=64, rank=24)))
        await backend.load_adapter("100#1", str(folders[100]))
        with pytest.raises(UnsupportedFeature, match="4 adapters are loaded"):
            await backend.load_adapter("more", str(folders[70]))
        await backend.unload_adapter("100#1")
        await backend.unload_adapter("70#1")
        gone = await say(drive, "70#1")
        assert gone.finish_reason == "error"
        assert (gone.deltas[-1].error or {})["class"] == "AdapterNotFound"
        await backend.load_adapter("70#2", str(folders[100]))
        again = await asyncio.gather(say(drive, "70#2"), say(drive, "80#1"), say(drive, None))
        assert [set(outcome.token_ids) for outcome in again] == [{100}, {80}, set(base)]
        await backend.aclose()
        await drive.ended()

    asyncio.run(test())


def test_an_engine_without_adapters_says_so(checkpoints: Path) -> None:
    """The default: adapters cost memory and speed, so they are asked for."""
    backend = engine(tiny_checkpoint("llama", checkpoints, wide=True))

    async def test() -> None:
        with pytest.raises(UnsupportedFeature):
            await backend.load_adapter("one", "/nowhere")
        await backend.aclose()

    assert not backend.info.capabilities.adapters
    asyncio.run(test())
