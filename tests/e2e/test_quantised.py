"""The default model quantised while it is loaded, behind a server; docs/how-to/quantise.md starts it with int4 and asks, too."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import openllm_start


@pytest.mark.timeout(480)
def test_eight_bits_answer(store: dict[str, str], tmp_path: Path):
    """`--quantize int8` says what it does, and the answer is right."""
    log = tmp_path / "log.txt"
    with openllm_start(log, "--backend", "pt", "--quantize", "int8", environ=store) as server:
        said = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text())
        assert re.search(r"Quantisation +int8 +made while loading; bitsandbytes LLM\.int8\(\)", said), said
        body = {
            "model": httpx.get(f"{server.url}/v1/models", timeout=120).json()["data"][0]["id"],
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_tokens": 24,
            "temperature": 0,
        }
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        assert "Paris" in answer.json()["choices"][0]["message"]["content"]
