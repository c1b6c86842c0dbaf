"""How an error leaves the program: one line that names the cause, one that names the fix, and an exit code.

Called by `CommandTable.main` alone. The codes of our own errors are attributes of their classes; this module adds what
click and the operating system raise.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

import click

from openllm.cli.command import Session, colours
from openllm_core.errors import ConnectionFailed, OpenLLMError, TimedOut, Unauthorized

EXIT_CODES: dict[int, str] = {
    0: "done, or stopped cleanly by Ctrl-C or SIGTERM while serving",
    1: "a bug, or an error answer of the server",
    2: "wrong usage",
    65: "a model's files are damaged or of a refused format",
    66: "model not found",
    69: "no answer: server not reachable, or the engine died and was restarted too often",
    71: "the machine refused: port in use, not enough memory, device missing",
    74: "the model store cannot be read or written",
    75: "busy: overloaded, or another process holds the lock; try again",
    77: "not allowed: missing or wrong key, or no permission",
    78: "invalid or unsafe configuration, or a missing package",
    130: "stopped by Ctrl-C; while serving, by a second one",
    143: "stopped by a second SIGTERM while serving",
}


def exit_code_of(error: Exception, session: Session) -> int:
    """Print what went wrong and return the code to end with.

    Args:
        error: whatever a command raised, click's own errors included.
        session: `debug` adds the traceback.
    """
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (click.Abort, EOFError)):
        return 130
    if session.debug and not isinstance(error, click.ClickException):
        import traceback

        traceback.print_exception(error)
    tell = session.report or report
    if isinstance(error, OpenLLMError):
        tell(error.message, hint_of(error))
        return error.exit_code
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "openllm"
        tell(error.format_message(), f"`{command} --help` shows how it is used.")
        return 2
    if isinstance(error, click.ClickException):
        tell(error.format_message(), None)
        return error.exit_code
    return _foreign(error, tell)


def hint_of(error: OpenLLMError) -> str | None:
    """What mends it, in words of the command line: those of the client name its arguments."""
    if not error.hint or "=" not in error.hint:
        return error.hint
    if isinstance(error, TimedOut):
        return "--timeout SECONDS allows it more time."
    if isinstance(error, Unauthorized):
        return "Set OPENLLM_API_KEY to a key of that server."
    if isinstance(error, ConnectionFailed):
        return "Set SSL_CERT_FILE to a file with the certificate of its authority."
    return error.hint


def _foreign(error: Exception, tell: Callable[[str, str | None], None]) -> int:
    """Errors that are not ours: the system's, a missing package, and bugs."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        tell(
            f"the package {error.name.partition('.')[0]!r} is not installed.",
            "`pip install --upgrade openllm` completes the installation.",
        )
        return 78
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        tell(f"{where}{error.strerror}.", "Free some space and try again." if error.errno == errno.ENOSPC else None)
        return 77 if isinstance(error, PermissionError) else 74
    tell(
        f"internal error: {type(error).__name__}: {str(error)[:300] or 'no message'}",
        "This is a bug. The same command with --debug shows the traceback.",
    )
    return 1


def report(message: str, hint: str | None = None) -> None:
    """Two lines on stderr: what is wrong, and what mends it."""
    bright = colours(sys.stderr)

    def label(text: str, colour: str) -> str:
        return click.style(text, fg=colour, bold=True) if bright else text

    click.echo(f"{label('Error:', 'red')} {one_line(message)}", err=True)
    if hint:
        click.echo(f"{label('Hint:', 'cyan')}  {one_line(hint)}", err=True)


def one_line(text: str) -> str:
    """Control characters out, so that no text from outside can move the cursor or fake a second line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
