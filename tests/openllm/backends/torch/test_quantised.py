"""int8 and int4 weights on the pt backend: made while loading by bitsandbytes, right, checked, and neither packed nor compiled."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.openllm.backends.torch.conftest import load_model
from tests.openllm.backends.torch.drive import PROMPTS, request, tokens
from tests.tiny_models import tiny_checkpoint

from openllm.backends import checkpoint as checkpoint_module
from openllm.backends.quantisation import Scheme, Stored
from openllm.backends.torch import load, loading, quantised, tuning, verify
from openllm.backends.torch.scheduler import Scheduler
from openllm_core.errors import InvalidSetting, MissingDependency
from openllm_core.options import EngineOptions

SCHEMES = {"int8": "Linear8bitLt", "int4": "Linear4bit"}


def loaded(folder: Path, **options: Any) -> tuple[loading.LoadedModel, tuning.Choice]:
    """A model as the backend loads and checks it."""
    settings = EngineOptions(model_path=str(folder), device="cpu", **options)
    checkpoint = checkpoint_module.read(folder)
    device = torch.device("cpu")
    choice = tuning.choose(settings, checkpoint, device, lambda text, share: None)
    model = loading.load(settings, checkpoint, choice, device, lambda text, share: None)
    return model, tuning.confirm(settings, checkpoint, choice, model)


@pytest.mark.parametrize(("scheme", "kind"), SCHEMES.items())
def test_every_layer_but_the_head_is_quantised(scheme: str, kind: str, checkpoints: Path) -> None:
    """The layers of each block are bitsandbytes', the head stays as it was, and the report says who did it."""
    model, choice = loaded(tiny_checkpoint("llama", checkpoints), quantize=scheme)
    kinds = {name: type(layer).__name__ for name, layer in model.module.named_modules() if name.endswith("_proj")}
    assert len(kinds) == 2 * 7 and set(kinds.values()) == {kind}
    assert type(model.module.lm_head) is torch.nn.Linear
    assert choice.linear == "plain" and not choice.compile
    assert any(
        line.startswith(f"quantisation: {scheme} (made while loading; bitsandbytes") for line in choice.decisions
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_share_a_window(scheme: str, name: str, checkpoints: Path) -> None:
    """A quantised model is checked like any other, and serves rows of unlike length together."""
    model, limits = load_model(tiny_checkpoint(name, checkpoints), quantize=scheme)
    assert model.windowed
    made = tokens(Scheduler(model, limits), *(request(str(i), p) for i, p in enumerate(PROMPTS)))
    assert all(len(ids) >= 1 for ids in made.values()) and len(made) == len(PROMPTS)


def test_a_cpu_that_packs_int4_packs_no_layer_it_cannot(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes packs every layer on a CPU with AVX512_BF16, and raises over one that is no multiple of its blocks."""
    modules = importlib.import_module("bitsandbytes.nn.modules")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    checkpoint = checkpoint_module.read(tiny_checkpoint("llama", checkpoints))
    settings = EngineOptions(model_path=str(checkpoint.path), device="cpu", quantize="int4")
    choice = tuning.choose(settings, checkpoint, torch.device("cpu"), lambda text, share: None)
    model = loading.load(settings, checkpoint, choice, torch.device("cpu"), lambda text, share: None)
    layers = [layer for layer in model.module.modules() if type(layer).__name__ == SCHEMES["int4"]]
    assert layers and not all(layer.support_avx512bf16_for_cpu for layer in layers)
    for layer in layers:
        if layer.support_avx512bf16_for_cpu:
            modules._convert_weight_packed_for_cpu(layer.weight.data, layer.weight.quant_state)


def test_int4_answers_are_transformers_own(checkpoints: Path) -> None:
    """Greedy tokens of a batch equal those of transformers' generate over the same weights, row by row."""
    folder = tiny_checkpoint("llama", checkpoints)
    model, limits = load_model(folder, quantize="int4")
    made = tokens(Scheduler(model, limits), *(request(str(i), p) for i, p in enumerate(PROMPTS)))
    config = quantised.bitsandbytes_config("int4", torch.float32)
    reference: Any = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), quantization_config=config, dtype=torch.float32
    )
    quantised.pack_only_what_fits(reference)  # bitsandbytes by itself raises over this size on CPUs with AVX512_BF16
    for i, prompt in enumerate(PROMPTS):
        ids = reference.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
        assert made[str(i)] == ids[: len(made[str(i)])]


