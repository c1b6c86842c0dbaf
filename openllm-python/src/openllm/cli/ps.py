"""`openllm ps`: the servers that `openllm start` runs on this machine for this user."""

from __future__ import annotations

import time

import click

from openllm.cli.command import Command, Session
from openllm.cli.output import Output, output_option
from openllm.cli.ready import running


@click.command("ps", cls=Command)
@output_option
@click.pass_obj
def command(session: Session, output: str) -> None:
    """List the servers that are up here, each with its endpoint, model, backend and device.

    With -o porcelain, the endpoints alone. Each server leaves a note in $XDG_RUNTIME_DIR/openllm once it is ready.
    """
    out = Output(output, session)
    found = running()
    if output == "json":
        out.json(found)
    elif output == "porcelain":
        for server in found:
            out.data(server["endpoint"])
    elif not found:
        out.say("No server runs here; `openllm start` starts one.", dim=True)
    else:
        now = time.time()
        rows = [
            (s["pid"], s["endpoint"], s["model"], s["backend"], s["device"], since(now - s["started"])) for s in found
        ]
        out.table(("Process", "Endpoint", "Model", "Backend", "Device", "Up"), rows, numbers=(5,))


def since(seconds: float) -> str:
    """How long, in the unit people read: 3 min."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
