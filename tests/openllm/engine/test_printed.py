"""Lines that an engine host prints: their level and where they come from, as far as a line says."""

from __future__ import annotations

import logging

import pytest

from openllm.engine.printed import Printed, read_line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "INFO 11-23 14:16:51 [loader.py:12] Loading weights took 2 seconds",
            Printed(logging.INFO, "Loading weights took 2 seconds", {"source": "loader.py:12"}),
        ),
        (
            "\x1b[0;36m(Worker_TP1 pid=77)\x1b[0;0m WARNING 11-23 14:16:51 [cpu.py:3] slow",
            Printed(logging.WARNING, "slow", {"source": "cpu.py:3", "process": "Worker_TP1 pid=77"}),
        ),
        ("ERROR:torch.x:it broke", Printed(logging.ERROR, "it broke", {"source": "torch.x"})),
        (
            "/usr/lib/x/y.py:7: UserWarning: this is old",
            Printed(logging.WARNING, "this is old", {"source": "y.py:7"}),
        ),
        ("RuntimeError: no level here", Printed(logging.DEBUG, "RuntimeError: no level here")),
        ("", Printed(logging.DEBUG, "")),
    ],
)
def test_a_line_is_read(line: str, expected: Printed) -> None:
    """vLLM's form, the standard library's, Python's warnings; all else is of the lowest level."""
    assert read_line(line) == expected
