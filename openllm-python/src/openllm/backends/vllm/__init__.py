"""The `vllm` backend: vLLM's engine with its own continuous batching, on GPUs or on CPU cores.

The engine host calls `load`; everything that needs vllm is imported inside it. The server process only ever touches
`launch`, which reads a model's files and the machine without vllm.
"""

from __future__ import annotations

from openllm_core.options import EngineOptions

from ..base import Backend, Progress


def load(options: EngineOptions, progress: Progress) -> Backend:
    """Start vLLM's engine core on the model in `options.model_path`.

    Raises:
        OutOfMemory: it will not fit; need and have are named, before anything is loaded.
        UnsupportedFeature: vLLM does not have the architecture, or no adapters for it.
        InvalidSetting: an `--engine-arg` that vLLM does not know.
        CorruptModel, UnsafeConfiguration: as for every backend.
        MissingDependency: vllm is not installed, or not importable beside what else is.
        EngineError: the engine core ended while starting; the message is its root cause.
    """
    from .failure import explain

    try:
        from .backend import VllmBackend
    except (ImportError, RuntimeError) as error:
        raise explain(error, []) from error
    return VllmBackend.load(options, progress)
