"""`openllm import MODEL [MODEL_ID]`: bring a model into the store without starting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openllm.cli.command import Command, Session
from openllm.cli.options import config_option, read_settings, setting_options
from openllm.cli.output import Output, output_option, size_text
from openllm_core.options import StoreOptions


@click.command("import", cls=Command)
@click.argument("model", required=False)
@click.argument("model_id", required=False)
@click.option("--trust-remote-code", is_flag=True, default=None, help="Accept models that carry Python code.")
@click.option(
    "--allow-pickle-weights", is_flag=True, default=None, help="Convert weights stored as pickle, which can run code."
)
@output_option
@config_option
@setting_options(StoreOptions)
@click.pass_obj
def command(
    session: Session, model: str | None, model_id: str | None, output: str, config: Path | None, **typed: Any
) -> None:
    """Fetch MODEL into the store, so that `openllm start` needs no network.

    MODEL is a hub id, a folder or a family name, then with MODEL_ID as the id; without it the default model is fetched.
    """
    from openllm.serialisation import import_model, list_models

    settings = read_settings(typed, config)
    out = Output(output, session)
    before = {entry.tag for entry in list_models(settings.store)}
    with out.progress() as progress:
        entry = import_model(
            model or settings.model,
            model_id=model_id or settings.model_id,
            options=settings.store,
            trust_remote_code=settings.engine.trust_remote_code,
            allow_pickle_weights=settings.engine.allow_pickle_weights,
            progress=progress,
        )
    if output == "json":
        data = {"tag": entry.tag, "model_id": entry.model_id, "size_bytes": entry.size_bytes, "path": str(entry.path)}
        out.json(data | {"previously_setup": entry.tag in before})
    elif output == "porcelain":
        out.data(entry.tag)
    else:
        out.say("Already in the store." if entry.tag in before else "Imported.", dim=True)
        out.data(f"{entry.tag}  {size_text(entry.size_bytes)}  {entry.path}")
