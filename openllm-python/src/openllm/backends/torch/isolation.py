"""When a step raises: which of its sequences is to blame, and what each is told.

The scheduler asks. One sequence that cannot be computed must not end the others, and memory that ran out is no sequence's
fault: then the newest gives way. Knows nothing of lanes or caches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from openllm_core.errors import EngineError, OpenLLMError, OutOfMemoryInStep

from ..base import SequenceDelta
from .rows import Row

log = logging.getLogger("openllm.backends.torch")

_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")  # of PyTorch's allocators, as RuntimeError
RETRY_AFTER_S = 5.0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or in main memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def blamed(count: int, error: Exception, attempt: Callable[[slice], object]) -> dict[int, Exception]:
    """Which rows of a batch raise by themselves, and what; found by halves, so that few steps are taken again.

    Args:
        count: rows of the batch.
        error: that the whole batch has just raised.
        attempt: computes the rows of a slice, without any lasting effect.

    Returns:
        Row -> what it raised; empty when no part of the batch raises again.
    """
    if count == 1:
        return {0: error}
    found: dict[int, Exception] = {}

    def look(rows: slice) -> None:
        try:
            attempt(rows)
        except Exception as own:
            if rows.stop - rows.start == 1:
                found[rows.start] = own
            else:
                halve(rows.start, rows.stop)

    def halve(start: int, stop: int) -> None:
        middle = (start + stop) // 2
        look(slice(start, middle))
        look(slice(middle, stop))

    halve(0, count)
    return found


def failed(row: Row, error: Exception) -> SequenceDelta:
    """The final delta of a row that cannot go on; what a framework raised is for the log, not for the client."""
    if not isinstance(error, OpenLLMError):
        log.error("request %s failed in a step", row.request_id, exc_info=error)
    return SequenceDelta(row.request_id, [], "error", None, as_engine_error(error).as_dict())


def as_engine_error(error: Exception) -> OpenLLMError:
    """Ours as it is; else what a client may know of it."""
    if isinstance(error, OpenLLMError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryInStep("Memory ran out while this request was computed.", retry_after_s=RETRY_AFTER_S)
    return EngineError("The model could not compute this request; the log of the server names the cause.")
