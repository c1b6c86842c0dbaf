"""Every queue has a bound: one that is made without says here who keeps it short, and no such line outlives its queue."""

from __future__ import annotations

import ast

import pytest

from .test_source import SOURCES, dotted, shown, tree_of

# Class of a queue -> the argument that bounds it: its name, and its place.
QUEUES = {
    "deque": ("maxlen", 1),
    "Queue": ("maxsize", 0),
    "LifoQueue": ("maxsize", 0),
    "PriorityQueue": ("maxsize", 0),
    "SimpleQueue": ("", -1),  # has none
}

# file, what is assigned -> who keeps it short
KEPT_SHORT = {
    "openllm-python/src/openllm/backends/torch/backend.py self._inbox": "the engine submits slots and a look-ahead",
    "openllm-python/src/openllm/backends/torch/backend.py self._outputs": "a full one stops the thread that fills it",
    "openllm-python/src/openllm/backends/torch/scheduler.py self.waiting": "the engine submits slots and a look-ahead",
    "openllm-python/src/openllm/backends/vllm/backend.py self._steps": "a slot has one delta in each; taken every step",
    "openllm-python/src/openllm/backends/vllm/core.py self._inbox": "the engine submits slots and a look-ahead",
    "openllm-python/src/openllm/engine/stream.py self._deltas": "deltas of one choice are merged while nobody reads",
    "openllm-python/src/openllm/logs.py self._calls": "nobody calls again until the call was taken",
    "openllm-python/src/openllm/logs.py self._waiting": "a line past the limit is dropped and counted before it is put",
    "openllm-python/src/openllm/python_tokenizer.py self._pieces": "one push may fill it, the next empties it",
}


def unbounded(tree: ast.AST) -> list[str]:
    """What queues without a bound are assigned to, in order."""
    found: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        for call in ast.walk(node.value):
            if not isinstance(call, ast.Call) or (name := dotted(call.func).rpartition(".")[2]) not in QUEUES:
                continue
            keyword, place = QUEUES[name]
            named = any(given.arg == keyword and keyword for given in call.keywords)
            if not named and not len(call.args) > place >= 0:
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                found.append(ast.unparse(target))
    return found


def test_every_queue_is_bounded() -> None:
    """`deque(...)` and the queues have a bound, or a reason above; each reason still has its queue."""
    found = {f"{shown(path)} {target}" for path in SOURCES for target in unbounded(tree_of(path))}
    assert found == set(KEPT_SHORT)


@pytest.mark.parametrize(
    ("code", "targets"),
    [
        ("a = deque()", ["a"]),
        ("self.a: deque[int] = collections.deque([1])", ["self.a"]),
        ("a = deque([], 3)", []),
        ("a = deque(maxlen=3)", []),
        ("a = asyncio.Queue()", ["a"]),
        ("a = asyncio.Queue(8)", []),
        ("a = queue.Queue(maxsize=n)", []),
        ("a = queue.SimpleQueue()", ["a"]),
        ("a = [deque() for _ in b]", ["a"]),
    ],
)
def test_the_rule_sees_what_it_must(code: str, targets: list[str]) -> None:
    """Each form of an unbounded queue is found, and no bounded one."""
    assert unbounded(ast.parse(code)) == targets
