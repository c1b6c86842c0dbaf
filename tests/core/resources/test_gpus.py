"""GPU resources by vendor: from the system, from a spec, validated."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from openllm_core.resources import detect
from openllm_core.resources.gpus import AmdGpuResource, NvidiaGpuResource, resource_spec

VENDORS = [NvidiaGpuResource, AmdGpuResource]


def gpu(index: int, uuid: str) -> detect.Gpu:
    return detect.Gpu(index=index, uuid=uuid, name="G", memory_total_bytes=1, memory_free_bytes=1)


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_variable_beats_the_hardware(vendor: Any) -> None:
    """Unset or empty, the hardware is asked; a list is not checked against it."""
    hardware = [gpu(0, "GPU-a"), gpu(1, "GPU-b")]
    for environ in ({}, {"CUDA_VISIBLE_DEVICES": ""}):
        assert vendor.from_system(environ, lambda: hardware) == ["0", "1"]
    assert vendor.from_system({"CUDA_VISIBLE_DEVICES": "5,-1,6"}, lambda: hardware) == ["5"]


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_process_environment_and_hardware_are_the_default(vendor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert vendor.from_system() == ["3"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(detect, "nvidia_gpus", lambda: [gpu(0, "GPU-a")])
    monkeypatch.setattr(detect, "amd_gpus", lambda root: [gpu(0, "0000:01")])
    assert vendor.from_system() == ["0"]


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_spec_is_read_by_the_grammar(vendor: Any) -> None:
    """The same for both vendors."""
    assert vendor.from_spec(2) == ["0", "1"]
    assert vendor.from_spec("GPU-288347ab,-1,GPU-ac33420d4628") == ["GPU-288347ab"]


@pytest.mark.parametrize("value", [["0", 1], [-2]])
def test_names_are_text(value: list[Any]) -> None:
    """Numbers are refused."""
    with pytest.raises(ValueError, match="all string type"):
        NvidiaGpuResource.validate(value, lambda: [])


def test_uuids_need_hardware_to_look_them_up() -> None:
    """Without it they are refused; ordinals pass."""
    with pytest.raises(ValueError, match="Failed to parse available GPUs UUID"):
        NvidiaGpuResource.validate(["GPU-5ebe9f43", "GPU-ac33420d4628"], lambda: [])
    NvidiaGpuResource.validate(["0", "7"], lambda: [])


def test_named_gpus_must_be_there() -> None:
    """By ordinal or by the beginning of a UUID."""
    hardware = [gpu(0, "GPU-aaaa"), gpu(1, "GPU-bbbb")]
    NvidiaGpuResource.validate(["0", "GPU-bb"], lambda: hardware)
    cut = attrs.evolve(hardware[0], instances=(detect.MigInstance("MIG-1", "1g.10gb"),))
    NvidiaGpuResource.validate(["MIG-1"], lambda: [cut])
    for name in ("2", "GPU-c", "MIG-1"):
        with pytest.raises(ValueError, match="not on this machine"):
            NvidiaGpuResource.validate([name], lambda: hardware)


def test_amd_cannot_be_validated() -> None:
    """As in 0.3.5."""
    with pytest.raises(RuntimeError):
        AmdGpuResource.validate(["0"])


def test_ids_of_resources() -> None:
    """Four kinds."""
    assert [resource_spec(k) for k in ("amd", "nvidia", "cpu")] == ["amd.com/gpu", "nvidia.com/gpu", "cpu"]
    assert resource_spec("tpu") == "cloud-tpus.google.com/v2"
    assert NvidiaGpuResource.resource_id == "nvidia.com/gpu"
    with pytest.raises(ValueError, match="not one of"):
        resource_spec("fpga")  # type: ignore[arg-type]
