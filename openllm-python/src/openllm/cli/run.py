"""`openllm run [MODEL]`: `start` in a process of its own, `chat` in this one, both gone at the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

from openllm.cli import complete
from openllm.cli.chat import converse
from openllm.cli.command import Session
from openllm.cli.output import Output, output_option
from openllm.cli.remote import AskCommand, connect, sampling_option

STOP_LIMIT_S = 15.0


@click.command("run", cls=AskCommand, context_settings={"ignore_unknown_options": True})
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="[MODEL] [OPTIONS OF START]", shell_complete=complete.model
)
@click.option("--system", metavar="TEXT", help="System message.")
@sampling_option
@output_option
@click.pass_obj
def command(
    session: Session,
    words: tuple[str, ...],
    system: str | None,
    sampling_params: dict[str, Any],
    output: str,
) -> int:
    """Serve MODEL and chat with it here; the server ends with the conversation.

    Options of `openllm start` may follow. The server takes a free port unless --port says otherwise.
    """
    out = Output(output, session)
    with _server(words, session) as endpoint, connect(endpoint, 600.0) as remote:
        remote.choose(None)
        return converse(remote, out, system=system, sampling=sampling_params)


@contextmanager
def _server(words: tuple[str, ...], session: Session) -> Generator[str]:
    """A server in a child process; gives its endpoint once it answers, ends it at the end.

    The child has its own process group: Ctrl-C stops an answer here, not the server there.
    """
    port = [] if any(word.startswith(("-p", "--port")) for word in words) else ["--port", "0"]
    talk = ["--quiet"] if session.quiet else []
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "openllm", "start", "-o", "porcelain", *port, *talk, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield _endpoint(child)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _endpoint(child: subprocess.Popen[str]) -> str:
    """The line that the server prints once it answers; when it ends before that, it has said why, and we end alike."""
    line = child.stdout.readline().strip() if child.stdout else ""
    if not line:
        raise click.exceptions.Exit(child.wait() or 1)
    return line
