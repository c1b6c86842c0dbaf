"""What the machine has, read from fake /proc and /sys trees and a fake nvidia-smi."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from openllm_core.errors import NoSuitableDevice
from openllm_core.resources import detect
from openllm_core.resources.detect import Gpu, Machine, amd_gpus, machine, nvidia_gpus, visible_gpus

GIB = 1024**3
MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nHugePages_Total: x\n"
CPUINFO = "\n\n".join(
    f"processor\t: {n}\nmodel name\t: Test CPU\nphysical id\t: 0\ncore id\t\t: {n // 2}\nflags\t\t: avx2 avx512_bf16"
    for n in range(4)
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 4 logical cores and 16 GiB, no cgroup limits."""
    write(tmp_path / "proc/meminfo", MEMINFO)
    write(tmp_path / "proc/cpuinfo", CPUINFO)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def look(root: Path) -> Machine:
    return machine(probe=lambda: [], root=root)


def test_a_plain_machine(tree: Path) -> None:
    """Cores, siblings, memory, instruction sets."""
    found = look(tree)
    assert (found.cores, found.physical_cores) == (4, 2)
    assert (found.memory_total_bytes, found.memory_available_bytes) == (16 * GIB, 8 * GIB)
    assert found.cpu_model == "Test CPU"
    assert "avx512_bf16" in found.cpu_flags
    assert found.gpus == ()


def test_this_machine() -> None:
    """The real one has at least a core and some memory."""
    found = machine(probe=lambda: [])
    assert found.cores >= found.physical_cores >= 1
    assert 0 < found.memory_available_bytes <= found.memory_total_bytes


