from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.openllm.serialisation import small

from openllm.serialisation.manifest import Manifest
from openllm.serialisation.store import Store, StoreEntry
from openllm_core.errors import CorruptModel, ModelNotFound, StoreBusy, StoreError


def add(store: Store, tag: str = "pt-tiny:v1", model_id: str = "org/tiny", **facts: str) -> StoreEntry:
    with store.staging() as folder:
        small.model_folder(folder)
        return store.publish(folder, Manifest(tag=tag, model_id=model_id, origin="hub", source=model_id, **facts))


# -- reading and finding


def test_an_untouched_store_is_empty_and_stays_untouched(store: Store) -> None:
    """Listing a store that does not exist creates nothing."""
    assert store.entries() == []
    assert not store.home.exists()


def test_a_published_model_is_listed_with_its_facts(store: Store) -> None:
    """Tag, path, size and id come back from the list; all files of the model are there."""
    entry = add(store)
    assert store.entries() == [entry]
    assert entry.path == store.models / "pt-tiny" / "v1"
    assert entry.size_bytes == sum(
        f.stat().st_size for f in entry.path.iterdir() if f.name[:8] not in ("manifest", "model.ya")
    )
    assert (store.models / "pt-tiny" / "latest").read_text() == "v1"


@pytest.mark.parametrize("text", ["pt-tiny:v1", "tiny:v1", "tiny", "pt-tiny", "PT-Tiny:V1", "vllm-tiny", "tiny:latest"])
def test_look_ups_ignore_case_and_backend_prefix(store: Store, text: str) -> None:
    """Every spelling of the tag finds the one entry."""
    entry = add(store)
    assert store.find(text) == entry


@pytest.mark.parametrize("text", ["tiny:v2", "tin", "", "../x", "a b", ":v1", "tiny:v1:v2"])
def test_what_is_no_tag_of_the_store_finds_nothing(store: Store, text: str) -> None:
    """Other versions, parts of names and malformed tags are not found."""
    add(store)
    assert store.find(text) is None


def test_without_a_version_the_newest_is_found(store: Store) -> None:
    """`name` means the one published last."""
    add(store)
    newer = add(store, "pt-tiny:v0")
    assert store.find("tiny") == newer


def test_ids_are_found_by_revision_commit_and_its_beginning(store: Store) -> None:
    """`id`, `id:branch`, `id:commit` and `id:<7 digits of it>` find the entry, another revision does not."""
    entry = add(store, revision="0123456789abcdef", requested_revision="main")
    for revision in ("", "main", "0123456789abcdef", "0123456"):
        assert store.find_id("Org/Tiny", revision) == entry
    for revision in ("v1", "0123", "fedcba9"):
        assert store.find_id("org/tiny", revision) is None


def test_an_id_without_a_revision_means_main(store: Store) -> None:
    """Another revision imported later does not take its place, but where `fast` takes the newest, or where main is absent."""
    main = add(store, "pt-org--tiny:a", revision="a" * 40, requested_revision="main")
    other = add(store, "pt-org--tiny:b", revision="b" * 40, requested_revision="v1")
    assert store.find_id("org/tiny") == store.get("org/tiny") == main
    assert store.find_id("org/tiny", "v1") == other
    assert Store(small.options(store.home, fast=True)).find_id("org/tiny") == other
    store.remove(main.path)
    assert store.find_id("org/tiny") == other


def test_get_of_an_unknown_name_says_where_it_looked(store: Store) -> None:
    """The error names the store's folder."""
    with pytest.raises(ModelNotFound, match=str(store.models)):
        store.get("nothing")


@pytest.mark.parametrize("damage", ["cut", "missing", "manifest", "renamed"])
def test_what_is_not_whole_is_not_listed(store: Store, damage: str) -> None:
    """A cut or missing file, no manifest, or a folder moved under another name take a model off the list."""
    entry = add(store)
    if damage == "cut":
        (entry.path / "model.safetensors").write_bytes(b"")
    elif damage == "missing":
        (entry.path / "config.json").unlink()
    elif damage == "manifest":
        (entry.path / "manifest.json").unlink()
    else:
        entry.path.rename(entry.path.with_name("v2"))
    assert store.entries() == []


def test_a_broken_entry_is_replaced_by_a_new_import(store: Store) -> None:
    """Publishing over what is not whole puts the whole model in its place."""
    broken = add(store)
    (broken.path / "config.json").unlink()
    again = add(store)
    assert store.entries() == [again]
    assert list((store.home / ".staging").iterdir()) == []


def test_a_whole_entry_is_never_replaced(store: Store) -> None:
    """Publishing the same tag again leaves the first as it is: a running server may have it open."""
    first = add(store)
    inode = (first.path / "model.safetensors").stat().st_ino
    add(store)
    assert (first.path / "model.safetensors").stat().st_ino == inode


