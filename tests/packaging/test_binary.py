"""The standalone binary, short of making one: what its program does itself, where it finds a runtime, how archives are packed.

tests/full/test_binary.py makes one and uses it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.packaging.conftest import ROOT
from tests.packaging.test_version import load

from openllm.cli import ALIASES, COMMANDS

ENTRY, BINARY = load(ROOT / "tools" / "standalone" / "entry.py"), load(ROOT / "tools" / "binary.py")


class Became(Exception):
    """The program was replaced by another: (program, words, environment)."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, a binary that is a file of its own, and an `execve` that only tells."""

    def execve(program: Path, words: list[str], environ: dict[str, str]) -> None:
        raise Became(program, words, environ)

    monkeypatch.setattr(ENTRY.os, "execve", execve)
    binary = tmp_path / "opt" / "openllm"
    binary.parent.mkdir()
    binary.write_text("binary", encoding="utf-8")
    monkeypatch.setattr(ENTRY.sys, "executable", str(binary))
    return tmp_path


def make_runtime(folder: Path) -> Path:
    """A runtime as far as the binary looks at one."""
    program = folder / "bin" / "openllm"
    program.parent.mkdir(parents=True)
    program.write_text("runtime", encoding="utf-8")
    return program


def run(home: Path, *words: str, platform: str = "linux", **environ: str) -> int:
    return ENTRY.run(words, {"HOME": str(home), **environ}, platform)


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("--help",),
        (),
        ("start", "--help"),
        ("chat", "-h"),
        ("completion", "bash"),
        ("models", "smollm"),
    ],
)
def test_what_it_does_itself(home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]):
    """Versions, help pages of every command, completion and the table of models need no runtime."""
    assert run(home, *words) == 0
    assert capsys.readouterr().out


def test_the_version_says_which_runtime_there_is(home: Path, capsys: pytest.CaptureFixture[str]):
    """The runtime has a version of its own, so a person can see which one `openllm start` would be."""
    assert run(home, "--version") == 0
    assert capsys.readouterr().out.endswith("\nRuntime: none\n")
    program = make_runtime(home / "opt" / "runtime")
    assert run(home, "--version") == 0
    assert capsys.readouterr().out.endswith(f"\nRuntime: {program}\n")


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("start",), "start"),
        (("serve", "smollm"), "start"),
        (("-q", "--context", "start", "import", "x"), "import"),
        (("keys", "add"), "keys"),
        (("start_grpc",), "start-grpc"),
        (("strat",), None),
        (("--version",), None),
        ((), None),
    ],
)
def test_which_command_it_is(words: tuple[str, ...], command: str | None):
    """Aliases, global options before it and both spellings are seen through, as the command line itself does."""
    assert ENTRY.command_of(words) == command


def test_every_command_is_known():
    """No command of the table, by any of its names, is taken for a typing slip."""
    for name in [*COMMANDS, *ALIASES]:
        assert ENTRY.command_of(name.split()) is not None, name
    assert set(COMMANDS) >= ENTRY.CARRIED | ENTRY.EITHER


@pytest.mark.parametrize(
    "words", [("start",), ("doctor",), ("ps", "--ready"), ("keys", "add", "x"), ("build", "smollm")]
)
def test_without_a_runtime_it_says_how_to_get_one(
    home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
):
    """One line with what is missing, one with the commands that mend it, and the exit code of a missing package."""
    assert run(home, *words) == 78
    error, hint = capsys.readouterr().err.splitlines()
    assert f"`openllm {words[0]}` needs the OpenLLM runtime" in error
    folder = home / ".local/share/openllm/runtime"
    assert f"`python3 -m venv {folder} && {folder}/bin/pip install openllm" in hint


def test_folders_in_the_hint_can_be_pasted(home: Path, capsys: pytest.CaptureFixture[str]):
    """On macOS the data folder has a blank in it."""
    assert run(home, "start", platform="darwin") == 78
    assert f"python3 -m venv '{home}/Library/Application Support/openllm/runtime' && '" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "environ"),
    [
        ("named", {"OPENLLM_RUNTIME": "{home}/named"}),
        ("named", {"OPENLLM_RUNTIME": "~/named"}),
        ("opt/runtime", {}),
        (".local/share/openllm/runtime", {}),
        ("data/openllm/runtime", {"XDG_DATA_HOME": "{home}/data"}),
    ],
)
def test_a_runtime_takes_over(home: Path, monkeypatch: pytest.MonkeyPatch, place: str, environ: dict[str, str]):
    """Found in any of its places it becomes the program, with the same words and without our own variable."""
    monkeypatch.setenv("HOME", str(home))  # what ~ stands for
    program = make_runtime(home / place)
    with pytest.raises(Became) as became:
        run(
            home, "start", "smollm", "--port", "1", **{name: value.format(home=home) for name, value in environ.items()}
        )
    taken, words, given = became.value.args
    assert taken == program
    assert words == [str(program), "start", "smollm", "--port", "1"]
    assert "OPENLLM_RUNTIME" not in given


