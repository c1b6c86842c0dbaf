"""What the store of adapters does, ended by kill -9 or refused by the disk at every single step: a name is never half an adapter."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from tests.openllm.serialisation import small
from tests.openllm.serialisation.faults.injector import at_step, forked, kill
from tests.tiny_adapters import blank_adapter

from openllm.serialisation.adapters import AdapterStore
from openllm_core.errors import OpenLLMError

MOST_STEPS = 200


@attrs.frozen
class Case:
    """Something the store does to a base that holds the adapter `poet`, of the files `old`.

    Attributes:
        before, after: what `seen` tells before it and after it; at any moment it is one or the other.
        least: steps it takes at least.
        given: is done to the base first, undisturbed.
    """

    act: Callable[[AdapterStore, Path], object]
    before: dict[str, str]
    after: dict[str, str]
    least: int
    given: Callable[[AdapterStore], object] = lambda store: None


def damage(store: AdapterStore) -> None:
    """One bit of a stored file is another."""
    path = store.get("poet").path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


OLD, NEW = {"poet": "old"}, {"poet": "new"}
CASES = {
    "add": Case(lambda store, here: store.add("cook", here / "new", "new"), OLD, {"cook": "new"} | OLD, 12),
    "a new version": Case(lambda store, here: store.add("poet", here / "new", "new"), OLD, NEW, 12),
    "mend": Case(lambda store, here: store.add("poet", here / "old", "old"), {}, OLD, 12, damage),
    "remove": Case(lambda store, here: store.find("poet") and store.remove("poet"), OLD, {}, 5),
    "remember": Case(lambda store, here: store.keep("tiny", "cook"), OLD, OLD | {"kept": "cook"}, 5),
    "remember no longer": Case(
        lambda store, here: store.drop("tiny", "cook"), OLD | {"kept": "cook"}, OLD, 5, lambda s: s.keep("tiny", "cook")
    ),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that is not yet on the disk."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A store with `poet`."""
    for number, name in enumerate(("old", "new")):
        blank_adapter(tmp_path / name, lora_alpha=number + 1)
    at(tmp_path / "base").add("poet", tmp_path / "old", "old")
    return tmp_path / "base"


def at(home: Path) -> AdapterStore:
    """The store in a folder."""
    return AdapterStore(small.options(home, lock_timeout=5.0))


def seen(store: AdapterStore) -> dict[str, str]:
    """Name -> files of each adapter that is whole by its hashes, and what is remembered."""
    found: dict[str, str] = {}
    for entry in store.entries():
        try:
            found[entry.name] = store.get(entry.name).source
        except OpenLLMError:
            continue  # damaged, and said to be
    kept = store.kept("tiny")
    return found | ({"kept": " ".join(kept)} if kept else {})


def copies(case: Case, base: Path, here: Path) -> AdapterStore:
    """The base again, with what is given."""
    store = at(shutil.copytree(base, here / "home"))
    case.given(store)
    assert seen(store) == case.before
    return store


def settle(case: Case, store: AdapterStore, here: Path) -> None:
    """Done again it comes to its end, and nothing is left in staging but what the next one sweeps away."""
    case.act(store, here)
    assert seen(store) == case.after
    shutil.rmtree(here / "home")


@pytest.mark.parametrize("name", CASES)
def test_kill_at_every_step(tmp_path: Path, base: Path, name: str) -> None:
    """After kill -9 at any step each name has its old files or its new ones, whole, and doing it again succeeds."""
    case = CASES[name]
    for n in range(1, MOST_STEPS):
        store = copies(case, base, tmp_path)

        def body(store: AdapterStore = store, n: int = n) -> None:
            with pytest.MonkeyPatch.context() as patch:
                at_step(n, kill, patch=patch)
                case.act(store, tmp_path)

        code = forked(body)
        assert seen(store) in (case.before, case.after), n
        settle(case, store, tmp_path)
        if code == 0:
            assert n > case.least
            return
        assert code == -signal.SIGKILL, n
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("name", CASES)
def test_an_io_error_at_every_step(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: int
) -> None:
    """A full or broken disk at any step is one error of ours, or harmless; no name changes by halves; again, it succeeds."""
    case = CASES[name]

    def refuse() -> None:
        raise OSError(error, os.strerror(error))

    for n in range(1, MOST_STEPS):
        store = copies(case, base, tmp_path)
        with monkeypatch.context() as patch:
            steps = at_step(n, refuse, patch=patch)
            try:
                case.act(store, tmp_path)
            except OpenLLMError as refused:
                assert refused.message
        assert seen(store) in (case.before, case.after), n
        settle(case, store, tmp_path)
        if len(steps) < n:
            assert n > case.least
            return
    raise AssertionError("it never came to its end")
