"""`openllm get-containerfile BENTO`: the Containerfile that its image is made from, without any container engine."""

from __future__ import annotations

import click

from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output


@click.command("get-containerfile", cls=Command)
@click.argument("bento")
@click.pass_obj
def command(session: Session, bento: str) -> None:
    """Print the Containerfile of BENTO, `name:version`.

    It is what `openllm build --containerize` builds from, and `bentoml containerize` too, unless the Bento was built with a
    --dockerfile-template, which BentoML does not read.
    """
    from openllm.bundle import bentos, containerfile

    found = bentos.get(bento, read_settings().store)
    Output("pretty", session).data(containerfile.render(found), newline=False)
