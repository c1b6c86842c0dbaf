"""The `echo` backend: answers a prompt with its own tokens. Deterministic, torch-free, scripted by `--engine-arg`.

Loaded by the engine host like any other backend; most tests of the server run on it. Tokens are bytes
(`openllm.tokenizer.byte_tokenizer` is the matching tokenizer).
"""

from __future__ import annotations

from openllm_core.options import EngineOptions

from ..base import Backend, Progress


def load(options: EngineOptions, progress: Progress) -> Backend:
    """Make the backend; `load_s` and `fail_load` of its script act here.

    Raises:
        InvalidSetting: an `--engine-arg` the script does not know.
        EngineError: `fail_load` asked for it.
    """
    from .backend import EchoBackend

    return EchoBackend.load(options, progress)
