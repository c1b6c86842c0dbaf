"""What is decided from the machine and the model's files before vLLM starts: memory, context, devices, compiled or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.openllm.backends.vllm.facts import GIB, cpu_machine, gpu_machine, model_folder
from tests.tiny_adapters import write_safetensors

from openllm.backends import checkpoint, installed
from openllm.backends.vllm import launch, plan
from openllm_core.errors import InvalidSetting, NoSuitableDevice, OutOfMemory
from openllm_core.options import EngineOptions
from openllm_core.resources.detect import Machine

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True}
PER_TOKEN = 2 * 16 * 4 * 64 * 2  # keys and values of 16 layers with 4 heads of 64, two bytes each


def made(folder: Path, machine: Machine, **options: Any) -> plan.Plan:
    return plan.make(EngineOptions(model_path=str(folder), **options), checkpoint.read(folder), machine)


@pytest.fixture(autouse=True)
def no_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed here does not count: a vLLM for CPUs would leave GPUs that are made up alone."""
    monkeypatch.setattr(installed, "version", lambda _: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def test_a_cpu_cache_is_sized_from_what_is_free(folder: Path) -> None:
    """Of a node's free memory, less weights and runtime, a share; never of the whole machine's total."""
    found = made(folder, cpu_machine(free_gib=5))
    assert found.cache_bytes == int((5 - 2 - 2) * GIB * plan.CACHE_SHARE)
    assert found.memory_share is None
    assert (found.device, found.ranks, found.max_num_seqs) == ("cpu", 1, 256)
    assert any(
        line.startswith("memory: 0.6 GiB") and "5.0 GiB are free on NUMA node 0" in line for line in found.decisions
    )


def test_a_cpu_cache_is_no_larger_than_the_usual_load_needs(folder: Path) -> None:
    """It is written in full before the first token, so plenty of memory does not make the start longer."""
    found = made(folder, cpu_machine(free_gib=1000))
    per_sequence = 8192 + plan.BLOCK_TOKENS
    assert found.cache_bytes == PER_TOKEN * 256 * plan.CACHED_TOKENS_PER_SLOT // 8192 * per_sequence
    few = made(folder, cpu_machine(free_gib=1000), max_num_seqs=12)
    assert few.cache_bytes == PER_TOKEN * plan.CACHED_CONTEXTS * per_sequence


def test_a_cpu_without_16_bit_products_computes_in_float32(folder: Path) -> None:
    """The weights are counted as they are computed; what was asked for stays, and a CPU that can keeps the type."""
    avx2 = attrs.evolve(cpu_machine(), cpu_flags=frozenset({"avx2", "fma"}))
    found = made(folder, avx2)
    assert (found.dtype, found.weight_bytes) == ("float32", 4 * GIB)
    assert any(line.startswith("dtype: float32 ") for line in found.decisions)
    assert made(folder, avx2, dtype="bfloat16").dtype == "bfloat16"
    able = attrs.evolve(cpu_machine(), cpu_flags=frozenset({"avx2", "avx512f"}))
    assert made(folder, able).dtype == "auto"
    assert launch.estimate(EngineOptions(model_path=str(folder)), avx2).parts["weights"] == 4 * GIB


def test_a_cpu_computes_short_steps_that_hold_all_sequences(folder: Path) -> None:
    """512 tokens, more where more sequences run at once; on a GPU vLLM chooses."""
    assert made(folder, cpu_machine()).step_tokens == plan.CPU_STEP_TOKENS
    assert made(folder, cpu_machine(), max_num_seqs=1000).step_tokens == 1000
    assert made(folder, gpu_machine(70)).step_tokens is None


def test_a_cpu_cache_is_no_larger_than_all_sequences_need(folder: Path) -> None:
    """Two sequences of 1024 tokens and a block each."""
    found = made(folder, cpu_machine(free_gib=64), max_num_seqs=2, max_model_len=1024)
    assert found.cache_bytes == PER_TOKEN * 2 * (1024 + plan.BLOCK_TOKENS)


def test_engines_on_one_device_stay_within_their_part(tmp_path: Path) -> None:
    """Cache and context are sized by the part, whatever is free when the engine starts; the line says so."""
    large = model_folder(tmp_path / "large", max_position_embeddings=131072)
    half: dict[str, Any] = {"engine_index": 1, "sharing_engines": 2, "memory_bytes": 8 * GIB}
    free, first = made(large, cpu_machine(16), max_num_seqs=64), made(large, cpu_machine(16), max_num_seqs=64, **half)
    assert first == made(large, cpu_machine(8.5), max_num_seqs=64, **half)
    assert first.cache_bytes + first.weight_bytes + first.runtime_bytes <= 8 * GIB
    assert free.cache_bytes > 2 * first.cache_bytes
    assert "one of 2 engines" in first.decisions[0]
    shared = made(large, gpu_machine(60), sharing_engines=2, memory_bytes=30 * GIB).memory_share
    assert shared is not None and shared * 80 <= 30


def test_a_context_that_does_not_fit_is_shortened_when_nobody_asked_for_it(tmp_path: Path) -> None:
    """A model of 128k tokens starts with what fits, and says so."""
    folder = model_folder(tmp_path / "m", max_position_embeddings=131072)
    found = made(folder, cpu_machine(free_gib=5))
    assert found.max_model_len is not None and 512 <= found.max_model_len < 131072
    assert found.max_model_len * PER_TOKEN <= found.cache_bytes
    assert any(line.startswith("context: ") and "131,072" in line for line in found.decisions)


def test_a_context_that_was_asked_for_and_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Need, have, and the longest that fits are named."""
    folder = model_folder(tmp_path / "m", max_position_embeddings=131072)
    with pytest.raises(OutOfMemory) as caught:
        made(folder, cpu_machine(free_gib=5), max_model_len=131072)
    fitting = int(str(caught.value.hint).removeprefix("--max-model-len "))
    assert f"{fitting:,}" in caught.value.message
    assert f"{5 * GIB:,} are free" in caught.value.message
    assert made(folder, cpu_machine(free_gib=5), max_model_len=fitting).max_model_len == fitting


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    """On a CPU and on a GPU, before anything is loaded."""
    with pytest.raises(OutOfMemory, match="NUMA node 0"):
        made(folder, cpu_machine(free_gib=3))
    with pytest.raises(OutOfMemory, match="GPU 0"):
        made(folder, gpu_machine(2.5, total_gib=4))


def test_a_gpu_share_counts_what_others_hold(folder: Path) -> None:
    """20 of 80 GiB are free: the share is of the whole, and leaves some of the free."""
    found = made(folder, gpu_machine(20))
    assert found.memory_share == pytest.approx(0.95 * 20 / 80, abs=0.001)
    assert made(folder, gpu_machine(80)).memory_share == plan.MOST_GPU_SHARE
    assert made(folder, gpu_machine(20), gpu_memory_utilization=0.2).memory_share == 0.2


def test_a_share_of_which_less_is_free_is_refused(folder: Path) -> None:
    """vLLM would refuse it once it is there: need, have and the share are named before, on a GPU and on a CPU."""
    with pytest.raises(OutOfMemory, match=r"--gpu-memory-utilization 0\.3 takes .* of GPU 0") as caught:
        made(folder, gpu_machine(20), gpu_memory_utilization=0.3)
    assert f"{int(80 * GIB * 0.3):,} of the {80 * GIB:,} bytes" in caught.value.message
    assert f"{20 * GIB:,} are free" in caught.value.message
    assert str(caught.value.hint).startswith("--gpu-memory-utilization 0.23,")
    with pytest.raises(OutOfMemory, match="NUMA node 0"):
        made(folder, cpu_machine(free_gib=8), gpu_memory_utilization=0.6)  # half of the node is free
    assert (
        made(folder, cpu_machine(free_gib=8), gpu_memory_utilization=0.4).cache_bytes == int(16 * GIB * 0.4) - 4 * GIB
    )


def test_a_share_too_small_for_the_model_is_named(folder: Path) -> None:
    """What is free would do; the share that was asked for does not."""
    with pytest.raises(OutOfMemory, match=r"--gpu-memory-utilization 0\.02 is") as caught:
        made(folder, gpu_machine(80), gpu_memory_utilization=0.02)
    assert "are free" not in caught.value.message and "larger --gpu-memory-utilization" in str(caught.value.hint)


@pytest.mark.parametrize("machine", [gpu_machine(80), cpu_machine(free_gib=64)], ids=["cuda", "cpu"])
@pytest.mark.parametrize("share", [0.01, 0.999])
def test_the_estimate_keeps_what_the_plan_refuses(machine: Machine, share: float, folder: Path) -> None:
    """The start checks do not call a start possible whose plan is refused for the share that was asked for."""
    options = EngineOptions(model_path=str(folder), gpu_memory_utilization=share)
    if share > 0.9 and machine.gpus:
        machine = gpu_machine(70)
    with pytest.raises(OutOfMemory, match=f"--gpu-memory-utilization {share:g}"):
        launch.estimate(options, machine)


def test_all_devices_of_an_engine_share_each_layer(folder: Path) -> None:
    """Two GPUs are two ranks; the fullest decides the share; more ranks than devices are refused."""
    found = made(folder, gpu_machine(40, 20))
    assert (found.ranks, found.device) == (2, "cuda:0,1")
    assert found.memory_share == pytest.approx(0.95 * 20 / 80, abs=0.001)
    assert made(folder, gpu_machine(40, 20), tensor_parallel_size=1).ranks == 1
    with pytest.raises(InvalidSetting):
        made(folder, gpu_machine(40), tensor_parallel_size=2)
    with pytest.raises(InvalidSetting):
        made(folder, cpu_machine(), tensor_parallel_size=2)
    with pytest.raises(NoSuitableDevice):
        made(folder, gpu_machine(40), device="7")


@pytest.mark.parametrize(
    ("heads", "kv_heads", "gpus", "ranks"),
    [(9, 3, 2, 1), (9, 3, 4, 3), (16, 4, 3, 2), (16, 4, 8, 8), (12, 8, 6, 4), (71, 1, 4, 1), (6, 4, 3, 2)],
)
def test_ranks_are_the_most_that_share_the_heads_evenly(
    heads: int, kv_heads: int, gpus: int, ranks: int, tmp_path: Path
) -> None:
    """Every head of keys and values is whole, or copied to as many ranks as share it; the line says why GPUs stay idle."""
    folder = model_folder(tmp_path / "m", num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=64)
    machine = gpu_machine(*[40] * gpus)
    found = made(folder, machine)
    assert found.ranks == ranks
    assert found.device == "cuda:" + ",".join(map(str, range(ranks)))
    told = [line for line in found.decisions if line.startswith("ranks: ")]
    assert len(told) == (ranks < gpus)
    assert all(f"{ranks} of {gpus} GPUs" in line and f"{heads} attention heads" in line for line in told)
    estimate = launch.estimate(EngineOptions(model_path=str(folder)), machine)
    assert estimate.parts["weights"] == 2 * GIB // ranks


def test_ranks_that_the_heads_cannot_be_dealt_out_to_are_refused(tmp_path: Path) -> None:
    """On GPUs and on NUMA nodes, with the next number that goes; a model that names no heads is left to vLLM."""
    folder = model_folder(tmp_path / "m", num_attention_heads=9, num_key_value_heads=3, head_dim=64)
    for machine in (gpu_machine(40, 40, 40, 40), cpu_machine(cores=4, nodes=4)):
        with pytest.raises(InvalidSetting, match="9 attention heads") as caught:
            made(folder, machine, tensor_parallel_size=4)
        assert caught.value.hint == "--tensor-parallel-size 3"
        with pytest.raises(InvalidSetting, match="9 attention heads"):
            launch.estimate(EngineOptions(model_path=str(folder), tensor_parallel_size=2), machine)
        assert made(folder, machine, tensor_parallel_size=3).ranks == 3
    silent = model_folder(tmp_path / "silent", num_attention_heads=None, num_key_value_heads=None)
    assert made(silent, gpu_machine(40, 40)).ranks == 2


@pytest.mark.parametrize(
    ("options", "eager"),
    [
        ({}, False),
        ({"startup": "fast"}, True),
        ({"startup": "throughput"}, False),
        ({"startup": "fast", "compile": "on"}, False),
        ({"compile": "off"}, True),
        ({"enforce_eager": True, "compile": "on"}, True),
    ],
)
def test_compiled_or_not(options: dict[str, Any], eager: bool, folder: Path) -> None:
    """--startup decides, --compile overrides it, --enforce-eager both; the line says which."""
    found = made(folder, cpu_machine(), **options)
    assert found.eager is eager
    assert any(line.startswith("startup: ") and ("not compiled" in line) is eager for line in found.decisions)


def test_the_estimate_agrees_with_the_plan(folder: Path) -> None:
    """What fits by one fits by the other; the parts make the need."""
    options = EngineOptions(model_path=str(folder))
    for free, fits in ((16, True), (3, False)):
        found = launch.estimate(options, cpu_machine(free_gib=free))
        assert found.fits is fits
        assert found.have_bytes == free * GIB
        assert found.need_bytes == sum(found.parts.values())
        assert found.parts["weights"] == 2 * GIB


def test_room_for_adapters_is_counted(tmp_path: Path) -> None:
    """Both sides of every linear layer at the highest rank, for each place vLLM makes, spare ones included; none without."""
    write_safetensors(tmp_path / "model.safetensors", {"q_proj.weight": [64, 32], "embed.weight": [100, 32]})
    (tmp_path / "config.json").write_text('{"vocab_size": 100}')
    found = checkpoint.read(tmp_path)
    options = EngineOptions(dtype="float32", max_adapters=3, max_adapter_rank=8)
    assert plan.adapter_bytes(options, found) == (64 + 32) * 8 * (3 + 2) * 4
    assert plan.adapter_bytes(EngineOptions(), found) == 0


def test_room_for_adapters_is_told_before_the_start(tmp_path: Path) -> None:
    """Doctor and the start checks refuse for it what the engine would refuse, on a CPU and on a GPU."""
    path = str(model_folder(tmp_path / "wide", rows=16384))  # 16384 x 65536
    bare, roomy = (EngineOptions(model_path=path, max_adapters=n, max_adapter_rank=512) for n in (0, 30))
    room = (16384 + 65536) * 512 * (30 + 2) * 2
    assert launch.estimate(roomy, cpu_machine()).parts["adapters"] == room
    assert "adapters" not in launch.estimate(bare, cpu_machine()).parts
    for machine in (cpu_machine(free_gib=5), gpu_machine(4)):
        assert launch.estimate(bare, machine).fits and made(Path(path), machine)
        assert not launch.estimate(roomy, machine).fits
        with pytest.raises(OutOfMemory):
            plan.make(roomy, checkpoint.read(path), machine)
    assert launch.estimate(roomy, cpu_machine(free_gib=12)).fits
    assert plan.make(roomy, checkpoint.read(path), cpu_machine(free_gib=12))


# -- quantised weights -----------------------------------------------------------------------------------------------


def quantised_folder(folder: Path, scheme: dict[str, Any], *, beside: bool = False) -> Path:
    """A model folder whose weights are quantised, as config.json or AutoGPTQ's file of its own says."""
    made_folder = model_folder(folder, **({} if beside else {"quantization_config": scheme}))
    if beside:
        (made_folder / "quantize_config.json").write_text(json.dumps(scheme))
    return made_folder


def test_a_method_of_vllms_own_is_passed_on_and_told(folder: Path) -> None:
    """--quantization goes to vLLM as it is; the weights count as they are stored, before they shrink."""
    found = made(folder, cpu_machine(), quantization="fp8_per_channel")
    assert found.quantization == "fp8_per_channel"
    assert "quantisation: fp8_per_channel while loading, by vLLM" in found.decisions
    assert found.weight_bytes == 2 * GIB
    assert made(folder, cpu_machine()).quantization is None


@pytest.mark.parametrize("machine", [cpu_machine(), gpu_machine(40)], ids=["cpu", "cuda"])
@pytest.mark.parametrize("beside", [False, True], ids=["config.json", "quantize_config.json"])
def test_a_quantised_checkpoint(beside: bool, machine: Machine, tmp_path: Path) -> None:
    """vLLM reads config.json itself and is told of what stands beside it; the bytes are those of the files."""
    found = made(quantised_folder(tmp_path / "q", GPTQ, beside=beside), machine)
    assert found.quantization == ("gptq" if beside else None)
    assert any(
        line.startswith("quantisation: gptq, 4 bits, groups of 64 (the checkpoint's") for line in found.decisions
    )
    assert found.weight_bytes == 2 * GIB
    asked = quantised_folder(tmp_path / "asked", GPTQ, beside=beside)
    assert made(asked, machine, quantization="gptq_marlin").quantization == "gptq_marlin"


def test_a_scheme_that_vllm_does_not_run_is_refused(folder: Path, tmp_path: Path) -> None:
    """Before anything is loaded, with what runs it."""
    with pytest.raises(InvalidSetting, match="int8 does not exist for the vllm backend on a CPU") as caught:
        made(folder, cpu_machine(), quantize="int8")
    assert "--backend pt" in str(caught.value.hint) and "fp8_per_channel" in str(caught.value.hint)
    with pytest.raises(InvalidSetting, match="gptq with 8 bits does not exist for the vllm backend on a CPU"):
        made(quantised_folder(tmp_path / "q", GPTQ | {"bits": 8}), cpu_machine())


def test_quantised_weights_keep_their_type_on_an_old_cpu(folder: Path, tmp_path: Path) -> None:
    """Their kernels compute in the type they were made for: float32 is only chosen for plain weights."""
    arm = attrs.evolve(cpu_machine(), cpu_flags=frozenset({"asimd"}))  # of no x86 flag, which the 4-bit kernels ask for
    assert made(folder, arm).dtype == "float32"
    assert made(quantised_folder(tmp_path / "q", GPTQ), arm).dtype == "auto"
    assert made(quantised_folder(tmp_path / "b", GPTQ, beside=True), arm).dtype == "auto"
    assert made(folder, arm, quantization="fp8_per_channel").dtype == "auto"
