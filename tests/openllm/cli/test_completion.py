"""`openllm completion`: what a shell offers at TAB. bash itself is run; zsh and fish ask by the same protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tests.openllm.serialisation import small
from tests.tiny_adapters import blank_adapter

Run = Callable[..., Result]

# Loads the script as a person's ~/.bashrc would, then presses TAB after the words in $1.
IN_BASH = """
eval "$(openllm completion bash)"
COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}
read -ra COMP_WORDS <<< "$1"
[[ "$1" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_openllm_completion openllm
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_shell(shell: str, line: str) -> list[str]:
    """What `openllm` answers a shell for a line that TAB was pressed at."""
    words = line.split() + ([""] if line.endswith(" ") else [])
    asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_OPENLLM_COMPLETE": f"{shell}_complete"}
    if shell == "fish":
        asked["COMP_CWORD"] = words[-1]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from openllm.cli import main; sys.exit(main())"],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture
def stored(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with one model and one adapter."""
    monkeypatch.chdir(tmp_path)
    assert run("import", str(small.model_folder(tmp_path / "tiny-llama"))).exit_code == 0
    assert run("adapters", "add", str(blank_adapter(tmp_path / "poet"))).exit_code == 0


def test_in_bash(stored: None) -> None:
    """Commands, second words, options, choices, models of the store and its adapters."""

    def offered(line: str) -> list[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", IN_BASH, "bash", line],
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert offered("openllm mod") == ["models"]
    assert offered("openllm start tiny") == ["tiny-llama"]
    assert offered("openllm start --adapter-id p") == ["poet"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_zsh_and_fish_get_the_lines_of_the_help_page_too(shell: str) -> None:
    """Names, and what they do."""
    answer = "\n".join(in_shell(shell, "openllm doc"))
    assert "doctor" in answer and "Check whether a start would succeed" in answer


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed_alone(run: Run, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """stdout can be handed to the shell; without SHELL, $SHELL decides."""
    result = run("completion", shell)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"_OPENLLM_COMPLETE={shell}_complete" in result.stdout
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert run("completion").stdout == result.stdout


def test_an_unknown_shell_is_wrong_usage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named or not, with those there are."""
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    for words in ((), ("tcsh",)):
        result = run("completion", *words)
        assert result.exit_code == 2 and "fish" in result.stderr


@pytest.mark.parametrize(
    ("words", "begun", "expected"),
    [
        ((), "fine", ["finetune"]),
        ((), "start-h", ["start-http"]),
        (("adapters",), "", ["add", "rm", "ls"]),
        (("adapters", "ls"), "", []),
        (("adapters", "rm"), "", ["poet"]),
        (("models",), "v", ["verify"]),
        (("prune",), "tiny", ["tiny-llama"]),
        (("export",), "", ["tiny-llama"]),
        (("start",), "opt", ["opt"]),
        (("start", "--dtype"), "b", ["bfloat16"]),
        (("start", "--backend"), "e", ["echo"]),
        (("start", "--runtime"), "e", ["echo"]),
        (("query", "-o"), "j", ["json"]),
        (("ext",), "dive", ["dive-bentos"]),
    ],
)
def test_what_is_offered(stored: None, words: tuple[str, ...], begun: str, expected: list[str]) -> None:
    """First words, second words, values of options, and what the store holds."""
    from click.shell_completion import ShellComplete

    from openllm.cli import cli

    found = ShellComplete(cli, {}, "openllm", "_OPENLLM_COMPLETE").get_completions(list(words), begun)
    assert [item.value for item in found] == expected


def test_a_store_that_cannot_be_read_offers_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TAB prints no error into the line that is being typed."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file"))
    assert "".join(in_shell("bash", "openllm export ")) == ""
