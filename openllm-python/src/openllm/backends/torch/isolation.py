"""When a step raises: which of its sequences is to blame, and what each is told.

The scheduler asks. One sequence that cannot be computed must not end the others, and memory that ran out is no sequence's
fault: then the newest gives way. Knows nothing of lanes or caches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from openllm_core.errors import OpenLLMError

from .. import failed_step
from ..base import SequenceDelta
from ..failed_step import as_engine_error
from .rows import Row

log = logging.getLogger("openllm.backends.torch")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or in main memory."""
    return isinstance(error, torch.OutOfMemoryError) or failed_step.is_out_of_memory(error)


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
