"""`openllm quantize [MODEL] --calibration FILE`: make a GPTQ checkpoint of a model, in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openllm.cli import complete
from openllm.cli.command import Command, Session
from openllm.cli.options import config_option, read_settings, setting_options
from openllm.cli.output import Output, output_option, size_text
from openllm_core.errors import InvalidSetting
from openllm_core.options import EngineOptions, StoreOptions

SETTINGS = ("serialisation", "allow_pickle_weights", "trust_remote_code")


@click.command("quantize", cls=Command)
@click.argument("model", required=False, shell_complete=complete.model)
@click.argument("model_id", required=False)
@click.option(
    "--calibration",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Text like what the model will read: .jsonl as for finetune, or plain text.",
)
@click.option(
    "--bits",
    type=int,
    default=4,
    show_default=True,
    help="Bits of a weight: 2, 3, 4 or 8; pt serves each, vllm 4, and on GPUs 8.",
)
@click.option(
    "--group-size",
    type=int,
    default=128,
    show_default=True,
    help="Weights that share a scale, at most: smaller where 128 does not divide a layer; -1 for a whole row.",
)
@output_option
@config_option
@setting_options(EngineOptions, only=SETTINGS)
@setting_options(StoreOptions)
@click.pass_obj
def command(
    session: Session,
    model: str | None,
    model_id: str | None,
    calibration: Path,
    bits: int,
    group_size: int,
    output: str,
    config: Path | None,
    **typed: Any,
) -> None:
    """Quantise MODEL with GPTQ, once, so that every start loads it small; without MODEL, the default model.

    The checkpoint goes into the store beside the model, under the model's name with -GPTQ behind it. It needs
    `pip install "openllm[gptq]"`, and minutes. The pt backend serves it, and vllm on GPUs and on CPUs with AVX-512.
    """
    from openllm.quantise import BITS, GROUPS, Calibration, fitting_group, need_gptqmodel, quantise, sample_texts
    from openllm.serialisation import list_models, resolve

    if bits not in BITS:
        raise InvalidSetting(f"--bits {bits} is not one of {', '.join(map(str, BITS))}.", param="--bits")
    if group_size not in GROUPS:
        known = ", ".join(map(str, GROUPS))
        raise InvalidSetting(f"--group-size {group_size} is not one of {known}.", param="--group-size")
    need_gptqmodel()
    texts = sample_texts(calibration)
    settings = read_settings(typed, config)
    out = Output(output, session)
    with out.progress() as progress:
        found = resolve(
            model or settings.model,
            model_id=model_id or settings.model_id,
            options=settings.store,
            trust_remote_code=settings.engine.trust_remote_code,
            allow_pickle_weights=settings.engine.converts_pickle,
            progress=progress,
        )
        group = fitting_group(found.path, group_size)
        if group != group_size:
            why = f"{group_size} does not divide the rows of every layer of {found.served_name}"
            out.fact("Group size", "a whole row" if group < 0 else str(group), why)
        before = {entry.tag for entry in list_models(settings.store)}
        entry = quantise(
            found,
            Calibration(bits=bits, group_size=group, texts=texts),
            settings.store,
            trust_remote_code=settings.engine.trust_remote_code,
            progress=progress,
        )
    known = entry.tag in before
    if output == "json":
        data = {"tag": entry.tag, "model_id": entry.model_id, "size_bytes": entry.size_bytes, "path": str(entry.path)}
        out.json(data | {"bits": bits, "group_size": group, "previously_setup": known})
    elif output == "porcelain":
        out.data(entry.tag)
    else:
        out.say("Already in the store." if known else f"Quantised on {len(texts)} samples.", dim=True)
        out.say(f"Serve it:  openllm start {entry.model_id}", dim=True)
        out.data(f"{entry.tag}  {size_text(entry.size_bytes)}  {entry.path}")
