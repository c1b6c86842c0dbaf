"""`openllm finetune [MODEL] --dataset FILE --output DIR`: train a LoRA adapter on a file of examples.

Reads the command line, calls `openllm.finetune`, prints how it goes. torch is loaded once the examples have been read.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from openllm.cli import complete
from openllm.cli.command import Command, GroupedOption, Session
from openllm.cli.options import config_option, read_settings, setting_options
from openllm.cli.output import Output
from openllm.finetune.options import TrainingOptions
from openllm_core.options import EngineOptions, StoreOptions
from openllm_core.resources.visible_devices import HIP_VARIABLE
from openllm_core.settings import read

if TYPE_CHECKING:
    from openllm.finetune import Outcome

RUN = "Run"
ENGINE_SETTINGS = (
    *("quantize", "dtype", "device"),
    *("serialisation", "allow_pickle_weights", "trust_remote_code"),
)
DEVICES = ("CUDA_VISIBLE_DEVICES", HIP_VARIABLE)  # environment variables that say which GPUs torch sees
RESOLVED = ("model_path", "model_id", "family")  # fields of EngineOptions that LLM finds for itself


@click.command("finetune", cls=Command)
@click.argument("model", required=False, shell_complete=complete.model)
@click.option(
    "--dataset",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON lines: text, prompt and completion, or messages.",
    cls=GroupedOption,
    group=RUN,
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the adapter.",
    cls=GroupedOption,
    group=RUN,
)
@click.option("--model-id", metavar="ID", help="Id or folder, where MODEL is a family.", cls=GroupedOption, group=RUN)
@click.option(
    "--merge",
    is_flag=True,
    help="Write the merged model too, unquantised, to DIR/merged.",
    cls=GroupedOption,
    group=RUN,
)
@click.option(
    "--overwrite", is_flag=True, help="Begin anew, whatever the folder holds of a run.", cls=GroupedOption, group=RUN
)
@click.option(
    "-o",
    "--format",
    "format_",
    type=click.Choice(["pretty", "json", "porcelain"]),
    default="pretty",
    help="What stdout says at the end.",
    cls=GroupedOption,
    group=RUN,
)
@config_option
@setting_options(TrainingOptions)
@setting_options(EngineOptions, only=ENGINE_SETTINGS)
@setting_options(StoreOptions)
@click.pass_obj
def command(
    session: Session,
    model: str | None,
    dataset: Path,
    output: Path,
    model_id: str | None,
    merge: bool,
    overwrite: bool,
    format_: str,
    config: Path | None,
    **typed: Any,
) -> None:
    """Train a LoRA adapter for MODEL on the examples of a file; without MODEL, for the default model.

    A line of the file is {"text": …}, {"prompt": …, "completion": …} or {"messages": [{"role": …, "content": …}, …]}; the
    completion and the assistant's turns are learnt. The same command goes on with a run that was stopped.
    `openllm start MODEL --adapter-id DIR` serves the adapter.
    """
    from openllm.finetune import finetune
    from openllm.llm import LLM

    settings = read_settings(typed, config)
    options = read(TrainingOptions, explicit=typed).options
    _show_device(settings.engine)
    engine = {k: v for k, v in attrs.asdict(settings.engine, recurse=False).items() if k not in RESOLVED}
    llm = LLM(model or settings.model, model_id=model_id or settings.model_id, store=settings.store, **engine)
    out = Output(format_, session)
    with out.progress() as progress:
        outcome = finetune(
            llm,
            dataset,
            output,
            options=options,
            merge=merge,
            overwrite=overwrite,
            progress=progress,
            say=lambda text: out.say(text, dim=True),
        )
    trained = outcome.trained
    if format_ == "json":
        facts = attrs.asdict(trained) | {
            "rank": outcome.rank,
            "trainable": outcome.trainable,
            "seconds": round(outcome.seconds, 1),
        }
        out.json({"adapter": str(outcome.adapter), "merged": outcome.merged and str(outcome.merged)} | facts)
    elif format_ == "porcelain":
        out.data(str(outcome.merged or outcome.adapter))
    else:
        out.say(f"Loss {trained.first_loss:.3f} → {trained.last_loss:.3f} in {trained.steps} steps.")
        out.say(f"Serve it:  {start_line(outcome, model or settings.model, model_id or settings.model_id)}", dim=True)
        out.data(str(outcome.adapter))


def _show_device(options: EngineOptions) -> None:
    """Let torch, which is not imported yet, see the asked-for device alone; the training happens in this process."""
    from openllm.backends import registry

    variables = registry.get("pt").environment(options)
    os.environ.update({name: variables[name] for name in DEVICES if name in variables})


def start_line(outcome: Outcome, model: str | None, model_id: str | None) -> str:
    """The command that serves what was trained."""
    if outcome.merged:
        return shlex.join(["openllm", "start", os.path.join(".", outcome.merged)])
    words = ["openllm", "start", *filter(None, (model,)), *(("--model-id", model_id) if model_id else ())]
    words += ["--adapter-id", str(outcome.adapter)]
    if outcome.rank > EngineOptions().max_adapter_rank:
        words += ["--max-adapter-rank", str(outcome.rank)]
    return shlex.join(words)
