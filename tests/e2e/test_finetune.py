"""Fine-tuning as a user runs it: a run killed and gone on with, whose adapter is served at once; the default model prepared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import peft
import pytest
import torch
from safetensors import safe_open
from tests.e2e.conftest import openllm_start
from tests.openllm.finetune.test_prepare import one_step
from tests.tiny_models import tiny_checkpoint

import openllm
from openllm_core.options import StoreOptions

ROWS = [{"prompt": "the quick", "completion": " brown fox"}, {"prompt": "she sells", "completion": " sea shells"}]
STEPS = 120


@pytest.mark.timeout(240)
def test_killed_resumed_and_served(tmp_path: Path):
    """SIGKILL in the middle; the same command goes on from a checkpoint; the adapter answers behind a server, the base does not."""
    folder = tiny_checkpoint("llama", tmp_path / "tiny")
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    environ = {
        **os.environ,
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "OPENLLM_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    words = ["--dataset", "two.jsonl", "--output", "out", "--max-steps", str(STEPS), "--learning-rate", "0.02"]
    words += ["--save-every", "10", "--rank", "16", "--alpha", "32", "--target-modules", "all-linear"]
    command = [sys.executable, "-m", "openllm", "finetune", str(folder), *words, "--no-gradient-checkpointing"]

    first = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    checkpoints = tmp_path / "out/checkpoints"
    end = time.monotonic() + 120
    while not list(checkpoints.glob("checkpoint-*/trainer_state.json")):
        assert first.poll() is None and time.monotonic() < end, first.communicate()
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "out/adapter_model.safetensors").exists()

    second = subprocess.run(
        [*command, "-o", "json"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert second.returncode == 0, second.stderr
    assert "Going on from checkpoint-" in second.stderr
    data = json.loads(second.stdout)
    assert 10 <= data["resumed_from"] < data["steps"] == STEPS
    assert data["last_loss"] < 0.5
    with safe_open(str(tmp_path / "out/adapter_model.safetensors"), "pt") as file:
        assert len(list(file.keys())) > 0

    start = [str(folder), "--backend", "pt", "--adapter-id", f"{tmp_path / 'out'}:tuned"]
    with openllm_start(tmp_path / "log.txt", *start, environ=environ) as server:

        def completion(model: str) -> str:
            body = {"model": model, "prompt": "the quick", "max_tokens": 8, "temperature": 0}
            return httpx.post(f"{server.url}/v1/completions", json=body, timeout=120).json()["choices"][0]["text"]

        assert completion("tuned") == " brown fox"
        assert completion(folder.name) != " brown fox"


@pytest.mark.timeout(480)
def test_the_default_model_is_prepared_for_training(store: dict[str, str]):
    """A PeftModel and its tokenizer come back for real weights; a step changes the adapter, and nothing of the model."""
    llm = openllm.LLM("smollm", store=StoreOptions(home=store["BENTOML_HOME"]), device="cpu")
    model, tokenizer = llm.prepare_for_training(adapter_type="lora", r=8)
    assert isinstance(model, peft.PeftModel)
    before = one_step(model, tokenizer)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed and all("lora_" in name for name in changed)
    assert {name for name in before if "lora_B" in name} <= changed
