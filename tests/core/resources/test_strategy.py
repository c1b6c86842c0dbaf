"""CascadingResourceStrategy: the rows measured on 0.3.5."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from openllm_core import CascadingResourceStrategy, available_resource_spec, get_resource
from openllm_core.resources import detect

NVIDIA, AMD = "nvidia.com/gpu", "amd.com/gpu"


class Threads:
    SUPPORTED_RESOURCES = (NVIDIA, AMD, "cpu")
    SUPPORTS_CPU_MULTI_THREADING = True


class Single(Threads):
    SUPPORTS_CPU_MULTI_THREADING = False


class GpuOnly(Threads):
    SUPPORTED_RESOURCES = (NVIDIA,)


count = CascadingResourceStrategy.get_worker_count
env = CascadingResourceStrategy.get_worker_env


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two NVIDIA GPUs and no variable set."""
    made = [detect.Gpu(index=n, uuid=f"GPU-{n}", name="G", memory_total_bytes=1, memory_free_bytes=1) for n in (0, 1)]
    for name in ("CUDA", "HIP", "ROCR"):
        monkeypatch.delenv(f"{name}_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(detect, "nvidia_gpus", lambda: made)
    monkeypatch.setattr(detect, "amd_gpus", lambda root: [])


@pytest.mark.parametrize("kind", [NVIDIA, AMD])
@pytest.mark.parametrize(
    ("gpus", "wpr"), [(2, 1), ([2, 7], 1), ([2, 7], 0.5), ([2, 7, 9], 0.5), ([2, 7, 8, 9], 0.5), ([2, 5, 7, 8, 9], 0.4), ([], 1)]
)  # fmt: skip
def test_gpus_mean_one_worker(kind: str, gpus: Any, wpr: float) -> None:
    """Even an empty list of them."""
    assert count(Threads, {kind: gpus}, wpr) == 1
    assert count(Threads, {kind: gpus, "cpu": 4}, wpr) == 1


@pytest.mark.parametrize(
    ("runnable", "cpus", "wpr", "workers"),
    [
        (Threads, 4, 1, 1),
        (Threads, 4, 2, 2),
        (Threads, 4, 3.0, 3),
        (Single, 4, 1, 4),
        (Single, 4, 2, 8),
        (Single, 4, 0.5, 2),
        (Single, "1500m", 1, 2),
        (Single, "2.0", 1, 2),
    ],
)
def test_cpus_mean_workers(runnable: Any, cpus: Any, wpr: float, workers: int) -> None:
    """By thread support; `1500m` counts as 2."""
    assert count(runnable, {"cpu": cpus}, wpr) == workers


def test_what_cannot_be_started_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Half a worker, or nothing at all; a class not made for CPUs is reported."""
    with pytest.raises(ValueError, match=r"not 0\.5"):
        count(Threads, {"cpu": 4}, 0.5)
    for request, named in (({}, "nothing"), ({"tpu": 1}, "tpu"), ({"cpu": 0}, "cpu")):
        with pytest.raises(ValueError, match=named):
            count(Threads, request, 1)
    with caplog.at_level(logging.WARNING, "openllm"):
        assert count(GpuOnly, {"cpu": 4}, 1) == 1
    assert "GpuOnly" in caplog.text


@pytest.mark.parametrize("kind", [NVIDIA, AMD])
@pytest.mark.parametrize(
    ("gpus", "wpr", "index", "devices"),
    [
        (2, 1, 0, "0"),
        (2, 1, 1, "1"),
        ([2, 7], 1, 1, "7"),
        (2, 2, 1, "0"),
        (2, 2, 2, "1"),
        ([2, 7], 0.5, 0, "2,7"),
        ([2, 7, 8, 9], 0.5, 1, "8,9"),
        ([2, 7, 8, 9], 0.25, 0, "2,7,8,9"),
        ([2, 6, 7, 8, 9], 0.4, 2, "9"),
        ([2, 6, 7, 8, 9], 0.4, 3, ""),
        ([0, 1, 2], 0.5, 0, "0,1"),
    ],
)
def test_each_worker_gets_its_gpus(kind: str, gpus: Any, wpr: float, index: int, devices: str) -> None:
    """The same for both vendors."""
    assert env(Threads, {kind: gpus}, wpr, index, environ={}) == {"CUDA_VISIBLE_DEVICES": devices}


def test_gpus_switched_off_stay_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's environment is read where none is given."""
    for off in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", off)
        assert env(Threads, {NVIDIA: [2, 7]}, 1, 0) == {"CUDA_VISIBLE_DEVICES": off}
    with pytest.raises(ValueError, match="no GPU for worker 2"):
        env(Threads, {NVIDIA: [2, 7]}, 1, 2, environ={})


def test_a_cpu_worker_sees_no_gpu() -> None:
    """Threads for its CPUs; also where the class does not take the GPUs asked for."""
    found = env(Threads, {"cpu": "1500m"}, 1, 0, environ={})
    assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"]) == ("-1", "2")
    assert env(GpuOnly, {AMD: [0]}, 1, 0, environ={})["CUDA_VISIBLE_DEVICES"] == "-1"
    assert env(Single, {NVIDIA: [], "cpu": 4}, 1, 0, environ={})["MKL_NUM_THREADS"] == "1"


def test_a_cpu_worker_limits_every_library_that_starts_threads() -> None:
    """Nine variables, of which those that are set already are kept."""
    names = {
        "BENTOML_NUM_THREAD", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS", "RAYON_RS_NUM_CPUS", "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS",
    }  # fmt: skip
    found = env(Threads, {"cpu": 4}, 1, 0, environ={"OMP_NUM_THREADS": "3"})
    assert found == {"CUDA_VISIBLE_DEVICES": "-1", **dict.fromkeys(names, "4"), "OMP_NUM_THREADS": "3"}


def test_a_system_names_amd_before_nvidia(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the CPU last, on a machine with both kinds of GPU; a strategy takes NVIDIA's first."""
    gpu = detect.Gpu(index=0, uuid="GPU-x", name="A", memory_total_bytes=1, memory_free_bytes=1, vendor="amd")
    monkeypatch.setattr(detect, "amd_gpus", lambda root: [gpu])
    assert available_resource_spec() == (AMD, NVIDIA, "cpu")
    assert env(Threads, None, 0.5, 0, environ={}) == {"CUDA_VISIBLE_DEVICES": "0,1"}


def test_without_a_request_the_system_decides(two_gpus: None) -> None:
    """Which always has a GPU entry, so that a real server has one worker."""
    assert count(Single, None, 1) == 1
    assert env(Threads, None, 1, 1, environ={}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert available_resource_spec() == (NVIDIA, "cpu")


def test_one_resource_of_a_request(two_gpus: None) -> None:
    """As named, as the system has it, or not asked for."""
    assert get_resource({NVIDIA: "system"}, NVIDIA) == ["0", "1"]
    assert get_resource({NVIDIA: [1]}, NVIDIA) == ["1"]
    assert get_resource({}, NVIDIA) is None
    assert get_resource({"cpu": "system"}, "cpu") >= 1
    with pytest.raises(ValueError, match="not on this machine"):
        get_resource({NVIDIA: [5]}, NVIDIA)
    with pytest.raises(RuntimeError):
        get_resource({AMD: [5]}, AMD)
    with pytest.raises(ValueError, match="fpga"):
        get_resource({}, "fpga")
    for wrong in (-1, "x", "nan"):
        with pytest.raises(ValueError, match=r"number|float"):
            get_resource({"cpu": wrong}, "cpu")
    for wrong in (None, True, [1]):
        with pytest.raises(TypeError):
            get_resource({"cpu": wrong}, "cpu")
