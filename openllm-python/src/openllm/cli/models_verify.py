"""`openllm models verify [TAG]`: every file of the stored models against the hash it had when it was imported."""

from __future__ import annotations

import click

from openllm.cli import complete
from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option
from openllm_core.errors import CorruptModel


@click.command("models verify", cls=Command)
@click.argument("model", required=False, shell_complete=complete.known_model)
@output_option
@click.pass_obj
def command(session: Session, model: str | None, output: str) -> int:
    """Compare the stored models named MODEL (a tag, an id or a family), or all of them, with their SHA-256.

    Exit code 65 when a file differs or is missing.
    """
    from openllm.serialisation import removal, verify
    from openllm.serialisation.store import Store

    store = Store(read_settings().store)
    out = Output(output, session)
    found = [item for item in removal.find(store, model) if item.kind == "model"]
    problems: dict[str, str] = {}
    with out.progress() as progress:
        for number, item in enumerate(found):
            progress(f"hashing {item.tag}", number, len(found))
            try:
                if item.note:
                    problems[item.tag] = f"{item.tag}: {item.note}."
                else:
                    verify(item.tag, store.options)
            except CorruptModel as error:
                problems[item.tag] = error.message
    if output == "json":
        rows = [(item.tag, str(item.path), problems.get(item.tag)) for item in found]
        out.json([{"tag": tag, "path": path, "whole": not wrong, "problem": wrong} for tag, path, wrong in rows])
    for item in found if output != "json" else ():
        wrong = problems.get(item.tag)
        pretty = wrong or f"{item.tag}: whole."
        out.data(pretty if output == "pretty" else f"{item.tag} {'damaged' if wrong else 'whole'}")
    if problems:
        out.say("`openllm prune TAG` deletes one; `openllm import` fetches it again.", dim=True)
    elif not found:
        out.say("No models in the store.", dim=True)
    return CorruptModel.exit_code if problems else 0
