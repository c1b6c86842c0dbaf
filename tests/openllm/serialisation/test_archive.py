"""Archives: whole and the same everywhere, read by BentoML's own tools, and refused when anything in them is odd."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.openllm.serialisation import small

from openllm.serialisation import archive, importing, resolve
from openllm.serialisation.store import Store, StoreEntry
from openllm_core.errors import CorruptModel, OpenLLMError, StoreError

import_archive = partial(archive.import_archive, trust=importing.Trust())


@pytest.fixture
def entry(store: Store, tmp_path: Path) -> StoreEntry:
    """One model of the store."""
    folder = small.model_folder(tmp_path / "origin" / "tiny")
    return importing.from_folder(store, folder, trust=importing.Trust())


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """The store of another machine."""
    return Store(small.options(tmp_path / "other"))


def test_out_and_in_again(entry: StoreEntry, other: Store, tmp_path: Path) -> None:
    """The other store has the same tag and the same bytes, a second import finds it, and it can be started by path."""
    file = archive.export(entry, tmp_path)
    assert file.name == f"{entry.tag.replace(':', '-')}.tar.gz"
    made = import_archive(other, file)
    assert made.tag == entry.tag
    assert {r.path: r.sha256 for r in made.manifest.files} == {r.path: r.sha256 for r in entry.manifest.files}
    other.check(made, hashes=True)
    assert import_archive(other, file) == made
    assert resolve(str(file), options=other.options).path == made.path
    assert not list((other.home / ".staging").iterdir())


def test_an_archive_tells_nothing_of_the_machine(entry: StoreEntry, tmp_path: Path) -> None:
    """No path, owner or time of the file system is in it: two exports are byte-equal."""
    first, second = archive.export(entry, tmp_path / "a.tar.gz"), archive.export(entry, tmp_path / "b.tar.gz")
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in gzip.decompress(first.read_bytes())
    with tarfile.open(first) as tar:
        assert {(m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, "", 0o644)}


def test_an_export_of_a_damaged_model_is_refused(entry: StoreEntry, tmp_path: Path) -> None:
    """What is hashed on the way out differs: no archive is left, and one that was there stays."""
    target = tmp_path / "x.tar.gz"
    target.write_bytes(b"before")
    file = entry.path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptModel, match=r"model\.safetensors"):
        archive.export(entry, target)
    file.write_bytes(content[:-1])
    with pytest.raises(CorruptModel, match=r"model\.safetensors"):
        archive.export(entry, target)
    assert target.read_bytes() == b"before"
    assert not list(tmp_path.glob(".x*"))


def test_a_target_that_cannot_be_written_is_one_error(entry: StoreEntry, tmp_path: Path) -> None:
    """A folder that is not there names the path."""
    with pytest.raises(StoreError, match="nowhere"):
        archive.export(entry, tmp_path / "nowhere" / "x.tar.gz")


def repacked(
    entry: StoreEntry, target: Path, change: Callable[[tarfile.TarInfo, bytes], list[tuple[tarfile.TarInfo, bytes]]]
) -> Path:
    """An archive of the entry whose members went through `change`."""
    source = archive.export(entry, target.parent / "whole.tar.gz")
    with tarfile.open(source) as old, tarfile.open(target, "w:gz") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            for made, data in change(member, content.read()):
                made.size = len(data) if made.isreg() else 0
                new.addfile(made, io.BytesIO(data))
    return target


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


EXTRA = [
    member("../evil"),
    member("HERE/evil"),
    member("a/../../evil"),
    member("a\\..\\evil"),
    member("link", tarfile.SYMTYPE, "/etc/passwd"),
    member("hard", tarfile.LNKTYPE, "config.json"),
    member("fifo", tarfile.FIFOTYPE),
    member("device", tarfile.CHRTYPE),
    member("sparse", tarfile.GNUTYPE_SPARSE),
    member("config.json"),
    member("extra.json"),
    member("manifest.json"),
]


@pytest.mark.parametrize("extra", EXTRA, ids=lambda m: f"{m.type!r} {m.name}")
def test_a_member_that_does_not_belong_is_refused(
    entry: StoreEntry, other: Store, tmp_path: Path, extra: tarfile.TarInfo
) -> None:
    """Links, devices, absolute names, `..`, doubles and files the manifest does not name: exit 65, nothing is written."""
    extra = copy.copy(extra)
    extra.name = extra.name.replace("HERE", str(tmp_path))  # where a reader without the check does no harm that lasts

    def add(found: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        return (
            [(found, data), (extra, b"x" if extra.isreg() else b"")]
            if found.name == "model.safetensors"
            else [(found, data)]
        )

    before = {p.name for p in tmp_path.iterdir()} | {"bad.tar.gz", "whole.tar.gz", "other"}
    file = repacked(entry, tmp_path / "bad.tar.gz", add)
    with pytest.raises(CorruptModel) as caught:
        import_archive(other, file)
    assert caught.value.exit_code == 65
    assert other.entries() == [] and not list((other.home / ".staging").iterdir())
    assert {p.name for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_a_changed_or_missing_file_is_refused(entry: StoreEntry, other: Store, tmp_path: Path, name: str) -> None:
    """One flipped bit or an absent file is found by the hashes in the manifest."""

    def flip(found: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        return [(found, data[:-1] + bytes([data[-1] ^ 1]) if found.name == name else data)]

    def drop(found: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        return [] if found.name == name else [(found, data)]

    for change in (flip, drop):
        if (change, name) == (flip, "manifest.json"):
            continue  # a flipped line end is still the same manifest
        with pytest.raises(CorruptModel):
            import_archive(other, repacked(entry, tmp_path / "bad.tar.gz", change))
    assert other.entries() == []


@pytest.mark.parametrize("tag", ["../../x:v", "x:../y", "x", "x:y:z", "X:v", "x:" + "a" * 64, ".hidden:v", "x:"])
def test_a_tag_that_is_no_tag_is_refused(entry: StoreEntry, other: Store, tmp_path: Path, tag: str) -> None:
    """The tag names folders of the store: it is held to the form of tags."""

    def rename(found: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        if found.name == "manifest.json":
            data = json.dumps(json.loads(data) | {"tag": tag}).encode()
        return [(found, data)]

    with pytest.raises(CorruptModel, match="no tag"):
        import_archive(other, repacked(entry, tmp_path / "bad.tar.gz", rename))
    assert not (other.home / "x").exists() and other.entries() == []


@pytest.mark.parametrize("form", ["empty", "text", "cut", "gzip of nothing", "zip"])
def test_what_is_no_archive_is_one_error(entry: StoreEntry, other: Store, tmp_path: Path, form: str) -> None:
    """Empty, cut off, or of another format: damaged, exit 65."""
    whole = archive.export(entry, tmp_path / "whole.tar.gz").read_bytes()
    contents = {"empty": b"", "text": b"hello", "gzip of nothing": gzip.compress(b""), "zip": b"PK\3\4" + bytes(600)}
    (tmp_path / "bad.tar.gz").write_bytes(contents.get(form, whole[: len(whole) // 2]))
    with pytest.raises(CorruptModel):
        import_archive(other, tmp_path / "bad.tar.gz")
    assert other.entries() == []


def test_no_cut_of_an_archive_gives_half_a_model(entry: StoreEntry, other: Store, tmp_path: Path) -> None:
    """However much of its end is missing: refused, or, where only padding is missing, the whole model."""
    whole = archive.export(entry, tmp_path / "whole.tar.gz").read_bytes()
    refused = 0
    for length in range(0, len(whole) - 8, max(1, len(whole) // 60)):
        (tmp_path / "cut.tar.gz").write_bytes(whole[:length])
        try:
            made = import_archive(other, tmp_path / "cut.tar.gz")
        except OpenLLMError:
            refused += 1
            assert other.entries() == []
        else:
            other.check(made, hashes=True)
            other.remove(made.path)
    assert refused > 40


def test_a_member_larger_than_the_disk_is_refused_before_it_is_written(
    entry: StoreEntry, other: Store, tmp_path: Path
) -> None:
    """An archive that promises more bytes than the disk has is refused with need and have."""
    bomb = tarfile.TarInfo("model.safetensors")
    bomb.size = 1 << 60
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as packed:
        packed.write(bomb.tobuf() + os.urandom(512))
    with pytest.raises(StoreError, match="1,152,921,504,606,846,976"):
        import_archive(other, tmp_path / "bomb.tar.gz")


def test_the_same_tag_with_other_files_is_refused(entry: StoreEntry, other: Store, tmp_path: Path) -> None:
    """What is in the store under the tag stays as it is, and the error says how to replace it."""
    file = archive.export(entry, tmp_path)
    folder = small.model_folder(tmp_path / "tiny", config=small.CONFIG | {"vocab_size": 9})
    recipe = importing.Recipe(version=entry.path.name)
    there = importing.from_folder(other, folder, trust=importing.Trust(), recipe=recipe)
    with pytest.raises(StoreError, match="other files") as caught:
        import_archive(other, file)
    assert entry.tag in (caught.value.hint or "")
    other.check(there, hashes=True)


def packed_by_hand(entry: StoreEntry, target: Path, remove: str, **files: bytes) -> Path:
    """An archive without one file of the entry and with others, and a manifest that agrees."""
    facts = json.loads((entry.path / "manifest.json").read_bytes())
    facts["files"] = [f for f in facts["files"] if f["path"] != remove]
    for name, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        facts["files"].append({"path": name, "size": len(content), "sha256": digest, "mtime_ns": 0})
    with tarfile.open(target, "w:gz") as tar:
        for name in [f["path"] for f in facts["files"] if f["path"] not in files]:
            tar.add(entry.path / name, name)
        for name, content in (files | {"manifest.json": json.dumps(facts).encode()}).items():
            found = member(name)
            found.size = len(content)
            tar.addfile(found, io.BytesIO(content))
    return target


PLANTED: list[tuple[str, dict[str, bytes], int]] = [
    ("model.safetensors", {"pytorch_model.bin": b"pickle"}, 65),
    ("model.safetensors", {"model.gguf": b"GGUF"}, 65),
    ("model.safetensors", {}, 65),
    ("config.json", {}, 65),
    ("model.safetensors", {"model.safetensors": small.safetensors()[:-1]}, 65),
    ("", {"evil.py": b"raise SystemExit"}, 78),
    ("config.json", {"config.json": json.dumps(small.CONFIG | {"auto_map": {"AutoModel": "e.M"}}).encode()}, 78),
]


@pytest.mark.parametrize(("remove", "files", "code"), PLANTED)
def test_an_archive_of_what_no_store_holds_is_refused(
    entry: StoreEntry, other: Store, tmp_path: Path, remove: str, files: dict[str, bytes], code: int
) -> None:
    """Pickle, GGUF, cut or absent weights are exit 65 and code is 78, though the manifest agrees with them; code comes in
    where it is trusted."""
    file = packed_by_hand(entry, tmp_path / "bad.tar.gz", remove, **files)
    with pytest.raises(OpenLLMError) as caught:
        import_archive(other, file)
    assert caught.value.exit_code == code, caught.value
    assert other.entries() == [] and not list((other.home / ".staging").iterdir())
    if code == 78:
        trusted = archive.import_archive(other, file, trust=importing.Trust(remote_code=True))
        assert {p.name for p in trusted.path.iterdir()} >= set(files)
