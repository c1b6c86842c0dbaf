"""`openllm list-models [MODEL]`: the stored models by family, with tag and size."""

from __future__ import annotations

from typing import Any

import click

from openllm.cli import complete
from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option, size_text

OTHER = "other"  # where models of no family stand


@click.command("list-models", cls=Command)
@click.argument("model", required=False, shell_complete=complete.family)
@output_option
@click.pass_obj
def command(session: Session, model: str | None, output: str) -> None:
    """List the stored models, or those of the family MODEL alone."""
    from openllm.serialisation import list_models
    from openllm_core.families import registry

    family = registry.find(model).name if model else None
    out = Output(output, session)
    found = [e for e in list_models(read_settings().store) if family in (None, e.family)]
    if output == "json":
        families: dict[str, list[dict[str, Any]]] = {family: []} if family else {}
        for entry in found:
            facts = {"tag": entry.tag, "size": size_text(entry.size_bytes), "size_bytes": entry.size_bytes}
            families.setdefault(entry.family or OTHER, []).append(facts | {"path": str(entry.path)})
        out.json(families)
    elif output == "porcelain":
        for entry in found:
            out.data(entry.tag)
    elif not found:
        out.say("No such models in the store; `openllm import` fetches one.", dim=True)
    else:
        rows = [(e.family or OTHER, e.tag, size_text(e.size_bytes)) for e in found]
        out.table(("LLM", "Tag", "Size"), rows, numbers=(2,))
