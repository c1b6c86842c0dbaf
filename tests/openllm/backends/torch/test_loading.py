"""What is refused before or while loading, and what a loaded model says of itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.openllm.backends.torch.conftest import load_model
from tests.openllm.backends.torch.drive import PROMPTS, request, tokens
from tests.tiny_models import BOS, CONTEXT, EOS, tiny_checkpoint
from torch import nn

from openllm.backends import checkpoint as checkpoint_module
from openllm.backends.torch import launch, load, loading
from openllm.backends.torch.backend import TorchBackend
from openllm.backends.torch.linears import FusedRMSNorm, PackedLinear, available, pack_linears, widen_rest
from openllm.backends.torch.scheduler import Scheduler
from openllm_core.errors import (
    CorruptModel,
    MissingDependency,
    NoSuitableDevice,
    OutOfMemory,
    UnsafeConfiguration,
    UnsupportedFeature,
)
from openllm_core.options import EngineOptions
from openllm_core.resources.detect import Gpu, Machine

GIB = 1 << 30


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may spoil."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("llama", checkpoints), copy)
    return copy


def open_backend(folder: Path, **options: Any) -> TorchBackend:
    """Load on the CPU."""
    return TorchBackend.load(EngineOptions(model_path=str(folder), device="cpu", **options), lambda text, share: None)


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_info(folder: Path) -> None:
    """Context, vocabulary, end tokens and what was decided come from the folder and the machine."""
    edit(folder / "generation_config.json", eos_token_id=[7, EOS])
    backend = open_backend(folder, max_num_seqs=5)
    info = backend.info
    backend.close()
    assert (info.max_model_len, info.max_prompt_len, info.vocab_size, info.max_batch) == (CONTEXT, CONTEXT - 1, 384, 5)
    assert info.eos_token_ids == (EOS, 7)
    assert info.bos_token_id == BOS
    assert (info.device, info.dtype, info.architecture) == ("cpu", "float32", "LlamaForCausalLM")
    assert info.decisions and info.memory_bytes > 0


def test_max_model_len_only_shortens(folder: Path) -> None:
    """The asked-for context counts up to the model's own."""
    assert [open_and_ask(folder, n) for n in (100, 1000)] == [100, CONTEXT]


def open_and_ask(folder: Path, max_model_len: int) -> int:
    """Context of a backend with this option."""
    backend = open_backend(folder, max_model_len=max_model_len)
    backend.close()
    return backend.info.max_model_len


def test_a_missing_parameter_is_named(folder: Path) -> None:
    """Weights that no file holds would be random: refused, with the first one's name."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CorruptModel, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        open_backend(folder)


def test_a_wrong_shape_is_refused(folder: Path) -> None:
    """A tensor of another shape than the config says is refused."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(31)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CorruptModel):
        open_backend(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "config.json").unlink(),
        lambda f: (f / "config.json").write_text("[1]"),
        lambda f: (f / "config.json").write_text('{"architectures": '),
        lambda f: (f / "model.safetensors").unlink(),
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1000]),
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100),
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "absent.safetensors"}}'),
    ],
)
def test_broken_folders_are_refused(folder: Path, spoil: Any) -> None:
    """Anything missing, cut off or malformed is a CorruptModel before torch reads a weight."""
    spoil(folder)
    with pytest.raises(CorruptModel):
        launch.estimate(EngineOptions(model_path=str(folder)))
    with pytest.raises(CorruptModel):
        open_backend(folder)


def test_pickled_weights_need_consent(folder: Path) -> None:
    """Pickle can run code: refused with the flag named, read when the flag was given."""
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CorruptModel, match="pickle") as refused:
        open_backend(folder)
    assert "--allow-pickle-weights" in (refused.value.hint or "")
    open_backend(folder, allow_pickle_weights=True).close()


