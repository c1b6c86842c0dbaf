"""One training run: transformers' Trainer over encoded examples, with checkpoints it can go on from.

Called by `run.py` and by the notebooks. Knows nothing of stores, families or where the examples came from.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from .dataset import Example
from .encoding import Row, encode
from .failures import memory_told
from .options import TrainingOptions
from .untyped import library, quietly

Progress = Callable[[str, float | None, float | None], None]
"""Called with (what is being done, amount done, amount in all)."""
Say = Callable[[str], None]

STATE_FILE = "trainer_state.json"  # the last file of a checkpoint that the Trainer writes
REPORTS = 10  # losses told per run
LONGEST_PAUSE = 500  # steps between checkpoints at most


@attrs.frozen(kw_only=True)
class Trained:
    """What a run came to.

    Attributes:
        steps: of the optimiser, those before it was resumed included.
        resumed_from: step of the checkpoint it went on from; 0 for a run in one piece.
        first_loss, last_loss: mean loss per learnt token over the first and the last part that was told.
        cut: examples that were longer than the limit.
    """

    steps: int
    resumed_from: int
    first_loss: float
    last_loss: float
    cut: int


def train(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    folder: Path | None = None,
    *,
    options: TrainingOptions | None = None,
    progress: Progress = lambda text, done, total: None,
    say: Say = lambda text: None,
) -> Trained:
    """Train what is trainable of a model, in place.

    Args:
        model, tokenizer: as `prepare_for_training` gives them.
        folder: for checkpoints; the run goes on from the newest whole one it finds there. None keeps none.

    Raises:
        InvalidDataset: the model cannot learn from an example; names its line.
        OutOfMemory: a step does not fit; the hint names the settings that need less.
    """
    options = options or TrainingOptions()
    tokenizer.padding_side = "right"
    limit = min(options.max_length, _context(model))
    encoded = encode(examples, tokenizer, max_length=limit, seq2seq=bool(model.config.is_encoder_decoder))
    if encoded.cut:
        say(f"{encoded.cut} of {len(encoded.rows)} examples are longer than {limit} tokens and lose their end.")
    steps = _steps(len(encoded.rows), options)
    checkpoint = last_checkpoint(folder) if folder else None
    resumed = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    with quietly(), tempfile.TemporaryDirectory(prefix="openllm-training-") as nowhere:
        where = {"output_dir": str(folder or nowhere), "save_strategy": "steps" if folder else "no"}
        arguments = _arguments(model, options, steps, where)
        trainer = _trainer(model, tokenizer, encoded.rows, arguments, progress, say)
        with memory_told("training"):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Trained(
        steps=trainer.state.global_step,
        resumed_from=resumed,
        first_loss=losses[0],
        last_loss=losses[-1],
        cut=encoded.cut,
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; what a killed run left half-written is deleted."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            json.loads((path / STATE_FILE).read_bytes())
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return path
    return None


def _steps(rows: int, options: TrainingOptions) -> int:
    if options.max_steps is not None:
        return options.max_steps
    per_epoch = max(1, math.ceil(math.ceil(rows / options.batch_size) / options.accumulate))
    return max(1, math.ceil(options.epochs * per_epoch))


def _arguments(model: Any, options: TrainingOptions, steps: int, where: dict[str, str]) -> Any:
    on_cpu = model.device.type == "cpu"
    arguments = library("transformers").TrainingArguments(
        **where,
        max_steps=steps,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 33,
        logging_steps=max(1, steps // REPORTS),
        save_steps=options.save_every or max(1, min(LONGEST_PAUSE, steps // 10)),
        save_total_limit=2,
        seed=options.seed,
        bf16=not on_cpu and library("torch").cuda.is_bf16_supported(),
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # DataParallel would copy the model to every GPU
    return arguments


def _trainer(model: Any, tokenizer: Any, rows: list[Row], arguments: Any, progress: Progress, say: Say) -> Any:
    transformers = library("transformers")
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, padding=True),
        callbacks=[_report(transformers.TrainerCallback, progress, say)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _report(base: Any, progress: Progress, say: Say) -> Any:
    """A callback of the Trainer that tells steps and losses."""

    class Report(base):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress("training", state.global_step / state.max_steps, 1)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
            if "loss" in logs:
                say(f"step {state.global_step} of {state.max_steps}  loss {float(logs['loss']):.3f}")

    return Report()


def _context(model: Any) -> int:
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value: Any = getattr(model.config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return 2**31