def test_the_first_place_wins(home: Path):
    """What is named goes before what lies beside the binary, and that before the data folder; a link is followed."""
    last = make_runtime(home / ".local/share/openllm/runtime")
    linked = home / "bin" / "openllm"
    linked.parent.mkdir()
    linked.symlink_to(home / "opt" / "openllm")
    found: Callable[..., tuple[Path | None, str | None]] = ENTRY.find_runtime
    assert found({"HOME": str(home)}, linked, "linux") == (last, None)
    beside = make_runtime(home / "opt" / "runtime")
    assert found({"HOME": str(home)}, linked, "linux") == (beside, None)
    named = make_runtime(home / "named")
    assert found({"HOME": str(home), "OPENLLM_RUNTIME": str(home / "named")}, linked, "linux") == (named, None)


def test_a_named_runtime_that_is_none(home: Path, capsys: pytest.CaptureFixture[str]):
    """What was named is not passed over in silence, though another runtime is there; `models` says so too."""
    make_runtime(home / ".local/share/openllm/runtime")
    for command in ("start", "models"):
        assert run(home, command, OPENLLM_RUNTIME=str(home / "nothing")) == 78
        assert "OPENLLM_RUNTIME is" in (said := capsys.readouterr().err)
        assert f"{home}/nothing/bin/openllm is missing" in said


def test_an_environment_without_openllm(home: Path, capsys: pytest.CaptureFixture[str]):
    """A runtime whose installation broke off is named; it is not as if there was none."""
    folder = home / ".local/share/openllm/runtime"
    folder.mkdir(parents=True)
    assert run(home, "start") == 78
    assert f"{folder} is no runtime: {folder}/bin/openllm is missing" in capsys.readouterr().err


def test_it_never_starts_itself(home: Path, capsys: pytest.CaptureFixture[str]):
    """Named by the prefix it is linked into, as /usr/local, it would start itself for ever."""
    (home / "prefix" / "bin").mkdir(parents=True)
    (home / "prefix" / "bin" / "openllm").symlink_to(home / "opt" / "openllm")
    assert run(home, "start", OPENLLM_RUNTIME=str(home / "prefix")) == 78
    assert "is this binary itself" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["models", "chat"])
def test_some_are_the_runtimes_where_there_is_one(home: Path, command: str):
    """It knows which backends are installed, and edits lines."""
    make_runtime(home / "opt" / "runtime")
    with pytest.raises(Became):
        run(home, command)


def test_a_runtime_that_cannot_be_run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """An environment whose Python is gone is named in one line; no traceback."""
    program = make_runtime(home / "opt" / "runtime")

    def refuse(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(ENTRY.os, "execve", refuse)
    assert run(home, "start") == 78
    assert f"{program} cannot be run: No such file or directory." in capsys.readouterr().err


@pytest.mark.parametrize("words", [("query", "x", "--server-type", "grpc"), ("embed", "x", "--server-type=grpc")])
def test_grpc_is_the_runtimes(home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]):
    """Its library is in no binary; the word alone, as a question, is not taken for it."""
    assert run(home, *words) == 78
    said = capsys.readouterr().err
    assert "gRPC needs the OpenLLM runtime" in said
    assert "/bin/pip install 'openllm[grpc]" in said
    assert not ENTRY.asks_for_grpc(["query", "grpc", "--server-type", "http"])


def test_what_the_loader_set_is_taken_back(monkeypatch: pytest.MonkeyPatch):
    """The runtime's libraries are its own: the path of the binary's is not handed down, the person's own path is."""
    monkeypatch.setattr(sys, "_MEIPASS", "/opt/_internal", raising=False)
    given = {"A": "1", "_PYI_APPLICATION_HOME_DIR": "x", "LD_LIBRARY_PATH": "/opt/_internal"}
    assert ENTRY.environment(given) == {"A": "1"}
    assert ENTRY.environment(given | {"LD_LIBRARY_PATH_ORIG": "/mine"}) == {"A": "1", "LD_LIBRARY_PATH": "/mine"}
    assert ENTRY.environment({"LD_LIBRARY_PATH": "/mine"}) == {"LD_LIBRARY_PATH": "/mine"}