def test_check_names_the_changed_file(store: Store) -> None:
    """A content changed under the same size is CorruptModel with the file's name."""
    entry = add(store)
    file = entry.path / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(CorruptModel, match=r"model\.safetensors"):
        store.check(entry)


# -- staging and publishing


@pytest.mark.parametrize("kind", ["file", "folder", "fifo"])
def test_links_and_special_files_are_not_published(store: Store, tmp_path: Path, kind: str) -> None:
    """A staged tree that points outside, or holds a pipe, is refused; nothing of what it points to is read or changed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    mode = (outside / "secret").stat().st_mode
    with pytest.raises(CorruptModel, match="plain files"), store.staging() as folder:
        small.model_folder(folder)
        if kind == "fifo":
            os.mkfifo(folder / "pipe")
        else:
            (folder / "link").symlink_to(outside / "secret" if kind == "file" else outside)
        store.publish(folder, Manifest(tag="pt-x:1", model_id="x", origin="hub"))
    assert store.entries() == []
    assert (outside / "secret").read_text() == "s" and (outside / "secret").stat().st_mode == mode


def test_a_failed_import_leaves_no_staging_folder(store: Store) -> None:
    """The folder goes when the body raises."""
    with pytest.raises(RuntimeError), store.staging() as folder:
        (folder / "x").write_text("x")
        raise RuntimeError
    assert list((store.home / ".staging").iterdir()) == []


def test_a_keyed_staging_folder_survives_a_failure_and_goes_with_success(store: Store) -> None:
    """What was downloaded is there for the next attempt; after success nothing is left."""
    with pytest.raises(RuntimeError), store.staging(key="id@commit") as folder:
        (folder / "part").write_text("x")
        raise RuntimeError
    with store.staging(key="id@commit") as folder:
        assert (folder / "part").read_text() == "x"
    assert list((store.home / ".staging").iterdir()) == []


def test_leftovers_of_dead_processes_are_removed_and_live_ones_stay(store: Store) -> None:
    """The next import clears what no living process holds, and old resumable downloads; links are never followed."""
    root = store.home / ".staging"
    with store.staging() as living:
        dead, link, old, new = root / "dead", root / "link", root / "keep-old", root / "keep-new"
        for folder in (dead, old, new):
            folder.mkdir()
        link.symlink_to(store.home)
        past = time.time() - 8 * 24 * 3600
        os.utime(old, (past, past))
        with store.staging():
            assert living.exists() and new.exists()
            assert not dead.exists() and not old.exists() and not link.is_symlink()
    assert store.home.exists()


def test_the_staging_folder_is_on_the_disk_of_the_models(store: Store) -> None:
    """Publishing must be a rename, so both lie on one device; and BentoML must not see it as a model."""
    with store.staging() as folder:
        assert folder.stat().st_dev == store.models.stat().st_dev
        assert store.models not in folder.parents


def test_too_little_room_is_said_before_the_work(store: Store) -> None:
    """The message has need and have in bytes."""
    with pytest.raises(StoreError, match=r"needs 1,000,000,000,000,000 bytes"):
        store.need_space(10**15, "it")


def test_an_unwritable_home_is_one_clear_error(tmp_path: Path) -> None:
    """A home that cannot be made is a StoreError that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"), Store(small.options(tmp_path / "file" / "x")).staging():
        pass


# -- locks


def test_a_held_lock_is_busy_after_the_time_out(store: Store, tmp_path: Path) -> None:
    """The second waits its time-out, tells the caller for whom, then raises StoreBusy with the pid."""
    said: list[str] = []
    other = Store(small.options(store.home, lock_timeout=0.2))
    with store.lock("pt-x"):
        with pytest.raises(StoreBusy, match=str(os.getpid())), other.lock("pt-x", lambda text, *_: said.append(text)):
            pass
        with other.lock("pt-y"):
            assert len(said) == 1 and "waiting" in said[0]
    with other.lock("pt-x"):
        pass


def test_the_lock_of_a_killed_process_is_free(store: Store) -> None:
    """kill -9 of the holder leaves nothing that blocks the next."""
    code = (
        "import sys, time; from openllm.serialisation.store import Store; from openllm_core.options import StoreOptions\n"
        "with Store(StoreOptions(home=sys.argv[1])).lock('pt-x'):\n    print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(store.home)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        short = Store(small.options(store.home, lock_timeout=0))
        with pytest.raises(StoreBusy, match=str(child.pid)), short.lock("pt-x"):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
        with short.lock("pt-x"):
            pass
    finally:
        child.kill()
        child.communicate()
