"""LoRA on the torch backend: what PEFT computes, in batches whose rows have different adapters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import attrs
import peft
import pytest
import torch
import transformers
from tests.openllm.backends.torch.conftest import load_model
from tests.openllm.backends.torch.drive import GREEDY, PROMPTS, finals_of, request, run, tokens
from tests.tiny_adapters import blank_adapter, forcing_adapter
from tests.tiny_models import tiny_checkpoint

from openllm.backends.base import BackendRequest
from openllm.backends.torch import quantised
from openllm.backends.torch.backend import TorchBackend
from openllm.backends.torch.lora import AdapterMixer
from openllm.backends.torch.scheduler import Scheduler
from openllm.testing import Drive, Outcome
from openllm_core.errors import AdapterIncompatible, UnsupportedFeature
from openllm_core.options import EngineOptions

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    # what differs -> (architecture, arguments of LoraConfig)
    "plain": ("llama", {"r": 4, "target_modules": "all-linear"}),
    "rank-stabilised": ("llama", {"r": 8, "lora_alpha": 4, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]}),
    "ranks by layer": (
        "llama",
        {
            "r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"down_proj": 6}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 1},
        },
    ),
    "the head": ("llama_tied", {"r": 4, "target_modules": ["lm_head", "o_proj"]}),
    "transposed weights": ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "flattened rows": ("opt", {"r": 4, "target_modules": ["fc1", "fc2", "v_proj"]}),
    "one key-value head": ("falcon", {"r": 4, "target_modules": ["query_key_value", "dense_h_to_4h"]}),
    "encoder and decoder": ("t5", {"r": 4, "target_modules": ["q", "v", "wo"]}),
    "rows that run alone": ("mamba", {"r": 4, "target_modules": ["x_proj", "in_proj"]}),
}  # fmt: skip


def saved_by_peft(checkpoint: Path, folder: Path, seed: int, **arguments: Any) -> tuple[Path, Any]:
    """A random adapter that PEFT made and saved, and PEFT's own model with it."""
    auto = transformers.AutoModelForSeq2SeqLM if "t5" in checkpoint.name else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(checkpoint, dtype=torch.float32)
    torch.manual_seed(seed)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"lora_alpha": 8, "init_lora_weights": False} | arguments))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(folder)
    return folder, wrapped.eval()


def with_adapters(path: Path, *, quantize: str | None = None, **folders: Path) -> Scheduler:
    """A scheduler whose model has these adapters."""
    model, limits = load_model(path, max_adapters=4, quantize=quantize)
    assert model.adapters is not None
    for name, folder in folders.items():
        model.adapters.add(name, model.adapters.read(name, str(folder)))
    return Scheduler(model, attrs.evolve(limits, max_rows=16))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_peft(variant: str, checkpoints: Path, tmp_path: Path) -> None:
    """For every layout of weights and every way to scale: the same numbers as PEFT's model gives."""
    architecture, arguments = VARIANTS[variant]
    path = tiny_checkpoint(architecture, checkpoints)
    folder, reference = saved_by_peft(path, tmp_path / "one", 1, **arguments)
    scheduler = with_adapters(path, one=folder)
    model = scheduler.model
    ids, more = PROMPTS[0], [5, 6, 7]
    with torch.inference_mode():
        bare = model.whole(ids, more)
        with model.using(["one"]):
            found = model.whole(ids, more)
        if model.seq2seq:
            start = torch.tensor([[model.start_token_id, *more]])
            expected = reference(input_ids=torch.tensor([ids]), decoder_input_ids=start).logits[0]
        else:
            expected = reference(input_ids=torch.tensor([[*ids, *more]])).logits[0, -1 - len(more) :]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert (found - bare).abs().max() > 0.05


