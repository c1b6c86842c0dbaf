"""`openllm chat`: a conversation on a terminal and through a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pytest
from click.testing import Result
from tests.openllm.cli.conftest import interrupt

if TYPE_CHECKING:
    from .conftest import ScriptedServer

Run = Callable[..., Result]
Terminal = Callable[..., "pexpect.spawn[str]"]


def _contents(server: ScriptedServer) -> list[list[str]]:
    return [[message["content"] for message in body["messages"]] for body in server.seen]


def test_a_pipe_carries_answers_alone(run: Run, server: ScriptedServer):
    """Each line is a turn, stdout holds one answer a line, and the history grows."""
    result = run("chat", "--endpoint", server.url, stdin="one\n\ntwo\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello there.\nHello there.\n", "")
    assert _contents(server) == [["one"], ["one", "Hello there.", "two"]]


def test_json_through_a_pipe_is_one_object_a_line(run: Run, server: ScriptedServer):
    """-o json: every stdout line parses."""
    result = run("chat", "--endpoint", server.url, "-o", "json", stdin="one\ntwo\n")
    assert [json.loads(line)["responses"] for line in result.stdout.splitlines()] == [["Hello there."]] * 2


def test_a_server_error_is_one_line_and_the_conversation_goes_on(run: Run, server: ScriptedServer):
    """A refused turn is told and taken back; the pipe ends with its exit code."""
    server.refuse = (
        400,
        {"error": {"message": "Too long.", "type": "invalid_request_error", "param": None, "code": "x"}},
    )
    result = run("chat", "--endpoint", server.url, stdin="one\ntwo\n")
    assert result.exit_code == 1
    assert result.stderr.count("Too long.") == 2
    assert _contents(server) == [["one"], ["two"]]


def test_words_steer_the_conversation(run: Run, server: ScriptedServer, tmp_path: Path):
    """/system, /reset, /save, /model and /exit do what /help says; an unknown word is told, not sent."""
    file = tmp_path / "talk.json"
    lines = [
        "/system Be terse.",
        "one",
        "/reset",
        "two",
        f"/save {file}",
        "/model tiny:b",
        "three",
        "/nonsense",
        "/exit",
        "4",
    ]
    result = run("chat", "--endpoint", server.url, stdin="\n".join(lines))
    assert result.exit_code == 0
    assert _contents(server) == [
        ["Be terse.", "one"],
        ["Be terse.", "two"],
        ["Be terse.", "two", "Hello there.", "three"],
    ]
    assert [body["model"] for body in server.seen] == ["tiny", "tiny", "tiny:b"]
    assert [m["role"] for m in json.loads(file.read_text())["messages"]] == ["system", "user", "assistant"]
    assert "there is no /nonsense" in result.stderr


def test_a_file_that_cannot_be_written_is_one_line(run: Run, server: ScriptedServer):
    """/save into nowhere is told, and the conversation goes on."""
    result = run("chat", "--endpoint", server.url, stdin="/save /no/such/folder/x.json\none\n")
    assert "/no/such/folder/x.json: No such file or directory." in result.stderr
    assert result.stdout == "Hello there.\n"


def test_options_reach_the_server(run: Run, server: ScriptedServer):
    """--system and --sampling-params count for every turn."""
    run("chat", "--endpoint", server.url, "--system", "S", "--sampling-params", "temperature", "0", stdin="one\n")
    assert _contents(server) == [["S", "one"]]
    assert server.seen[0]["temperature"] == 0


def test_no_server_is_told_before_the_prompt(run: Run):
    """Nobody listens: exit 69 at once, not after the first message."""
    result = run("chat", "--endpoint", "127.0.0.1:9", "--timeout", "2", stdin="one\n")
    assert result.exit_code == 69
    assert result.stdout == ""


def test_ctrl_c_stops_the_answer_not_the_program(terminal: Terminal, server: ScriptedServer):
    """Ctrl-C while it streams: the stream is left, what was said stays in the history, the prompt comes back."""
    server.hold.set()
    child = terminal("chat", "--endpoint", server.url)
    child.expect_exact("› ")
    child.sendline("one")
    child.expect_exact("Hello")
    child.sendintr()
    child.expect_exact("Stopped.")
    child.expect_exact("› ")
    assert server.left_early.wait(5)
    server.hold.clear()
    child.sendline("two")
    child.expect_exact("Hello there.")
    child.expect("2 tokens · .* tokens/s · first after")
    child.expect_exact("› ")
    child.sendeof()
    child.expect_exact(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert _contents(server)[1] == ["one", "Hello", "two"]


def test_ctrl_c_at_the_prompt_clears_the_line(terminal: Terminal, server: ScriptedServer):
    """At the prompt Ctrl-C drops what was typed and says how to leave."""
    child = terminal("chat", "--endpoint", server.url)
    child.expect_exact("› ")
    child.send("half a li")
    child.expect_exact("half a li")
    interrupt(child, "Ctrl-D or /exit leaves.")
    child.sendline("whole")
    child.expect_exact("Hello there.")
    child.sendline("/exit")
    child.expect_exact(pexpect.EOF)
    assert _contents(server) == [["whole"]]


def test_history_lasts_and_a_backslash_goes_on(terminal: Terminal, server: ScriptedServer):
    """The arrow brings back a line of an earlier run; a line may end in a backslash to be continued."""
    for keys, sent in (("first\\\nsecond\n", "first\nsecond"), ("\x1b[A\n", "second")):
        child = terminal("chat", "--endpoint", server.url)
        child.expect_exact("› ")
        child.send(keys)
        child.expect_exact("Hello there.")
        child.expect_exact("› ")
        child.sendeof()
        child.expect_exact(pexpect.EOF)
        assert _contents(server)[-1] == [sent]


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_greeting_names_model_and_server(terminal: Terminal, server: ScriptedServer, quiet: list[str]):
    """The first lines say whom one talks to; -q says nothing."""
    child = terminal("chat", "--endpoint", server.url, *quiet)
    child.expect_exact("› ")
    assert (f"tiny at {server.url}" in str(child.before)) is not bool(quiet)
