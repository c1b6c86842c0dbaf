"""Where on a CPU an engine lives: its NUMA nodes, and its part of them where several engines share the machine.

`threads` binds cores by it and `plan` sizes memory by it, so that both mean the same nodes. Must not import vllm or torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from openllm_core.options import EngineOptions
from openllm_core.resources import detect
from openllm_core.resources.numa import NumaNode


@attrs.frozen
class Part:
    """An engine's part of a CPU.

    Attributes:
        nodes: NUMA nodes, one for each rank; none where the system does not tell of any.
        index: which of the engines on these nodes it is, from 0.
        count: engines on these nodes.
    """

    nodes: tuple[NumaNode, ...]
    index: int = 0
    count: int = 1

    def of(self, cores: Sequence[int]) -> list[int]:
        """The engine's own of the cores of one node."""
        return list(cores[len(cores) * self.index // self.count : len(cores) * (self.index + 1) // self.count])


def part_of(options: EngineOptions, machine: detect.Machine) -> Part:
    """Nodes of its own while there are enough; else engines of one rank go round the nodes, and share what they meet on."""
    ranks, index, count = options.tensor_parallel_size or 1, options.engine_index, options.sharing_engines
    nodes = tuple(node for node in machine.numa_nodes if node.cores)
    if not nodes:
        return Part((), index, count)
    if ranks * count <= len(nodes):
        return Part(nodes[index * ranks : (index + 1) * ranks])
    if ranks > 1:
        return Part(nodes[:ranks], index, count)
    here = index % len(nodes)
    return Part((nodes[here],), index // len(nodes), len(range(here, count, len(nodes))))
