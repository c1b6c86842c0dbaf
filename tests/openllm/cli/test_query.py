"""`openllm query`: one question, one answer, clean streams, honest exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pexpect
import pytest
from click.testing import Result

if TYPE_CHECKING:
    from .conftest import ScriptedServer

Run = Callable[..., Result]


def test_the_answer_alone_is_on_stdout(run: Run, server: ScriptedServer):
    """Through a pipe stdout holds the text and a line end; the question went through the chat template."""
    result = run("query", "Hi?", "--endpoint", server.url)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello there.\n", "")
    assert server.seen[0]["messages"] == [{"role": "user", "content": "Hi?"}]
    assert server.seen[0]["model"] == "tiny"


def test_json_is_pure_json(run: Run, server: ScriptedServer):
    """-o json: stdout parses as one object, with 0.3.5's two keys and the usage."""
    data = json.loads(run("query", "Hi?", "--endpoint", server.url, "-o", "json").stdout)
    assert data["responses"] == ["Hello there."]
    assert data["usage"]["completion_tokens"] == 2
    assert data["finish_reasons"] == ["stop"]
    assert "configuration" in data


def test_every_choice_is_shown_and_none_is_mixed_into_another(run: Run, server: ScriptedServer):
    """n=2: one text after the other, and two responses as JSON."""
    words = ("query", "Hi?", "--endpoint", server.url, "--sampling-params", "n=2")
    assert run(*words).stdout == "Hello there.\n\nHELLO THERE.\n"
    assert json.loads(run(*words, "-o", "json").stdout)["responses"] == ["Hello there.", "HELLO THERE."]


def test_prompt_from_stdin(run: Run, server: ScriptedServer):
    """`-`, or no PROMPT with text piped in, reads the prompt from stdin."""
    for words in (["-"], []):
        assert run("query", *words, "--endpoint", server.url, stdin="from a pipe").exit_code == 0
    assert [body["messages"][0]["content"] for body in server.seen] == ["from a pipe"] * 2


def test_an_empty_prompt_is_wrong_usage(run: Run, server: ScriptedServer):
    """Nothing to ask ends with 2 before the server is bothered."""
    assert run("query", "  ", "--endpoint", server.url).exit_code == 2
    assert run("query", "-", "--endpoint", server.url, stdin="").exit_code == 2
    assert server.seen == []


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["temperature=0.2"], {"temperature": 0.2}),
        (["temperature:0.2"], {"temperature": 0.2}),
        (["temperature", "0.2"], {"temperature": 0.2}),
        (["max_new_tokens=5"], {"max_tokens": 5}),
        (["stop=a:b=c"], {"stop": "a:b=c"}),
        (['stop=["x", "y"]'], {"stop": ["x", "y"]}),
        (["seed=1", "--sampling-params", "seed=2"], {"seed": 1}),
        (["top-p", "1"], {"top_p": 1}),
    ],
)
def test_sampling_params_in_three_forms(run: Run, server: ScriptedServer, words: list[str], sent: dict[str, Any]):
    """`k=v`, `k:v` and `k v`; values are JSON, else text; the first of a key counts; --raw names are understood."""
    result = run("query", "Hi?", "--endpoint", server.url, "--sampling-params", *words)
    assert result.exit_code == 0, result.stderr
    assert {key: server.seen[0][key] for key in sent} == sent


@pytest.mark.parametrize(
    ("word", "message"),
    [("tempereture=1", "Did you mean temperature"), ("=1", "is not KEY=VALUE"), ("seed=NaN", "NaN is not a number")],
)
def test_wrong_sampling_params_are_wrong_usage(run: Run, server: ScriptedServer, word: str, message: str):
    """An unknown field or a malformed pair ends with 2 before anything is sent."""
    result = run("query", "Hi?", "--endpoint", server.url, "--sampling-params", word)
    assert result.exit_code == 2
    assert message in result.stderr
    assert server.seen == []


