"""The thread of a backend's steps: its calls never take a page from the system and give it back."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable

import pytest

from openllm.backends.step_thread import NAME, step_thread

DEPTHS = 200  # calls below one another; one chunk of CPython's holds fewer, so that some of them stand just at its end
CALLS = 300
pytestmark = pytest.mark.skipif(
    not hasattr(resource, "RUSAGE_THREAD"), reason="page faults of one thread are counted on Linux alone"
)


def test_calls_at_every_depth_touch_no_new_page() -> None:
    assert most_faults(step_thread) < CALLS / 3


def test_an_ordinary_thread_pays_for_every_call_at_some_depth() -> None:
    assert most_faults(lambda run: threading.Thread(target=run)) >= CALLS, (
        "nothing is left that the frame's room would mend"
    )


def test_arguments_arrive_and_the_process_ends_without_it() -> None:
    got: list[object] = []
    thread = step_thread(lambda *words: got.extend(words), 1, "two")
    thread.start()
    thread.join()
    assert got == [1, "two"]
    assert thread.daemon
    assert thread.name == NAME


def most_faults(make: Callable[[Callable[[], None]], threading.Thread]) -> int:
    """The most page faults that CALLS calls caused at any depth of a thread."""
    counts: list[int] = []
    thread = make(lambda: counts.extend(faults_at(depth) for depth in range(DEPTHS)))
    thread.start()
    thread.join()
    return max(counts)


def faults_at(depth: int) -> int:
    if depth:
        return faults_at(depth - 1)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(CALLS):
        outer()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def outer() -> None:
    inner()


def inner() -> None:
    return
