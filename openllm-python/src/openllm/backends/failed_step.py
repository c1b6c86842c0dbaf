"""What a client is told when a step of a model raises for its sequence, and whether that was for want of memory.

Backends whose steps run Python that may raise share it. Knows no framework: a framework's own class of error for memory that
ran out says so in its words.
"""

from __future__ import annotations

from openllm_core.errors import EngineError, OpenLLMError, OutOfMemoryInStep

_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")  # of PyTorch's allocators, as RuntimeError
RETRY_AFTER_S = 5.0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or in main memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def as_engine_error(error: Exception) -> OpenLLMError:
    """Ours as it is; else what a client may know of it."""
    if isinstance(error, OpenLLMError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryInStep("Memory ran out while this request was computed.", retry_after_s=RETRY_AFTER_S)
    return EngineError("The model could not compute this request; the log of the server names the cause.")
