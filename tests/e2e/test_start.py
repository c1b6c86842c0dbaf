"""`openllm start` tells the truth before it starts: refusals with a cause and an exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from tests.tiny_models import tiny_checkpoint

pytestmark = pytest.mark.timeout(420)


def start(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a start that is expected to end by itself."""
    command = [sys.executable, "-m", "openllm", "start", *arguments]
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=120, check=False)


def test_port_in_use_is_said_before_the_model_loads(store):
    """Exit 71, the port named, no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = start("--port", str(port), environ=store)
    assert done.returncode == 71, done.stderr
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_unknown_model_suggests_near_names(store):
    """Exit 66 with a near family name."""
    done = start("lama", environ=store | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 66, done.stderr
    assert "llama" in done.stderr
    assert "Traceback" not in done.stderr


def test_folder_without_weights(store, tmp_path):
    """Exit 65, naming what is missing."""
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    done = start(str(tmp_path), environ=store)
    assert done.returncode == 65, done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_does_not_fit_is_refused_before_loading(store, tmp_path):
    """Weights of a tebibyte (a sparse file): exit 71 with need and have, without reading them."""
    folder = tiny_checkpoint("llama", tmp_path)
    size = 2**40
    tensor = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    done = start(str(folder), "--backend", "pt", environ=store)
    assert done.returncode == 71, done.stderr
    assert "1,099,511" in done.stderr, done.stderr
    assert "free" in done.stderr
    assert "Traceback" not in done.stderr
