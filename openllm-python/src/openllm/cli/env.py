"""`openllm env`: every setting with its value and where the value came from. Changes nothing and starts nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import attrs
import click

from openllm.cli.command import Command, Session
from openllm.cli.options import CLASSES, config_option, read_settings
from openllm.cli.output import Output, output_option
from openllm_core.settings import flag_of, settings_of


@click.command("env", cls=Command)
@output_option
@config_option
@click.pass_obj
def command(session: Session, output: str, config: Path | None) -> None:
    """Show every setting, its value, and whether a variable, a file or nothing set it.

    This is what `openllm start` would use. Secrets are shown as set or not set.
    """
    settings = read_settings(config=config)
    out = Output(output, session)
    rows = _rows([settings.engine, settings.server, settings.store], dict(settings.sources))
    if output == "json":
        out.json({row.pop("name"): row for row in rows})
    elif output == "porcelain":
        for row in rows:
            out.data(f"{row['name']}={_shown(row['value'])}")
    else:
        table = [(row["name"], _shown(row["value"]), row["source"], row["flag"], row["variable"]) for row in rows]
        out.table(("Setting", "Value", "From", "Flag", "Variable"), table)


def _rows(options: list[attrs.AttrsInstance], sources: dict[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for values, cls in zip(options, CLASSES, strict=True):
        for name, (_, fact) in settings_of(cls).items():
            flag = flag_of(name, fact)
            if not flag and not fact.env:
                continue  # filled in by the program
            value = getattr(values, name)
            rows.append(
                {
                    "name": name,
                    "value": ("set" if value else None) if fact.secret else value,
                    "source": sources[name],
                    "flag": flag,
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