def test_code_of_the_model_needs_consent(folder: Path) -> None:
    """A model that brings Python code is refused with the flag named."""
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    (folder / "modeling_own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UnsafeConfiguration) as refused:
        open_backend(folder)
    assert "--trust-remote-code" in (refused.value.hint or "")


@pytest.mark.parametrize("name", ["falcon", "mpt"])
def test_code_that_transformers_has_replaced_is_left_aside(checkpoints: Path, tmp_path: Path, name: str) -> None:
    """Falcon and MPT come with code on the hub: they load without trust, and not a line of that code runs."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint(name, checkpoints), folder)
    config = f"configuration_{name}.{name.upper()}Config"
    edit(folder / "config.json", auto_map={"AutoConfig": config, "AutoModelForCausalLM": f"modeling_{name}.Own"})
    ran = tmp_path / "ran"
    for file in (f"configuration_{name}.py", f"modeling_{name}.py"):
        (folder / file).write_text(f"open({str(ran)!r}, 'w').close()\nraise SystemExit('ran')")
    backend = open_backend(folder, attention="sdpa", dtype="float32", threads=1)
    assert (
        backend.info.vocab_size == json.loads((folder / "config.json").read_text())["vocab_size"] and not ran.exists()
    )
    backend.close()


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    """An architecture that transformers does not know is named as such."""
    edit(folder / "config.json", model_type="never_heard_of", architectures=["NeverForCausalLM"])
    with pytest.raises(UnsupportedFeature, match="NeverForCausalLM"):
        open_backend(folder)


def test_too_large_is_refused_before_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that will not fit is refused with need and have in bytes, and no weight is read."""
    small = Machine(cores=2, memory_total_bytes=GIB, memory_available_bytes=123_456_789)
    monkeypatch.setattr(launch.detect, "machine", lambda **_: small)
    monkeypatch.setattr("openllm.backends.torch.loading.load_module", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(OutOfMemory, match="123,456,789") as refused:
        open_backend(folder)
    need = launch.estimate(EngineOptions(model_path=str(folder)), small)
    assert f"{need.need_bytes:,}" in refused.value.message
    assert need.need_bytes == sum(need.parts.values()) > need.have_bytes


def test_estimate_follows_type_and_device(folder: Path) -> None:
    """Weights count in the type they are computed in, against the memory of the device that will hold them."""
    gpu = Gpu(index=0, uuid="GPU-1", name="G", memory_total_bytes=80 * GIB, memory_free_bytes=70 * GIB)
    machine = Machine(cores=8, memory_total_bytes=64 * GIB, memory_available_bytes=60 * GIB, gpus=(gpu,))
    parameters = checkpoint_module.read(folder).num_parameters
    full = launch.estimate(EngineOptions(model_path=str(folder), device="cpu"), machine)
    half = launch.estimate(EngineOptions(model_path=str(folder), device="0", dtype="bfloat16"), machine)
    assert (full.parts["weights"], half.parts["weights"]) == (4 * parameters, 2 * parameters)
    assert (full.have_bytes, half.have_bytes) == (60 * GIB, 70 * GIB)


def test_environment() -> None:
    """The host gets its threads, quiet waiting, and the devices that were asked for."""
    machine = Machine(cores=8, physical_cores=4, memory_total_bytes=GIB, memory_available_bytes=GIB)
    variables = launch.environment(EngineOptions(device="cpu"), machine)
    assert variables["OMP_NUM_THREADS"] == "4"
    assert 0 < int(variables["GOMP_SPINCOUNT"]) < 100_000
    assert variables["CUDA_VISIBLE_DEVICES"] == "-1"
    assert "CUDA_VISIBLE_DEVICES" not in launch.environment(EngineOptions(), machine)
    chosen = launch.environment(EngineOptions(device="2,3", threads=3), machine)
    assert (chosen["CUDA_VISIBLE_DEVICES"], chosen["OMP_NUM_THREADS"]) == ("2,3", "3")


def test_a_gpu_that_is_not_there(folder: Path) -> None:
    """Asking for a GPU on a machine without one is an error that names it, never a silent CPU."""
    with pytest.raises(NoSuitableDevice):
        load(EngineOptions(model_path=str(folder), device="7"), lambda text, share: None).info  # noqa: B018


def test_one_gpu_gets_the_whole_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch sees GPUs, every weight goes straight to the first it sees, which `launch` made the chosen one; none stays."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = EngineOptions(model_path=str(folder))
    device = loading.choose_device(options)
    asked: dict[str, Any] = {}

    def read(auto: Any, path: str, **arguments: Any) -> Any:
        asked.update(arguments)
        raise MemoryError("no GPU is here")

    monkeypatch.setattr(loading, "from_pretrained", read)
    with pytest.raises(OutOfMemory):
        loading.load_module(options, checkpoint_module.read(folder), device, torch.bfloat16)
    assert device == torch.device("cuda", 0) and asked["device_map"] == {"": device}


def test_launch_needs_no_torch(folder: Path) -> None:
    """Environment and estimate come from the files alone: neither torch nor transformers is imported."""
    script = (
        "import sys; from openllm.backends.torch import launch, load; from openllm_core.options import EngineOptions\n"
        f"launch.estimate(EngineOptions(model_path={str(folder)!r})); launch.environment(EngineOptions())\n"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_missing_framework_is_named(folder: Path) -> None:
    """Without torch the error names the package and the pip line, not a traceback."""
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from openllm.backends.torch import load; from openllm_core.options import EngineOptions\n"
        "from openllm_core.errors import MissingDependency\n"
        f"try: load(EngineOptions(model_path={str(folder)!r}), print)\n"
        "except MissingDependency as e: print(e.message, e.hint)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "torch" in done.stdout and "pip install" in done.stdout
    assert issubclass(MissingDependency, ImportError)


# -- packed layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "stored"), [("packed16", torch.bfloat16), ("packed16", torch.float16), ("onednn", torch.float32)]
)
def test_packed_layers_compute_the_same(kind: str, stored: torch.dtype) -> None:
    """A packed layer gives what the plain one gives in float32, for any number of rows and with or without a bias."""
    if not available(kind, stored):
        pytest.fail(f"{kind} is not there: the default CPU build of torch has it")
    generator = torch.Generator().manual_seed(1)
    for bias in (None, torch.randn(48, generator=generator).to(stored)):
        weight = (torch.randn(48, 40, generator=generator) * 0.02).to(stored)
        packed = PackedLinear(weight, bias, kind)
        for rows in (1, 3, 64):
            x = torch.randn(rows, 2, 40, generator=generator)
            wide = None if bias is None else bias.float()
            torch.testing.assert_close(packed(x), nn.functional.linear(x, weight.float(), wide), rtol=1e-4, atol=1e-5)
        assert packed.weight.shape == (48, 40)


def test_values_float16_cannot_hold_stay_plain() -> None:
    """A weight beyond float16's range is left as it is rather than clipped."""
    model = nn.Sequential(nn.Linear(8, 8, dtype=torch.bfloat16), nn.Linear(8, 8, dtype=torch.bfloat16))
    with torch.no_grad():
        model[0].weight[0, 0] = 1e6
        model[1].weight.fill_(0.5)
    assert pack_linears(model, "packed16", dtype=torch.float32) == (1, 1)
    widen_rest(model)
    with torch.inference_mode():
        assert model(torch.ones(1, 8)).isfinite().all()
    assert type(model[0]) is nn.Linear and type(model[1]) is PackedLinear


def test_a_packed_model_gives_the_same_tokens(checkpoints: Path) -> None:
    """bfloat16 weights, packed or widened whole, give the same greedy tokens."""
    from tests.openllm.backends.torch.conftest import load_model

    path = tiny_checkpoint("llama_tied", checkpoints, dtype="bfloat16")
    requests = [request(str(at), prompt) for at, prompt in enumerate(PROMPTS)]
    found = [
        tokens(Scheduler(*load_model(path, engine_arg={"linear": kind})), *requests)
        for kind in ("plain", "packed16", "onednn")
    ]
    assert found[0] == found[1] == found[2]


def test_only_norms_that_give_the_same_are_fused(checkpoints: Path) -> None:
    """Llama's norms become one call each; Gemma's, which scale by 1 + weight, stay as they are."""
    fused = {}
    for name in ("llama", "gemma2"):
        model, _ = load_model(tiny_checkpoint(name, checkpoints))
        fused[name] = sum(type(module) is FusedRMSNorm for module in model.module.modules())
    assert fused == {"llama": 5, "gemma2": 0}
