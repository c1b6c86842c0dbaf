"""`openllm list-bentos`: the Bentos that `openllm build` made, with tag, size and models."""

from __future__ import annotations

from typing import Any

import click

from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option, size_text


@click.command("list-bentos", cls=Command)
@output_option
@click.pass_obj
def command(session: Session, output: str) -> None:
    """List the Bentos of this machine that `openllm build` made, with their models."""
    from openllm.bundle import bentos

    store = read_settings().store
    out = Output(output, session)
    found = list(bentos.find_all(store))
    if output == "json":
        names: dict[str, list[dict[str, Any]]] = {}
        for bento in found:
            models = [{"tag": model.tag, **sizes(model.size_bytes(store))} for model in bento.models]
            facts = {"tag": bento.tag, **sizes(bento.size_bytes), "path": str(bento.path), "models": models}
            names.setdefault(bento.start_name, []).append(facts)
        out.json(names)
    elif output == "porcelain":
        for bento in found:
            out.data(bento.tag)
    elif not found:
        out.say("No Bentos here; `openllm build` makes one.", dim=True)
    else:
        rows = [
            (b.start_name, b.tag, size_text(b.size_bytes), "\n".join(model.tag for model in b.models)) for b in found
        ]
        out.table(("LLM", "Tag", "Size", "Models"), rows, numbers=(2,))


def sizes(size_bytes: int) -> dict[str, Any]:
    """A size for people and in bytes."""
    return {"size": size_text(size_bytes), "size_bytes": size_bytes}
