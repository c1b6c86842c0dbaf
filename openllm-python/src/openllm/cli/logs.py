"""Log lines of our own loggers on stderr, at the level that -q and --debug ask for. Other libraries' loggers stay as they are.

Called by `Command.invoke` for the time one command runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import click

from openllm.cli.command import Session

LOGGERS = ("openllm", "openllm_client")
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
    before = [(logger, logger.level) for logger in map(logging.getLogger, LOGGERS)]
    for logger, _ in before:
        logger.addHandler(handler)
        logger.setLevel(level)

    def undo() -> None:
        for logger, level in before:
            logger.removeHandler(handler)
            logger.setLevel(level)

    return undo