def test_int8_weights_are_near_the_plain_ones(checkpoints: Path) -> None:
    """With its rounding of inputs put aside, an int8 model gives the plain model's logits within a few per cent."""
    folder = tiny_checkpoint("llama", checkpoints)
    plain, _ = loaded(folder)
    small, _ = loaded(folder, quantize="int8")
    expected = plain.whole(PROMPTS[0], [5, 6])
    with quantised.without_rounding(small.module):
        found = small.whole(PROMPTS[0], [5, 6])
    assert not torch.equal(found, expected)
    assert float((found - expected).norm() / expected.norm()) < 0.05
    with torch.inference_mode():
        assert not torch.equal(small.whole(PROMPTS[0], [5, 6]), found)  # and its own way is back afterwards


def test_a_wrong_window_is_noticed(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding does not hide a window that is wrong: the check compares without it."""
    model, _ = loaded(tiny_checkpoint("llama", checkpoints), quantize="int8")
    expected = [verify.reference(model)]
    assert verify.windowed(model, expected)
    decode = type(model).decode

    def shifted(self: Any, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
        return decode(self, ids, mask, None if positions is None else positions + 1, cache)

    monkeypatch.setattr(type(model), "decode", shifted)
    assert not verify.windowed(model, expected)


@pytest.mark.parametrize("options", [{"compile": "on"}, {"engine_arg": {"linear": "packed16"}}])
def test_quantised_layers_are_neither_packed_nor_compiled(options: dict[str, Any], checkpoints: Path) -> None:
    """Asking for both is refused before anything is loaded."""
    folder = tiny_checkpoint("llama", checkpoints)
    with pytest.raises(InvalidSetting, match="neither compiled nor packed"):
        loaded(folder, quantize="int8", **options)


def test_a_gptq_checkpoint_names_the_extra(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gptqmodel a GPTQ checkpoint is refused before its weights are read, with the line that mends it."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("llama", checkpoints), folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    from openllm.backends import quantisation

    monkeypatch.setattr(quantisation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="gptqmodel and optimum") as caught:
        load(EngineOptions(model_path=str(folder), device="cpu"), lambda text, share: None)
    assert caught.value.hint == 'pip install "openllm[gptq]"'


def test_a_method_that_the_table_does_not_know_is_left_to_transformers(tmp_path: Path) -> None:
    """compressed-tensors, fp8 and whatever else has no row: transformers reads it from config.json, and we add nothing."""
    checkpoint = checkpoint_module.Checkpoint(
        path=tmp_path, config={}, files=(), pickled=False, num_parameters=0, weight_bytes=0, dtype="bfloat16"
    )
    held = Stored(method="compressed-tensors", bits=None, group_size=None, config={"format": "pack-quantized"})
    scheme = Scheme(name=held.method, made=False, stored=held, line="")
    assert quantised.arguments(scheme, EngineOptions(device="cpu"), checkpoint, torch.float32) == {}


@pytest.mark.parametrize(
    ("kind", "home", "dtype", "found"),
    [
        ("TorchAtenLinear", "gptqmodel.nn_modules.qlinear", torch.float32, torch.bfloat16),
        ("TorchAtenLinear", "gptqmodel.nn_modules.qlinear", torch.float16, torch.bfloat16),
        ("AwqTorchLinear", "gptqmodel.nn_modules.qlinear", torch.float32, torch.float16),
        ("AwqTorchLinear", "gptqmodel.nn_modules.qlinear", torch.bfloat16, torch.bfloat16),
        ("TorchLinear", "gptqmodel.nn_modules.qlinear", torch.float32, torch.float32),  # keeps what it is given
        ("TorchAtenLinear", "another", torch.float32, torch.float32),
    ],
)
def test_only_layers_that_round_are_allowed_for(kind: str, home: str, dtype: torch.dtype, found: torch.dtype) -> None:
    """A model with gptqmodel's layers is held to the type those very layers multiply in, and no coarser one."""
    layer = type(kind, (torch.nn.Linear,), {"__module__": home})(2, 2)
    assert quantised.computed_in(torch.nn.Sequential(torch.nn.Linear(2, 2), layer), dtype) == found
