"""TrainingOptions: what one fine-tuning run is told. One `setting(...)` line each, from which the flags are made.

Called by `openllm finetune` (flags) and by programs. The settings of the model itself (quantisation, type, device) are
EngineOptions.
"""

from __future__ import annotations

import attrs

from openllm_core.settings import setting

TRAINING = "Training"
ADAPTER = "Adapter"


@attrs.frozen(kw_only=True)
class TrainingOptions:
    """How an adapter is trained; what is None comes from the model's family, else from `prepare.GENERAL`."""

    epochs: float = setting(3.0, "Times the dataset is read.", ge=0.001, le=10_000, group=TRAINING)
    max_steps: int | None = setting(None, "Steps in all, instead of --epochs.", ge=1, group=TRAINING)
    batch_size: int = setting(4, "Examples computed at once.", ge=1, le=4096, group=TRAINING)
    accumulate: int = setting(1, "Batches of one step.", ge=1, le=4096, group=TRAINING)
    learning_rate: float = setting(2e-4, "Highest rate; it falls to 0 over the run.", ge=0, le=10, group=TRAINING)
    max_length: int = setting(1024, "Tokens of one example; what is longer is cut.", ge=8, group=TRAINING)
    seed: int = setting(42, "Of the order of examples and of dropout.", ge=0, group=TRAINING)
    save_every: int | None = setting(
        None, "Steps between checkpoints, from which a stopped run goes on; default: a tenth of the run.", ge=1,
        group=TRAINING,
    )  # fmt: skip
    gradient_checkpointing: bool = setting(
        True, "Compute parts of the forward pass twice, which saves memory.", group=TRAINING
    )
    rank: int | None = setting(None, "Rank of the LoRA matrices.", ge=1, le=512, group=ADAPTER)
    alpha: int | None = setting(None, "Scale of the adapter, over the rank.", ge=1, group=ADAPTER)
    dropout: float | None = setting(None, "Dropout before the adapter.", ge=0, le=0.99, group=ADAPTER)
    target_modules: tuple[str, ...] = setting(
        (), "Layers that get an adapter, by the end of their name; repeatable; all-linear takes all.", group=ADAPTER
    )

    def adapter_settings(self) -> dict[str, object]:
        """Those of the adapter that were given, as peft names them."""
        targets: object = list(self.target_modules)
        if self.target_modules == ("all-linear",):
            targets = "all-linear"
        given = {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": targets or None,
        }
        return {name: value for name, value in given.items() if value is not None}
