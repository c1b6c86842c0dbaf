"""`openllm embed TEXT…`: vectors of texts from a running server, on stdout."""

from __future__ import annotations

import sys
from contextlib import closing

import attrs
import click

from openllm.cli.command import Command, Session
from openllm.cli.output import Output, data_output_option
from openllm.cli.remote import as_text, endpoint_options, open_client, server_type_option


@click.command("embed", cls=Command)
@click.argument("texts", nargs=-1, metavar="TEXT...")
@endpoint_options
@server_type_option
@click.option("--machine", is_flag=True, hidden=True)
@data_output_option
@click.pass_obj
def command(
    session: Session,
    texts: tuple[str, ...],
    endpoint: str | None,
    timeout: float,
    server_type: str,
    machine: bool,
    output: str,
) -> None:
    """Make vectors of TEXTs with a running server.

    One vector of length one for each TEXT, in their order. TEXT may be `-`, or be left out with text piped in: then each line
    of stdin is a text.

    With -o json, stdout gets {"embeddings": [[…], …], "num_tokens": n}; with -o porcelain, the list of lists alone.
    """
    wanted = _texts(texts)
    out = Output("json" if machine else output, session)
    with closing(open_client(endpoint, timeout, server_type)) as client:
        found = client.embed(wanted)
    if out.format == "json":
        out.json(attrs.asdict(found))
    elif out.format == "porcelain":
        out.data(str(found.embeddings))
    else:
        out.say("Generated embeddings:", dim=True)
        out.data(str(found.embeddings))
        out.say(f"Number of tokens: {found.num_tokens}", dim=True)


def _texts(words: tuple[str, ...]) -> list[str]:
    if words and words != ("-",):
        return [as_text(word) for word in words]
    if not words and sys.stdin.isatty():
        raise click.UsageError("TEXT is missing.")
    lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
    if not lines:
        raise click.UsageError("There is no text on stdin.")
    return lines
