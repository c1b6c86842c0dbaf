from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from openllm.serialisation import manifest
from openllm.serialisation.manifest import FileRecord, Manifest, SourceRecord
from openllm_core.errors import CorruptModel


def stored(folder: Path) -> Manifest:
    (folder / "w.bin").write_bytes(b"12345")
    stat = (folder / "w.bin").stat()
    record = FileRecord("w.bin", 5, manifest.sha256_of(folder / "w.bin"), stat.st_mtime_ns)
    found = Manifest(tag="a:b", model_id="a", origin="folder", files=(record,), sources=(SourceRecord("x", 1, 2),))
    (folder / manifest.MANIFEST_FILE).write_bytes(found.to_json())
    return found


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    """A manifest survives the file unchanged, times and nested records included."""
    written = stored(tmp_path)
    assert manifest.read(tmp_path) == written


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"format": 2}',
        b"[" * 100_000,
    ],
)
def test_a_malformed_manifest_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    """Whatever stands in manifest.json, reading raises CorruptModel and nothing else."""
    (tmp_path / manifest.MANIFEST_FILE).write_bytes(content)
    with pytest.raises(CorruptModel):
        manifest.read(tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", ""])
def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path, path: str) -> None:
    """A record's path that leaves the folder makes the manifest malformed."""
    data = json.loads(stored(tmp_path).to_json())
    data["files"][0]["path"] = path
    (tmp_path / manifest.MANIFEST_FILE).write_text(json.dumps(data))
    with pytest.raises(CorruptModel, match="malformed"):
        manifest.read(tmp_path)


def test_a_missing_a_cut_and_a_linked_file_are_problems(tmp_path: Path) -> None:
    """Each kind of damage is named with its file."""
    found = stored(tmp_path)
    file = tmp_path / "w.bin"
    assert manifest.problems(tmp_path, found) == []
    file.write_bytes(b"123")
    assert manifest.problems(tmp_path, found) == ["w.bin has 3 bytes instead of 5"]
    assert not manifest.is_whole(tmp_path, found)
    file.unlink()
    assert manifest.problems(tmp_path, found) == ["w.bin is missing"]
    (tmp_path / "other").write_bytes(b"12345")
    file.symlink_to("other")
    assert manifest.problems(tmp_path, found) == ["w.bin is not a plain file"]


def test_another_content_of_the_same_size_is_found_by_its_time(tmp_path: Path) -> None:
    """A changed modification time makes the cheap check hash that file."""
    found = stored(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"54321")
    os.utime(tmp_path / "w.bin", ns=(1, 1))
    assert "SHA-256 differs" in manifest.problems(tmp_path, found)[0]


def test_a_flipped_bit_under_an_unchanged_time_is_found_by_hash_only(tmp_path: Path) -> None:
    """Size and time alone pass such a file; the check with hashes does not."""
    found = stored(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"12344")
    os.utime(tmp_path / "w.bin", ns=(found.files[0].mtime_ns, found.files[0].mtime_ns))
    assert manifest.problems(tmp_path, found) == []
    assert "SHA-256 differs" in manifest.problems(tmp_path, found, hashes=True)[0]


def test_an_equal_file_with_another_time_gets_its_time_back(tmp_path: Path) -> None:
    """A store copied without its times is hashed once, not at every start."""
    found = stored(tmp_path)
    os.utime(tmp_path / "w.bin", ns=(1, 1))
    assert manifest.problems(tmp_path, found) == []
    assert (tmp_path / "w.bin").stat().st_mtime_ns == found.files[0].mtime_ns
