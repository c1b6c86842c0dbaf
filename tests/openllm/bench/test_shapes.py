"""Models of a known shape with random weights: whole folders, of the right size, refused where they do not fit."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
from safetensors import safe_open

from openllm.bench import shapes
from openllm.tokenizer import Tokenizer
from openllm_core.errors import InvalidSetting, OutOfMemory
from openllm_core.resources.detect import Gpu, Machine

ROOMY = Machine(cores=2, memory_total_bytes=10**12, memory_available_bytes=10**12)


def quiet(text: str) -> None:
    """Say nothing."""


def header_of(path: Path) -> dict[str, dict[str, object]]:
    with path.open("rb") as file:
        return json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))


@pytest.mark.parametrize(
    ("name", "weights"), [("llama-2-7b", 6.738e9), ("llama-2-13b", 13.016e9), ("llama-3-8b", 8.030e9)]
)
def test_shapes_have_the_published_number_of_weights(name: str, weights: float):
    """To four digits, as the models' own pages say."""
    assert shapes.find(name).weight_bytes / 2 == pytest.approx(weights, rel=5e-4)


def test_a_folder_is_a_whole_model(tmp_path: Path):
    """config.json, weights that safetensors reads with the names and shapes of the architecture, a tokenizer."""
    folder = shapes.build("tiny", tmp_path, weights="random", say=quiet, machine=ROOMY)
    shape = shapes.find("tiny")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["hidden_size"] == shape.hidden_size
    with safe_open(folder / "model.safetensors", framework="np") as file:
        assert set(file.keys()) == {name for name, _ in shape.tensors()}
    header = header_of(folder / "model.safetensors")
    assert all(tuple(header[name]["shape"]) == dimensions for name, dimensions in shape.tensors())  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.vocab_size == shape.vocab_size
    assert tokenizer.decode(tokenizer.encode("Hello, wörld", add_special_tokens=False)) == "Hello, wörld"
    assert all(tokenizer.token_text(number) for number in range(shape.vocab_size))


def test_weights_are_random_and_norms_are_one(tmp_path: Path):
    """Normal with deviation 0.02, so that a forward pass neither dies out nor overflows."""
    folder = shapes.build("tiny", tmp_path, weights="random", say=quiet, machine=ROOMY)
    raw = (folder / "model.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    header = header_of(folder / "model.safetensors")

    def values(name: str) -> list[float]:
        begin, end = header[name]["data_offsets"]  # type: ignore[misc]
        data = raw[start + begin : start + end]
        return [struct.unpack("<f", b"\0\0" + data[i : i + 2])[0] for i in range(0, len(data), 2)]

    drawn = values("model.layers.0.mlp.up_proj.weight")
    assert abs(sum(drawn) / len(drawn)) < 0.002
    assert math.sqrt(sum(value * value for value in drawn) / len(drawn)) == pytest.approx(0.02, rel=0.1)
    assert drawn != values("model.layers.1.mlp.up_proj.weight")
    assert set(values("model.norm.weight")) == {1.0}


def test_large_models_are_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An index names the file of each weight; none is larger than the limit."""
    monkeypatch.setattr(shapes, "MAX_FILE_BYTES", 200_000)
    folder = shapes.build("tiny", tmp_path, weights="random", say=quiet, machine=ROOMY)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {name for name, _ in shapes.find("tiny").tensors()}
    for file in set(index["weight_map"].values()):
        assert (folder / file).stat().st_size <= 210_000
        names = {name for name, where in index["weight_map"].items() if where == file}
        assert names == set(header_of(folder / file)) - {"__metadata__"}


def test_weights_that_the_engine_draws_take_no_space(tmp_path: Path):
    """Files of the right size that hold nothing."""
    folder = shapes.build("llama-2-13b", tmp_path, weights="none", say=quiet, machine=ROOMY)
    files = list(folder.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) > 26e9
    assert sum(file.stat().st_blocks * 512 for file in files) < 10e6


def test_what_does_not_fit_is_refused():
    """Need and have, and which shapes would fit; the largest GPU counts where there is one, else free memory."""
    small = Machine(cores=2, memory_total_bytes=20 * 10**9, memory_available_bytes=18 * 10**9)
    with pytest.raises(OutOfMemory, match=r"llama-2-13b needs 29\.9 GB; this machine has 18\.0 GB free") as caught:
        shapes.check_memory("llama-2-13b", small)
    assert "llama-2-7b" in str(caught.value.hint)
    gpu = Gpu(index=0, uuid="GPU-0", name="x", memory_total_bytes=24 * 10**9, memory_free_bytes=24 * 10**9)
    with pytest.raises(OutOfMemory, match="the largest GPU has 24"):
        shapes.check_memory(
            "llama-2-13b", Machine(cores=2, memory_total_bytes=1, memory_available_bytes=10**12, gpus=(gpu,))
        )
    shapes.check_memory("llama-2-13b", ROOMY)


def test_an_unknown_shape_names_the_nearest():
    """A slip of the pen is answered with the right name."""
    with pytest.raises(InvalidSetting) as caught:
        shapes.find("llama-2-13")
    assert "llama-2-13b" in str(caught.value.hint)
