"""`openllm ps`: the servers that run on this machine for this user; with `--ready` the health check of our images."""

from __future__ import annotations

import time

import click

from openllm.cli.command import Command, Session
from openllm.cli.output import Output, output_option
from openllm.running import is_ready, running


@click.command("ps", cls=Command)
@click.option("--ready", is_flag=True, help="Ask each, list those that can answer now; exit code 1 where none can.")
@output_option
@click.pass_obj
def command(session: Session, ready: bool, output: str) -> int:
    """List the servers that are up here, each with its endpoint, model, backend and device.

    With -o porcelain, the endpoints alone. Each server leaves a note in $XDG_RUNTIME_DIR/openllm once it is ready; a server
    of `bentoml serve` that serves a Bento of `openllm build` does too.
    """
    out = Output(output, session)
    found = [server for server in running() if not ready or is_ready(server)]
    if output == "json":
        out.json(found)
    elif output == "porcelain":
        for server in found:
            out.data(server["endpoint"])
    elif not found:
        said = "No server here can answer." if ready else "No server runs here; `openllm start` starts one."
        out.say(said, dim=True)
    else:
        now = time.time()
        rows = [
            (s["pid"], s["endpoint"], s["model"], s["backend"], s["device"], since(now - s["started"])) for s in found
        ]
        out.table(("Process", "Endpoint", "Model", "Backend", "Device", "Up"), rows, numbers=(5,))
    return 1 if ready and not found else 0


def since(seconds: float) -> str:
    """How long, in the unit people read: 3 min."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
