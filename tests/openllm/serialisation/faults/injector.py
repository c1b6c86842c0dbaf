"""Kill or refuse the n-th system call of what the store does, and run things in forks."""

from __future__ import annotations

import builtins
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from openllm_core.errors import OpenLLMError

STEPS = (
    *("open", "write", "fsync", "fchmod"),
    *("rename", "replace", "link", "unlink", "mkdir", "rmdir", "ftruncate", "pwrite"),
)


def forked(body: Callable[[], None]) -> int:
    """Run `body` in a fork; its exit code (7 for an error of ours), or minus the signal that ended it."""
    return joined(fork(body))


def fork(body: Callable[[], None]) -> int:
    """Start `body` in a fork; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        except OpenLLMError as error:
            print(error, file=sys.stderr)
            code = 7
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(code)
    return pid


def joined(pid: int) -> int:
    """Exit code of a fork."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_step(n: int, act: Callable[[], None], *, patch: pytest.MonkeyPatch) -> list[str]:
    """Run `act` instead of the n-th of this process's system calls of STEPS, writes to files of Python's own among them; the
    calls seen, in order."""
    seen: list[str] = []

    def step(name: str) -> None:
        seen.append(name)
        if len(seen) == n:
            act()

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            step(name)
            return real(*arguments, **options)

        return call

    real_open = builtins.open

    def open_(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        found = real_open(file, mode, *arguments, **options)
        return found if mode in ("r", "rb") else Written(found, step)

    for name in STEPS:
        patch.setattr(os, name, wrap(name, getattr(os, name)))
    for module in (builtins, io):
        patch.setattr(module, "open", open_)
    return seen


class Written:
    """An open file whose writes are steps too: Python's own do not go through `os.write`."""

    def __init__(self, file: Any, step: Callable[[str], None]) -> None:
        self._file = file
        self._step = step

    def write(self, content: Any) -> int:
        self._step("write")
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def kill() -> None:
    """kill -9 of this process."""
    os.kill(os.getpid(), signal.SIGKILL)
