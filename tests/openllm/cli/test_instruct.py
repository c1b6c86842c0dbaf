"""`openllm instruct`: a task, tools from a module, steps on stderr, the answer alone on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from tests.client.test_agents import Model, call, says

from openllm.cli import instruct
from openllm_client import HTTPClient

Run = Callable[..., Result]

TOOLS = '''
def weather(city: str) -> str:
    """Tell the weather in a city.

    Args:
        city: its name.
    """
    return f"It is sunny in {city}."


number = 5
'''
ASKED = (says(None, call("weather", city="Paris")), says(None, call("final_answer", answer="Sunny.")))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Model]]:
    """Has the command talk to a scripted model, from a folder that holds a module of tools."""
    (tmp_path / "my_tools.py").write_text(TOOLS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def use(*answers: Any, **options: Any) -> Model:
        model = Model(*answers, **options)
        transport = httpx.MockTransport(model)
        monkeypatch.setattr(
            instruct, "open_client", lambda endpoint, timeout: HTTPClient(endpoint, transport=transport)
        )
        return model

    yield use
    sys.modules.pop("my_tools", None)


def test_the_answer_alone_is_on_stdout(run: Run, serve: Callable[..., Model]) -> None:
    """Steps and what the tools gave back are talk; -q leaves them out."""
    words = ("instruct", "How is Paris?", "--agent", "hf", "--tool", "my_tools:weather")
    serve(*ASKED)
    result = run(*words)
    assert (result.exit_code, result.stdout) == (0, "Sunny.\n"), result.stderr
    assert result.stderr.splitlines()[1:] == [
        "agent step 1: weather(city='Paris')",
        "  It is sunny in Paris.",
        "agent step 2: final_answer(answer='Sunny.')",
        "  Sunny.",
    ]
    serve(*ASKED)
    quiet = run("-q", *words)
    assert (quiet.stdout, quiet.stderr) == ("Sunny.\n", "")


def test_other_forms(run: Run, serve: Callable[..., Model]) -> None:
    """-o json is the answer as JSON, whatever its type; -o porcelain leaves out all talk but the log."""
    serve(says(None, call("final_answer", answer={"sunny": True, "degrees": 21})))
    assert json.loads(run("instruct", "How?", "-o", "json").stdout) == {"sunny": True, "degrees": 21}
    serve(says(None, call("final_answer", answer="Sunny.")))
    result = run("instruct", "How?", "-o", "porcelain")
    assert (result.stdout, result.stderr) == ("Sunny.\n", "agent step 1: final_answer(answer='Sunny.')\n")


def test_arguments_reach_agent_and_model(run: Run, serve: Callable[..., Model]) -> None:
    """--max-steps and --opt go to the agent, --sampling-params into each request, --model names who is asked."""
    model = serve(says("Hm."), says("Sunny."))
    words = (
        "--max-steps",
        "1",
        "--opt",
        "instructions:Be brief.",
        "--sampling-params",
        "temperature",
        "0",
        "--model",
        "m",
    )
    result = run("instruct", "How?", *words)
    assert (result.exit_code, result.stdout) == (0, "Sunny.\n"), result.stderr
    first, last = model.asked
    assert (first["temperature"], first["model"]) == (0, "m")
    assert "Be brief." in first["messages"][0]["content"] and "tools" not in last


def test_code_runs_only_where_the_flag_was_typed(run: Run, serve: Callable[..., Model]) -> None:
    """--allow-code has no other spelling: --opt does not take it."""
    code = says("<code>\nfinal_answer(6 * 7)\n</code>")
    serve(code)
    assert run("instruct", "Count", "--allow-code").stdout == "42\n"
    model = serve(code)
    result = run("instruct", "Count", "--opt", "allow_code=true")
    assert result.exit_code == 2 and "allow_code" in result.stderr and model.asked == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tool", "weather"), "is not MODULE:NAME"),
        (("--tool", "my_tools:nothing"), "cannot be had"),
        (("--tool", "no_such_module:x"), "cannot be had"),
        (("--tool", "my_tools:number"), "neither a tool nor a function"),
        (("--remote",), "no hosted tools"),
        (("--opt", "max_stepz=3"), "no option 'max_stepz'"),
        (("--agent", "langchain"), "langchain"),
    ],
)
def test_wrong_usage(run: Run, serve: Callable[..., Model], words: tuple[str, ...], says: str) -> None:
    """Exit code 2 and one line; the model is asked nothing."""
    model = serve(*ASKED)
    result = run("instruct", "How?", *words)
    assert result.exit_code == 2 and says in result.stderr and model.asked == []
    assert result.stdout == ""


def test_a_server_without_agents(run: Run, serve: Callable[..., Model]) -> None:
    """A server that serves none is told apart, in one line."""
    serve(agents=False)
    result = run("instruct", "How?")
    assert result.exit_code == 2 and "serves no agents" in result.stderr


def test_an_unreachable_server(run: Run) -> None:
    """Nobody there: the code of every command that finds no server."""
    result = run("instruct", "How?", "--endpoint", "127.0.0.1:9", "--timeout", "2")
    assert result.exit_code == 69 and result.stdout == ""
