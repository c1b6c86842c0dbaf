"""Fine-tuning with adapters: a model and its tokenizer made ready for any trainer, and a whole run of our own.

`LLM.prepare_for_training`, `openllm finetune` and the notebooks call it. Trains with peft and transformers' Trainer in the
calling process; knows nothing of engines or servers. Importing it is cheap: torch is imported when a model is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter import merge_adapter, save_adapter
    from .dataset import Example, read_dataset
    from .options import TrainingOptions
    from .prepare import prepare_for_training
    from .run import Outcome, finetune
    from .training import train

__all__ = [
    "Example",
    "Outcome",
    "TrainingOptions",
    "finetune",
    "merge_adapter",
    "prepare_for_training",
    "read_dataset",
    "save_adapter",
    "train",
]

_HOMES = {
    "Example": "dataset",
    "Outcome": "run",
    "TrainingOptions": "options",
    "finetune": "run",
    "merge_adapter": "adapter",
    "prepare_for_training": "prepare",
    "read_dataset": "dataset",
    "save_adapter": "adapter",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
