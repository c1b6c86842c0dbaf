"""`openllm start-grpc [MODEL]`: `start`, with gRPC on the port in place of HTTP; `start --grpc-port` serves both."""

from __future__ import annotations

from typing import Any

import click

from openllm.cli import start
from openllm.cli.generation import StartCommand


@click.command("start-grpc", cls=StartCommand)
@start.options
@click.pass_context
def command(ctx: click.Context, **words: Any) -> int:
    """Serve MODEL over gRPC until stopped; HTTP is not served.

    MODEL and all options are those of `openllm start`; --port is gRPC's. The services are openllm.v1.OpenLLM, the protocol
    that gRPC clients of OpenLLM 0.3.5 speak, health and reflection. It needs the extra: pip install 'openllm[grpc]'.

    With -o json, stdout gets one JSON object once the model answers; with -o porcelain, the address.
    """
    return start.begin(ctx, grpc_alone=True, **words)
