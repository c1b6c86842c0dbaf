"""`openllm lock [MODEL] [FILE]`: write down what a start depends on, for `openllm start --locked FILE`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from openllm.cli import complete
from openllm.cli.bento import wanted
from openllm.cli.generation import StartCommand, complete_id, typed_fields
from openllm.cli.locked import observed
from openllm.cli.options import Settings, config_option, setting_options
from openllm.cli.output import Output, output_option
from openllm.cli.start import find_model
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions

if TYPE_CHECKING:
    from openllm.serialisation.store import Progress


@click.command("lock", cls=StartCommand)
@click.argument("model", required=False, shell_complete=complete.model)
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path), default="openllm.lock.json")
@click.option(
    "--model-id",
    metavar="ID",
    envvar="OPENLLM_MODEL_ID",
    show_envvar=True,
    shell_complete=complete_id,
    help="Hub id or folder, where MODEL is a family.",
)
@output_option
@config_option
@setting_options(EngineOptions, ServerOptions, StoreOptions)
@click.pass_context
def command(
    ctx: click.Context,
    model: str | None,
    file: Path,
    model_id: str | None,
    output: str,
    config: Path | None,
    **typed: Any,
) -> None:
    """Write what serving MODEL with these flags depends on into FILE, openllm.lock.json unless it is named.

    In it stand the model's revision, the SHA-256 of each of its files and of its chat template, the engine, the version of
    every package that takes part, and the flags, which are those of `openllm start`. Keys, --host and --port do not.

    `openllm start --locked FILE` starts just that, and refuses with exit code 78 where anything differs, naming each.
    """
    fields = typed_fields(ctx, typed)
    what, out = wanted(typed, config, fields, model, model_id), Output(output, ctx.obj)
    resolved, _ = find_model(what.settings, what.model, what.model_id, out)
    if resolved is None:
        raise click.UsageError("The echo backend without a model has nothing to lock.", ctx)
    with out.progress() as progress:
        fetch_encoder(what.settings, progress)
        lock = observed(what.settings, resolved, what.model_id or what.model, progress)
    if what.bento is not None:
        lock = attrs.evolve(lock, model=what.bento.tag)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(lock.to_json(), encoding="utf-8")
    os.replace(draft, file)
    if output == "json":
        out.json({"path": str(file), **attrs.asdict(lock)})
    elif output == "porcelain":
        out.data(str(file))
    else:
        out.say(f"{len(lock.files)} files, {len(lock.packages)} packages, {len(lock.flags)} flags.", dim=True)
        out.data(str(file))
        out.fact("Start it", f"openllm start --locked {file}")


def fetch_encoder(settings: Settings, progress: Progress) -> None:
    """Have the model of `--embedding-model` here, whose files are locked too.

    Raises:
        OpenLLMError: it cannot be had.
    """
    if settings.engine.embedding_model is None:
        return
    from openllm.serialisation import resolve

    resolve(
        settings.engine.embedding_model,
        options=settings.store,
        trust_remote_code=settings.engine.trust_remote_code,
        allow_pickle_weights=settings.engine.converts_pickle,
        progress=progress,
    )
