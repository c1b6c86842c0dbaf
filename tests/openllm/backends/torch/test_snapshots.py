"""What a deterministic tiny model answers, byte for byte: a change of any answer is seen, and must be meant.

The model's weights come from a seed, so the answers do too. `OPENLLM_WRITE_SNAPSHOTS=1` writes snapshots.json anew; read the
difference before committing it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.tiny_models import tiny_checkpoint

from openllm.compose import build
from openllm.engine.supervisor import launch_embedded
from openllm.serialisation import resolve
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions

SNAPSHOTS = Path(__file__).with_name("snapshots.json")
CHAT = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 12}
TEXT = {"prompt": "The quick brown fox", "max_tokens": 12}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": ("/v1/completions", TEXT | {"temperature": 0}),
    "sampled with a seed": ("/v1/completions", TEXT | {"temperature": 1.2, "top_p": 0.9, "seed": 7}),
    "two choices": ("/v1/completions", TEXT | {"temperature": 1.0, "seed": 7, "n": 2}),
    "log probabilities": ("/v1/completions", TEXT | {"temperature": 0, "logprobs": 2, "max_tokens": 3}),
    "penalties": ("/v1/completions", TEXT | {"temperature": 0, "presence_penalty": 1.5, "frequency_penalty": 1.0}),
    "a biased token": ("/v1/completions", TEXT | {"temperature": 0, "logit_bias": {"65": 100}, "max_tokens": 4}),
    "chat": ("/v1/chat/completions", CHAT | {"temperature": 0}),
    "generate": (
        "/v1/generate",
        {"prompt": "The quick brown fox", "llm_config": {"max_new_tokens": 12, "temperature": 0}, "detail": True},
    ),
}
VARYING = ("id", "created", "system_fingerprint")


@pytest.fixture
async def http(checkpoints: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The whole of a server but its socket and its host process, over a tiny Llama."""
    model = resolve(str(tiny_checkpoint("llama", checkpoints)), options=StoreOptions(home=str(tmp_path)))
    options = EngineOptions(backend="pt", device="cpu", compile="off")
    composed = build(options, ServerOptions(served_model_name=("tiny",)), model, launch=launch_embedded)
    transport = httpx.ASGITransport(composed.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        await composed.engine.start()
        try:
            await composed.engine.wait_ready(60)
            yield client
        finally:
            await composed.service.aclose()


def rounded(value: Any) -> Any:
    """A copy without what differs from call to call; floats to three digits, as processors differ in the seventh."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items() if key not in VARYING}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


async def test_answers_are_those_kept(http: httpx.AsyncClient) -> None:
    """Every answer equals its snapshot: text, finish reason, usage, log probabilities and shape."""
    found: dict[str, Any] = {}
    for name, (route, body) in CASES.items():
        sent = body if route == "/v1/generate" else body | {"model": "tiny"}
        reply = await http.post(route, json=sent)
        assert reply.status_code == 200, (name, reply.text)
        found[name] = rounded(reply.json())
    if os.environ.get("OPENLLM_WRITE_SNAPSHOTS"):
        SNAPSHOTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(SNAPSHOTS.read_text(encoding="utf-8"))
