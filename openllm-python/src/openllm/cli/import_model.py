"""`openllm import MODEL [MODEL_ID]`: bring a model into the store without starting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openllm.cli import complete
from openllm.cli.command import Command, Session
from openllm.cli.options import Settings, config_option, read_settings, setting_options
from openllm.cli.output import Output, output_option, size_text
from openllm_core.options import EngineOptions, StoreOptions

SETTINGS = ("backend", "quantize", "serialisation", "allow_pickle_weights", "trust_remote_code")


def _needless(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        click.echo(f"Warning: {value} is ignored: an import needs no converter any more.", err=True)


@click.command("import", cls=Command)
@click.argument("model", required=False, shell_complete=complete.model)
@click.argument("model_id", required=False)
@click.argument("converter", required=False, expose_value=False, callback=_needless)
@click.option(
    "--model-version",
    metavar="TEXT",
    help="Version of the tag, for a folder; for a hub id the revision to fetch.",
)
@click.option("--machine", is_flag=True, hidden=True)
@output_option
@config_option
@setting_options(EngineOptions, only=SETTINGS)
@setting_options(StoreOptions)
@click.pass_obj
def command(
    session: Session,
    model: str | None,
    model_id: str | None,
    model_version: str | None,
    machine: bool,
    output: str,
    config: Path | None,
    **typed: Any,
) -> None:
    """Fetch MODEL into the store, so that `openllm start` needs no network.

    MODEL is a hub id (with `:revision` where you want one), a folder, a .gguf file, an archive of `openllm export`, or a
    family name, then with MODEL_ID as the id; without it the default model is fetched. The store always holds safetensors.
    CONVERTER, which OpenLLM 0.3.5 took, has no effect.
    """
    from openllm.serialisation import Recipe, import_model, list_models

    settings = read_settings(typed, config)
    backend = tag_prefix(settings)
    out = Output("json" if machine else output, session)
    before = {entry.tag for entry in list_models(settings.store)}
    with out.progress() as progress:
        entry = import_model(
            model or settings.model,
            model_id=model_id or settings.model_id,
            options=settings.store,
            trust_remote_code=settings.engine.trust_remote_code,
            allow_pickle_weights=settings.engine.converts_pickle,
            recipe=Recipe(backend=backend, version=model_version, quantize=settings.engine.quantize),
            progress=progress,
        )
    if out.format == "json":
        data = {"tag": entry.tag, "model_id": entry.model_id, "size_bytes": entry.size_bytes, "path": str(entry.path)}
        facts = {"backend": backend, "quantize": entry.manifest.quantize or None, "serialisation": "safetensors"}
        out.json(data | facts | {"previously_setup": entry.tag in before})
    elif out.format == "porcelain":
        out.data(entry.tag)
    else:
        out.say("Already in the store." if entry.tag in before else "Imported.", dim=True)
        out.data(f"{entry.tag}  {size_text(entry.size_bytes)}  {entry.path}")


def tag_prefix(settings: Settings) -> str:
    """What the tag begins with: the backend asked for. The files are the same for all of them."""
    from openllm.backends.registry import ALIASES

    backend = settings.engine.backend
    return "pt" if backend == "auto" else ALIASES.get(backend, backend)
