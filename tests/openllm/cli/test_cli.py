"""The command table, its help, and how errors leave the program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import click
import pytest
from click.testing import Result

from openllm.cli import ALIASES, COMMANDS, cli, main
from openllm.cli.failures import EXIT_CODES
from openllm_core import errors

Run = Callable[..., Result]


def test_help_lists_commands_aliases_and_exit_codes(run: Run):
    """`openllm --help` shows every command with its line, the other names, and every exit code with its meaning."""
    text = run("--help").stdout
    for name, (_, line, _) in COMMANDS.items():
        assert f"{name} " in text
        assert line in text
    for alias in ALIASES:
        assert f"{alias} =" in " ".join(text.split())
    for code in EXIT_CODES:
        assert f"  {code} " in text


def test_no_command_shows_help_and_succeeds(run: Run):
    """`openllm` alone is a request for help."""
    result = run()
    assert result.exit_code == 0
    assert result.stdout == run("--help").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_has_help(run: Run, name: str):
    """Each name leads to a click command with help, the global options, and -h as well as --help."""
    result = run(name, "-h")
    assert result.exit_code == 0, result.stderr
    assert "--do-not-track" in result.stdout
    assert isinstance(import_module(COMMANDS[name][0]).command, click.Command)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["start", "--help"], ["chat", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]):
    """Help and version load no framework, no HTTP library, no rich; the top-level help loads no command either."""
    code = (
        "import sys\nfrom openllm.cli import main\n"
        f"assert main({words!r}) == 0\n"
        "print(' '.join(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    heavy = {"torch", "transformers", "bentoml", "starlette", "uvicorn", "httpx", "rich", "numpy", "tokenizers"}
    assert not heavy & loaded
    assert "openllm.cli.start" not in loaded or words[0] == "start"


def test_version_is_two_lines(run: Run):
    """-v and --version print OpenLLM's line and Python's."""
    first, second = run("--version").stdout.splitlines()
    assert first.startswith("openllm, ")
    assert second.startswith("Python (")
    assert run("-v").stdout.splitlines() == [first, second]


def test_names_may_be_snake_or_kebab(run: Run):
    """`start_http --max_model_len` is `start-http --max-model-len`."""
    result = run("start_http", "--max_model_len", "x")
    assert result.exit_code == 2
    assert "--max-model-len: 'x' is not a whole number." in result.stderr


def test_a_wrong_command_names_the_near_one(run: Run):
    """A typing slip is answered with what was meant, exit 2, and two lines at most."""
    result = run("strat")
    assert result.exit_code == 2
    assert "Did you mean start?" in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 2


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command("env")
    def command() -> None:
        raise error

    monkeypatch.setattr(import_module("openllm.cli.env"), "command", command)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            errors.PortInUse("Port 3000 is taken.", hint="Take another."),
            71,
            "Error: Port 3000 is taken.\nHint:  Take another.",
        ),
        (errors.UnknownModel("No x."), 66, "Error: No x."),
        (errors.MissingDependency("No y.", hint="`pip install y`"), 78, "Hint:  `pip install y`"),
        (errors.Unauthorized("No key."), 77, "Error: No key."),
        (errors.Overloaded("Full."), 75, "Error: Full."),
        (PermissionError(13, "Permission denied", "/x"), 77, "Error: /x: Permission denied."),
        (OSError(28, "No space left on device"), 74, "Hint:  Free some space"),
        (ModuleNotFoundError("No module", name="uvicorn.main"), 78, "the package 'uvicorn' is not installed"),
        (ValueError("boom"), 1, "Error: internal error: ValueError: boom"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_one_line_a_hint_and_its_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
):
    """Whatever goes wrong: cause and fix on stderr, nothing on stdout, no traceback, the documented exit code."""
    _failing(monkeypatch, error)
    result = run("env")
    assert result.exit_code == code
    assert code in EXIT_CODES
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_debug_adds_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch):
    """With --debug the traceback stands before the line."""
    _failing(monkeypatch, errors.UnknownModel("No x."))
    result = run("--debug", "env")
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("Error: No x.\n")


def test_error_text_cannot_forge_lines(run: Run, monkeypatch: pytest.MonkeyPatch):
    """Control characters in a message are taken out, so that it stays one line and moves no cursor."""
    _failing(monkeypatch, errors.UnknownModel("a\nError: fake\x1b[2J\r\u2028b"))
    lines = run("env").stderr.splitlines()
    assert lines == ["Error: a Error: fake [2J b"]


def test_quiet_beats_debug(run: Run):
    """Both at once: a warning, and quiet wins."""
    result = run("-q", "--debug", "env")
    assert result.exit_code == 0
    assert result.stderr == "Warning: --quiet and --debug were both given; --quiet wins.\n"


def test_global_options_stand_before_or_after_the_command(run: Run):
    """`-q env` and `env -q` mean the same; so do the variables of 0.3.5."""
    assert run("-q", "env").exit_code == run("env", "-q").exit_code == 0


def test_every_error_class_has_a_documented_code():
    """No error of ours ends with an exit code that --help does not explain."""

    def all_of(cls: type[errors.OpenLLMError]) -> list[type[errors.OpenLLMError]]:
        return [cls, *(sub for child in cls.__subclasses__() for sub in all_of(child))]

    assert {cls.exit_code for cls in all_of(errors.OpenLLMError)} <= set(EXIT_CODES)


def test_a_reader_that_leaves_is_no_error():
    """`openllm models | head -1`: no traceback, no message about a pipe."""
    command = f"{sys.executable} -m openllm models -q -o porcelain | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("chatglm\n", "")


def test_main_returns_the_code():
    """The console script's function returns the exit code instead of leaving by itself."""
    assert main(["env", "-o", "porcelain"]) == 0
    assert main(["no-such-command"]) == 2
    assert cli.name == "openllm"


def test_module_runs_like_the_script():
    """`python -m openllm` is the same command."""
    done = subprocess.run([sys.executable, "-m", "openllm", "-v"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("openllm, ")


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """No line of any help page is wider than the terminal, so that none is folded in the middle of a word."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in ("", *COMMANDS):
        page = run(*name.split(), "--help").stdout
        assert page and max(map(len, page.splitlines())) <= columns, name
