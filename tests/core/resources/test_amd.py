"""AMD GPUs: HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES beside CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

from pathlib import Path

import pytest

from openllm_core.resources.detect import Gpu, Machine, amd_gpus, visible_gpus
from openllm_core.resources.gpus import AmdGpuResource, NvidiaGpuResource
from openllm_core.resources.visible_devices import from_flag
from openllm_core.resources.workers import worker_environment


def gpu(index: int, vendor: str = "amd") -> Gpu:
    return Gpu(
        index=index, uuid=f"GPU-{vendor}{index}", name="G", memory_total_bytes=1, memory_free_bytes=1, vendor=vendor
    )  # type: ignore[arg-type]


FOUR = Machine(cores=1, memory_total_bytes=1, memory_available_bytes=1, gpus=tuple(gpu(n) for n in range(4)))
MIXED = Machine(cores=1, memory_total_bytes=1, memory_available_bytes=1, gpus=(gpu(0, "nvidia"), gpu(0), gpu(1)))


@pytest.mark.parametrize(
    ("environ", "indices"),
    [
        ({}, [0, 1, 2, 3]),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [1]),
        ({"HIP_VISIBLE_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "1"}, [2]),
        ({"ROCR_VISIBLE_DEVICES": "1,3"}, [1, 3]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-amd3,GPU-amd1"}, [3, 1]),
        ({"ROCR_VISIBLE_DEVICES": "1,3", "HIP_VISIBLE_DEVICES": "1"}, [3]),
        ({"ROCR_VISIBLE_DEVICES": "1,3", "HIP_VISIBLE_DEVICES": "0,2,1"}, [1]),
        ({"HIP_VISIBLE_DEVICES": ""}, []),
        ({"HIP_VISIBLE_DEVICES": "-1"}, []),
        ({"ROCR_VISIBLE_DEVICES": "7"}, []),
    ],
)
def test_variables_leave_gpus_as_rocm_does(environ: dict[str, str], indices: list[int]) -> None:
    """ROCR first, then HIP or else CUDA, whose numbers count in what ROCR left."""
    assert [found.index for found in visible_gpus(FOUR, environ=environ)] == indices


def test_each_vendor_reads_its_own_variables() -> None:
    """On a machine with both."""
    found = visible_gpus(MIXED, environ={"HIP_VISIBLE_DEVICES": "1"})
    assert [(g.vendor, g.index) for g in found] == [("nvidia", 0), ("amd", 1)]
    found = visible_gpus(MIXED, environ={"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "0"})
    assert [(g.vendor, g.index) for g in found] == [("amd", 0)]


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0"}, ["1"]),
        ({"ROCR_VISIBLE_DEVICES": "2"}, ["2"]),
        ({"HIP_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": "0,0"}, []),
        ({"HIP_VISIBLE_DEVICES": ""}, ["0"]),
    ],
)
def test_names_of_the_system(environ: dict[str, str], names: list[str]) -> None:
    """NVIDIA's own know CUDA_VISIBLE_DEVICES alone."""
    assert AmdGpuResource.from_system(environ, lambda: [gpu(0)]) == names
    assert NvidiaGpuResource.from_system({"HIP_VISIBLE_DEVICES": "3"}, lambda: [gpu(0)]) == ["0"]


def test_workers_override_what_hip_reads_first() -> None:
    """Only where the operator set it; switched off stays off."""
    two = ["0", "1"]
    cuda = {"CUDA_VISIBLE_DEVICES": "1"}
    hip = {"HIP_VISIBLE_DEVICES": "0,1"}
    assert worker_environment(two, 1, 1, cpus=1, environ={}, vendor="amd") == cuda
    assert worker_environment(two, 1, 1, cpus=1, environ=hip, vendor="amd") == {**cuda, "HIP_VISIBLE_DEVICES": "1"}
    off = {"HIP_VISIBLE_DEVICES": "-1"}
    assert worker_environment(two, 1, 1, cpus=1, environ=off, vendor="amd") == off
    assert worker_environment(two, 1, 1, cpus=1, environ=off) == cuda


def test_an_amd_gpu_is_known_by_its_own_id(tmp_path: Path) -> None:
    """The one ROCR_VISIBLE_DEVICES takes, where the driver tells it."""
    device = tmp_path / "sys/class/drm/card0/device"
    device.mkdir(parents=True)
    for name, text in {"vendor": "0x1002", "mem_info_vram_total": "10", "unique_id": "ab12\n"}.items():
        (device / name).write_text(text)
    assert amd_gpus(tmp_path)[0].uuid == "GPU-ab12"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["0"], ("0",)),
        (["0,2"], ("0", "2")),
        (["0", "2"], ("0", "2")),
        (["all"], ("0", "1", "2")),
        (["0,-1,1"], ("0",)),
        (["1", "all"], ("1", "0", "2")),
        (["GPU-a,GPU-b"], ("GPU-a", "GPU-b")),
        ([], ()),
    ],
)
def test_devices_as_typed(values: list[str], names: tuple[str, ...]) -> None:
    """Repeated, as lists, or all there are."""
    assert from_flag(values, ["0", "1", "2"]) == names
