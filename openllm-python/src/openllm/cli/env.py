"""`openllm env`: every setting with its value and where the value came from. Changes nothing and starts nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import attrs
import click

from openllm.cli import complete
from openllm.cli.generation import StartCommand, configure, flag, typed_fields
from openllm.cli.options import CLASSES, Settings, config_option, read_settings, setting_options
from openllm.cli.output import NARROW, WIDE, Output, output_option
from openllm_core.families import registry
from openllm_core.settings import flag_of, settings_of

WORDS = {"explicit": "flag"}  # what a person calls a source


@click.command("env", cls=StartCommand)
@click.argument("model", required=False, metavar="[FAMILY]", shell_complete=complete.family)
@output_option
@config_option
@setting_options(*CLASSES)
@click.pass_context
def command(ctx: click.Context, model: str | None, output: str, config: Path | None, **typed: Any) -> None:
    """Show every setting, its value, and whether a flag, a variable, a file, the family or nothing set it.

    This is what `openllm start` would use, given the same flags; with FAMILY, with that family's generation defaults.
    Secrets are shown as set or not set.
    """
    fields = typed_fields(ctx, typed)
    settings = read_settings(typed, config, fields)
    out = Output(output, ctx.obj)
    rows = [_model_row(settings), *_rows([settings.engine, settings.server, settings.store], dict(settings.sources))]
    generation = _field_rows(registry.find(model).name if model else None, settings)
    if output == "json":
        out.json({row.pop("name"): row for row in [*rows, *generation]})
    elif output == "porcelain":
        for row in [*rows, *generation]:
            out.data(f"{row['name']}={_shown(row['value'])}")
    else:
        _table(out, "Setting", rows)
        out.data("")
        _table(out, f"Default of {model}" if model else "Generation default", generation)


def _model_row(settings: Settings) -> dict[str, Any]:
    """The one argument of `start` that a variable or the file may give."""
    typed = os.environ.get("OPENLLM_MODEL_ID")
    value = typed or settings.model_id
    source = "environment" if typed else "file" if value else "default"
    text = "Hub id or folder, where MODEL is a family."
    return {
        "name": "model_id",
        "value": value,
        "source": source,
        "flag": "--model-id",
        "variable": "OPENLLM_MODEL_ID",
        "help": text,
    }


def _table(out: Output, title: str, rows: list[dict[str, Any]]) -> None:
    heads = (title, "Value", "From", "Flag", "Variable")
    cells = [(row["name"], _shown(row["value"]), row["source"], row["flag"], row["variable"]) for row in rows]
    kept = [0, 1, 2, 3, 4] if out.width >= WIDE else [0, 1, 2, 4] if out.width >= NARROW else [0, 1, 2]
    out.table([heads[i] for i in kept], [[row[i] for i in kept] for row in cells], folds=1)


def _field_rows(family: str | None, settings: Settings) -> list[dict[str, Any]]:
    """Generation, sampling and own fields, as a server of that family would default them."""
    from openllm_core.config.resolve import general_config

    made = configure(family, settings.fields, settings.file_fields)
    options = {option.field: option for option in made.to_click_options()}
    general = general_config(os.environ)
    rows: list[dict[str, Any]] = []
    for name, value in made.flat().items():
        option = options.get(name)
        variable = option.env if option is not None else _variable(name)
        source: str = made.sources.get(name, "environment")  # only OPENLLM_CONFIG and the file bring names of no field
        if source == "environment" and not os.environ.get(variable) and name not in general:
            source = "file"
        rows.append(
            {
                "name": name,
                "value": value,
                "source": WORDS.get(source, source),
                "flag": flag(name) if option is not None else "",
                "variable": variable,
                "help": option.help if option is not None else "",
            }
        )
    return rows


def _variable(field: str) -> str:
    from openllm_core.config.env import field_env_key

    return field_env_key(field, "generation")


def _rows(options: list[attrs.AttrsInstance], sources: dict[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for values, cls in zip(options, CLASSES, strict=True):
        for name, (_, fact) in settings_of(cls).items():
            typed_as = flag_of(name, fact)
            if not typed_as and not fact.env:
                continue  # filled in by the program
            value = getattr(values, name)
            rows.append(
                {
                    "name": name,
                    "value": ("set" if value else None) if fact.secret else value,
                    "source": WORDS.get(sources[name], sources[name]),
                    "flag": typed_as,
                    "variable": "" if fact.typed_only else fact.env or "",
                    "help": fact.help,
                }
            )
    return rows


def _shown(value: Any) -> str:
    if value is None or value in ((), {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, cast("tuple[Any, ...]", value))) if isinstance(value, tuple) else str(value)
