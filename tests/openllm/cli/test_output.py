"""-o json and -o porcelain, command by command over the table: stdout is the data, whatever else is said is on stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from tests.openllm.bundle import containers
from tests.openllm.serialisation import small
from tests.tiny_adapters import blank_adapter

from openllm import running
from openllm.bundle import base_images
from openllm.cli import COMMANDS, cli, instruct
from openllm_client import AgentStep

if TYPE_CHECKING:
    from .conftest import ScriptedServer

# What is typed for each command; {…} stand for what the fixture `world` made.
LINES: dict[str, str] = {
    "query": "query Hi? --endpoint {url}",
    "chat": "chat --endpoint {url}",
    "embed": "embed one two --endpoint {url}",
    "models": "models",
    "import": "import ./tiny",
    "lock": "lock --backend echo ./tiny",
    "export": "export tiny",
    "models verify": "models verify",
    "adapters add": "adapters add ./poet:second",
    "adapters rm": "adapters rm poet",
    "adapters ls": "adapters ls",
    "keys add": "keys add bob --api-key-file ./keys",
    "keys ls": "keys ls --api-key-file ./keys",
    "keys rm": "keys rm ann --api-key-file ./keys",
    "keys rotate": "keys rotate ann --api-key-file ./keys",
    "prune": "prune tiny -y",
    "doctor": "doctor --backend echo --port 0",
    "ps": "ps",
    "env": "env",
    "build-base-container": "build-base-container --version-strategy latest",
    "dive-bentos": "dive-bentos tiny-service:v1",
    "get-containerfile": "get-containerfile tiny-service:v1",
    "get-prompt": "get-prompt dolly-v2 Hi?",
    "list-bentos": "list-bentos",
    "list-models": "list-models",
    "playground": "playground ./notebooks --write-only",
}

# Commands that load a model or start a server: the tests that look at their stdout.
ELSEWHERE = {
    "start": "tests/openllm/cli/test_start.py",
    "start-grpc": "tests/openllm/cli/test_start.py",
    "run": "tests/openllm/cli/test_start.py",
    "build": "tests/openllm/bundle/test_build.py",
    "bench": "tests/openllm/bench/test_command.py",
    "finetune": "tests/openllm/cli/test_finetune.py",
    "quantize": "tests/full/test_gptq.py",
    "instruct": "tests/openllm/cli/test_output.py",
}
NO_FORMAT = {"completion": "prints a script", "extension": "is a group"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ScriptedServer) -> dict[str, str]:
    """A store with a model, an adapter and a Bento, a server that answers, a note of one, a container engine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(base_images, "commit", lambda: "0123456789abcdef")
    small.model_folder(tmp_path / "tiny")
    blank_adapter(tmp_path / "poet")
    for words in ("import ./tiny", "adapters add ./poet", "keys add ann --api-key-file ./keys"):
        assert CliRunner().invoke(cli, words.split()).exit_code == 0
    containers.make_bento(tmp_path / "bentoml")
    engines = containers.Engines(tmp_path)
    engines.add("docker")
    monkeypatch.setenv("PATH", f"{engines.folder}:{os.environ['PATH']}")
    running.remember(running.Ready(endpoint="http://127.0.0.1:3000", model="m", backend="pt", device="cpu"))
    return {"url": server.url}


def typed(line: str, world: dict[str, str], form: str, server: ScriptedServer) -> Result:
    """Run a line with -o FORM."""
    if line.startswith("embed"):
        server.refuse = (200, {"embeddings": [[0.6, 0.8]], "num_tokens": 2})
    words = [*line.format(**world).split(), "-o", form]
    return CliRunner().invoke(cli, words, input="Hi?\n", prog_name="openllm")


def test_every_command_is_looked_at() -> None:
    """A new command of the table has a line here, or is named as one that is looked at elsewhere."""
    assert set(LINES) | set(ELSEWHERE) | set(NO_FORMAT) == set(COMMANDS)
    root = Path(__file__).resolve().parents[3]
    assert [file for file in ELSEWHERE.values() if not (root / file).exists()] == []
    for name in COMMANDS:
        params: list[Any] = import_module(COMMANDS[name][0]).command.params
        flags = {flag for param in params for flag in param.opts}
        assert ("-o" in flags) == (name not in NO_FORMAT), name


@pytest.mark.parametrize("name", LINES)
def test_json_is_pure(name: str, world: dict[str, str], server: ScriptedServer) -> None:
    """stdout is one JSON value and nothing else (for `chat`, one a turn)."""
    result = typed(LINES[name], world, "json", server)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) is not None
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("name", LINES)
def test_porcelain_is_bare(name: str, world: dict[str, str], server: ScriptedServer) -> None:
    """stdout has bare words: no table, no colour, no remark; what -q takes away was not on stdout."""
    line = LINES[name]
    result = typed(line, world, "porcelain", server)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip()
    assert "─" not in result.stdout and "\x1b" not in result.stdout
    if name not in (
        "import",
        "adapters add",
        "adapters rm",
        "keys add",
        "keys rm",
        "keys rotate",
        "prune",
        "export",
        "lock",
        "playground",
    ):  # change something
        assert typed(line + " -q", world, "porcelain", server).stdout == result.stdout


@pytest.mark.parametrize(("form", "stdout"), [("json", '{\n  "n": 7\n}\n'), ("porcelain", "{'n': 7}\n")])
def test_an_agents_answer_is_alone_on_stdout(monkeypatch: pytest.MonkeyPatch, form: str, stdout: str) -> None:
    """What the tools of `instruct` gave back is talk: told on stderr, or with -o porcelain not at all."""

    class Client:
        address = "http://a-server"

        def ask_agent(self, task: str, **given: Any) -> Iterator[AgentStep]:
            yield AgentStep(number=1, text="Let me think.", observations="seven")
            yield AgentStep(number=2, last=True, answer={"n": 7})

        def close(self) -> None: ...

    monkeypatch.setattr(instruct, "open_client", lambda *_: Client())
    result = CliRunner().invoke(cli, ["instruct", "Count.", "-o", form])
    assert (result.exit_code, result.stdout) == (0, stdout)
    assert ("seven" in result.stderr) == (form == "json")


@pytest.mark.parametrize("form", ["json", "porcelain", "pretty"])
@pytest.mark.parametrize("name", ["query", "embed", "adapters ls", "export", "list-models", "get-prompt"])
def test_a_failure_leaves_stdout_empty(name: str, form: str) -> None:
    """Whatever the format: the error is on stderr, the code is not 0."""
    bad = {"export": "export nothing", "list-models": "list-models nothing", "get-prompt": "get-prompt nothing Hi?"}
    line = bad.get(name, LINES[name].replace("{url}", "127.0.0.1:9"))
    words = line.split() + (["--endpoint", "127.0.0.1:9"] if name == "adapters ls" else [])
    result = CliRunner().invoke(cli, [*words, "-o", form], prog_name="openllm")
    assert result.exit_code != 0
    assert result.stdout == "" and result.stderr.startswith("Error: ")


def test_the_variable_chooses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENLLM_OUTPUT is what -o says where it is not typed."""
    monkeypatch.setenv("OPENLLM_OUTPUT", "json")
    assert json.loads(CliRunner().invoke(cli, ["models"]).stdout)
    monkeypatch.setenv("OPENLLM_OUTPUT", "nonsense")
    assert CliRunner().invoke(cli, ["models"]).exit_code == 2
