"""Which quantisation runs where: every cell of the table, what a checkpoint says of itself, and what a refusal names."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from openllm.backends import checkpoint as checkpoints
from openllm.backends import quantisation, registry
from openllm.backends.quantisation import TABLE, Kind
from openllm.embedding_model import second_options
from openllm_core.errors import InvalidSetting, MissingDependency
from openllm_core.options import EngineOptions
from openllm_core.resources import detect
from openllm_core.resources.detect import Gpu

ALL_FLAGS = frozenset({"sse2", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"})
SHAPES = {
    "model.embed_tokens.weight": (64, 32),
    "model.layers.0.mlp.up_proj.weight": (128, 32),
    "model.layers.0.mlp.down_proj.weight": (32, 128),
    "model.norm.weight": (32,),
    "lm_head.weight": (64, 32),
}
QUANTISED: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 64},
    "awq": {"quant_method": "awq", "w_bit": 4, "q_group_size": 32},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_8bit": True},
}


def machine(flags: frozenset[str] = ALL_FLAGS) -> detect.Machine:
    """This machine, without GPUs, its CPU having those instructions."""
    return attrs.evolve(detect.machine(probe=tuple), cpu_flags=flags)


def checkpoint(folder: Path, quantised: dict[str, Any] | None = None, dtype: str = "BF16") -> checkpoints.Checkpoint:
    """A model folder with one safetensors file of zeros."""
    config = {"architectures": ["LlamaForCausalLM"], **({"quantization_config": quantised} if quantised else {})}
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    end = 0
    for name, shape in SHAPES.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * end)
    return checkpoints.read(folder)


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every package that a cell may ask for is there."""
    monkeypatch.setattr(quantisation.importlib.util, "find_spec", lambda name: object())


def scheme_of(
    name: str, backend: str, kind: Kind, folder: Path, of: detect.Machine | None = None
) -> quantisation.Scheme | None:
    """The scheme of a start that asks for `name`, with the checkpoint that it needs."""
    found = checkpoint(folder, None if name in quantisation.ONLINE else QUANTISED[name])
    asked = name if name in quantisation.ONLINE else None
    return quantisation.scheme_of(backend, kind, EngineOptions(quantize=asked), found, of or machine())


CELLS = [(name, backend, kind) for name, row in TABLE.items() for backend, kind in row]


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize(("name", "backend", "kind"), CELLS)
def test_every_cell(name: str, backend: str, kind: Kind, tmp_path: Path) -> None:
    """A combination that exists says what runs it; one that does not is refused, naming one that does."""
    cell = TABLE[name][backend, kind]
    if cell.by:
        found = scheme_of(name, backend, kind, tmp_path)
        assert found is not None and found.name == name and cell.by in found.line
        assert found.made == (name in quantisation.ONLINE)
    else:
        with pytest.raises(InvalidSetting, match=f"{name} does not exist for the {backend} backend on a") as caught:
            scheme_of(name, backend, kind, tmp_path)
        assert "--backend pt" in (caught.value.hint or "") and TABLE[name]["pt", kind].by


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("name", TABLE)
def test_each_scheme_runs_on_pt_with_and_without_a_gpu(name: str, kind: Kind) -> None:
    """The way out that refusals name, the pt backend, exists for every scheme and device."""
    assert TABLE[name]["pt", kind].by


