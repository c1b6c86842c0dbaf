"""The `openllm` of the standalone binary: it talks to servers itself, and hands what runs a model to a runtime beside it.

The binary carries the command line and the client, and neither torch nor a web server. A runtime is a Python environment
with `openllm` in it; `find_runtime` says where one is looked for. Run by PyInstaller's loader alone (tools/binary.py); must
import nothing that the binary does not carry.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from openllm.cli import ALIASES, COMMANDS, main
from openllm.cli.command import normalise
from openllm.cli.failures import report

CARRIED = {"query", "embed", "completion"}
"""Commands that need no runtime: they ask a server, or nobody."""

EITHER = {"models", "chat"}
"""Commands that do better on a runtime, which knows its backends and edits lines with readline, and well enough without."""

MISSING = 78  # the exit code of a missing package
VARIABLE = "OPENLLM_RUNTIME"
TAKES_VALUE = {"--context"}  # of the options that may stand before a command


def run(words: Sequence[str], environ: Mapping[str, str], platform: str = sys.platform) -> int:
    """Run a command line here, or become the runtime with it.

    Args:
        words: the command line without the program's name.

    Returns:
        the exit code, where no other program took over.
    """
    command = command_of(words)
    if command is None or asks_for_help(words):
        code = main(list(words))
        if words and words[0] in ("--version", "-v"):
            print(f"Runtime: {find_runtime(environ, Path(sys.executable), platform)[0] or 'none'}")
        return code
    remotely = asks_for_grpc(words) and command in CARRIED | EITHER
    if command in CARRIED and not remotely:
        return main(list(words))
    program, problem = find_runtime(environ, Path(sys.executable), platform)
    if program is not None:
        return become(program, words, environ)
    if command in EITHER and not remotely and problem is None:
        return main(list(words))
    what = "gRPC" if remotely else f"`openllm {command}`"
    folder = data_folder(environ, platform) / "runtime"
    wanted = "openllm[grpc]" if remotely else "openllm"
    report(
        problem or f"{what} needs the OpenLLM runtime, which this binary does not carry.",
        how_to_install(folder, wanted),
    )
    return MISSING


def become(program: Path, words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Turn into the runtime; returns an exit code only where that cannot be."""
    try:
        os.execve(program, [str(program), *words], environment(environ))
    except OSError as error:  # its first line names a Python that is gone, say
        report(
            f"{program} cannot be run: {error.strerror}.", "Make that environment anew; environments cannot be moved."
        )
        return MISSING


def command_of(words: Sequence[str]) -> str | None:
    """The first word of a command, by its own name; None without a command or where there is no such one."""
    value_follows = False
    for word in words:
        if value_follows or word.startswith("-"):
            value_follows = not value_follows and word in TAKES_VALUE
            continue
        name = ALIASES.get(normalise(word), normalise(word)).partition(" ")[0]
        return name if any(known.partition(" ")[0] == name for known in COMMANDS) else None
    return None


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether a help page is wanted, which this program has for every command."""
    own = list(words)[: words.index("--")] if "--" in words else words
    return "--help" in own or "-h" in own


def asks_for_grpc(words: Sequence[str]) -> bool:
    """Whether a server is to be asked over gRPC, whose library is in no binary."""
    return any(
        word == "--server-type=grpc" or (word == "--server-type" and following == "grpc")
        for word, following in zip(words, [*words[1:], ""], strict=True)
    )


def find_runtime(environ: Mapping[str, str], binary: Path, platform: str) -> tuple[Path | None, str | None]:
    """The `openllm` program of a runtime, or what is wrong with the one that was named.

    Looked for in this order: the environment that OPENLLM_RUNTIME names, `runtime` in the folder the binary lies in (links
    followed), `runtime` in this person's data folder.

    Returns:
        (program, None), (None, what is wrong) or (None, None) where there is no runtime.
    """
    named = environ.get(VARIABLE)
    beside = binary.resolve().parent / "runtime"
    for folder in [Path(named).expanduser()] if named else [beside, data_folder(environ, platform) / "runtime"]:
        program = folder / "bin" / "openllm"
        if program.is_file() and not program.samefile(binary):
            return program.absolute(), None
        if named:
            return None, f"{VARIABLE} is {named!r}, and there is no runtime: {program} is {what_is(program)}."
        if folder.exists():
            return None, f"{folder} is no runtime: {program} is {what_is(program)}."
    return None, None


def what_is(program: Path) -> str:
    """Why a path is no runtime's program."""
    return "this binary itself" if program.is_file() else "missing"


def data_folder(environ: Mapping[str, str], platform: str) -> Path:
    """Where programs keep data of this person: the XDG base directory, or what macOS has for it."""
    home = Path(environ.get("HOME") or Path.home())
    if platform == "darwin":
        return home / "Library" / "Application Support" / "openllm"
    return Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "openllm"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment a runtime starts with: the person's own, without what the binary's loader put in for itself."""
    mine = {VARIABLE, "LD_LIBRARY_PATH_ORIG"}
    kept = {name: value for name, value in environ.items() if not name.startswith("_PYI_") and name not in mine}
    if "LD_LIBRARY_PATH_ORIG" in environ:
        kept["LD_LIBRARY_PATH"] = environ["LD_LIBRARY_PATH_ORIG"]
    elif kept.get("LD_LIBRARY_PATH") == getattr(sys, "_MEIPASS", None):
        kept.pop("LD_LIBRARY_PATH", None)
    return kept


def how_to_install(folder: Path, wanted: str) -> str:
    """The commands that make a runtime with the package `wanted`, as one line to paste."""
    release = version("openllm")
    wanted = shlex.quote(wanted if "dev" in release else f"{wanted}=={release}")
    where = shlex.quote(str(folder))
    pip = shlex.quote(str(folder / "bin" / "pip"))
    return f"`python3 -m venv {where} && {pip} install {wanted}` makes one; {VARIABLE}=FOLDER names one there is."


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], os.environ))
