"""What an engine host printed, line by line: the level and the logger that stand in a line, where its form is known.

`process` logs each line under them, so that what a framework says in another process has our format and obeys our level.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import attrs

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LEVELS = "DEBUG|INFO|WARNING|ERROR|CRITICAL"
_VLLM = re.compile(
    rf"(?:\((?P<process>[^)]* pid=\d+)\) )?(?P<level>{_LEVELS}) \d\d-\d\d \d\d:\d\d:\d\d \[(?P<place>[^\]]+)\] ?(?P<text>.*)"
)
_PLAIN = re.compile(rf"\[?(?P<level>{_LEVELS})\]?:(?P<place>[\w.]+):(?P<text>.*)")
_WARNED = re.compile(r"(?P<place>\S+:\d+): \w*Warning: (?P<text>.*)")


@attrs.frozen
class Printed:
    """One line.

    Attributes:
        level: of `logging`; what says none is of the lowest.
        fields: what else stood in it.
    """

    level: int
    text: str
    fields: dict[str, Any] = attrs.field(factory=dict[str, Any])


def read_line(line: str) -> Printed:
    """A line of vLLM's log, of the standard library's, a warning of Python, or any other text."""
    bare = _ANSI.sub("", line)
    for form in (_VLLM, _PLAIN):
        if (found := form.fullmatch(bare)) is not None:
            parts = found.groupdict()
            fields = {"source": parts["place"]}
            if process := parts.get("process"):
                fields["process"] = process
            return Printed(logging.getLevelNamesMapping()[parts["level"]], parts["text"], fields)
    if (found := _WARNED.fullmatch(bare)) is not None:
        return Printed(logging.WARNING, found["text"], {"source": found["place"].rpartition("/")[2]})
    return Printed(logging.DEBUG, bare)
