"""The `pt` backend: transformers models with continuous batching, on one GPU or the CPU.

The engine host calls `load`; everything that needs torch is imported inside it. The server process only ever touches
`launch`, which reads a model's files without torch.
"""

from __future__ import annotations

from openllm_core.options import EngineOptions

from ..base import Backend, Progress


def load(options: EngineOptions, progress: Progress) -> Backend:
    """Load the model in `options.model_path` and start its step thread.

    Raises:
        OutOfMemory: it will not fit; need and have are named, before anything is loaded.
        CorruptModel: files missing or of a refused format, or a parameter that no file holds.
        UnsafeConfiguration: the model carries Python code and `trust_remote_code` was not given.
        NoSuitableDevice: the asked-for GPU is not there.
        MissingDependency: torch or transformers is not installed.
    """
    from .. import checkpoint
    from .launch import embeds_only

    folder = checkpoint.read(options.model_path, allow_pickle=options.allow_pickle_weights)
    try:
        if embeds_only(options, folder):
            from .encoder import EncoderBackend as Chosen
        else:
            from .backend import TorchBackend as Chosen
    except ModuleNotFoundError as error:
        from openllm_core.errors import MissingDependency

        raise MissingDependency(
            f"The pt backend needs {error.name}, which is not installed.", hint="pip install openllm"
        ) from error
    return Chosen.load(options, progress)
