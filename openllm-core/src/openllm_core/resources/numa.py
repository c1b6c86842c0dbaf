"""NUMA nodes: which cores and how much free memory each has, read from sysfs.

Called by `detect.py`; a backend whose memory lies on one node sizes itself by that node. Knows nothing of cgroups.
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class NumaNode:
    """One node.

    Attributes:
        cores: its logical cores that this process may use.
        memory_free_bytes: free memory, with file pages the kernel can drop.
    """

    index: int
    cores: tuple[int, ...]
    memory_total_bytes: int
    memory_free_bytes: int


def nodes(root: Path = Path("/")) -> tuple[NumaNode, ...]:
    """Nodes whose memory this process may use, in order; none where the system does not tell."""
    found: list[NumaNode] = []
    status = _text(root / "proc/self/status")
    rows = (line.partition(":") for line in status.splitlines())
    usable = next((_listed(text) for name, _, text in rows if name == "Mems_allowed_list"), None)
    for folder in (root / "sys/devices/system/node").glob("node[0-9]*"):
        index = int(folder.name.removeprefix("node"))
        facts = _meminfo(folder / "meminfo")
        if facts.get("MemTotal") and (usable is None or index in usable):
            free = facts.get("MemFree", 0) + facts.get("Inactive(file)", 0)
            found.append(
                NumaNode(
                    index=index,
                    cores=_allowed(_text(folder / "cpulist")),
                    memory_total_bytes=facts["MemTotal"],
                    memory_free_bytes=min(free, facts["MemTotal"]),
                )
            )
    return tuple(sorted(found, key=lambda node: node.index))


def _meminfo(file: Path) -> dict[str, int]:
    """Lines such as `Node 0 MemFree:  18950236 kB`, in bytes."""
    words = (line.split() for line in _text(file).splitlines())
    return {w[2].rstrip(":"): int(w[3]) * 1024 for w in words if len(w) >= 4 and w[3].isdecimal()}


def _listed(text: str) -> set[int]:
    """Numbers of a list such as `0-3,8`, as the kernel writes them."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _allowed(text: str) -> tuple[int, ...]:
    """Cores of a list that this process may run on."""
    cores = _listed(text)
    if hasattr(os, "sched_getaffinity"):
        cores &= os.sched_getaffinity(0)
    return tuple(sorted(cores))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