@pytest.mark.parametrize(("name", "backend", "kind"), [c for c in CELLS if TABLE[c[0]][c[1], c[2]].packages])
def test_a_missing_package_is_named_with_its_extra(
    name: str, backend: str, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a package is missing, the refusal names it and the extra that brings it, before anything is loaded."""
    monkeypatch.setattr(quantisation.importlib.util, "find_spec", lambda name: None)
    cell = TABLE[name][backend, kind]
    with pytest.raises(MissingDependency, match=cell.packages[0]) as caught:
        scheme_of(name, backend, kind, tmp_path)
    assert caught.value.hint == f'pip install "openllm[{cell.extra}]"'


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_vllm_on_a_cpu_without_avx512(name: str, tmp_path: Path) -> None:
    """vLLM's 4-bit kernels for CPUs need AVX-512: without it the refusal says so and names pt; on ARM it is not asked."""
    with pytest.raises(InvalidSetting, match="needs AVX-512") as caught:
        scheme_of(name, "vllm", "cpu", tmp_path, machine(frozenset({"sse2", "avx2"})))
    assert "--backend pt" in (caught.value.hint or "")
    assert scheme_of(name, "vllm", "cpu", tmp_path, machine(frozenset({"asimd"}))) is not None


@pytest.mark.parametrize(
    ("flags", "expected"), [(ALL_FLAGS, "vllm"), (frozenset({"sse2", "avx2"}), "pt")], ids=["avx512", "avx2"]
)
def test_auto_takes_a_backend_that_can_read_the_checkpoint(
    flags: frozenset[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--backend auto gives a GPTQ checkpoint to vLLM where its kernels run, else to pt, and says why."""
    checkpoint(tmp_path, QUANTISED["gptq"])
    here = machine(flags)
    spec = SimpleNamespace(submodule_search_locations=[])  # installed, and with no list of architectures to ask
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(quantisation.detect, "machine", lambda: here)
    backend, why = registry.choose(EngineOptions(model_path=str(tmp_path)), "LlamaForCausalLM")
    assert backend == expected
    assert ("AVX-512" in why) == (expected == "pt")


NO_KERNEL: list[tuple[Kind, dict[str, Any], str]] = [
    ("cpu", {"quant_method": "gptq", "bits": 2, "group_size": 64}, "gptq with 2 bits"),
    ("cpu", {"quant_method": "gptq", "bits": 8, "group_size": 64}, "gptq with 8 bits"),
    ("cuda", {"quant_method": "gptq", "bits": 3, "group_size": 64}, "gptq with 3 bits"),
    ("cuda", {"quant_method": "gptq", "bits": 4, "sym": False}, "gptq with zero points"),
    ("cuda", {"quant_method": "awq", "w_bit": 8, "q_group_size": 32}, "awq with 8 bits"),
]


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize(("kind", "quantised", "what"), NO_KERNEL)
def test_bits_that_vllm_has_no_kernel_for(
    kind: Kind, quantised: dict[str, Any], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before vLLM loads anything, naming the pt backend, and --backend auto goes there by itself."""
    found = checkpoint(tmp_path, quantised)
    gpu = Gpu(index=0, uuid="GPU-0", name="T4", memory_total_bytes=1 << 34, memory_free_bytes=1 << 34)
    here = attrs.evolve(machine(), gpus=(gpu,) if kind == "cuda" else ())
    options = EngineOptions(model_path=str(tmp_path))
    with pytest.raises(InvalidSetting, match=f"{what} does not exist for the vllm backend on a") as caught:
        quantisation.scheme_of("vllm", kind, options, found, here)
    assert caught.value.hint == "Use --backend pt."
    assert quantisation.scheme_of("pt", kind, options, found, here) is not None
    assert quantisation.against_vllm(options, here) == f"vLLM has no {what} here"


@pytest.mark.parametrize(
    ("kind", "quantised"),
    [
        ("cuda", {"quant_method": "gptq", "bits": 8, "group_size": 64, "sym": True}),
        ("cpu", {"quant_method": "gptq", "group_size": 64}),
        ("cpu", {"quant_method": "awq", "w_bit": 4, "q_group_size": 32, "zero_point": True, "sym": False}),
    ],
    ids=["8 bits on a GPU", "bits not said", "AWQ, which always has zero points"],
)
def test_bits_that_vllm_has_a_kernel_for(kind: Kind, quantised: dict[str, Any], tmp_path: Path) -> None:
    """What its kernels read, and what a checkpoint does not say, is left to vLLM."""
    found = checkpoint(tmp_path, quantised)
    assert quantisation.scheme_of("vllm", kind, EngineOptions(), found, machine()) is not None


def test_what_is_not_quantised_is_left_alone(tmp_path: Path) -> None:
    """A plain checkpoint without --quantize has no scheme, on any backend."""
    found = checkpoint(tmp_path)
    assert all(
        quantisation.scheme_of(backend, "cpu", EngineOptions(), found, machine()) is None for backend in ("pt", "vllm")
    )


def test_a_stored_method_that_the_table_does_not_know_is_left_to_the_backend(tmp_path: Path) -> None:
    """fp8 or compressed-tensors checkpoints are not refused by us."""
    found = checkpoint(tmp_path, {"quant_method": "compressed-tensors", "format": "pack-quantized"})
    scheme = quantisation.scheme_of("vllm", "cpu", EngineOptions(), found, machine())
    assert scheme is not None and scheme.line == "quantisation: compressed-tensors (the checkpoint's)"


@pytest.mark.parametrize(
    ("asked", "quantised", "message", "hint"),
    [
        ("int8", "gptq", "are gptq, 4 bits, groups of 64 already", "Leave --quantize out"),
        ("gptq", "awq", "are awq, 4 bits, groups of 32 already", "Leave --quantize out"),
        ("gptq", None, "reads a checkpoint that was quantised with sample text", "openllm quantize"),
        ("awq", None, "reads a checkpoint that was quantised with sample text", "published as AWQ"),
        ("int4", "bitsandbytes", "are bitsandbytes, 8 bits already", "Leave --quantize out"),
    ],
)
def test_quantize_and_the_checkpoint_must_go_together(
    asked: str, quantised: str | None, message: str, hint: str, tmp_path: Path
) -> None:
    """--quantize that contradicts the checkpoint is refused, and the hint says what to do instead."""
    found = checkpoint(tmp_path, QUANTISED[quantised] if quantised else None)
    with pytest.raises(InvalidSetting, match=message) as caught:
        quantisation.scheme_of("pt", "cpu", EngineOptions(quantize=asked), found, machine())
    assert hint in (caught.value.hint or "")


@pytest.mark.usefixtures("everything_installed")
def test_quantize_that_names_what_is_stored_is_accepted(tmp_path: Path) -> None:
    """--quantize gptq over a GPTQ checkpoint, and int8 over one saved so by bitsandbytes, only say what is there."""
    for asked, stored in (("gptq", "gptq"), ("int8", "bitsandbytes")):
        found = checkpoint(tmp_path, QUANTISED[stored])
        scheme = quantisation.scheme_of("pt", "cpu", EngineOptions(quantize=asked), found, machine())
        assert scheme is not None and scheme.name == stored and not scheme.made


def test_vllms_own_flag_is_refused_on_pt(tmp_path: Path) -> None:
    """--quantization is not silently ignored by pt."""
    with pytest.raises(InvalidSetting, match="vLLM's own"):
        quantisation.scheme_of("pt", "cpu", EngineOptions(quantization="fp8"), checkpoint(tmp_path), machine())


def test_vllms_own_flag_is_refused_for_what_only_embeds_too(tmp_path: Path) -> None:
    """The estimate tells it before anything is loaded, as for a model that generates."""
    checkpoint(tmp_path)
    asked = EngineOptions(model_path=str(tmp_path), quantization="fp8", embed_only=True)
    with pytest.raises(InvalidSetting, match="vLLM's own"):
        registry.get("pt").estimate(asked, machine())


@pytest.mark.parametrize("asked", [{"quantization": "fp8"}, {"quantize": "int8"}])
def test_a_second_engine_for_embeddings_loads_plain_weights(asked: dict[str, Any], tmp_path: Path) -> None:
    """However the serving engine quantises while it loads, the pt engine that makes its embeddings does not."""
    found = checkpoint(tmp_path)
    alone = second_options(EngineOptions(model_path=str(tmp_path), backend="vllm", **asked))
    assert quantisation.scheme_of("pt", "cpu", alone, found, machine()) is None
    assert registry.get("pt").estimate(alone, machine()).need_bytes > 0


def test_autogptqs_own_file_is_read(tmp_path: Path) -> None:
    """AutoGPTQ wrote quantize_config.json and nothing into config.json: the method, bits and groups are known all the same."""
    found = checkpoint(tmp_path)
    (tmp_path / "quantize_config.json").write_text('{"bits": 4, "group_size": 128, "desc_act": false}')
    stored = quantisation.stored(found)
    assert stored is not None and stored.beside
    assert str(stored) == "gptq, 4 bits, groups of 128"


@pytest.mark.usefixtures("everything_installed")
def test_the_memory_estimate_knows_the_size(tmp_path: Path) -> None:
    """int8 halves the layers of a 16-bit checkpoint against what stays in float32; int4 is smaller still."""
    found = checkpoint(tmp_path)
    linear, rest = 128 * 32 * 2, 64 * 32 * 2 + 32
    for name, bits in (("int8", 8), ("int4", 4.5)):
        scheme = quantisation.scheme_of("pt", "cpu", EngineOptions(quantize=name), found, machine())
        assert scheme is not None
        assert quantisation.weight_bytes(found, scheme, 4) == linear * bits // 8 + rest * 4
    plain = registry.get("pt").estimate(EngineOptions(model_path=str(tmp_path)), machine())
    small = registry.get("pt").estimate(EngineOptions(model_path=str(tmp_path), quantize="int4"), machine())
    assert small.parts["weights"] < plain.parts["weights"] * 2


@pytest.mark.usefixtures("everything_installed")
def test_a_stored_schemes_size_is_the_files(tmp_path: Path) -> None:
    """A checkpoint that was stored quantised takes what its files take."""
    found = checkpoint(tmp_path, QUANTISED["gptq"])
    estimate = registry.get("pt").estimate(EngineOptions(model_path=str(tmp_path)), machine())
    assert estimate.parts["weights"] == found.weight_bytes
