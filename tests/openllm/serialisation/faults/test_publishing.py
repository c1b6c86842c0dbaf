"""Whatever the store does, ended by kill -9 or refused by the disk at every single step: nothing bad is ever listed."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.openllm.serialisation import small
from tests.openllm.serialisation.fake_hub import COMMIT
from tests.openllm.serialisation.faults.injector import at_step, fork, forked, joined, kill

from openllm.serialisation import archive, bento_record, derived, disk, formats, hub, importing, manifest, removal
from openllm.serialisation.store import Store
from openllm_core.errors import OpenLLMError, StoreError

TRUST = importing.Trust()
MOST_STEPS = 300
HANDS = 2  # processes that share the steps of an enumeration


def content(folder: Path) -> dict[str, bytes]:
    """Everything of a stored model that must not differ between two imports."""
    skipped = (manifest.MANIFEST_FILE, manifest.MODEL_FILE, "generation_config.json")
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name not in skipped}


@attrs.frozen
class Case:
    """Something the store does.

    Attributes:
        act: does it, to a copy of the base store, which holds the model `old`.
        before, after: models and Bentos listed by id before it and after it; at any moment it is one or the other.
        least: steps it takes at least, so that an enumeration of nothing is seen.
        given: is done to the copy first, undisturbed.
        errors: what the disk refuses it with; one is enough where most steps are another case's.
    """

    act: Callable[[Store, Path], None]
    before: list[str]
    after: list[str]
    least: int
    given: Callable[[Store], None] = lambda store: None
    errors: tuple[int, ...] = (errno.ENOSPC, errno.EIO)


def import_folder(store: Store, here: Path) -> None:
    importing.from_folder(store, here / "new", trust=TRUST)


def import_archive(store: Store, here: Path) -> None:
    archive.import_archive(store, here / "new.tar.gz", trust=TRUST)


def import_from_hub(store: Store, here: Path) -> None:
    importing.from_hub(store, hub.HubId("new"), trust=TRUST)


def convert_gguf(store: Store, here: Path) -> None:
    importing.from_folder(store, here / "new.gguf", trust=TRUST)


def convert_pickle(store: Store, here: Path) -> None:
    importing.from_folder(store, here / "pickled" / "new", trust=importing.Trust(pickle_weights=True))


def make(store: Store, here: Path) -> None:
    """What a merge of adapters does."""
    with derived.made_model(store, "new", "v1", store.get("old")) as made:
        if made.entry is None:
            small.model_folder(made.folder)
        made.publish()


def export(store: Store, here: Path) -> None:
    """The archive is there whole, or not at all, whatever happened before."""
    target = store.home / "old.tar.gz"
    assert not target.exists() or target.read_bytes() == (here / "old.tar.gz").read_bytes()
    archive.export(store.get("old"), target)
    assert target.read_bytes() == (here / "old.tar.gz").read_bytes()


def quantise(store: Store, here: Path) -> None:
    derived.quantised(store, store.get("old"), "int8")


def prune(store: Store, here: Path) -> None:
    for item in removal.find(store):
        removal.remove(store, item)
    store.tidy()


def put_bento(store: Store, text: str) -> None:
    """What `openllm build` does once BentoML has packed: seal it, and make it the version of its name."""
    target = store.home / "bentos" / "tiny-service" / "v1"
    with store.lock(target.parent.name), store.staging() as staged:
        made = staged / "bento"
        (made / bento_record.SOURCES).mkdir(parents=True)
        record = bento_record.BentoRecord(tag="tiny-service:v1", model="pt-old:v1", model_id=text)
        disk.write(made / bento_record.SOURCES / bento_record.RECORD_FILE, record.to_json())
        list(disk.seal(made, {}))
        store.place(made, target)


def build(store: Store, here: Path) -> None:
    put_bento(store, "a Bento")


def overwrite(store: Store, here: Path) -> None:
    put_bento(store, "another Bento")


FULL = (errno.ENOSPC,)
CASES = {
    "import of a folder": Case(import_folder, ["old"], ["new", "old"], 30),
    "import of an archive": Case(import_archive, ["old"], ["new", "old"], 30),
    "import from the hub": Case(import_from_hub, ["old"], ["new", "old"], 30, errors=FULL),
    "GGUF conversion": Case(convert_gguf, ["old"], ["new", "old"], 30, errors=FULL),
    "pickle conversion": Case(convert_pickle, ["old"], ["new", "old"], 30, errors=FULL),
    "model made of another": Case(make, ["old"], ["new", "old"], 30, errors=FULL),
    "export": Case(export, ["old"], ["old"], 3),
    "quantised twin": Case(quantise, ["old"], ["old", "old"], 20),
    "prune": Case(prune, ["old"], [], 10),
    "build": Case(build, ["old"], ["old", "a Bento"], 10),
    "build --overwrite": Case(
        overwrite, ["old", "a Bento"], ["old", "another Bento"], 10, lambda store: put_bento(store, "a Bento")
    ),
}


def refusal(value: object) -> str:
    """Name of a case, or of what the disk refuses with."""
    return {errno.ENOSPC: "full", errno.EIO: "broken"}[value] if isinstance(value, int) else str(value)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that is not yet on the disk: waiting for the disk would only cost minutes."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(autouse=True)
def no_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's answers and what the converting children leave, made here: the steps counted are this program's own."""
    new = tmp_path / "new"

    def plan(hub_id: hub.HubId, **_: object) -> hub.HubPlan:
        found = sorted(new.iterdir())
        return hub.HubPlan(hub_id, COMMIT, tuple(hub.HubFile(p.name, p.stat().st_size, None) for p in found))

    def download(chosen: hub.HubPlan, folder: Path, *, check: Callable[[Path], None], **_: object) -> dict[str, Any]:
        for file in chosen.files:
            if not (folder / file.name).exists():
                (folder / ".part").write_bytes((new / file.name).read_bytes())
                os.rename(folder / ".part", folder / file.name)
        check(folder)
        return {}

    def start(what: str, source: Path, out: Path) -> None:
        if what == "tokenizer":
            (out / "tokenizer.json").write_bytes((new / "tokenizer.json").read_bytes())
            (out / "tokenizer_config.json").write_bytes((new / "tokenizer_config.json").read_bytes())
            (out / "generation_config.json").write_text("{}")
            return
        (out / "model.safetensors").write_bytes(small.safetensors())
        if what == "weights":
            (out / "config.json").write_bytes((new / "config.json").read_bytes())

    monkeypatch.setattr(hub, "plan", plan)
    monkeypatch.setattr(hub, "download", download)
    monkeypatch.setattr(formats, "_start", start)
    for name in ("_finish", "_stop"):
        monkeypatch.setattr(formats, name, lambda *_: None)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A store with the model `old`; beside it the folder and the archive of `new`, and its foreign forms."""
    first = Store(small.options(tmp_path / "base"))
    old = importing.from_folder(first, small.model_folder(tmp_path / "old"), trust=TRUST)
    archive.export(old, tmp_path / "old.tar.gz")
    (tmp_path / "new.gguf").write_bytes(b"GGUF")
    pickled = small.model_folder(tmp_path / "pickled" / "new", weights=False)
    (pickled / "pytorch_model.bin").write_bytes(b"pickle")
    new = small.model_folder(tmp_path / "new")
    entry = importing.from_folder(Store(small.options(tmp_path / "maker")), new, trust=TRUST)
    archive.export(entry, tmp_path / "new.tar.gz")
    return tmp_path / "base"


def listed(store: Store) -> list[str]:
    """Ids of what is listed, models before Bentos, each model proved whole by its hashes."""
    for entry in store.entries():
        store.check(entry, hashes=True)
    bentos = [bento.record.model_id for bento in bento_record.entries(store)]
    return [*(entry.model_id for entry in store.entries()), *bentos]


def settle(case: Case, store: Store, here: Path) -> None:
    """Do it again: it comes to its end, the files are the source's, and nothing is left over."""
    case.act(store, here)
    assert listed(store) == case.after
    for entry in store.entries():
        assert content(entry.path) == content(here / entry.model_id)
        assert (entry.path.parent / "latest").read_text() in {e.path.name for e in store.entries()}
    if not case.after:
        assert list(store.models.iterdir()) == []
    with store.staging():
        assert len(list((store.home / ".staging").iterdir())) == 1