@pytest.mark.parametrize("architecture", ["llama", "opt", "t5", "mamba"])
def test_a_mixed_batch_answers_as_each_row_alone(architecture: str, checkpoints: Path, tmp_path: Path) -> None:
    """Rows of three adapters and of the base, the same prompts among them, share every step and mix nothing."""
    path = tiny_checkpoint(architecture, checkpoints)
    arguments: dict[str, Any] = {
        "llama": {"target_modules": "all-linear"}, "opt": {"target_modules": ["fc1", "v_proj"]},
        "t5": {"target_modules": ["q", "wo"]}, "mamba": {"target_modules": ["x_proj"]},
    }[architecture]  # fmt: skip
    folders = {
        name: saved_by_peft(path, tmp_path / name, seed, r=rank, **arguments)[0]
        for seed, (name, rank) in enumerate({"one": 2, "two": 8, "three": 4}.items())
    }
    scheduler = with_adapters(path, **folders)
    names = ["one", None, "two", "three"]
    asked = [(f"{name}-{at}", prompt, name) for at, prompt in enumerate(PROMPTS) for name in names]

    def made(key: str, prompt: Any, name: str | None) -> BackendRequest:
        return BackendRequest(key, list(prompt), GREEDY, adapter=name)

    together = tokens(scheduler, *(made(*one) for one in asked))
    alone = {one[0]: tokens(scheduler, made(*one))[one[0]] for one in asked}
    assert together == alone
    for at in range(len(PROMPTS)):
        assert len({tuple(together[f"{name}-{at}"]) for name in names}) > 1


def four_bit_base(path: Path) -> Any:
    """The model as transformers has it in 4 bits."""
    config = quantised.bitsandbytes_config("int4", torch.float32)
    return transformers.AutoModelForCausalLM.from_pretrained(path, quantization_config=config, dtype=torch.float32)


