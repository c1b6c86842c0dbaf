"""Where a server's log goes: records become lines, secrets leave them, and lines go to a stream that may be stuck or full.

`openllm start` opens a `LineSink` for the time it serves, and puts a `LogHandler` and, for what others print, a
`TalkStream` before it: nothing is written past it. Whoever logs is never held up: what cannot be written is dropped and
counted. Knows nothing of servers.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO, cast

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from .observation import current

MAX_LINES = 10_000
MAX_LINE_CHARS = 32 * 1024
BATCH_BYTES = 64 * 1024
CLOSE_S = 1.0
RETRY_S = 0.1
"""Pause after a write that failed, so that a full disk is not asked thousands of times a second."""
MIN_SECRET_CHARS = 8
SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS|(?:API|ADMIN|ACCESS|PRIVATE)_?KEYS?)$", re.I)
SECRET_SHAPES = re.compile(r"(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|(?<=earer )[A-Za-z0-9._~+/=-]{8,})")
SHAPE_BEGINS = ("hf_", "sk-", "earer ")
REDACTED = "[redacted]"
LABELS = {logging.WARNING: "Warning: ", logging.ERROR: "Error: ", logging.CRITICAL: "Error: "}

_escapes = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_escapes |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_encode = json.JSONEncoder(default=str).encode
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Dropped(Collector):
    """Lines that could not be written, since this process began."""

    def __init__(self) -> None:
        self.lines = 0

    def register(self, registry: CollectorRegistry) -> None:
        """Show it where the others are shown."""
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """One counter."""
        text = "Lines of the log that were dropped: nobody took them, or the disk was full."
        yield CounterMetricFamily("openllm_log_lines_dropped", text, value=self.lines)

    def describe(self) -> Iterable[Metric]:
        """Its name is known without asking."""
        return []


dropped = Dropped()


class LineSink:
    """A bounded line in front of a file descriptor or file, emptied by a thread of its own.

    Args:
        target: a descriptor that stays open, or a file to append to.
        redact: takes secrets out of each piece of text.
        max_lines: that may wait; one more is dropped.
    """

    def __init__(self, target: int | Path, redact: Redaction, max_lines: int = MAX_LINES) -> None:
        self._path = target if isinstance(target, Path) else None
        self._fd = target if isinstance(target, int) else _open(target)
        self._redact = redact
        self._max_lines = max_lines
        self._waiting: deque[bytes] = deque()
        self._calls: SimpleQueue[None] = SimpleQueue()  # a signal handler may call while its thread is calling
        self._called = False
        self._closing = self._reopening = self._torn = False
        self._thread = threading.Thread(target=self._run, name="openllm-log", daemon=True)
        self._thread.start()

    def put(self, text: str) -> None:
        """Have a text written, ends of lines and all; never waits."""
        if len(self._waiting) >= self._max_lines:
            dropped.lines += 1
            return
        self._waiting.append(self._redact(text).encode("utf-8", "backslashreplace"))
        self._call()

    def reopen(self) -> None:
        """Open the file anew before the next line: somebody moved it away. For signal handlers too: it takes no lock."""
        self._reopening = True
        self._call()

    def close(self, limit_s: float = CLOSE_S) -> None:
        """Write what waits, as far as that goes within the limit; what is put later is dropped."""
        self._closing = True
        self._call()
        self._thread.join(limit_s)

    def _call(self) -> None:
        """Have the thread look at what there is to do, unless it will."""
        if not self._called:
            self._called = True
            self._calls.put(None)

    def _run(self) -> None:
        while True:
            self._calls.get()
            self._called = False  # before it looks: what is put from now on calls again
            if self._reopening and self._path is not None:
                self._reopen(self._path)
            while self._waiting:
                self._write_some()
            if self._closing:
                return

    def _reopen(self, path: Path) -> None:
        self._reopening = False
        try:
            fresh = _open(path)
        except OSError:
            return  # the old one still takes lines
        os.close(self._fd)
        self._fd = fresh

    def _write_some(self) -> None:
        """One batch; what the system does not take is lost, and counted."""
        parts: list[bytes] = []
        size = 0
        while self._waiting and size < BATCH_BYTES:
            parts.append(self._waiting.popleft())
            size += len(parts[-1])
        data = memoryview(b"".join((b"\n", *parts) if self._torn else parts))
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            self._torn = False
        except OSError:
            self._torn = self._torn or len(data) < size
            dropped.lines += max(1, bytes(data).count(b"\n"))
            if not self._closing:
                time.sleep(RETRY_S)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


class Redaction:
    """Takes secrets out of text: those that are known, and what has the shape of one.

    Args:
        secrets: known ones; those of fewer than 8 characters would take ordinary words with them, and stay.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS}
        spelled = {form for secret in known for form in (secret, json.dumps(secret)[1:-1])}
        self._known = sorted(spelled, key=len, reverse=True)  # one may begin with another

    @classmethod
    def of(cls, secrets: Iterable[str], environ: Mapping[str, str]) -> Redaction:
        """With what variables hold whose names say that it is secret."""
        named = (part for name, value in environ.items() if SECRET_NAMES.search(name) for part in value.split(","))
        return cls((*secrets, *(part.strip() for part in named)))

    def __call__(self, text: str) -> str:
        """The text without them. Nearly every text has none, which is what is quick to see."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, REDACTED)
        if any(begin in text for begin in SHAPE_BEGINS):
            text = SECRET_SHAPES.sub(REDACTED, text)
        return text


class LogHandler(logging.Handler):
    """Puts records into a sink as lines.

    Args:
        as_json: one JSON object a line; else lines for people.
        debug: lines for people begin with time, level and logger.
    """

    def __init__(self, sink: LineSink, *, as_json: bool, debug: bool = False) -> None:
        super().__init__()
        self._sink = sink
        self._line = json_line if as_json else debug_line if debug else plain_line

    def emit(self, record: logging.LogRecord) -> None:
        """Make the line and hand it over; a record that cannot be made one is not worth a request."""
        try:
            line = self._line(record)
        except Exception as error:
            line = f"Warning: a log record could not be written: {type(error).__name__}"
        self._sink.put(line + "\n")


def json_line(record: logging.LogRecord) -> str:
    """One JSON object in ASCII: time, level, logger, message, whose request it was, and what `extra` has in "fields".

    That is a mapping, or a function that makes one where it is costly and lines for people need it not.
    """
    facts: dict[str, Any] = {
        "time": _time(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": cut(record.getMessage()),
    }
    seen = current()
    if seen is not None:
        facts["request_id"] = seen.request_id
        if seen.trace_id:
            facts |= {"trace_id": seen.trace_id, "span_id": seen.span_id}
    more: Any = getattr(record, "fields", {})
    facts |= cast("dict[str, Any]", more() if callable(more) else more)
    if record.exc_info:
        facts["exception"] = cut(logging.Formatter().formatException(record.exc_info))
    return _encode(facts).replace("\x7f", "\\u007f")


def plain_line(record: logging.LogRecord) -> str:
    """For people: the message, warnings and errors marked as such."""
    return LABELS.get(record.levelno, "") + escaped(record.getMessage()) + _exception(record)


def debug_line(record: logging.LogRecord) -> str:
    """For people who look for something: time, level and logger before the message."""
    clock = time.strftime("%X", time.localtime(record.created))
    return f"{clock} {record.levelname:<7} {record.name}: {escaped(record.getMessage())}{_exception(record)}"


def _exception(record: logging.LogRecord) -> str:
    if not record.exc_info:
        return ""
    text = logging.Formatter().formatException(record.exc_info)
    return "".join(f"\n    {escaped(line)}" for line in cut(text).split("\n"))


def escaped(text: str) -> str:
    """On one line, whatever stood in it: control characters and other ends of lines as their escapes."""
    return cut(text) if text.isprintable() else cut(text).translate(_escapes)


def cut(text: str) -> str:
    """At most 32 Ki characters of it."""
    return text if len(text) <= MAX_LINE_CHARS else text[:MAX_LINE_CHARS] + " […]"


def _time(created: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(created))}.{int(created % 1 * 1000):03d}Z"


class TalkStream(io.TextIOBase):
    """Stands in for stderr while a server runs: what is printed there goes the way of the log.

    Args:
        sink: where it goes.
        original: the stream it stands in for, asked what it is.
        as_json: each line becomes a record; else the text passes as it is.
    """

    encoding: str = "utf-8"

    def __init__(self, sink: LineSink, original: TextIO, *, as_json: bool) -> None:
        super().__init__()
        self._sink = sink
        self._original = original
        self._as_json = as_json
        self._begun = ""

    def write(self, text: str) -> int:
        """Pass it on."""
        if not self._as_json:
            self._sink.put(text)
            return len(text)
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._put(line)
        return len(text)

    def finish(self) -> None:
        """Nothing more comes: what stands on a line without an end is said too."""
        begun, self._begun = self._begun, ""
        self._put(begun)

    def _put(self, line: str) -> None:
        said = _ANSI.sub("", line).strip()
        if said:
            record = logging.LogRecord("stderr", logging.INFO, "", 0, "%s", (said,), None)
            self._sink.put(json_line(record) + "\n")

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether somebody looks at it."""
        return self._original.isatty()

    def fileno(self) -> int:
        """Of the stream it stands in for; what is written there goes past us."""
        return self._original.fileno()
