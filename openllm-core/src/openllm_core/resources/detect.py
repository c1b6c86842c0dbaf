"""What this machine has: cores, memory that is really free (cgroup limits counted), GPUs.

Called by the start checks, by backends' `launch.py` and by `openllm doctor`; every source is injectable, so that tests
need no special machine. Imports no framework: GPUs are asked of `nvidia-smi` (NVIDIA) and of sysfs (AMD).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs

from ..errors import NoSuitableDevice
from . import numa, visible_devices

MIB = 1024 * 1024

# A cgroup limit past this many bytes means "none": v1 writes the largest page-aligned 64-bit number.
_NO_LIMIT = 1 << 60


@attrs.frozen
class MigInstance:
    """A part of an NVIDIA GPU that is cut into several: its id (`MIG-…`) and its profile (`3g.20gb`)."""

    uuid: str
    profile: str

    @property
    def memory_bytes(self) -> int | None:
        """What the profile names; None where it names none."""
        size = re.search(r"\.(\d+)gb", self.profile)
        return int(size[1]) * 1024 * MIB if size else None


@attrs.frozen(kw_only=True)
class Gpu:
    """One GPU, or one MIG instance of it.

    Attributes:
        index: ordinal in the order the driver lists them.
        uuid: the driver's id (`GPU-…`, `MIG-…`); the PCI address where an AMD GPU has none.
        compute_capability: (major, minor) of NVIDIA GPUs.
        instances: what it is cut into; a process sees one of them.
    """

    index: int
    uuid: str
    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    vendor: Literal["nvidia", "amd"] = "nvidia"
    compute_capability: tuple[int, int] | None = None
    instances: tuple[MigInstance, ...] = ()

    @property
    def device(self) -> str:
        """How a variable or `--device` names it: by number, an instance by its id."""
        return self.uuid if self.uuid.startswith("MIG-") else str(self.index)

    def named(self, name: str) -> Gpu | None:
        """This GPU or the instance of it that an id, or the beginning of one, names; None if it names another's."""
        if self.uuid.startswith(name):
            return self
        for part in self.instances:
            if part.uuid.startswith(name):
                total = part.memory_bytes or self.memory_total_bytes
                free = min(total, self.memory_free_bytes)
                shown = f"{self.name} MIG {part.profile}"
                return attrs.evolve(
                    self, uuid=part.uuid, name=shown, memory_total_bytes=total, memory_free_bytes=free, instances=()
                )
        return None


BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16", "svebf16"})
"""Of a CPU that multiplies bfloat16 itself, as x86 and ARM kernels name them."""


@attrs.frozen(kw_only=True)
class Machine:
    """What a process may use of this machine.

    Attributes:
        cores: logical cores, after affinity and cgroup quota; at least 1.
        physical_cores: cores that are not siblings of one another; at most `cores`.
        memory_total_bytes: installed memory, or the cgroup's limit where that is less.
        memory_available_bytes: what can be taken without swapping, cgroup limits counted.
        cpu_flags: instruction sets as the kernel names them (`avx512_bf16`, `amx_tile`, …).
        gpus: all there are, visible or not; `visible_gpus` selects.
        numa_nodes: nodes with memory; none where the system does not tell.
    """

    cores: int
    memory_total_bytes: int
    memory_available_bytes: int
    physical_cores: int = 1
    cpu_model: str = ""
    cpu_flags: frozenset[str] = frozenset()
    gpus: tuple[Gpu, ...] = ()
    numa_nodes: tuple[numa.NumaNode, ...] = ()


GpuProbe = Callable[[], Sequence[Gpu]]
"""Lists the GPUs there are; an empty list when there is no driver. Never raises."""

Run = Callable[[Sequence[str]], str]
"""Runs a program and returns its stdout; raises OSError or subprocess.SubprocessError."""