def saved_over_four_bits(path: Path, folder: Path, seed: int) -> Path:
    """A random adapter that PEFT made over 4-bit weights and saved."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    peft.get_peft_model(peft.prepare_model_for_kbit_training(four_bit_base(path)), config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantize", [None, "int4"])
def test_a_qlora_checkpoint_is_served(quantize: str | None, checkpoints: Path, tmp_path: Path) -> None:
    """One that was trained over 4-bit weights has the same files: it answers as PEFT has it, over plain weights or 4-bit ones."""
    path = tiny_checkpoint("llama", checkpoints, wide=True)
    folder = saved_over_four_bits(path, tmp_path / "q", 1)
    plain = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    reference = peft.PeftModel.from_pretrained(plain if quantize is None else four_bit_base(path), folder).eval()
    served = with_adapters(path, one=folder, quantize=quantize).model
    with torch.inference_mode():
        bare = served.whole(PROMPTS[0], [5, 6])
        with served.using(["one"]):
            found = served.whole(PROMPTS[0], [5, 6])
        expected = reference(input_ids=torch.tensor([[*PROMPTS[0], 5, 6]])).logits[0, -3:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert (found - bare).abs().max() > 0.05


def test_a_mixed_batch_over_four_bit_weights(checkpoints: Path, tmp_path: Path) -> None:
    """Rows of two adapters and of the bare quantised base answer together as each alone."""
    path = tiny_checkpoint("llama", checkpoints, wide=True)
    folders = {name: saved_over_four_bits(path, tmp_path / name, seed) for seed, name in enumerate(("one", "two"))}
    scheduler = with_adapters(path, quantize="int4", **folders)
    asked = [
        BackendRequest(f"{name}-{at}", list(prompt), GREEDY, adapter=name)
        for at, prompt in enumerate(PROMPTS)
        for name in (None, "one", "two")
    ]
    together = tokens(scheduler, *asked)
    assert together == {one.request_id: tokens(scheduler, one)[one.request_id] for one in asked}
    assert len({tuple(together[f"{name}-0"]) for name in (None, "one", "two")}) == 3


def test_an_unknown_adapter_fails_alone(checkpoints: Path) -> None:
    """Its mates are answered."""
    scheduler = with_adapters(tiny_checkpoint("llama", checkpoints))
    bad = BackendRequest("bad", [1, 2], GREEDY, adapter="nobody")
    found = finals_of(run(scheduler, bad, request("good", [1, 2, 3])))
    assert (found["bad"].error or {})["class"] == "AdapterNotFound"
    assert found["good"].finish_reason in ("length", "stop")


def test_an_adapter_of_another_model_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    """By the loaded layers themselves: a size that differs, a layer that is not there, one that is no linear layer."""
    scheduler = with_adapters(tiny_checkpoint("llama", checkpoints))
    mixer = scheduler.model.adapters
    assert mixer is not None
    for layer, size, word in (
        ("model.layers.0.self_attn.q_proj", 48, "32 x 32"),
        ("model.layers.7.self_attn.q_proj", 32, "no layer"),
        ("model.norm", 32, "no linear layer"),
    ):
        folder = blank_adapter(tmp_path / str(size) / layer, layer=layer, size=size)
        with pytest.raises(AdapterIncompatible, match=word):
            mixer.read("x", str(folder))


def test_numbers_that_are_none_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    """An adapter with NaN in it would answer nobody."""
    path = tiny_checkpoint("llama", checkpoints)
    folder, _ = saved_by_peft(path, tmp_path / "nan", 1, r=2, target_modules=["q_proj"])
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "adapter_model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, folder / "adapter_model.safetensors")
    mixer = with_adapters(path).model.adapters
    assert mixer is not None
    with pytest.raises(AdapterIncompatible, match="not finite"):
        mixer.read("x", str(folder))


def test_the_backend_loads_and_unloads_while_it_runs(checkpoints: Path, tmp_path: Path) -> None:
    """A token-forcing adapter answers as soon as it is loaded; unloading waits for its last sequence; the base goes on."""
    path = tiny_checkpoint("llama", checkpoints)
    folder = forcing_adapter(path, 77, tmp_path / "forces")

    async def test() -> None:
        backend = TorchBackend.load(
            EngineOptions(model_path=str(path), device="cpu", max_adapters=2), lambda text, share: None
        )
        assert backend.info.capabilities.adapters
        drive = Drive(backend, 60)

        def ask(name: str | None, limit: int) -> Outcome:
            made = request(f"{name}-{len(drive.outcomes)}", [1, 2, 3], max_tokens=limit)
            outcome = drive.outcomes[made.request_id] = Outcome()
            backend.submit(BackendRequest(made.request_id, made.prompt_token_ids, made.sampling, adapter=name))
            return outcome

        bare = ask(None, 8)
        await drive.finish(bare)
        await backend.load_adapter("a", str(folder))
        long, mate = ask("a", 300), ask(None, 8)
        await drive.finish(mate)
        unloading = asyncio.create_task(backend.unload_adapter("a"))
        await drive.finish(long)
        await unloading
        assert long.token_ids == [77] * 300
        assert mate.token_ids == bare.token_ids
        gone = ask("a", 4)
        await drive.finish(gone)
        assert (gone.deltas[-1].error or {})["class"] == "AdapterNotFound"
        await backend.aclose()
        await drive.ended()

    asyncio.run(test())


async def test_what_the_framework_raises_is_an_adapter_that_does_not_load(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device without room for one adapter is no fault of the engine, which goes on."""

    def full(mixer: AdapterMixer, matrix: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    path = tiny_checkpoint("llama", checkpoints)
    folder, _ = saved_by_peft(path, tmp_path / "one", 1, r=2, target_modules=["q_proj"])
    backend = TorchBackend.load(
        EngineOptions(model_path=str(path), device="cpu", max_adapters=2), lambda text, share: None
    )
    with monkeypatch.context() as patch:
        patch.setattr(AdapterMixer, "_placed", full)
        with pytest.raises(AdapterIncompatible, match=r"does not load: CUDA out of memory\.$"):
            await backend.load_adapter("one", str(folder))
    await backend.load_adapter("one", str(folder))
    await backend.check_health()
    await backend.aclose()


async def test_without_adapters_none_is_loaded(checkpoints: Path, tmp_path: Path) -> None:
    """They are asked for at the start, since they keep blocks from being compiled."""
    path = tiny_checkpoint("llama", checkpoints)
    backend = TorchBackend.load(EngineOptions(model_path=str(path), device="cpu"), lambda text, share: None)
    with pytest.raises(UnsupportedFeature, match="without adapters"):
        await backend.load_adapter("a", str(blank_adapter(tmp_path / "a")))
    await backend.aclose()
