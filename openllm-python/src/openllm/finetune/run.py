"""A fine-tuning run from a file of examples to an adapter that serves, which can be stopped and gone on with.

Called by `openllm finetune` and by programs. The output folder says what it is in `finetune.json`: a run goes on only with
the model, examples and settings it began with.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from openllm_core.errors import InvalidSetting

from .adapter import merge_adapter, refuse_quantised, save_adapter
from .dataset import Dataset, read_dataset
from .options import TrainingOptions
from .prepare import prepare_for_training
from .training import Progress, Say, Trained, last_checkpoint, train

if TYPE_CHECKING:
    from openllm.stored import StoredModel

RECORD = "finetune.json"
CHECKPOINTS = "checkpoints"
MERGED = "merged"


@attrs.frozen(kw_only=True)
class Outcome:
    """What a run left.

    Attributes:
        adapter: folder with `adapter_config.json` and `adapter_model.safetensors`.
        merged: folder of the merged model, where asked for.
        rank: of its matrices.
        trainable: weights that were trained.
        seconds: the run took, from the examples to the files; of its last part where it was resumed.
    """

    adapter: Path
    merged: Path | None
    trained: Trained
    rank: int
    trainable: int
    seconds: float


def finetune(
    llm: StoredModel,
    dataset: Path,
    output: Path,
    *,
    options: TrainingOptions | None = None,
    merge: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda text, done, total: None,
    say: Say = lambda text: None,
) -> Outcome:
    """Train a LoRA adapter on a file of examples.

    A run that was stopped goes on from its last checkpoint when it is started again in the same way.

    Args:
        llm: whose model; its quantisation, type and device are those to train with.
        dataset: JSON lines, see `read_dataset`.
        output: folder for the adapter; made here.
        merge: write the merged model into `output/merged` too.
        overwrite: begin anew, whatever `output` holds.

    Raises:
        InvalidDataset: a line cannot be used.
        InvalidSetting: `output` holds something else, or a run begun in another way.
        OpenLLMError: the model cannot be found, loaded or trained.
    """
    began = time.monotonic()
    options = options or TrainingOptions()
    found = read_dataset(dataset)
    if found.ignored:
        say(f"Keys that are not read: {', '.join(found.ignored[:8])}.")
    progress("finding the model", None, None)
    if merge:
        refuse_quantised(llm)
    record = _record(llm, found, dataset, options)
    _claim(output, record, overwrite)
    checkpoints = output / CHECKPOINTS
    if (last := last_checkpoint(checkpoints)) is not None:
        say(f"Going on from {last.name}.")
    progress("loading the model", None, None)
    model, tokenizer = prepare_for_training(llm, "lora", options.gradient_checkpointing, **options.adapter_settings())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rank = int(model.peft_config["default"].r)
    say(f"Training {trainable:,} weights on {len(found.examples):,} examples.")
    trained = train(model, tokenizer, found.examples, checkpoints, options=options, progress=progress, say=say)
    progress("writing the adapter", None, None)
    save_adapter(model, output, base=llm.resolved().model_id)
    del model
    merged = None
    if merge:
        progress("merging", None, None)
        merged = merge_adapter(llm, output, output / MERGED)
    outcome = Outcome(
        adapter=output,
        merged=merged,
        trained=trained,
        rank=rank,
        trainable=trainable,
        seconds=time.monotonic() - began,
    )
    _write(output / RECORD, record | {"result": attrs.asdict(trained) | {"seconds": round(outcome.seconds, 1)}})
    shutil.rmtree(checkpoints, ignore_errors=True)
    return outcome


def _record(llm: StoredModel, found: Dataset, dataset: Path, options: TrainingOptions) -> dict[str, Any]:
    """What a run is, as data; equal for two runs that do the same."""
    model, engine = llm.resolved(), llm.engine_options
    return {
        "model": {"id": model.model_id, "tag": model.tag, "quantize": engine.quantize or model.quantize},
        "dataset": {"file": dataset.name, "sha256": found.sha256, "examples": len(found.examples)},
        "settings": attrs.asdict(options) | {"target_modules": list(options.target_modules), "dtype": engine.dtype},
        "openllm": version("openllm"),
    }


def _claim(output: Path, record: dict[str, Any], overwrite: bool) -> None:
    """Make the output folder ours, or say why it is not.

    Raises:
        InvalidSetting: it holds files of others, a finished run, or one begun in another way.
    """
    if overwrite and (output / RECORD).is_file():
        shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
        (output / RECORD).unlink()
    elif (output / RECORD).is_file():
        before = json.loads((output / RECORD).read_bytes())
        if "result" in before:
            raise _taken(f"{output} holds a finished adapter.")
        # What a run that trained nothing began with binds nobody: it may have failed over just that.
        changed = _differences(before, record) if last_checkpoint(output / CHECKPOINTS) is not None else []
        if changed:
            raise _taken(f"{output} holds a run begun otherwise: {'; '.join(changed)}.")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InvalidSetting(f"{output} is not empty.", hint="Name a new folder.", param="output")
    output.mkdir(parents=True, exist_ok=True)
    _write(output / RECORD, record)


def _taken(problem: str) -> InvalidSetting:
    return InvalidSetting(problem, hint="Name another folder, or type --overwrite to begin anew.", param="output")


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f"{part}.{name} was {before.get(part, {}).get(name)!r}, is {value!r}"
        for part in ("model", "dataset", "settings")
        for name, value in now[part].items()
        if before.get(part, {}).get(name) != value and (part, name) != ("dataset", "file")
    ]


def _write(path: Path, data: dict[str, Any]) -> None:
    staging = path.with_name(f".{path.name}")
    staging.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(staging, path)
