"""The thread in which a backend computes its steps, with room for all of Python's frames from the start.

CPython (3.11 to 3.14) keeps the frames of a thread in chunks of 16 KiB, takes the next one by mmap and gives it back by munmap as
soon as the call that needed it returns. Where a loop's calls stand just at a chunk's end each of them pays for both, and
for telling every other core that the page is gone: measured in vLLM's compiled forward pass, 180 times a token, and the other
compute threads wait meanwhile. One frame that asks for more than a chunk gets a larger one, in which its callees fit too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

FRAME_SLOTS = 1 << 15
"""Size of that frame, in pointers of 8 bytes. A chunk is a power of two of bytes, so the next one leaves callees nearly as much."""
NAME = "openllm-step"


def step_thread(run: Callable[..., None], *args: object) -> threading.Thread:
    """A thread, not yet started, that calls `run(*args)` and ends with the process."""
    return threading.Thread(target=_with_room, args=(run, *args), name=NAME, daemon=True)


def _with_room(run: Callable[..., None], *args: object) -> None:
    run(*args)


_with_room.__code__ = _with_room.__code__.replace(co_stacksize=FRAME_SLOTS)
