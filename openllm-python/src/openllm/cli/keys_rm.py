"""`openllm keys rm NAME`: a key out of the key file; it opens nothing from then on."""

from __future__ import annotations

import click

from openllm.access import key_file
from openllm.cli.command import Command, Session
from openllm.cli.keys import file_of, file_option, known
from openllm.cli.output import Output, output_option


@click.command("keys rm", cls=Command)
@click.argument("name")
@file_option
@output_option
@click.pass_obj
def command(session: Session, name: str, api_key_file: str | None, output: str) -> None:
    """Delete the key called NAME. A running server refuses it within a second; requests under way end as they would."""
    path = file_of(api_key_file)
    with key_file.editing(path) as content:
        content.remove(known(content, name, path))
    out = Output(output, session)
    if output == "json":
        out.json({"name": name, "path": str(path)})
    else:
        out.data(name if output == "porcelain" else f"{name} deleted from {path}.")
