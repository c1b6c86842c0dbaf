"""What of an adapter's files is refused before anything is loaded, each with its reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.tiny_adapters import adapter_config, blank_adapter, write_safetensors

from openllm.backends import adapter as adapters
from openllm.backends.checkpoint import read as read_checkpoint
from openllm_core.errors import AdapterIncompatible

STEM = "base_model.model.model.layers.0.self_attn.q_proj"


def folder_with(tmp_path: Path, shapes: dict[str, list[int]], config: dict[str, Any]) -> Path:
    """An adapter of these tensors."""
    folder = tmp_path / "made"
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", shapes)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def base(tmp_path: Path, name: str = "model.layers.0.self_attn.q_proj.weight", size: int = 32, **config: Any) -> Any:
    """A model folder of one layer."""
    folder = tmp_path / "base-model"
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "model.safetensors", {name: [size, size]})
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **config}))
    return read_checkpoint(folder)


def test_a_sound_adapter_is_read(tmp_path: Path) -> None:
    """Rank, layers, scale and base, the last without the path it may be."""
    found = adapters.read(blank_adapter(tmp_path / "a", rank=4, lora_alpha=8, base="/somewhere/else/tiny"))
    assert (found.rank, found.base) == (4, "tiny")
    assert found.layers["model.layers.0.self_attn.q_proj"] == adapters.LowRank(32, 32, 4, 2.0)
    stabilised = adapters.read(blank_adapter(tmp_path / "b", rank=4, lora_alpha=8, use_rslora=True))
    assert stabilised.layers["model.layers.0.self_attn.q_proj"].scale == pytest.approx(8 / math.sqrt(4))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "only LoRA"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base's own weights"),
        ({"layer_replication": [[0, 1]]}, "repeated layers"),
        ({"trainable_token_indices": [1]}, "retrained tokens"),
        ({"r": 8}, "rank 4, its adapter_config.json says 8"),
        ({"lora_alpha": None}, "without lora_alpha"),
        ({"lora_alpha": float("nan")}, "without lora_alpha"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern that is not served"),
        ({"rank_pattern": {"[z-a]": 8}}, "rank_pattern that is not served"),
        ({"lora_alpha": 10**400}, "without lora_alpha"),
        ({"alpha_pattern": [1]}, "alpha_pattern that is no object"),
    ],
)
def test_kinds_that_are_not_served(changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    """Whatever would silently answer otherwise than it was trained to is refused by its own name."""
    folder = blank_adapter(tmp_path / "a")
    config = adapter_config(4, ["q_proj"]) | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterIncompatible, match=word.replace("(", r"\(")):
        adapters.read(folder)


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        ({f"{STEM}.lora_A.weight": [4, 32]}, "only one of the two"),
        ({f"{STEM}.lora_A.weight": [4, 32], f"{STEM}.lora_B.weight": [32, 8]}, "rank 4 and 8"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": [4, 32]}, "no part of a linear layer"),
        ({f"{STEM}.lora_A.weight": [4, 32], f"{STEM}.lora_magnitude_vector": [32]}, "no part of a linear layer"),
        ({f"{STEM}.lora_A.weight": [4, 32, 1]}, "a matrix of floats"),
        ({}, "no weights"),
    ],
)
def test_tensors_that_do_not_belong(shapes: dict[str, list[int]], word: str, tmp_path: Path) -> None:
    """Nothing of a file is passed over in silence."""
    with pytest.raises(AdapterIncompatible, match=word):
        adapters.read(folder_with(tmp_path, shapes, adapter_config(4, ["q_proj"])))


def test_a_rank_of_nothing(tmp_path: Path) -> None:
    """Matrices without rows are no adapter, whatever the configuration says."""
    shapes = {f"{STEM}.lora_A.weight": [0, 32], f"{STEM}.lora_B.weight": [32, 0]}
    with pytest.raises(AdapterIncompatible, match="rank 0"):
        adapters.read(folder_with(tmp_path, shapes, adapter_config(0, ["q_proj"])))


def test_offsets_that_do_not_match_the_shapes(tmp_path: Path) -> None:
    """The file is as long as its header says, but a tensor has other bytes than its shape needs, or another's."""
    folder = blank_adapter(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    assert b"[0, 512]" in whole and b"[512, 1024]" in whole
    for second in (b"[500, 1024]", b"[600, 1112]", b"[0, 512]", b"[-1, 1024]"):
        text = whole[8 : -2 * 512].replace(b"[512, 1024]", second)
        end = json.loads(text)[f"{STEM}.lora_B.weight"]["data_offsets"][1]
        weights.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
        with pytest.raises(AdapterIncompatible, match="not a whole safetensors file"):
            adapters.read(folder)


def test_files_that_are_missing_broken_or_pickled(tmp_path: Path) -> None:
    """Each is named; pickle is never opened."""
    with pytest.raises(AdapterIncompatible, match="no adapter folder"):
        adapters.read(tmp_path / "nowhere")
    folder = blank_adapter(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    with pytest.raises(AdapterIncompatible, match="not a whole safetensors file"):
        adapters.read(folder)
    weights.unlink()
    with pytest.raises(AdapterIncompatible, match=r"has no adapter_model\.safetensors"):
        adapters.read(folder)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(AdapterIncompatible, match="pickle"):
        adapters.read(folder)
    (folder / "adapter_config.json").write_text("[1")
    with pytest.raises(AdapterIncompatible, match="cannot be read"):
        adapters.read(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(AdapterIncompatible, match="is no adapter"):
        adapters.read(folder)


def test_another_base_and_too_high_a_rank(tmp_path: Path) -> None:
    """Sizes and layers are compared with the model's own files; the message has both, and what it was trained on."""
    found = adapters.read(blank_adapter(tmp_path / "a", rank=16, base="org/other"))
    adapters.check_fits(found, base(tmp_path), 16)
    with pytest.raises(AdapterIncompatible, match="has rank 16; this server takes 8") as refused:
        adapters.check_fits(found, base(tmp_path), 8)
    assert "--max-adapter-rank 16" in (refused.value.hint or "")
    with pytest.raises(AdapterIncompatible, match=r"32 x 32, base-model has 48 x 48 \(trained on org/other\)"):
        adapters.check_fits(found, base(tmp_path, size=48), 64)
    with pytest.raises(AdapterIncompatible, match="has no layer"):
        adapters.check_fits(found, base(tmp_path, name="transformer.h.0.attn.c_attn.weight"), 64)
    adapters.check_fits(found, base(tmp_path, name="layers.0.self_attn.q_proj.weight"), 64)  # a prefix left out


def test_a_layer_that_the_base_lacks(tmp_path: Path) -> None:
    """One is enough, also where the others fit; a head that shares the embedding's weights is there without a name."""
    shapes = {f"{STEM}.lora_{side}.weight": size for side, size in (("A", [4, 32]), ("B", [32, 4]))}
    deeper = {name.replace("layers.0", "layers.30"): size for name, size in shapes.items()}
    found = adapters.read(folder_with(tmp_path, shapes | deeper, adapter_config(4, ["q_proj"])))
    with pytest.raises(AdapterIncompatible, match=r"base-model has no layer model\.layers\.30\.self_attn\.q_proj"):
        adapters.check_fits(found, base(tmp_path), 16)
    block = blank_adapter(tmp_path / "block", layer="model.layers.0.self_attn")
    with pytest.raises(AdapterIncompatible, match=r"has no layer model\.layers\.0\.self_attn"):
        adapters.check_fits(adapters.read(block), base(tmp_path), 16)
    head = {f"base_model.model.lm_head.lora_{side}.weight": size for side, size in (("A", [4, 32]), ("B", [96, 4]))}
    (tmp_path / "made").rename(tmp_path / "other")
    found = adapters.read(folder_with(tmp_path, shapes | head, adapter_config(4, ["q_proj", "lm_head"])))
    adapters.check_fits(found, base(tmp_path, hidden_size=32, vocab_size=96), 16)
    adapters.check_fits(found, base(tmp_path), 16)
    with pytest.raises(AdapterIncompatible, match="its lm_head is 96 x 32, base-model has 100 x 32"):
        adapters.check_fits(found, base(tmp_path, hidden_size=32, vocab_size=100), 16)


@pytest.mark.parametrize(
    ("parts", "config"),
    [
        ({"qweight": [4, 48], "scales": [1, 48]}, {"quant_method": "gptq", "bits": 4}),
        ({"qweight": [3, 48], "scales": [1, 48], "g_idx": [32]}, {"quant_method": "gptq", "bits": 4}),
        ({"qweight": [32, 6], "scales": [1, 48]}, {"quant_method": "awq", "w_bit": 4}),
        ({"weight": [48, 32], "SCB": [48]}, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    ],
)
def test_a_quantised_base_is_held_against_it(
    parts: dict[str, list[int]], config: dict[str, Any], tmp_path: Path
) -> None:
    """The sizes that its packed layers stand for are compared, and one of another model is refused as ever."""
    stem = "model.layers.0.self_attn.q_proj"
    checkpoint = base(tmp_path, quantization_config=config)
    write_safetensors(checkpoint.path / "model.safetensors", {f"{stem}.{name}": size for name, size in parts.items()})

    def adapter(inputs: int, outputs: int, layer: int = 0) -> adapters.AdapterFiles:
        name = STEM.replace("layers.0", f"layers.{layer}")
        folder = tmp_path / f"{layer}-{inputs}-{outputs}"
        folder.mkdir()
        shapes = {f"{name}.lora_A.weight": [4, inputs], f"{name}.lora_B.weight": [outputs, 4]}
        return adapters.read(folder_with(folder, shapes, adapter_config(4, ["q_proj"])))

    adapters.check_fits(adapter(32, 48), checkpoint, 16)
    for inputs, outputs in ((24, 48), (32, 40)):
        with pytest.raises(AdapterIncompatible, match=f"is {outputs} x {inputs}, base-model has 48 x 32"):
            adapters.check_fits(adapter(inputs, outputs), checkpoint, 16)
    with pytest.raises(AdapterIncompatible, match="has no layer"):
        adapters.check_fits(adapter(32, 48, layer=1), checkpoint, 16)


@pytest.mark.parametrize("part", ["weight_packed", "codes", "weight.absmax"])
def test_a_base_packed_in_a_way_of_its_own(part: str, tmp_path: Path) -> None:
    """A layer is known by its name where its sizes cannot be told; the backend compares those."""
    stem = "model.layers.0.self_attn.q_proj"
    checkpoint = base(tmp_path, quantization_config={"quant_method": "other"})
    shapes = {f"{stem}.{part}": [512, 1]} | ({f"{stem}.weight": [512, 1]} if part == "weight.absmax" else {})
    write_safetensors(checkpoint.path / "model.safetensors", shapes)
    adapters.check_fits(adapters.read(blank_adapter(tmp_path / "a")), checkpoint, 16)
    other = blank_adapter(tmp_path / "b", layer="model.layers.1.self_attn.q_proj")
    with pytest.raises(AdapterIncompatible, match="has no layer"):
        adapters.check_fits(adapters.read(other), checkpoint, 16)
