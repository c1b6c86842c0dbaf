"""`openllm prune [MODEL]`: delete stored models, and Bentos where asked."""

from __future__ import annotations

import click

from openllm.cli import complete
from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option, size_text
from openllm_core.errors import OpenLLMError


@click.command("prune", cls=Command)
@click.argument("model", required=False, shell_complete=complete.known_model)
@click.option("-y", "--yes", "--assume-yes", "yes", is_flag=True, help="Delete without asking.")
@click.option(
    "--include-bentos/--no-include-bentos", default=False, show_default=True, help="Delete the Bentos made of them too."
)
@output_option
@click.pass_obj
def command(session: Session, model: str | None, yes: bool, include_bentos: bool, output: str) -> None:
    """Delete the stored models named MODEL (a tag, an id or a family), or all of them.

    Each is asked for, unless -y. Also finds what an earlier release stored, what is incomplete, and build contexts whose
    Bento is gone. A server that runs such a model goes on; its next start needs it again. A model that a Bento serves
    stays, unless the Bento goes too.
    """
    from openllm.serialisation import removal
    from openllm.serialisation.store import Store

    store = Store(read_settings().store)
    out = Output(output, session)
    found = removal.find(store, model, include_bentos=include_bentos)
    if not found:
        out.say("Nothing to delete.", dim=True)
    gone: list[removal.Removable] = []
    kept: OpenLLMError | None = None
    for item in found:
        try:
            removal.check_unneeded(item, gone)
        except OpenLLMError as error:
            kept = error
            out.say(error.message, fg="yellow")
            continue
        facts = ", ".join(filter(None, (size_text(item.size_bytes), item.note)))
        if yes or click.confirm(f"delete {item.kind} {item.tag} ({facts})?", err=True):
            removal.remove(store, item)
            gone.append(item)
            if output == "pretty":
                out.data(f"{item.tag} deleted from {item.kind} store.")
    store.tidy()
    if output == "json":
        out.json([{"kind": item.kind, "tag": item.tag, "size_bytes": item.size_bytes} for item in gone])
    elif output == "porcelain":
        for item in gone:
            out.data(item.tag)
    if kept is not None and not gone:
        raise kept
