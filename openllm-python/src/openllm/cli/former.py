"""Options of OpenLLM 0.3.5 that steer nothing any more: taken, so that old scripts run, and told to be without effect.

Used by `start` and `start-grpc` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

# flag -> (facts of the option, why it has no effect)
FLAGS: dict[str, tuple[dict[str, Any], str]] = {
    "--development": ({"is_flag": True}, "there is one way to serve"),
    "--reload": ({"is_flag": True}, "a server does not watch its source"),
    "--api-workers": ({"type": int}, "one process serves all connections; --engines N starts more engines"),
    "--backlog": ({"type": int}, "1024 connections may wait; --max-queue bounds the requests that do"),
    "--return-process": ({"is_flag": True}, "a command returns nothing; a shell's & or a service unit runs it apart"),
    "--enable-reflection": ({"is_flag": True}, "gRPC reflection is always on"),
    "--enable-channelz": ({"is_flag": True}, "there is none; /metrics tells of calls"),
    "--max-concurrent-streams": (
        {"type": int},
        "--max-num-seqs bounds the calls that run, --max-queue those that wait",
    ),
    "--env": ({}, "the server runs in the environment that openllm is installed in"),
}


def options(function: F) -> F:
    """Add them, hidden from the help page; none reaches the command."""
    for flag, (facts, reason) in FLAGS.items():
        function = click.option(
            flag, hidden=True, expose_value=False, default=None, callback=_tell(flag, reason), **facts
        )(function)
    return function


def _tell(flag: str, reason: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def warn(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(f"Warning: {flag} is ignored: {reason}.", err=True)

    return warn
