"""`openllm query PROMPT`: one question to a running server, one answer on stdout."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Any

import click

from openllm.cli.command import Session
from openllm.cli.output import Output, output_option
from openllm.cli.remote import (
    AskCommand,
    as_text,
    connect,
    endpoint_options,
    sampling_option,
    server_type_option,
    speed_text,
)


@click.command("query", cls=AskCommand)
@click.argument("prompt", required=False)
@endpoint_options
@server_type_option
@click.option("--model", metavar="NAME", help="Served model to ask; default: the server's first.")
@click.option(
    "--raw", is_flag=True, help="Complete PROMPT as it stands (/v1/generate), without the model's chat template."
)
@sampling_option
@output_option
@click.pass_obj
def command(
    session: Session,
    prompt: str | None,
    endpoint: str | None,
    timeout: float,
    server_type: str,
    model: str | None,
    raw: bool,
    sampling_params: dict[str, Any],
    output: str,
) -> None:
    """Ask a running server one question.

    PROMPT may be `-`, or be left out with text piped in: then it is read from stdin.
    """
    text = _prompt(prompt)
    out = Output(output, session)
    with connect(endpoint, timeout, server_type) as remote:
        remote.choose(model)
        answer = (
            remote.complete(text, sampling_params)
            if raw
            else remote.ask([{"role": "user", "content": text}], sampling_params)
        )
        with closing(answer):
            if output == "json":
                for _ in answer:
                    continue
                out.json(answer.as_data())
            else:
                out.stream(answer)
                for text in answer.texts[1:]:
                    out.data("")
                    out.stream([text])
    if sys.stdout.isatty() and out.pretty:
        out.say(speed_text(answer), dim=True)


def _prompt(prompt: str | None) -> str:
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError("PROMPT is missing.")
    text = sys.stdin.read() if prompt in (None, "-") else as_text(prompt)
    if not text.strip():
        raise click.UsageError("PROMPT is empty.")
    return text