def test_affinity_limits_cores(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process pinned to one core has one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert (look(tree).cores, look(tree).physical_cores) == (1, 1)


def test_without_affinity_the_count_is_the_systems(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no such call."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert look(tree).cores == 3


def test_a_cpu_that_does_not_name_its_cores(tree: Path) -> None:
    """Then every logical core counts."""
    write(tree / "proc/cpuinfo", "processor\t: 0\nFeatures\t: asimd bf16\n")
    assert look(tree).physical_cores == 4
    assert look(tree).cpu_flags == {"asimd", "bf16"}


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 1), ("50000 100000", 1), ("300000 100000", 3), ("max 100000", 4)]
)
def test_a_v2_cpu_quota_limits_cores(tree: Path, quota: str, cores: int) -> None:
    """Rounded down, at least one; `max` is no limit."""
    write(tree / "proc/self/cgroup", "0::/pod/box\n")
    write(tree / "sys/fs/cgroup/pod/box/cpu.max", quota + "\n")
    assert look(tree).cores == cores


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("-1", 4), ("0", 4)])
def test_a_v1_cpu_quota_limits_cores(tree: Path, quota: str, cores: int) -> None:
    """-1 is no limit."""
    write(tree / "proc/self/cgroup", "5:cpu,cpuacct:/\n1:name=systemd:/\n")
    write(tree / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota + "\n")
    write(tree / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert look(tree).cores == cores


def test_a_v2_memory_limit_counts_what_can_be_dropped(tree: Path) -> None:
    """Limit less use, plus the page cache that is not in use; a parent's lower limit counts too."""
    write(tree / "proc/self/cgroup", "0::/pod/box\n")
    box = tree / "sys/fs/cgroup/pod/box"
    write(box / "memory.max", f"{4 * GIB}\n")
    write(box / "memory.current", f"{3 * GIB}\n")
    write(box / "memory.stat", f"anon 5\ninactive_file {GIB}\nbroken\n")
    found = look(tree)
    assert (found.memory_total_bytes, found.memory_available_bytes) == (4 * GIB, 2 * GIB)
    write(tree / "sys/fs/cgroup/pod/memory.max", f"{GIB}\n")
    write(tree / "sys/fs/cgroup/pod/memory.current", f"{2 * GIB}\n")
    found = look(tree)
    assert (found.memory_total_bytes, found.memory_available_bytes) == (GIB, 0)


def test_v2_without_a_limit(tree: Path) -> None:
    """`max` leaves the machine's own figures."""
    write(tree / "proc/self/cgroup", "0::/\n")
    write(tree / "sys/fs/cgroup/memory.max", "max\n")
    assert look(tree).memory_total_bytes == 16 * GIB


def test_a_v1_memory_limit(tree: Path) -> None:
    """By its own file names; the largest number is no limit; the path may not exist inside a container."""
    write(tree / "proc/self/cgroup", "4:memory:/docker/abc\n")
    folder = tree / "sys/fs/cgroup/memory"
    write(folder / "memory.limit_in_bytes", f"{2 * GIB}\n")
    write(folder / "memory.usage_in_bytes", f"{GIB}\n")
    write(folder / "memory.stat", f"total_inactive_file {GIB // 2}\n")
    found = look(tree)
    assert (found.memory_total_bytes, found.memory_available_bytes) == (2 * GIB, GIB + GIB // 2)
    write(folder / "memory.limit_in_bytes", "9223372036854771712\n")
    assert look(tree).memory_total_bytes == 16 * GIB


def test_a_system_without_proc(tmp_path: Path) -> None:
    """Installed memory from the C library; all of it counts as available."""
    found = look(tmp_path)
    assert found.memory_total_bytes == found.memory_available_bytes > 0


# -- GPUs ---------------------------------------------------------------------------------------------------------

SMI = """0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559, 80000, 9.0
1, GPU-abbb, NVIDIA A100-SXM4-40GB, 40536, 1000, 8.0
2, GPU-cccc, Old GPU, 2048, 2000, [N/A]
3, GPU-dddd, Lost GPU, [N/A], [N/A], 8.0
Unable to determine the device handle for GPU
"""


def test_nvidia_smi_is_read_line_by_line() -> None:
    """Sizes in MiB become bytes; a GPU that fell off the bus and warning lines are left out."""
    commands: list[Sequence[str]] = []
    gpus = nvidia_gpus(lambda command: (commands.append(command), SMI)[1])
    assert commands[0][0] == "nvidia-smi"
    assert [gpu.index for gpu in gpus] == [0, 1, 2]
    assert gpus[0] == Gpu(
        index=0,
        uuid="GPU-aaaa",
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=81559 * 1024**2,
        memory_free_bytes=80000 * 1024**2,
        compute_capability=(9, 0),
    )
    assert gpus[2].compute_capability is None


SMI_LIST = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
  MIG 3g.40gb     Device  0: (UUID: MIG-1111-22)
  MIG odd         Device  1: (UUID: MIG-3333-44)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-abbb)
Warning: something
"""


@pytest.fixture
def cut() -> Machine:
    """A machine with two GPUs, the first of which is cut into two instances."""
    gpus = nvidia_gpus(lambda command: SMI_LIST if command[-1] == "-L" else "\n".join(SMI.splitlines()[:2]))
    return Machine(cores=1, memory_total_bytes=1, memory_available_bytes=1, gpus=tuple(gpus))


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_an_instance_of_a_gpu_is_named_by_its_id(cut: Machine, by: str) -> None:
    """It has its GPU's place and its profile's memory; other ids are those of whole GPUs."""
    environ = {"CUDA_VISIBLE_DEVICES": "MIG-1111"} if by == "variable" else {}
    (found,) = visible_gpus(cut, "auto" if by == "variable" else "MIG-1111", environ)
    assert (found.index, found.uuid, found.device) == (0, "MIG-1111-22", "MIG-1111-22")
    assert found.name == "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    assert found.memory_total_bytes == found.memory_free_bytes == 40 * GIB
    assert [gpu.device for gpu in visible_gpus(cut, "all")] == ["0", "1"]
    assert [len(gpu.instances) for gpu in cut.gpus] == [2, 0]


def test_an_instance_whose_profile_names_no_memory_may_have_all(cut: Machine) -> None:
    """Of its GPU; and one that is not there is an error."""
    (found,) = visible_gpus(cut, "MIG-3333-44", {})
    assert found.memory_total_bytes == cut.gpus[0].memory_total_bytes
    with pytest.raises(NoSuitableDevice):
        visible_gpus(cut, "MIG-9", {})


def test_gpus_are_found_though_their_instances_cannot_be_listed() -> None:
    """They count as whole."""

    def run(command: Sequence[str]) -> str:
        if command[-1] == "-L":
            raise subprocess.CalledProcessError(9, "nvidia-smi")
        return SMI

    assert [gpu.instances for gpu in nvidia_gpus(run)] == [(), (), ()]
    assert nvidia_gpus(lambda command: "") == []


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(),
        PermissionError(),
        subprocess.TimeoutExpired("nvidia-smi", 20),
        subprocess.CalledProcessError(9, "nvidia-smi"),
    ],
)
def test_a_missing_or_failing_nvidia_smi_means_no_gpu(error: Exception) -> None:
    """Never an exception."""

    def fail(command: Sequence[str]) -> str:
        raise error

    assert nvidia_gpus(fail) == []


def test_the_program_on_the_path_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    """By default, with its output decoded."""
    program = tmp_path / "bin" / "nvidia-smi"
    write(program, "#!/bin/sh\necho '0, GPU-a, Fake, 100, 50, 7.5'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert [gpu.name for gpu in machine(root=tree).gpus] == ["Fake"]


def test_amd_gpus_are_read_from_sysfs(tmp_path: Path) -> None:
    """Cards of that vendor which report their memory; connectors and other vendors are left out."""
    drm = tmp_path / "sys/class/drm"
    write(drm / "card0/device/vendor", "0x8086\n")
    write(drm / "card1/device/vendor", "0x1002\n")
    write(drm / "card1/device/mem_info_vram_total", f"{GIB}\n")
    write(drm / "card1/device/mem_info_vram_used", f"{GIB // 4}\n")
    write(drm / "card1/device/product_name", "MI300X\n")
    write(drm / "card1-DP-1/device/vendor", "0x1002\n")
    write(drm / "card1-DP-1/device/mem_info_vram_total", "5\n")
    write(drm / "card2/device/vendor", "0x1002\n")
    write(drm / "card2/device/mem_info_vram_total", f"{GIB}\n")
    gpus = amd_gpus(tmp_path)
    assert [(gpu.index, gpu.name, gpu.vendor) for gpu in gpus] == [(0, "MI300X", "amd"), (1, "AMD GPU", "amd")]
    assert gpus[0].memory_free_bytes == GIB - GIB // 4


def with_gpus(*uuids: str) -> Machine:
    gpus = tuple(
        Gpu(index=i, uuid=uuid, name=f"G{i}", memory_total_bytes=GIB, memory_free_bytes=GIB)
        for i, uuid in enumerate(uuids)
    )
    return Machine(cores=1, memory_total_bytes=GIB, memory_available_bytes=GIB, gpus=gpus)


@pytest.mark.parametrize(
    ("device", "variable", "indices"),
    [
        ("auto", None, [0, 1, 2]),
        ("auto", "", []),
        ("auto", "-1", []),
        ("auto", "1", [1]),
        ("auto", "2,0", [2, 0]),
        ("auto", "0,7,1", [0]),
        ("auto", "GPU-c", [2]),
        ("auto", "none", []),
        ("cpu", "0", []),
        ("all", "0", [0, 1, 2]),
        ("1", "0", [1]),
        ("cuda:1", None, [1]),
        ("2,1", None, [2, 1]),
        ("GPU-aa", None, [0]),
        ("-1", None, []),
    ],
)
def test_which_gpus_an_engine_may_use(device: str, variable: str | None, indices: list[int]) -> None:
    """`auto` follows CUDA_VISIBLE_DEVICES, where empty and -1 mean the CPU; a named device beats the variable."""
    environ = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    chosen = visible_gpus(with_gpus("GPU-aaaa", "GPU-bbbb", "GPU-cccc"), device, environ)
    assert [gpu.index for gpu in chosen] == indices


def test_the_process_environment_counts_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.index for gpu in visible_gpus(with_gpus("GPU-a", "GPU-b"))] == [1]


@pytest.mark.parametrize("device", ["5", "0,5", "GPU-zz", "gpu"])
def test_a_named_device_that_is_not_there_is_an_error(device: str) -> None:
    """With those there are."""
    with pytest.raises(NoSuitableDevice) as caught:
        visible_gpus(with_gpus("GPU-a"), device, {})
    assert caught.value.hint == "There are: 0 (G0)."
    with pytest.raises(NoSuitableDevice) as caught:
        visible_gpus(with_gpus(), device, {})
    assert "--device cpu" in (caught.value.hint or "")


def test_machines_are_values() -> None:
    """Two looks at the same tree compare equal."""
    assert with_gpus("GPU-a") == with_gpus("GPU-a")
    assert detect.MIB == 1024 * 1024
