"""Device names as OpenLLM 0.3.5 read them, row by row: tests/core/data/v035_devices.json holds what was measured on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openllm_core import AmdGpuResource, CascadingResourceStrategy, NvidiaGpuResource
from openllm_core.resources import detect
from openllm_core.resources.workers import devices_of_worker

ROWS = json.loads((Path(__file__).parents[1] / "data/v035_devices.json").read_text(encoding="utf-8"))
ERRORS = {"ValueError": ValueError, "TypeError": TypeError, "IndexError": IndexError}
vendors = pytest.mark.parametrize("vendor", [NvidiaGpuResource, AmdGpuResource])


class Runnable:
    """A class of runnables that takes any GPU."""

    SUPPORTED_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu")
    SUPPORTS_CPU_MULTI_THREADING = True


def test_the_rows_are_there() -> None:
    """All that were measured; an empty file would make every test here pass."""
    assert {name: len(rows) for name, rows in ROWS.items()} == {
        "from_system": 31,
        "from_spec": 32,
        "cuda_env_for_worker": 27,
    }


@vendors
@pytest.mark.parametrize("row", ROWS["from_system"], ids=lambda row: repr(row["CUDA_VISIBLE_DEVICES"]))
def test_devices_of_the_system(vendor: Any, row: dict[str, Any]) -> None:
    """What the variable names, for both vendors; an empty one leaves it to the hardware, here none."""

    def nothing() -> list[detect.Gpu]:
        return []

    assert vendor.from_system({"CUDA_VISIBLE_DEVICES": row["CUDA_VISIBLE_DEVICES"]}, nothing) == row["value"]


@vendors
@pytest.mark.parametrize("row", ROWS["from_spec"], ids=lambda row: repr(row["spec"]))
def test_devices_of_a_spec(vendor: Any, row: dict[str, Any]) -> None:
    """What a request names, for both vendors, or the error it is."""
    if "error" in row:
        with pytest.raises(ERRORS[row["error"]]):
            vendor.from_spec(row["spec"])
    else:
        assert vendor.from_spec(row["spec"]) == row["value"]


@vendors
@pytest.mark.parametrize(
    "row",
    ROWS["cuda_env_for_worker"],
    ids=lambda row: f"{','.join(row['gpus'])}x{row['workers_per_resource']}-{row['worker_index']}",
)
def test_devices_of_a_worker(vendor: Any, row: dict[str, Any]) -> None:
    """What each worker sees, by the rule itself and through the strategy."""
    arguments = row["gpus"], row["workers_per_resource"], row["worker_index"]
    request = {vendor.resource_id: row["gpus"]}
    if "error" in row:
        with pytest.raises(ERRORS[row["error"]]):
            devices_of_worker(*arguments)
        with pytest.raises(ERRORS[row["error"]]):
            CascadingResourceStrategy.get_worker_env(Runnable, request, *arguments[1:], environ={})
    else:
        assert ",".join(devices_of_worker(*arguments)) == row["value"]
        found = CascadingResourceStrategy.get_worker_env(Runnable, request, *arguments[1:], environ={})
        assert found == {"CUDA_VISIBLE_DEVICES": row["value"]}