def machine(*, probe: GpuProbe | None = None, root: Path = Path("/")) -> Machine:
    """Look at the machine now.

    Args:
        probe: lists the GPUs; default asks nvidia-smi, then sysfs for AMD.
        root: where /proc and /sys are looked for.
    """
    total, available = _memory(root)
    cpuinfo = _read(root / "proc/cpuinfo")
    cores = _cores(root)
    gpus = tuple(probe()) if probe is not None else (*nvidia_gpus(), *amd_gpus(root))
    return Machine(
        cores=cores,
        physical_cores=_physical_cores(cpuinfo, cores),
        memory_total_bytes=total,
        memory_available_bytes=available,
        cpu_model=_cpu_field(cpuinfo, "model name"),
        cpu_flags=frozenset((_cpu_field(cpuinfo, "flags") or _cpu_field(cpuinfo, "Features")).split()),
        gpus=gpus,
        numa_nodes=numa.nodes(root),
    )


# -- GPUs ---------------------------------------------------------------------------------------------------------

_SMI_FIELDS = "index,uuid,name,memory.total,memory.free,compute_cap"


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=True)
    return done.stdout


def nvidia_gpus(run: Run = _run) -> list[Gpu]:
    """GPUs that `nvidia-smi` lists; none when it is missing, hangs or reports no device."""
    try:
        table = run(["nvidia-smi", f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader,nounits"])
    except (OSError, subprocess.SubprocessError):
        return []
    gpus: list[Gpu] = []
    instances = _mig_instances(run) if table.strip() else {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 6 or not (cells[0].isdecimal() and cells[3].isdecimal() and cells[4].isdecimal()):
            continue  # "[N/A]" of a GPU that fell off the bus, or a warning line
        major, _, minor = cells[5].partition(".")
        gpus.append(
            Gpu(
                index=int(cells[0]),
                uuid=cells[1],
                name=cells[2],
                memory_total_bytes=int(cells[3]) * MIB,
                memory_free_bytes=int(cells[4]) * MIB,
                compute_capability=(int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None,
                instances=tuple(instances.get(cells[1], ())),
            )
        )
    return gpus


def _mig_instances(run: Run) -> dict[str, list[MigInstance]]:
    """GPU's id -> its MIG instances, as `nvidia-smi -L` lists them below the GPU."""
    try:
        listing = run(["nvidia-smi", "-L"])
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, list[MigInstance]] = {}
    parent = ""
    for line in listing.splitlines():
        uuid = re.search(r"UUID: ([\w-]+)", line)
        if uuid is None:
            continue
        words = line.split()
        if words[0] == "MIG":
            found.setdefault(parent, []).append(MigInstance(uuid[1], words[1]))
        else:
            parent = uuid[1]
    return found


def amd_gpus(root: Path = Path("/")) -> list[Gpu]:
    """GPUs that the amdgpu kernel driver shows in sysfs."""
    gpus: list[Gpu] = []
    for card in sorted((root / "sys/class/drm").glob("card[0-9]*")):
        device = card / "device"
        total = _number(device / "mem_info_vram_total")
        if "-" in card.name or _read(device / "vendor").strip() != "0x1002" or total is None:
            continue
        used = _number(device / "mem_info_vram_used") or 0
        gpus.append(
            Gpu(
                index=len(gpus),
                uuid=f"GPU-{unique}" if (unique := _read(device / "unique_id").strip()) else device.resolve().name,
                name=_read(device / "product_name").strip() or "AMD GPU",
                memory_total_bytes=total,
                memory_free_bytes=total - used,
                vendor="amd",
            )
        )
    return gpus


def visible_gpus(found: Machine, device: str = "auto", environ: Mapping[str, str] | None = None) -> tuple[Gpu, ...]:
    """GPUs an engine may use; an empty tuple means the CPU.

    Args:
        device: `auto` (what CUDA_VISIBLE_DEVICES leaves, for AMD GPUs what ROCR_VISIBLE_DEVICES and then
            HIP_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES leave; empty or -1 leaves none), `cpu`, `all`, or devices as
            in CUDA_VISIBLE_DEVICES.
        environ: the environment; default `os.environ`.

    Raises:
        NoSuitableDevice: `device` names a GPU that is not there.
    """
    if device == "cpu":
        return ()
    if device == "all":
        return found.gpus
    if device == "auto":
        return _left_by_environment(found.gpus, os.environ if environ is None else environ)
    chosen: list[Gpu] = []
    for name in visible_devices.parse(device.removeprefix("cuda:")):
        match = [gpu if name == str(gpu.index) else gpu.named(name) for gpu in found.gpus]
        match = [gpu for gpu in match if gpu is not None]
        if not match:
            raise NoSuitableDevice(
                f"--device: GPU {name} is not on this machine.", hint=_what_is_there(found), param="device"
            )
        chosen.append(match[0])
    if not chosen and device != "-1":
        raise NoSuitableDevice(f"--device: {device[:80]!r} names no GPU.", hint=_what_is_there(found), param="device")
    return tuple(chosen)


def _left_by_environment(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """GPUs whose drivers see them: each vendor's own variables, applied in the driver's order."""
    left: list[Gpu] = []
    for vendor in ("nvidia", "amd"):
        seen = [gpu for gpu in gpus if gpu.vendor == vendor]
        for text in visible_devices.filters(environ, vendor):
            seen = _left_by(seen, text)
        left += seen
    return tuple(left)


def _left_by(gpus: Sequence[Gpu], text: str) -> list[Gpu]:
    """GPUs that a variable leaves; numbers count in the list it is given, which ends at the first that is not there."""
    left: list[Gpu] = []
    for name in visible_devices.parse(text):
        match = [gpu if name == str(place) else gpu.named(name) for place, gpu in enumerate(gpus)]
        match = [gpu for gpu in match if gpu is not None]
        if not match:
            break
        left.append(match[0])
    return left


def _what_is_there(found: Machine) -> str:
    if not found.gpus:
        return "No GPU was found; use --device cpu."
    return "There are: " + ", ".join(f"{gpu.index} ({gpu.name})" for gpu in found.gpus) + "."


# -- cores --------------------------------------------------------------------------------------------------------


def _cores(root: Path) -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for quota in map(_cpu_quota, _cgroup_folders(root, "cpu")) if quota is not None]
    return max(1, min([allowed, *(int(quota) for quota in quotas)]))


def _cpu_quota(folder: Path) -> float | None:
    """Cores a cgroup may use; None without a limit."""
    v2 = _read(folder / "cpu.max").split()
    if len(v2) == 2 and v2[0].isdecimal() and v2[1].isdecimal():
        return int(v2[0]) / int(v2[1])
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None


def _physical_cores(cpuinfo: str, cores: int) -> int:
    """Distinct (package, core) pairs of /proc/cpuinfo, which not every architecture writes."""
    pairs: set[tuple[str, str]] = set()
    for block in cpuinfo.split("\n\n"):
        if core := _cpu_field(block, "core id"):
            pairs.add((_cpu_field(block, "physical id"), core))
    return min(len(pairs), cores) or cores


def _cpu_field(cpuinfo: str, name: str) -> str:
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return ""


# -- memory -------------------------------------------------------------------------------------------------------


def _memory(root: Path) -> tuple[int, int]:
    """(total, available) in bytes."""
    facts = dict(_meminfo(root))
    total = facts.get("MemTotal") or _installed_memory()
    available = facts.get("MemAvailable", facts.get("MemFree", total))
    for folder in _cgroup_folders(root, "memory"):
        limit, left = _cgroup_memory(folder)
        if limit is not None:
            total = min(total, limit)
            available = min(available, left)
    return total, max(0, available)


def _meminfo(root: Path) -> Iterator[tuple[str, int]]:
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        amount = rest.split()
        if amount and amount[0].isdecimal():
            yield name, int(amount[0]) * 1024


def _installed_memory() -> int:
    """Where there is no /proc (macOS)."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_memory(folder: Path) -> tuple[int | None, int]:
    """(limit, what is left of it) of one cgroup, in bytes; pages the kernel can drop count as left."""
    for limit_file, usage_file, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _number(folder / limit_file)
        if limit is None or limit >= _NO_LIMIT:
            continue
        used = _number(folder / usage_file) or 0
        lines = (line.split() for line in _read(folder / "memory.stat").splitlines())
        droppable = sum(int(words[1]) for words in lines if words[:1] == [cache_key] and words[1:])
        return limit, limit - max(0, used - droppable)
    return None, 0


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup and all above it, for one controller, v2 and v1."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = mount
        elif controller in controllers.split(","):
            base = mount / controller
        else:
            continue
        folder = base / path.lstrip("/")
        while True:
            if folder.is_dir():
                yield folder
            if folder == base:
                break
            folder = folder.parent


def _read(path: Path) -> str:
    """A small file's text; empty when it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdecimal() else None
