"""`--workers-per-resource`: how many workers, and which GPUs each one gets.

Called when engines are started and when a Bento is built. Pure: devices in, devices out. k GPUs per worker are written as
1/k (0.5 = two GPUs each); a whole number n puts n workers on each GPU.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence

from ..errors import InvalidSetting
from .visible_devices import HIP_VARIABLE, VARIABLE, Vendor

_log = logging.getLogger("openllm")

_THREAD_VARIABLES = (
    "BENTOML_NUM_THREAD",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_RS_NUM_CPUS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)


def parse(text: str, *, devices: Sequence[str] = (), gpu_count: int = 0) -> float:
    """Value of `--workers-per-resource`.

    Args:
        text: `round_robin` (one worker per GPU), `conserved` (one worker on all GPUs), or a number above 0.
        devices: GPUs named by `--device`; they are what `conserved` shares.
        gpu_count: GPUs there are, where none is named.

    Raises:
        InvalidSetting: neither of the words nor a number above 0.
    """
    word = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text.strip()).replace("-", "_").lower()
    if word == "round_robin":
        return 1.0
    if word == "conserved":
        if not gpu_count:
            if devices:
                _log.warning("--device has no effect: no GPU was found")
            return 1.0
        return 1.0 / (len(devices) or gpu_count)
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InvalidSetting(
            f"--workers-per-resource: {text[:80]!r} is neither round_robin, conserved nor a number above 0.",
            param="--workers-per-resource",
        )
    return value


def worker_count(workers_per_resource: float, *, gpus: Sequence[str] | None, cpus: float, threads: bool = True) -> int:
    """Workers to start on one machine.

    Args:
        gpus: GPUs of the request; an empty list is still a GPU request, None is a CPU one.
        cpus: CPUs of the request.
        threads: whether one worker can use all CPUs.

    Raises:
        ValueError: less than one worker for a CPU that one worker fills.
    """
    if gpus is not None:
        return 1
    if not threads:
        return int(math.ceil(cpus) * workers_per_resource)
    if workers_per_resource < 1:
        raise ValueError(f"workers_per_resource must be >= 1 on a CPU, not {workers_per_resource:g}.")
    return int(workers_per_resource)


def devices_of_worker(gpus: Sequence[str], workers_per_resource: float, index: int) -> list[str]:
    """GPUs of one worker; empty when they ran out before its turn (only with a float).

    Args:
        workers_per_resource: an int puts that many workers on each GPU; a float of at most 1 gives each worker
            round(1/it) GPUs.
        index: 0-based number of the worker.

    Raises:
        ValueError: a float above 1, or an int whose GPUs ran out.
        IndexError: fewer GPUs than one worker needs.
    """
    if isinstance(workers_per_resource, int):
        place = index // workers_per_resource
        if place >= len(gpus):
            raise ValueError(f"There is no GPU for worker {index}: {len(gpus)} x {workers_per_resource} workers.")
        return [gpus[place]]
    if workers_per_resource > 1:
        raise ValueError(f"workers_per_resource must be a whole number or at most 1, not {workers_per_resource:g}.")
    each = round(1 / workers_per_resource)
    if each > len(gpus):
        raise IndexError(f"A worker needs {each} GPUs, there are {len(gpus)}.")
    return list(gpus[each * index : each * (index + 1)])


def worker_environment(
    gpus: Sequence[str],
    workers_per_resource: float,
    index: int,
    *,
    cpus: float,
    environ: Mapping[str, str],
    threads: bool = True,
    vendor: Vendor = "nvidia",
) -> dict[str, str]:
    """Variables one worker starts with.

    With GPUs: CUDA_VISIBLE_DEVICES, which an empty value or -1 of the operator overrides; where the operator set
    HIP_VISIBLE_DEVICES for AMD GPUs, that too, since HIP reads it first. Without: no GPU, and thread counts where none
    is set.
    """
    if gpus:
        variables = [VARIABLE, HIP_VARIABLE] if vendor == "amd" and HIP_VARIABLE in environ else [VARIABLE]
        for name in reversed(variables):
            if environ.get(name) in ("", "-1"):
                return {name: environ[name]}
        return dict.fromkeys(variables, ",".join(devices_of_worker(gpus, workers_per_resource, index)))
    count = str(math.ceil(cpus) if threads else 1)
    return {VARIABLE: "-1", **{name: environ.get(name, count) for name in _THREAD_VARIABLES}}