def test_an_ascii_locale_breaks_nothing(server: ScriptedServer):
    """LC_ALL=C without Python's own mending: text goes out and comes back as UTF-8."""
    server.pieces = ["naïve ", "日本"]
    done = subprocess.run(
        [sys.executable, "-m", "openllm", "query", "café", "--endpoint", server.url],
        capture_output=True,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        check=True,
    )
    assert done.stdout.decode() == "naïve 日本\n"
    assert server.seen[0]["messages"][0]["content"] == "café"


def test_raw_completes_the_prompt_as_it_stands(run: Run, server: ScriptedServer):
    """--raw goes to /v1/generate with the family's own fields."""
    result = run("query", "Once", "--raw", "--endpoint", server.url, "--sampling-params", "max_new_tokens=5")
    assert result.stdout == "Hello there.\n"
    assert server.seen[0]["prompt"] == "Once"
    assert server.seen[0]["llm_config"] == {"max_new_tokens": 5}


def test_endpoint_needs_no_scheme_and_comes_from_the_environment(
    run: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
):
    """OPENLLM_ENDPOINT counts, and `host:port` will do."""
    monkeypatch.setenv("OPENLLM_ENDPOINT", server.url.removeprefix("http://"))
    assert run("query", "Hi?").stdout == "Hello there.\n"


def test_no_server_is_one_line_and_69(run: Run):
    """Nobody listens: the address is named, exit 69."""
    result = run("query", "Hi?", "--endpoint", "127.0.0.1:9", "--timeout", "2")
    assert result.exit_code == 69
    assert "127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("status", "error_type", "exit_code"),
    [(400, "invalid_request_error", 1), (401, "invalid_request_error", 77), (429, "rate_limit_error", 75)],
)
def test_a_refusal_is_one_line_and_its_code(
    run: Run, server: ScriptedServer, status: int, error_type: str, exit_code: int
):
    """What the server says is shown; the exit code tells the kind."""
    server.refuse = (status, {"error": {"message": "Not like this.", "type": error_type, "param": None, "code": None}})
    result = run("query", "Hi?", "--endpoint", server.url, "--timeout", "2")
    assert result.exit_code == exit_code
    assert "Not like this." in result.stderr
    assert result.stdout == ""


def test_a_broken_stream_is_not_a_whole_answer(run: Run, server: ScriptedServer):
    """A stream without its end mark ends with 69, and JSON is not printed for it."""
    server.cut = True
    assert run("query", "Hi?", "--endpoint", server.url).exit_code == 69
    result = run("query", "Hi?", "--endpoint", server.url, "-o", "json")
    assert (result.exit_code, result.stdout) == (69, "")


def test_an_unserved_model_names_those_served(run: Run, server: ScriptedServer):
    """--model is checked against the server's list."""
    result = run("query", "Hi?", "--endpoint", server.url, "--model", "tiny:c")
    assert "tiny" in result.stderr
    assert result.exit_code == 2


def test_on_a_terminal_speed_is_told_and_control_characters_are_not(
    terminal: Callable[..., pexpect.spawn[str]], server: ScriptedServer
):
    """A person sees text and speed; an answer cannot steer the terminal."""
    server.pieces = ["red\x1b[31m", " \x07text"]
    child = terminal("query", "Hi?", "--endpoint", server.url)
    child.expect(r"red\[31m text\r\n")
    child.expect("2 tokens · .*first after")
    child.expect_exact("\r\n")


@pytest.mark.parametrize(
    ("words", "environ"),
    [(["query", "Hi?"], {"NO_COLOR": "1"}), (["--help"], {"NO_COLOR": "1"}), (["models"], {"TERM": "dumb"})],
)
def test_no_colour_when_asked(
    terminal: Callable[..., pexpect.spawn[str]], server: ScriptedServer, words: list[str], environ: dict[str, str]
):
    """NO_COLOR and TERM=dumb: not one escape sequence."""
    child = terminal(*words, OPENLLM_ENDPOINT=server.url, **environ)
    child.expect_exact(pexpect.EOF)
    assert child.before
    assert "\x1b" not in str(child.before)
