"""`openllm embed`: vectors on stdout in three forms, texts from words or stdin."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from click.testing import Result

if TYPE_CHECKING:
    from .conftest import ScriptedServer

Run = Callable[..., Result]
ANSWER = {"embeddings": [[0.6, 0.8], [1.0, 0.0]], "num_tokens": 7}


@pytest.fixture(autouse=True)
def answers(server: ScriptedServer) -> None:
    """What the scripted server says to every request."""
    server.refuse = (200, ANSWER)


def test_json_is_the_default(run: Run, server: ScriptedServer) -> None:
    """stdout parses as the route's object; each word is a text."""
    result = run("embed", "first text", "second", "--endpoint", server.url)
    assert (result.exit_code, json.loads(result.stdout), result.stderr) == (0, ANSWER, "")
    assert server.seen == [["first text", "second"]]


def test_porcelain_is_the_list_of_lists(run: Run, server: ScriptedServer) -> None:
    """Nothing else is on stdout, and it is JSON too."""
    result = run("embed", "a", "b", "-o", "porcelain", "--endpoint", server.url)
    assert result.stdout == "[[0.6, 0.8], [1.0, 0.0]]\n"
    assert json.loads(result.stdout) == ANSWER["embeddings"]


def test_pretty_says_what_it_shows(run: Run, server: ScriptedServer) -> None:
    """The list on stdout, the words about it on stderr."""
    result = run("embed", "a", "b", "-o", "pretty", "--endpoint", server.url)
    assert result.stdout == "[[0.6, 0.8], [1.0, 0.0]]\n"
    assert "Number of tokens: 7" in result.stderr


@pytest.mark.parametrize("words", [[], ["-"]])
def test_each_line_of_stdin_is_a_text(run: Run, server: ScriptedServer, words: list[str]) -> None:
    """`-`, or no TEXT with text piped in; empty lines are none."""
    assert run("embed", *words, "--endpoint", server.url, stdin="one\n\ntwo words\n").exit_code == 0
    assert server.seen == [["one", "two words"]]


def test_nothing_to_embed_is_wrong_usage(run: Run, server: ScriptedServer) -> None:
    """It ends with 2 before the server is bothered."""
    assert run("embed", "-", "--endpoint", server.url, stdin="\n").exit_code == 2
    assert server.seen == []


def test_a_refusal_is_told_in_one_line(run: Run, server: ScriptedServer) -> None:
    """The server's own words, and the exit code of its error."""
    message = "input[0] is an empty text, which has no embedding."
    server.refuse = (400, {"error": {"message": message, "type": "invalid_request_error", "param": "input[0]"}})
    result = run("embed", "", "--endpoint", server.url)
    assert result.exit_code == 1 and message in result.stderr and result.stdout == ""
