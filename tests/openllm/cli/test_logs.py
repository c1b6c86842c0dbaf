"""-q and --debug: the levels of our own loggers, on stderr, for the time of one command."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module

import click
import pytest
from click.testing import Result

from openllm.cli.command import Command

Run = Callable[..., Result]


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """`openllm env` says one line on each level, and so does a library of others."""

    @click.command("env", cls=Command)
    def command() -> None:
        for name in ("openllm.engine", "openllm_client", "httpx"):
            for level in ("debug", "info", "warning", "error"):
                getattr(logging.getLogger(name), level)("%s says %s", name, level)

    monkeypatch.setattr(import_module("openllm.cli.env"), "command", command)


@pytest.mark.parametrize(
    ("words", "levels"),
    [
        (("-q",), ["Error: {} says error"]),
        ((), ["{} says info", "Warning: {} says warning", "Error: {} says error"]),
    ],
)
def test_levels(run: Run, talkative: None, words: tuple[str, ...], levels: list[str]) -> None:
    """Errors alone when quiet, else from information on; other libraries' lines are not ours to print."""
    result = run(*words, "env")
    names = ("openllm.engine", "openllm_client")
    assert result.stderr.splitlines() == [line.format(name) for name in names for line in levels]
    assert result.stdout == ""


def test_debug_adds_time_level_and_logger(run: Run, talkative: None) -> None:
    """Every line of ours, none of other libraries."""
    lines = run("env", "--debug").stderr.splitlines()
    assert len(lines) == 8 and not any("httpx" in line for line in lines)
    assert lines[0].split(" ", 1)[1] == "DEBUG   openllm.engine: openllm.engine says debug"


def test_nothing_stays_behind(run: Run, talkative: None) -> None:
    """A program that runs a command in itself keeps its own logging."""
    before = [(logger.level, list(logger.handlers)) for logger in map(logging.getLogger, ("openllm", "openllm_client"))]
    run("--debug", "env")
    after = [(logger.level, list(logger.handlers)) for logger in map(logging.getLogger, ("openllm", "openllm_client"))]
    assert after == before
