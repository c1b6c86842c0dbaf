"""GPU resources by vendor, as 0.3.5 offered them: which the system has, which a spec names, and whether they are there.

Used by tools that schedule on GPUs (BentoML's resource interface has the same three methods). The grammar is
`visible_devices.py`, the hardware `detect.py`; both answers can be injected.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from . import detect, visible_devices

_IDS = {
    "tpu": "cloud-tpus.google.com/v2",
    "amd": "amd.com/gpu",
    "nvidia": "nvidia.com/gpu",
    "cpu": "cpu",
}


def resource_spec(name: Literal["tpu", "amd", "nvidia", "cpu"]) -> str:
    """Kubernetes-style id of a kind of resource.

    Raises:
        ValueError: no such kind.
    """
    if name not in _IDS:
        raise ValueError(f"{name!r} is not one of {', '.join(_IDS)}.")
    return _IDS[name]


class _GpuResource(ABC):
    """What both vendors share."""

    resource_id: ClassVar[str]
    vendor: ClassVar[visible_devices.Vendor]

    @classmethod
    @abstractmethod
    def probe(cls) -> Sequence[detect.Gpu]:
        """GPUs the hardware has."""
        ...

    @classmethod
    def from_system(cls, environ: Mapping[str, str] | None = None, probe: detect.GpuProbe | None = None) -> list[str]:
        """Names of the GPUs this process may use: the vendor's variable where set and not empty, else the hardware's."""
        named = visible_devices.from_environment(os.environ if environ is None else environ, cls.vendor)
        return named if named is not None else [str(gpu.index) for gpu in (probe or cls.probe)()]

    @classmethod
    def from_spec(cls, spec: Any) -> list[str]:
        """Names of the GPUs a spec asks for; see `visible_devices.from_spec`."""
        return visible_devices.from_spec(spec)


class NvidiaGpuResource(_GpuResource):
    """GPUs of NVIDIA."""

    resource_id = _IDS["nvidia"]
    vendor = "nvidia"

    @classmethod
    def probe(cls) -> Sequence[detect.Gpu]:
        """GPUs `nvidia-smi` lists."""
        return detect.nvidia_gpus()

    @classmethod
    def validate(cls, value: Sequence[Any], probe: detect.GpuProbe | None = None) -> None:
        """Check that named GPUs are there.

        Ordinals pass on a machine where no GPU can be asked for: the list may be meant for another one.

        Raises:
            ValueError: an element is not text, a UUID cannot be looked up, or a GPU is not there.
        """
        if not all(isinstance(name, str) for name in value):
            raise ValueError("Input list should be all string type.")
        gpus = (probe or cls.probe)()
        for name in value:
            by_uuid = name.startswith(("GPU-", "MIG-"))
            if by_uuid and not gpus:
                raise ValueError("Failed to parse available GPUs UUID")
            there = any(gpu.named(name) is not None if by_uuid else str(gpu.index) == name for gpu in gpus)
            if gpus and not there:
                raise ValueError(f"GPU {name} is not on this machine.")


class AmdGpuResource(_GpuResource):
    """GPUs of AMD."""

    resource_id = _IDS["amd"]
    vendor = "amd"

    @classmethod
    def probe(cls) -> Sequence[detect.Gpu]:
        """GPUs the kernel driver shows."""
        return detect.amd_gpus(Path("/"))

    @classmethod
    def validate(cls, value: Sequence[Any]) -> None:
        """Not offered for AMD.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("AMD GPUs cannot be validated.")
