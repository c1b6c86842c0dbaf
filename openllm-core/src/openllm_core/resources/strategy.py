"""CascadingResourceStrategy: workers and their environment for a resource request, NVIDIA before AMD before CPU.

For tools that schedule with BentoML's strategy interface, which this has without importing BentoML. A request is a
mapping from resource id to a spec, as in `{"nvidia.com/gpu": [0, 2]}`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from . import detect, workers
from .gpus import AmdGpuResource, NvidiaGpuResource, resource_spec

LiteralResourceSpec = Literal["cloud-tpus.google.com/v2", "amd.com/gpu", "nvidia.com/gpu", "cpu"]

_log = logging.getLogger("openllm")

_GPUS = (NvidiaGpuResource, AmdGpuResource)
CPU = resource_spec("cpu")


class Runnable(Protocol):
    """What a class of BentoML runnables says of itself."""

    SUPPORTED_RESOURCES: tuple[str, ...]
    SUPPORTS_CPU_MULTI_THREADING: bool


def available_resource_spec() -> tuple[str, ...]:
    """Ids of the resources this system has: AMD GPUs, NVIDIA GPUs, and always the CPU."""
    return (*(kind.resource_id for kind in reversed(_GPUS) if kind.from_system()), CPU)


def get_resource(request: Mapping[str, Any], kind: str, validate: bool = True) -> Any:
    """What a request asks of one kind of resource.

    Args:
        kind: a resource id.
        validate: whether named GPUs must be there.

    Returns:
        Names of GPUs, a number of CPUs, or None when the request does not say.

    Raises:
        ValueError: no such kind, or a spec that cannot be read; see `from_spec` and `validate` of the kind.
    """
    found = next((resource for resource in _GPUS if resource.resource_id == kind), None)
    if found is None and kind != CPU:
        raise ValueError(f"{kind!r} is not one of {', '.join([*(gpu.resource_id for gpu in _GPUS), CPU])}.")
    if kind not in request:
        return None
    spec = request[kind]
    if found is None:
        return float(detect.machine(probe=tuple).cores) if spec == "system" else cpus_of(spec)
    if spec == "system":
        return found.from_system()
    named = found.from_spec(spec)
    if validate:
        found.validate(named)
    return named


def cpus_of(spec: Any) -> float:
    """A number of CPUs; text may count thousandths, as in `1500m`.

    Raises:
        ValueError: no number, or less than 0.
        TypeError: neither a number nor text.
    """
    if isinstance(spec, bool) or not isinstance(spec, (int, float, str)):
        raise TypeError(f"CPUs are given as a number or text, not {type(spec).__name__}.")
    thousandths = isinstance(spec, str) and spec.strip().endswith("m")
    number = float(spec.strip()[:-1]) / 1000 if isinstance(spec, str) and thousandths else float(spec)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{spec!r} is no number of CPUs.")
    return number


class CascadingResourceStrategy:
    """Workers by the first resource a request has."""

    @classmethod
    def get_worker_count(
        cls,
        runnable_class: type[Runnable],
        resource_request: Mapping[str, Any] | None,
        workers_per_resource: float,
    ) -> int:
        """Workers to start: one where GPUs are asked for, else by CPU.

        Raises:
            ValueError: less than one worker for a CPU that one worker fills, or a request for nothing.
        """
        request = _system() if resource_request is None else resource_request
        for kind in _GPUS:
            if (gpus := get_resource(request, kind.resource_id, validate=False)) is not None:
                return workers.worker_count(workers_per_resource, gpus=gpus, cpus=0)
        cpus = get_resource(request, CPU)
        if not cpus:
            raise ValueError(f"No known resource is asked for: {', '.join(request) or 'nothing'}.")
        if CPU not in runnable_class.SUPPORTED_RESOURCES:
            _log.warning("%s does not say that it runs on a CPU", runnable_class.__name__)
        threads = runnable_class.SUPPORTS_CPU_MULTI_THREADING
        return workers.worker_count(workers_per_resource, gpus=None, cpus=cpus, threads=threads)

    @classmethod
    def get_worker_env(
        cls,
        runnable_class: type[Runnable],
        resource_request: Mapping[str, Any] | None,
        workers_per_resource: float,
        worker_index: int,
        environ: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Variables of one worker; see `workers.worker_environment`.

        Raises:
            ValueError, IndexError: there are not enough GPUs.
        """
        request = _system() if resource_request is None else resource_request
        environ = os.environ if environ is None else environ
        for kind in _GPUS:
            gpus = get_resource(request, kind.resource_id, validate=False)
            if gpus and kind.resource_id in runnable_class.SUPPORTED_RESOURCES:
                return workers.worker_environment(
                    gpus, workers_per_resource, worker_index, cpus=0, environ=environ, vendor=kind.vendor
                )
        cpus = get_resource(request, CPU) or 1.0
        threads = runnable_class.SUPPORTS_CPU_MULTI_THREADING
        return workers.worker_environment(
            (), workers_per_resource, worker_index, cpus=cpus, environ=environ, threads=threads
        )


def _system() -> dict[str, Any]:
    return {kind.resource_id: kind.from_system() for kind in _GPUS} | {CPU: "system"}
