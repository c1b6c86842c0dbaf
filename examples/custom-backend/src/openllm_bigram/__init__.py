"""The `bigram` backend for OpenLLM: the next byte by the byte before it. Its framework is numpy.

The engine host calls `load`; importing the package imports nothing heavy, since the server process does that too.
"""

from __future__ import annotations

from openllm.backends.base import Backend, Progress
from openllm_core.options import EngineOptions


def load(options: EngineOptions, progress: Progress) -> Backend:
    """Read the table that `options.model_path` holds.

    Raises:
        CorruptModel: the folder holds no table of bigrams.
    """
    from .backend import BigramBackend
    from .model import Table

    progress("reading the table", 0.0)
    table = Table.read(options.model_path or "")
    progress("reading the table", 1.0)
    return BigramBackend(table, options)