@pytest.mark.parametrize("name", CASES)
def test_kill_at_every_step(
    tmp_path: Path, base: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    """After kill -9 at any step the list is the old one or the new one, whole, and doing it again succeeds."""
    hands = [
        fork(lambda first=first: kill_at_steps(CASES[name], base, tmp_path, range(first, MOST_STEPS, HANDS)))
        for first in range(1, HANDS + 1)
    ]
    assert [joined(hand) for hand in hands] == [0] * HANDS  # what went wrong stands in the captured stderr
    record_property("steps", min(int(file.name.removeprefix("whole")) for file in tmp_path.glob("whole*")) - 1)


def kill_at_steps(case: Case, base: Path, here: Path, steps: Iterable[int]) -> None:
    """Kill it at each of these steps, in a copy of the base store for each, until it comes to its end before the kill."""
    for n in steps:
        home = shutil.copytree(base, here / f"home{n}")
        store = Store(small.options(home, lock_timeout=5.0))
        case.given(store)

        def body(store: Store = store, n: int = n) -> None:
            with pytest.MonkeyPatch.context() as patch:
                at_step(n, kill, patch=patch)
                case.act(store, here)

        code = forked(body)
        assert listed(store) in (case.before, case.after), n
        settle(case, store, here)
        shutil.rmtree(home)
        if code == 0:
            assert n > case.least
            (here / f"whole{n}").touch()
            return
        assert code == -signal.SIGKILL, n
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize(("name", "error"), [(n, e) for n in CASES for e in CASES[n].errors], ids=refusal)
def test_an_io_error_at_every_step(
    tmp_path: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: int,
    record_property: Callable[[str, object], None],
) -> None:
    """A full or broken disk at any step is one error of ours, or harmless; the list stays true; again, it succeeds."""
    case = CASES[name]

    def refuse() -> None:
        raise OSError(error, os.strerror(error))

    failures = 0
    for n in range(1, MOST_STEPS):
        home = shutil.copytree(base, tmp_path / "home")
        store = Store(small.options(home, lock_timeout=5.0))
        case.given(store)
        with monkeypatch.context() as patch:
            seen = at_step(n, refuse, patch=patch)
            try:
                case.act(store, tmp_path)
            except StoreError as refused:
                failures += 1
                assert os.strerror(error) in refused.message
            except OpenLLMError as refused:  # what could not be read looks damaged
                failures += 1
                assert refused.message
        assert listed(store) in (case.before, case.after), n
        settle(case, store, tmp_path)
        shutil.rmtree(home)
        if len(seen) < n:
            assert failures > case.least // 2
            record_property("steps", n - 1)
            return
    raise AssertionError("it never came to its end")


def test_on_a_disk_that_cannot_exchange_what_was_there_comes_back(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two folders cannot change places in one step, a new Bento that cannot be put in leaves the old one there."""
    monkeypatch.setattr(disk, "_exchange", lambda one, other: False)
    store = Store(small.options(base))
    put_bento(store, "a Bento")
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if source.name == "bento":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(StoreError):
            put_bento(store, "another Bento")
    assert listed(store) == ["old", "a Bento"]
    put_bento(store, "another Bento")
    assert listed(store) == ["old", "another Bento"]


def test_a_file_that_cannot_be_written_whole_is_no_model(tmp_path: Path) -> None:
    """With a limit on file sizes the kernel itself refuses the write: the import fails and nothing is listed."""
    source = small.model_folder(tmp_path / "big")
    (source / "model.safetensors").write_bytes(small.safetensors(4096))
    store = Store(small.options(tmp_path / "home"))

    def body() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        importing.from_folder(store, source, trust=TRUST)

    assert forked(body) == 7
    assert store.entries() == []
