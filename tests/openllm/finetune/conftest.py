"""What the tests of fine-tuning share: tiny checkpoints, one compute thread, an LLM over one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.openllm.serialisation import small
from tests.tiny_models import tiny_checkpoint

import openllm

MakeLLM = Callable[..., openllm.LLM]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny checkpoints of this session are kept."""
    return tmp_path_factory.getbasetemp() / "tiny"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """These models are too small for two, and sums come out the same."""
    torch.set_num_threads(1)


@pytest.fixture
def make_llm(checkpoints: Path, tmp_path: Path) -> MakeLLM:
    """An LLM over a tiny model, by the name of its architecture; the store is empty."""

    def make(name: str = "llama", **options: Any) -> openllm.LLM:
        folder = tiny_checkpoint(name, checkpoints)
        return openllm.LLM(str(folder), store=small.options(tmp_path / "home"), device="cpu", **options)

    return make


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def greedy(model: Any, tokenizer: Any, prompt: str, tokens: int = 12) -> str:
    """What a model says next, without its special tokens."""
    given = tokenizer(prompt, return_tensors="pt")
    model.eval()
    made = model.generate(**given, max_new_tokens=tokens, do_sample=False)
    read = 0 if model.config.is_encoder_decoder else given["input_ids"].shape[1]
    return tokenizer.decode(made[0, read:], skip_special_tokens=True)
