"""Log lines of our own loggers on stderr, at the level that -q and --debug ask for. Other libraries' loggers stay as they are.

`Command.invoke` shows them for the time one command runs; a command that serves hands them to `openllm.logs`, which never
waits for whoever reads them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import click

from openllm.cli.command import Session

if TYPE_CHECKING:
    from types import FrameType

    from openllm.logs import LineSink
    from openllm_core.options import ServerOptions

LOGGERS = ("openllm", "openllm_client")
PRINTED = "openllm.engine.host.output"
"""What an engine host and its framework print."""
LABELS = {logging.WARNING: "Warning: ", logging.ERROR: "Error: ", logging.CRITICAL: "Error: "}


class _ToStderr(logging.Handler):
    """Lines for people on what stderr is at that moment: warnings and errors say so; with --debug, time and logger too."""

    def __init__(self, *, debug: bool) -> None:
        super().__init__()
        self._labels = {} if debug else LABELS
        self.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s" if debug else None, "%X")
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            click.echo(self._labels.get(record.levelno, "") + self.format(record), err=True)
        except Exception:  # a full disk or a closed terminal must not end what is logged about
            self.handleError(record)


def show(session: Session) -> Callable[[], None]:
    """Print what our loggers say, from now on: errors with -q, else info and above, everything with --debug.

    Returns:
        what takes it back.
    """
    handler = _ToStderr(debug=session.debug)
    level = logging.ERROR if session.quiet else logging.DEBUG if session.debug else logging.INFO
    before = [(logger, logger.level) for logger in map(logging.getLogger, (*LOGGERS, PRINTED))]
    logging.getLogger(PRINTED).setLevel(logging.DEBUG if session.debug else logging.CRITICAL + 1)
    for logger, _ in before[: len(LOGGERS)]:
        logger.addHandler(handler)
        logger.setLevel(level)

    def undo() -> None:
        for logger, level in before:
            logger.removeHandler(handler)
            logger.setLevel(level)

    return undo


def serve(session: Session, options: ServerOptions) -> logging.Logger | None:
    """From here on, all that this process says goes the bounded way of `openllm.logs`, until the program ends.

    What the engine host prints is in the log where it is JSON, from warnings on; people see it with --debug.

    Returns:
        the logger that takes the talk on stderr where that is JSON; None where it is for people.
    """
    from openllm import logs

    as_json = options.log_format == "json"
    original, secrets = sys.stderr, (*options.api_key, options.admin_key)
    try:
        descriptor = original.fileno()
    except (OSError, ValueError):  # stderr is no file: somebody runs this command within a program
        return None
    redact = logs.Redaction.of(secrets, os.environ)
    talk = logs.LineSink(descriptor, redact)
    sink = logs.LineSink(Path(options.log_file), redact) if options.log_file else talk
    handler = logs.LogHandler(sink, as_json=as_json, debug=session.debug)
    for logger in map(logging.getLogger, LOGGERS):
        for shown in [h for h in logger.handlers if isinstance(h, _ToStderr)]:
            logger.removeHandler(shown)
        logger.addHandler(handler)
    if as_json and not session.debug:
        logging.getLogger(PRINTED).setLevel(logging.WARNING)
    talks_json = as_json and not options.log_file
    stream = logs.TalkStream(talk, original, as_json=talks_json)
    sys.stderr = cast("TextIO", stream)
    _reopen_on_hangup(sink)
    start = logging.getLogger("openllm.start")
    if talks_json:
        session.report = lambda message, hint: start.error("%s", message, extra={"fields": {"hint": hint}})

    def close() -> None:
        sys.stderr = original
        stream.finish()
        for logger in map(logging.getLogger, LOGGERS):
            logger.removeHandler(handler)
        for each in {sink, talk}:
            each.close()

    session.closing.append(close)
    return start if talks_json else None


def _reopen_on_hangup(sink: LineSink) -> None:
    """SIGHUP opens the log's file anew, as log rotation asks, and ends no server: unless the terminal it runs in was closed,
    which is what its user does to end it (`nohup` prevents that, as ever)."""
    stays = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN or not _has_terminal()

    def on_hangup(number: int, frame: FrameType | None) -> None:
        sink.reopen()
        if not stays and not _has_terminal():
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGHUP, on_hangup)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