def test_its_own_code_needs_nothing_that_it_does_not_carry():
    """The program starts where only the packages of constraints/binary.txt can be imported."""
    pins = (ROOT / "constraints" / "binary.txt").read_text(encoding="utf-8")
    carried = {line.partition("==")[0].replace("-", "_") for line in pins.splitlines() if line[:1] != "#"}
    names = carried | {
        "attr",
        "cattr",
        "yaml",
        "openllm",
        "openllm_client",
        "openllm_core",
    }
    program = (
        f"import sys, runpy; before = set(sys.modules); sys.argv = ['openllm', 'start', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'tools/standalone/entry.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('\\n' + ' '.join(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.splitlines()[-1].split() if name not in sys.stdlib_module_names}
    assert "--max-model-len" in done.stdout
    assert {name for name in loaded if not name.startswith("__editable__")} - names <= {"__main__", "__mp_main__"}


# -- making it


def test_where_each_target_is_made(tmp_path: Path):
    """On a runner of its kind by dev.py itself, else by dev.py in a container of that platform."""
    command: list[str] = BINARY.release_command("aarch64-apple-darwin", tmp_path)
    assert command[1:] == ["tools/dev.py", "binary", "--output", str(tmp_path)]
    for target, platform in (
        ("i686-unknown-linux-gnu", "linux/386"),
        ("powerpc64le-unknown-linux-gnu", "linux/ppc64le"),
    ):
        command = BINARY.release_command(target, tmp_path)
        assert command[:5] == ["docker", "run", "--rm", "--platform", platform]
        assert f"{tmp_path}:/output" in command
        assert command[-1].endswith("exec python3 tools/dev.py binary --output /output")


def test_this_machines_target_is_one_of_them():
    """What `build` would call its archive here stands in the list of targets, on the systems that have binaries."""
    assert BINARY.this_target() in BINARY.targets() or sys.platform not in ("linux", "darwin")


def test_an_archive_is_the_same_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Times, owners and the order on the disk leave no trace; modes and links are kept."""
    packed: list[bytes] = []
    for number, names in enumerate((("b", "a"), ("a", "b"))):
        folder = tmp_path / str(number) / "openllm-1"
        (folder / "_internal").mkdir(parents=True)
        for name in names:
            (folder / "_internal" / name).write_text(name, encoding="utf-8")
        (folder / "openllm").write_text("program", encoding="utf-8")
        (folder / "openllm").chmod(0o700 + number)
        (folder / "link").symlink_to("_internal/a")
        os.utime(folder / "openllm", (number, number))
        packed.append(BINARY.pack(folder, tmp_path / f"{number}.tar.gz").read_bytes())
    assert packed[0] == packed[1]
    program = BINARY.unpack((tmp_path / "0.tar.gz").rename(tmp_path / "openllm-1.tar.gz"), tmp_path / "out")
    assert program == tmp_path / "out" / "openllm-1" / "openllm"
    assert program.stat().st_mode & 0o777 == 0o755
    with tarfile.open(tmp_path / "openllm-1.tar.gz") as tar:
        assert tar.getmember("openllm-1/link").linkname == "_internal/a"


def test_no_module_of_grpc_is_carried():
    """Every command is, and all of the client besides gRPC."""
    modules: list[str] = BINARY.carried()
    assert {module for module, _, _ in COMMANDS.values()} <= set(modules)
    assert "openllm_client._http" in modules
    assert not [module for module in modules if re.search(r"grpc|proto", module) and ".cli." not in module]


def test_a_wrong_binary_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`try` fails on a program that does not do what it should, and names each thing."""
    folder = tmp_path / "openllm-1"
    folder.mkdir()
    (folder / "openllm").write_text(f"#!/bin/sh\necho {ROOT} $0; touch left-behind\n", encoding="utf-8")
    (folder / "openllm").chmod(0o755)
    assert BINARY.main(["try", str(BINARY.pack(folder, tmp_path / "openllm-1.tar.gz"))]) == 1
    said = capsys.readouterr().err
    for told in ("`openllm start` ended with 0, not 78", "left files behind: ['left-behind']", f"it names {ROOT}"):
        assert told in said
