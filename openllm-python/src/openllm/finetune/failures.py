"""What may go wrong with torch and transformers while a model is loaded and trained, as errors that say what to do.

Called by `prepare.py` and `training.py`. Knows the exceptions of those libraries and nothing of models; torch is imported
inside functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from openllm_core.errors import OutOfMemory

SMALLER = "Use --batch-size 1, a smaller --max-length, or --quantize int4."


@contextlib.contextmanager
def memory_told(doing: str) -> Generator[None]:
    """Memory that runs out inside becomes `OutOfMemory`, with the flags that need less of it.

    Args:
        doing: for the message: `training`, `loading the model`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        from openllm.backends.torch.loading import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"Memory ran out while {doing}: {first_line(error)}", hint=SMALLER) from error


def first_line(error: BaseException) -> str:
    """Of its message; its class where it has none."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
