"""Publishing under kill -9, full disks and eight processes at once: the list never shows what is not whole."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.serialisation import small

from openllm.serialisation import fetch, formats, importing, manifest
from openllm.serialisation import store as module
from openllm.serialisation.store import Store
from openllm_core.errors import OpenLLMError, StoreError

STEPS = ("fsync", "rename", "replace", "fchmod", "mkdir", "open")


def forked(body: Callable[[], None]) -> int:
    """Run `body` in a fork; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        except OpenLLMError:
            code = 7
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_step(n: int, act: Callable[[], None], *, after: bool, patch: pytest.MonkeyPatch) -> list[str]:
    """Make the n-th of the store's system calls run `act` before or after it is done; the calls seen, in order."""
    seen: list[str] = []

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            due = len(seen) == n
            if due and not after:
                act()
            try:
                return real(*arguments, **options)
            finally:
                if due and after:
                    act()

        return call

    for name in STEPS:
        patch.setattr(os, name, wrap(name, getattr(os, name)))
    return seen


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def content(folder: Path) -> dict[str, bytes]:
    """Everything of a stored model that must not differ between two imports."""
    skipped = (manifest.MANIFEST_FILE, manifest.MODEL_FILE)
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name not in skipped}


@pytest.mark.parametrize("after", [False, True])
def test_kill_at_every_step_of_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """After kill -9 at any step the store lists the old model alone or both whole, and the next import succeeds."""
    old, new = small.model_folder(tmp_path / "old"), small.model_folder(tmp_path / "new")
    trust = importing.Trust()
    base = tmp_path / "base"
    importing.from_folder(Store(small.options(base)), old, trust=trust)
    for n in range(1, 200):
        store = Store(small.options(shutil.copytree(base, tmp_path / f"home{n}"), lock_timeout=5.0))

        def body(store: Store = store, n: int = n) -> None:
            with pytest.MonkeyPatch.context() as patch:
                at_step(n, kill, after=after, patch=patch)
                importing.from_folder(store, new, trust=trust)

        code = forked(body)
        names = [e.model_id for e in store.entries()]
        assert names in (["old"], ["new", "old"]), (n, names)
        for entry in store.entries():
            store.check(entry, hashes=True)
        again = importing.from_folder(store, new, trust=trust)
        assert content(again.path) == content(new)
        assert [e.model_id for e in store.entries()] == ["new", "old"]
        assert (again.path.parent / "latest").read_text() == again.path.name
        with store.staging():
            assert len(list((store.home / ".staging").iterdir())) == 1
        if code == 0:
            assert n > 20
            return
        assert code == -signal.SIGKILL
    raise AssertionError("the import never came to its end")


def test_an_io_error_at_every_step_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at any step is one StoreError; the list stays as it was and the next import clears what is left."""
    old, new = small.model_folder(tmp_path / "old"), small.model_folder(tmp_path / "new")
    trust = importing.Trust()
    base = tmp_path / "base"
    importing.from_folder(Store(small.options(base)), old, trust=trust)

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    failures = 0
    for n in range(1, 200):
        store = Store(small.options(shutil.copytree(base, tmp_path / f"home{n}")))
        with monkeypatch.context() as patch:
            seen = at_step(n, full, after=False, patch=patch)
            try:
                importing.from_folder(store, new, trust=trust)
            except StoreError as error:
                failures += 1
                assert "No space left" in error.message
        if len(seen) < n:
            break
        assert [e.model_id for e in store.entries()] in (["old"], ["new", "old"])
        with store.staging():
            assert len(list((store.home / ".staging").iterdir())) == 1
    assert failures > 15


def test_a_file_that_cannot_be_written_whole_is_no_model(tmp_path: Path) -> None:
    """With a limit on file sizes the kernel itself refuses the write: the import fails and nothing is listed."""
    source = small.model_folder(tmp_path / "big")
    (source / "model.safetensors").write_bytes(small.safetensors(4096))
    store = Store(small.options(tmp_path / "home"))

    def body() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        importing.from_folder(store, source, trust=importing.Trust())

    assert forked(body) == 7
    assert store.entries() == []


def test_eight_processes_import_one_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One does the work, the others wait and take what it made."""
    log = tmp_path / "log"

    def fetch_gguf(model: fetch.IndexModel, folder: Path, progress: module.Progress | None) -> Path:
        with open(log, "ab", buffering=0) as file:
            file.write(f"{os.getpid()}\n".encode())
        (folder / "model.gguf").write_bytes(b"GGUF")
        return folder / "model.gguf"

    def convert(gguf: Path, out: Path, progress: module.Progress | None, *, name: str) -> None:
        small.model_folder(out)

    monkeypatch.setattr(fetch, "fetch_gguf", fetch_gguf)
    monkeypatch.setattr(formats, "convert_gguf", convert)
    store = Store(small.options(tmp_path / "home"))
    pids = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                entry = importing.from_index(store, fetch.DEFAULT_MODEL)
                store.check(entry, hashes=True)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 8
    assert len(log.read_text().split()) == 1
    assert len(store.entries()) == 1
