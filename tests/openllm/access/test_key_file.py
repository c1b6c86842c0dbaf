"""The key file: what it may hold, who may read it, how it is written."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from tests.openllm.access.key_files import key_of, spoil, text_of, write

from openllm.access import Access, check_access, key_file, keys
from openllm_core.errors import InvalidSetting, UnsafeConfiguration
from openllm_core.options import ServerOptions

GOOD = '{"name": "ann", "sha256": "' + "a" * 64 + '"}'
FIRST = '{"name": "zoe", "sha256": "' + "c" * 64 + '"}'


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Every field of every key comes back; nothing of a key's text is in the file, which its owner alone may read."""
    made = (
        key_of("ann", created=keys.now(), requests_per_minute=3, tokens_per_minute=1000, concurrency=2),
        key_of("bob", models=["base", "poet"], priority="background"),
        key_of("cid", old_sha256="0" * 64, old_until="2026-01-01T00:00:00Z"),
    )
    path = write(tmp_path / "keys", *made)
    assert tuple(key_file.read(path).keys) == made
    assert text_of("ann") not in path.read_text() and "interactive" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_edit_leaves_other_lines_alone(tmp_path: Path) -> None:
    """Comments, empty lines and keys that nobody touched stay where they are; a link to the file stays a link."""
    path, link = tmp_path / "keys", tmp_path / "link"
    spoil(path, f"# of the team\n\n{GOOD}\n# last")
    link.symlink_to(path)
    with key_file.editing(link) as content:
        content.put(key_of("bob"))
    lines = path.read_text().splitlines()
    assert link.is_symlink() and lines[:2] == ["# of the team", ""] and lines[3] == "# last"
    assert json.loads(lines[2])["name"] == "ann" and json.loads(lines[4])["name"] == "bob"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"name": "x"}', "sha256 is required"),
        (GOOD.replace("a" * 64, "zz" * 32), "not hexadecimal"),
        (GOOD.replace("a" * 64, "a" * 63), "sha256"),
        (GOOD.replace("ann", "two words"), "no name"),
        (GOOD.replace("ann", "admin"), "taken"),
        (GOOD.replace("ann", "env-1"), "taken"),
        (GOOD[:-1] + ', "rpm": 3}', "rpm"),
        (GOOD[:-1] + ', "requests_per_minute": 0}', "requests_per_minute"),
        (GOOD[:-1] + ', "concurrency": "4"}', "concurrency"),
        (GOOD[:-1] + ', "models": []}', "models"),
        (GOOD[:-1] + ', "old_sha256": "' + "b" * 64 + '"}', "old_until"),
        (GOOD[:-1] + ', "old_sha256": "' + "b" * 64 + '", "old_until": "tomorrow"}', "tomorrow"),
        (GOOD[:-1] + ', "old_sha256": "' + "b" * 64 + '", "old_until": "2026-01-01T00:00:00"}', "zone"),
        (GOOD.replace("a" * 64, "c" * 64), "line 2 already, under another name"),
        (GOOD.replace("ann", "zoe"), "the name zoe stands in line 2"),
        ("\x00", "line 3"),
    ],
)
def test_a_broken_file_is_refused_by_line_and_cause(tmp_path: Path, line: str, why: str) -> None:
    """Exit code 78; whoever has to mend it is told where, and what is wrong there."""
    path = tmp_path / "keys"
    spoil(path, f"# keys\n{FIRST}\n{line}\n")
    with pytest.raises(InvalidSetting, match=r"line 3") as refused:
        check_access(ServerOptions(api_key_file=str(path)))
    assert why in refused.value.message and refused.value.exit_code == 78
    assert str(path) in refused.value.message and "a" * 64 not in refused.value.message


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever may read it may try; whoever may write it lets himself in. The way out is named."""
    path = write(tmp_path / "keys", key_of("ann"))
    path.chmod(mode)
    with pytest.raises(UnsafeConfiguration, match=f"{mode:04o}") as refused:
        check_access(ServerOptions(api_key_file=str(path)))
    assert refused.value.exit_code == 78 and refused.value.hint == f"chmod 600 {path}"


def test_what_is_no_key_file_is_refused(tmp_path: Path) -> None:
    """None there, a folder, a pipe that nobody writes, no key in it, too many, too long: never an open server."""
    pipe, empty, folder = tmp_path / "pipe", tmp_path / "empty", tmp_path / "folder"
    os.mkfifo(pipe, 0o600)
    folder.mkdir(0o700)
    spoil(empty, "# none yet\n")
    for path, why in ((tmp_path / "none", "No such file"), (pipe, "ordinary"), (folder, "ordinary"), (empty, "no key")):
        with pytest.raises(InvalidSetting, match=why):
            check_access(ServerOptions(api_key_file=str(path), host="0.0.0.0"))
    many = "".join(f'{{"name":"k{n}","sha256":"{n:064x}"}}\n' for n in range(key_file.MAX_KEYS + 1))
    with pytest.raises(InvalidSetting, match="1001 keys"):
        key_file.parse(many.encode(), empty)
    with pytest.raises(InvalidSetting, match="bytes"):
        key_file.parse(b"#" * (key_file.MAX_BYTES + 1), empty)


def test_an_edit_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, an edit that would break the file, an error of the editor: the old file is there, and nothing beside it."""
    path = write(tmp_path / "keys", key_of("ann"))
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InvalidSetting), key_file.editing(path) as content:
        content.lines.append("no key")
    with pytest.raises(ZeroDivisionError), key_file.editing(path) as content:
        content.put(key_of("bob"))
        raise ZeroDivisionError
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), key_file.editing(path) as content:
        content.put(key_of("bob"))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["keys"]


def test_editors_take_turns(tmp_path: Path) -> None:
    """Twenty at once add twenty keys: none is lost."""
    path = tmp_path / "keys"

    def add(number: int) -> None:
        with key_file.editing(path) as content:
            content.put(key_of(f"k{number}"))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in key_file.read(path).keys} == {f"k{number}" for number in range(20)}


def test_a_fresh_key_is_random_and_its_digest_opens(tmp_path: Path) -> None:
    """256 random bits behind a prefix that scanners know; no two are alike."""
    made = {keys.new_key() for _ in range(100)}
    assert len(made) == 100 and all(text.startswith("openllm-") and len(text) == 8 + 43 for text in made)
    text = made.pop()
    path = write(tmp_path / "keys", keys.Key(name="ann", sha256=keys.digest_of(text.encode()).hex()))
    assert Access(ServerOptions(api_key_file=str(path))).identify([f"Bearer {text}"]).name == "ann"
