"""What the server process asks before it starts the engine host; imports no numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openllm.backends.base import MemoryEstimate
from openllm_core.options import EngineOptions

INTERPRETER_BYTES = 60 << 20  # Python with numpy


def environment(options: EngineOptions, machine: Any = None) -> dict[str, str]:
    """One thread: the table fits into a cache."""
    return {"OMP_NUM_THREADS": "1"}


def estimate(options: EngineOptions, machine: Any = None) -> MemoryEstimate:
    """The file is read as it is."""
    weights = sum(file.stat().st_size for file in Path(options.model_path or ".").glob("*.safetensors"))
    parts = {"weights": weights, "work": INTERPRETER_BYTES}
    return MemoryEstimate(need_bytes=sum(parts.values()), parts=parts)
