"""Which tests run beside which, when pytest-xdist gives two processes: `python3 tools/dev.py test` asks for that.

The first worker takes lane after lane in order. The others take, file by file, only lanes marked `beside` (no clock is
watched there), at a lower priority, so that what watches a clock hardly feels them. A first worker that is done with its
own lanes helps with what is left. Called by tests/conftest.py; must not know what any test does.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

NICENESS = 5  # a third of the first worker's share of a core that both want


class TwoStreams(LoadFileScheduling):
    """Hands out whole files: any to the first worker, those that may run beside to each.

    Args:
        beside: whether a file, by its path as in a node id, may run beside any other.
    """

    def __init__(self, config: pytest.Config, log: object, beside: Callable[[str], bool]) -> None:
        config.option.loadscopereorder = False  # else files of many tests come first, and the longest single tests last
        super().__init__(config, log)  # pyright: ignore[reportArgumentType] - the type of xdist's log is private
        self._beside = beside

    def _next_for(self, node: WorkerController) -> str | None:
        """The file that `node` should run next; None when nothing is left for it."""
        shared = [file for file in self.workqueue if self._beside(file)]
        if node is not min((other for other in self.nodes if not other.shutting_down), key=number_of, default=node):
            return next(iter(shared), None)
        return next((file for file in self.workqueue if file not in shared), None) or next(iter(shared), None)

    def _assign_work_unit(self, node: WorkerController) -> None:
        file = self._next_for(node)
        if file is not None:
            self.workqueue.move_to_end(file, last=False)
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        """Keep three tests waiting, as a worker begins one when it knows the next; or say that there are no more."""
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 3:
            if self._next_for(node) is None:
                node.shutdown()
            else:
                self._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """The test that crashed a worker, which is not run again; what else it had is. None where it ended well."""
        held = self.assigned_work.pop(node)
        left = [(file, test) for file, tests in held.items() for test, done in tests.items() if not done]
        if not left:
            return None
        file, crashed = left[0]
        held[file][crashed] = True
        self.workqueue.update({name: tests for name, tests in held.items() if not all(tests.values())})
        for other in self.nodes:
            self._reschedule(other)
        return crashed


def number_of(node: WorkerController) -> int:
    """7 of "gw7": workers are numbered as they start, and one that replaces a crashed one starts last."""
    return int(node.gateway.id.removeprefix("gw"))


def step_back(config: pytest.Config) -> None:
    """Lower the priority of this process where it is a worker other than the first."""
    if getattr(config, "workerinput", {"workerid": "gw0"})["workerid"] != "gw0":
        os.nice(NICENESS)
