#!/usr/bin/env python3
"""The way into this repository from a bare machine: git, Python >= 3.11 and a package index are all it needs.

    python3 tools/dev.py start [ARG...]   install into .venv, then `openllm start ARG...`
    python3 tools/dev.py test [ARG...]    install into .venv-test, then run every check and test; ARGs go to pytest
    python3 tools/dev.py lint             style and format alone
    python3 tools/dev.py types            strict types alone
    python3 tools/dev.py docs             the documentation's snippets, links, figures and site, and the examples alone
    python3 tools/dev.py gptq [ARG...]    the tests of GPTQ and AWQ, in .venv-gptq: minutes, and not part of `test`
    python3 tools/dev.py binary [ARG...]  make and try the standalone binary of this machine's kind, in .venv-binary
    python3 tools/dev.py install          install into .venv and stop there
    python3 tools/dev.py bench [ARG...]   measure against the raw loop and `transformers serve`
    python3 tools/dev.py lock             write constraints/dev.txt from a fresh .venv-test

Each can be run again: what is installed stays until a pyproject.toml or a constraints file changes.
Uses the standard library alone. Must not know what the installed program does.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Python leaves it out when it is isolated
import installing
from installing import ROOT, Refused, run, say

OLDEST = (3, 11)
TWO_AT_ONCE = ("-n", "2")  # of the whole suite; tests/scheduling.py says which tests run beside which


def main(argv: list[str]) -> int:
    """Run one verb; returns the exit code (start, test and bench replace this process instead)."""
    verb, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    verbs = {"start": start, "test": test, "lint": lint, "types": types, "docs": docs, "gptq": gptq, "bench": bench}
    verbs |= {"install": install, "binary": binary, "lock": lock}
    if verb not in verbs:
        asked = verb in ("-h", "--help", "help")
        print(
            __doc__ if asked else f"dev.py knows no verb {verb!r}.\n{__doc__}", file=sys.stdout if asked else sys.stderr
        )
        return 0 if asked else 2
    try:
        require_python()
        return verbs[verb](rest)
    except Refused as refused:
        print(f"\nerror: {refused}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"\nerror: {installing.disk_full()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        return 130


# -- verbs


def start(args: list[str]) -> int:
    """Install what `openllm start` needs, then become it."""
    venv = ROOT / ".venv"
    installing.install(venv, tools=False)
    return become([str(venv / "bin" / "openllm"), "start", *args])


def test(args: list[str]) -> int:
    """Install what the tests need, then become pytest; tests/conftest.py orders and times the lanes."""
    installing.install(ROOT / ".venv-test", tools=True)  # first: the others are installed with its uv
    if not args or any("vllm" in word for word in args):
        try:
            installing.install_vllm(ROOT / ".venv-vllm")
        except Refused as refused:
            say(f"The vLLM tests cannot run here (with CI set they then fail): {refused}")
    if not args or any("recipes" in word for word in args):
        try:
            installing.install_recipes(ROOT / ".venv-recipes")
        except Refused as refused:
            say(f"The recipes cannot run here (with CI set they then fail): {refused}")
    return in_test_env("-m", "pytest", *(args or TWO_AT_ONCE))


def lint(args: list[str]) -> int:
    """Style and format."""
    return in_test_env("-m", "pytest", "-q", "tests/lint/test_style.py", *args)


def types(args: list[str]) -> int:
    """Strict types."""
    return in_test_env("-m", "pytest", "-q", "tests/lint/test_types.py", *args)


def docs(args: list[str]) -> int:
    """Snippets, links and figures of the documentation, its site, and the examples."""
    return in_test_env("-m", "pytest", "-q", "tests/docs", "tests/examples", *args)


def gptq(args: list[str]) -> int:
    """Make quantised checkpoints and serve them, with gptqmodel in an environment of its own."""
    installing.install(ROOT / ".venv-test", tools=True)
    installing.install_gptq(ROOT / ".venv-gptq")
    return in_test_env("-m", "pytest", "tests/full/test_gptq.py", *args)


def install(_: list[str]) -> int:
    """Install what the program needs, for others that run it from `.venv`."""
    installing.install(ROOT / ".venv", tools=False)
    return 0


def binary(args: list[str]) -> int:
    """The standalone binary: client and command line, frozen with PyInstaller."""
    venv = ROOT / ".venv-binary"
    installing.install_binary(venv)
    return become([str(venv / "bin" / "python"), str(ROOT / "tools" / "binary.py"), "build", *args])


def bench(args: list[str]) -> int:
    """Tokens per second through HTTP beside the raw loop."""
    return in_test_env(str(ROOT / "tools" / "bench_serving.py"), *args)


def lock(_: list[str]) -> int:
    """Pin what a fresh test environment resolves to, the old pins left aside."""
    venv = ROOT / ".venv-lock"
    installing.install(venv, tools=True, constraints=None)
    frozen = run([str(venv / "bin" / "python"), "-m", "pip", "freeze", "--exclude-editable", "--all"]).splitlines()
    pins = sorted({re.sub(r"\+[a-z0-9.]+$", "", line) for line in frozen if "==" in line}, key=str.lower)
    head = "# Every version the tests run with; written by `python3 tools/dev.py lock`. Used by `start` and `test`.\n"
    installing.CONSTRAINTS.write_text(
        head + "\n".join(pin for pin in pins if not pin.startswith("pip==")) + "\n", encoding="utf-8"
    )
    shutil.rmtree(venv)
    say(f"{installing.CONSTRAINTS.relative_to(ROOT)}: {len(pins)} pins")
    return 0


def in_test_env(*command: str) -> int:
    """Become the test environment's Python with `command`, in the repository's root."""
    venv = ROOT / ".venv-test"
    installing.install(venv, tools=True)
    os.chdir(ROOT)
    return become([str(venv / "bin" / "python"), *command])


def become(command: list[str]) -> int:
    """Replace this process, so that signals and the exit code are the program's own."""
    sys.stdout.flush()
    os.execv(command[0], command)


def require_python() -> None:
    """Go on with a newer Python found on the PATH when this one is too old."""
    if sys.version_info >= OLDEST:
        return
    for minor in (13, 12, 11):
        newer = shutil.which(f"python3.{minor}")
        if newer:
            os.execv(newer, [newer, *sys.argv])
    raise Refused(f"Python {platform.python_version()} is too old; OpenLLM needs {OLDEST[0]}.{OLDEST[1]} or newer.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
