"""`LLM.prepare_for_training`: a model whose adapter alone is trained, with the family's settings, and its tokenizer."""

from __future__ import annotations

import builtins
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tests.openllm.finetune.conftest import MakeLLM
from tests.openllm.serialisation import small

import openllm
from openllm_core.errors import (
    CorruptModel,
    FineTuneStrategyNotSupportedError,
    InvalidSetting,
    MissingDependency,
    OpenLLMError,
    OutOfMemory,
    UnsupportedFeature,
)

TEXT = "the quick brown fox jumps over the lazy dog"


def one_step(model: Any, tokenizer: Any) -> dict[str, torch.Tensor]:
    """One step of a large rate; gives the parameters as they were before it."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    batch = tokenizer([TEXT, TEXT[:20]], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    model(**batch, labels=labels).loss.backward()
    optimizer.step()
    return before


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("name", ["opt", "falcon", "llama", "t5"])
def test_one_step_changes_the_adapter_alone(make_llm: MakeLLM, name: str, checkpointing: bool) -> None:
    """A PeftModel and its tokenizer come back; training moves the LoRA matrices and nothing of the base."""
    model, tokenizer = make_llm(name).prepare_for_training(use_gradient_checkpointing=checkpointing)
    assert isinstance(model, peft.PeftModel)
    assert model.training
    assert model.is_gradient_checkpointing is checkpointing
    before = one_step(model, tokenizer)
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    adapter = {key for key in before if "lora_" in key}
    assert changed
    assert changed <= adapter
    assert {key for key in adapter if "lora_B" in key} <= changed  # A has no gradient while B is zero


def test_the_familys_settings_are_taken(make_llm: MakeLLM) -> None:
    """OPT, Falcon and Llama as 0.3.5 had them; another family gets every linear layer; what is given wins."""

    def config(name: str, **settings: Any) -> Any:
        return make_llm(name).prepare_for_training("lora", **settings)[0].peft_config["default"]

    opt = config("opt")
    assert (opt.r, opt.lora_alpha, opt.lora_dropout, set(opt.target_modules)) == (16, 32, 0.05, {"q_proj", "v_proj"})
    assert opt.task_type == "CAUSAL_LM"
    falcon = config("falcon", r=4)
    assert (falcon.r, falcon.lora_alpha) == (4, 16)
    assert set(falcon.target_modules) == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
    assert config("llama").r == 64
    other = config("stablelm")
    assert (other.r, other.lora_alpha) == (16, 32)
    layers = {name.rpartition(".")[2] for name in other.target_modules}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert config("t5").task_type == "SEQ_2_SEQ_LM"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("IA3", {}),
        ("prefix-tuning", {"num_virtual_tokens": 4}),
        ("prompt_tuning", {"num_virtual_tokens": 4}),
        ("p_tuning", {"num_virtual_tokens": 4}),
        ("adaption_prompt", {"adapter_len": 4, "adapter_layers": 1}),
        ("adalora", {"total_step": 10, "target_modules": ["q_proj"]}),
    ],
)
def test_other_kinds_of_adapter(make_llm: MakeLLM, kind: str, settings: dict[str, Any]) -> None:
    """Every kind that peft has of those a setting may name, in any spelling."""
    model, _ = make_llm("llama").prepare_for_training(kind, False, **settings)
    assert model.peft_config["default"].peft_type == kind.replace("-", "_").upper()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) > 0


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_an_adapter_over_quantised_weights(make_llm: MakeLLM, scheme: str) -> None:
    """The base is held in 4 or 8 bits, on a CPU too, and a step moves the adapter alone."""
    model, tokenizer = make_llm("llama", quantize=scheme).prepare_for_training()
    layer = model.base_model.model.model.layers[0].self_attn.q_proj.base_layer
    assert type(layer).__name__ == {"int4": "Linear4bit", "int8": "Linear8bitLt"}[scheme]
    assert layer.weight.dtype == {"int4": torch.uint8, "int8": torch.int8}[scheme]
    before = one_step(model, tokenizer)
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert changed
    assert all("lora_" in key for key in changed)


@pytest.mark.parametrize("scheme", [None, "int4"])
def test_the_device_is_the_one_asked_for(
    make_llm: MakeLLM, monkeypatch: pytest.MonkeyPatch, scheme: str | None
) -> None:
    """Quantised weights are put where `device` says; left alone, bitsandbytes would take a GPU that is there."""
    llm = make_llm("llama", quantize=scheme)
    given: dict[str, Any] = {}
    real = llm.load_model

    def load_model(**arguments: Any) -> Any:
        given.update(arguments)
        return real(**arguments)

    monkeypatch.setattr(llm, "load_model", load_model)
    model, _ = llm.prepare_for_training()
    assert given.get("device_map") == (None if scheme is None else {"": "cpu"})
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_what_cannot_be_trained_over_is_refused(make_llm: MakeLLM) -> None:
    """GPTQ and AWQ name what can."""
    with pytest.raises(UnsupportedFeature, match="gptq") as caught:
        make_llm("llama", quantize="gptq").prepare_for_training()
    assert "int4" in str(caught.value.hint)


def test_weights_that_are_quantised_already_are_not_quantised_again(make_llm: MakeLLM, tmp_path: Path) -> None:
    """`--quantize int4` over a GPTQ checkpoint is refused before anything is loaded; the hint says what to do."""
    folder = shutil.copytree(make_llm("llama").resolved().path, tmp_path / "tiny-gptq")
    config = json.loads((folder / "config.json").read_bytes())
    stored = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": stored}))
    llm = openllm.LLM(str(folder), store=small.options(tmp_path / "home"), device="cpu", quantize="int4")
    with pytest.raises(InvalidSetting, match="gptq, 4 bits, groups of 32 already") as caught:
        llm.prepare_for_training()
    assert caught.value.param == "quantize"
    assert "Leave --quantize out" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("raised", "expected", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), OutOfMemory, "2.00 GiB"),
        (MemoryError(), OutOfMemory, "Memory ran out"),
        (ImportError("no module named 'tiktoken'"), MissingDependency, "tiktoken"),
        (ValueError("a setting of the checkpoint that nothing knows"), CorruptModel, "nothing knows"),
        (OSError("it has no file named model.safetensors"), CorruptModel, "no file named"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_no_bug_of_ours(
    make_llm: MakeLLM, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[OpenLLMError], told: str
) -> None:
    """Whatever transformers raises over a checkpoint or a full GPU becomes one error with its reason."""
    llm = make_llm("llama")

    def load_model(**given: Any) -> Any:
        raise raised

    monkeypatch.setattr(llm, "load_model", load_model)
    with pytest.raises(expected, match=told):
        llm.prepare_for_training()


def test_wrong_kinds_and_settings_are_named(make_llm: MakeLLM) -> None:
    """An unknown kind lists the known; an unknown setting is named; so is a layer the model has not."""
    llm = make_llm("llama")
    with pytest.raises(FineTuneStrategyNotSupportedError, match="'dora' is no adapter type") as kind:
        llm.prepare_for_training("dora")
    assert "prefix_tuning" in str(kind.value.hint)
    with pytest.raises(InvalidSetting, match="no setting 'rank' for lora") as setting:
        llm.prepare_for_training(rank=4)
    assert setting.value.param == "rank"
    with pytest.raises(InvalidSetting, match=r"cannot add this adapter to .*nowhere"):
        llm.prepare_for_training(target_modules=["nowhere"])


def test_the_tokenizer_can_pad(make_llm: MakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer without a padding token pads with its end token."""
    llm = make_llm("llama")
    bare = llm.load_tokenizer()
    bare.pad_token = None
    monkeypatch.setattr(llm, "load_tokenizer", lambda **attrs: bare)
    _, tokenizer = llm.prepare_for_training()
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"


def test_without_peft_the_extra_is_named(make_llm: MakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint is the line that brings it."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "peft":
            raise ImportError("No module named 'peft'")
        return real(name, *rest)

    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency) as caught:
        make_llm("llama").prepare_for_training()
    assert caught.value.hint == 'pip install "openllm[fine-tune]"'
