"""What loading takes of the machine's memory, seen by the kernel: in a process of its own, while weights are read and packed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

LOADING = """
import json, sys, threading
from pathlib import Path
import torch
from openllm.backends import checkpoint as checkpoints
from openllm.backends.torch import loading
from openllm.backends.torch.tuning import Choice
from openllm_core.options import EngineOptions
import transformers.models.llama.modeling_llama  # what code takes is no part of it


def own_bytes():  # of the process alone: pages of a mapped file are the kernel's to drop
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


def look(linear):
    choice = Choice(dtype="float32", linear=linear, attention="grouped", threads=1)
    before, seen, loaded = own_bytes(), [], threading.Event()

    def watch():
        while not loaded.wait(0.001):
            seen.append(own_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = loading.load(options, checkpoint, choice, torch.device("cpu"), lambda text, share: None)
    loaded.set()
    watcher.join()
    return {"kept": own_bytes() - before, "most": max(seen) - before, "looks": len(seen)}, model


options = EngineOptions(model_path=sys.argv[1], device="cpu")
checkpoint = checkpoints.read(sys.argv[1])
torch.set_num_threads(1)
plain, held = look("plain")
packed, held_too = look("packed16")
print(json.dumps({"plain": plain, "packed16": packed}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a hundred megabytes in many layers, as bfloat16: large beside what Python and torch take by the way."""
    config = LlamaConfig(
        vocab_size=1024, hidden_size=512, intermediate_size=1536, num_hidden_layers=16, num_attention_heads=8
    )
    path = tmp_path_factory.mktemp("large")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return path


def test_loading_takes_little_memory_beyond_the_models_own(folder: Path) -> None:
    """At no moment are the weights there twice, whether they stay as they are or are packed anew.

    Packed they take what they take in the file; computed in float32 without that, twice as much.
    """
    weights = (folder / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", LOADING, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert weights > 90_000_000
    for linear, times in (("plain", 2), ("packed16", 1)):
        found = json.loads(done.stdout)[linear]
        assert found["looks"] > 20
        assert found["kept"] == pytest.approx(times * weights, rel=0.15), linear
        assert found["most"] - found["kept"] < 0.6 * weights, linear
