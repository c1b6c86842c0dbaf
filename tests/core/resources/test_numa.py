"""NUMA nodes, read from fake sysfs trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openllm_core.resources import detect, numa

KIB = 1024


def node(root: Path, index: int, meminfo: str, cpus: str) -> None:
    folder = root / f"sys/devices/system/node/node{index}"
    folder.mkdir(parents=True)
    (folder / "meminfo").write_text(meminfo)
    (folder / "cpulist").write_text(cpus)


def memory(index: int, total: int, free: int, inactive: int = 0) -> str:
    rows = {"MemTotal:": total, "MemFree:": free, "Inactive(file):": inactive}
    return (
        "".join(f"Node {index} {name}  {amount} kB\n" for name, amount in rows.items()) + "Node 0 HugePages: x\nodd\n"
    )


def test_each_node_has_cores_and_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order; file pages the kernel can drop count as free; a node without memory is none."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 8}, raising=False)
    node(tmp_path, 10, memory(10, 100, 90, 20), "8,x\n")
    node(tmp_path, 2, memory(2, 100, 40, 20), "0-3\n")
    node(tmp_path, 3, memory(3, 0, 0), "4-7\n")
    found = numa.nodes(tmp_path)
    assert [(n.index, n.cores) for n in found] == [(2, (0, 1, 2)), (10, (8,))]
    assert [(n.memory_total_bytes, n.memory_free_bytes) for n in found] == [
        (100 * KIB, 60 * KIB),
        (100 * KIB, 100 * KIB),
    ]
    assert detect.machine(probe=tuple, root=tmp_path).numa_nodes == found


def test_without_affinity_all_cores_of_a_node_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no such call."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    node(tmp_path, 0, memory(0, 100, 40), "0-1,5\n")
    assert numa.nodes(tmp_path)[0].cores == (0, 1, 5)


def test_nodes_whose_memory_is_not_ours_are_left_out(tmp_path: Path) -> None:
    """As a cgroup or numactl allots it; where the kernel does not say, all count."""
    for index in (0, 1, 2):
        node(tmp_path, index, memory(index, 100, 40), "0\n")
    assert [n.index for n in numa.nodes(tmp_path)] == [0, 1, 2]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tpython\nMems_allowed:\t5\nMems_allowed_list:\t0,2\n")
    assert [n.index for n in numa.nodes(tmp_path)] == [0, 2]


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    """Has no nodes; nor has one whose files cannot be read."""
    assert numa.nodes(tmp_path) == ()
    (tmp_path / "sys/devices/system/node/node0").mkdir(parents=True)
    assert numa.nodes(tmp_path) == ()
