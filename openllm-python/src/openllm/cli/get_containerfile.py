"""`openllm get-containerfile BENTO`: the Containerfile that its image is made from, without any container engine."""

from __future__ import annotations

import click

from openllm.cli import complete
from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option


@click.command("get-containerfile", cls=Command)
@click.argument("bento", shell_complete=complete.bento)
@output_option
@click.pass_obj
def command(session: Session, bento: str, output: str) -> None:
    """Print the Containerfile of BENTO, `name:version`.

    It is what `openllm build --containerize` builds from, and `bentoml containerize` too, unless the Bento was built with a
    --dockerfile-template, which BentoML does not read.
    """
    from openllm.bundle import bentos, containerfile

    found = bentos.get(bento, read_settings().store)
    out, text = Output(output, session), containerfile.render(found)
    if output == "json":
        out.json({"tag": found.tag, "containerfile": text})
    else:
        out.data(text, newline=False)
