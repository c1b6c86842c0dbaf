from __future__ import annotations

import json
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.openllm.serialisation import small

from openllm.serialisation import ensure_tokenizer, formats
from openllm_core.errors import CorruptModel, MissingDependency, OpenLLMError, UnsafeConfiguration


def check(folder: Path, *, pickle: bool = False) -> formats.Contents:
    contents = formats.inspect(folder)
    formats.check_weights(contents, allow_pickle_weights=pickle)
    return contents


def test_a_whole_folder_passes(tmp_path: Path) -> None:
    """Safetensors beside config.json: kind, files and architecture are found."""
    contents = check(small.model_folder(tmp_path / "m"))
    assert contents.kind == "safetensors"
    assert [p.name for p in contents.weights] == ["model.safetensors"]
    assert contents.architecture == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "neither config.json nor weights"),
        ({"config.json": "{}"}, "has no weights"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": "x"}, "is an adapter"),
        ({"model.safetensors": "x"}, "no config.json"),
        ({"config.json": "{}", "model.h5": "x"}, "a format we do not read: model.h5"),
        ({"config.json": "{}", "training_args.bin": "x", "optimizer.pt": "x"}, "has no weights"),
        ({"config.json": "{", "model.safetensors": "x"}, "not readable JSON"),
        ({"config.json": "[]", "model.safetensors": "x"}, "not a JSON object"),
        (
            {"config.json": "{}", "model.safetensors.index.json": '{"weight_map": {"a": "m-1.safetensors"}}'},
            "lacks 1 of 1",
        ),
        (
            {
                "config.json": "{}",
                "model-1.safetensors": "x",
                "model.safetensors.index.json": '{"weight_map": {"a": "../m.safetensors", "b": "model-1.safetensors"}}',
            },
            "lacks 1 of 2",
        ),
        ({"config.json": "{}", "model.safetensors": "x", "model.safetensors.index.json": "[1]"}, "safetensors"),
    ],
)
def test_a_folder_that_cannot_be_served_is_told_what_it_lacks(tmp_path: Path, files: dict[str, str], says: str) -> None:
    """Each bad folder is CorruptModel with the missing or broken thing in the message and no path of the machine."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(CorruptModel, match=says) as caught:
        check(folder)
    assert str(tmp_path) not in caught.value.message


def test_pickle_weights_need_the_flag(tmp_path: Path) -> None:
    """Refused with the flag's name; with it they pass. Beside safetensors they are not looked at."""
    folder = small.model_folder(tmp_path / "m", weights=False)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeConfiguration, match="pickle") as caught:
        check(folder)
    assert "--allow-pickle-weights" in (caught.value.hint or "") and caught.value.exit_code == 78
    assert check(folder, pickle=True).kind == "pickle"
    (folder / "model.safetensors").write_bytes(small.safetensors())
    assert check(folder).kind == "safetensors"


WHOLE = small.safetensors()
HEADER = struct.unpack("<Q", WHOLE[:8])[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        WHOLE[:7],
        WHOLE[:20],
        WHOLE[:-1],
        WHOLE + b"\0",
        struct.pack("<Q", 2**63) + WHOLE[8:],
        struct.pack("<Q", 0) + WHOLE[8:],
        WHOLE[:8] + b"\xff" * HEADER + WHOLE[8 + HEADER :],
        WHOLE[:8] + b"[" * HEADER + WHOLE[8 + HEADER :],
        WHOLE[:8] + WHOLE[8:].replace(b"data_offsets", b"data_0ffsets"),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n",
    ],
)
def test_damaged_safetensors_are_refused_by_their_header(tmp_path: Path, content: bytes) -> None:
    """Empty, cut, longer, with an impossible header, or a git-lfs pointer: CorruptModel with the file's name."""
    folder = small.model_folder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptModel, match=r"model\.safetensors"):
        check(folder)


def test_all_shards_of_an_index_are_read(tmp_path: Path) -> None:
    """With every shard there the folder passes; a cut shard is named."""
    folder = small.model_folder(tmp_path / "m", weights=False)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        (folder / name).write_bytes(small.safetensors())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", names, strict=True))})
    )
    assert len(check(folder).weights) == 2
    (folder / names[1]).write_bytes(small.safetensors()[:-4])
    with pytest.raises(CorruptModel, match="00002-of-00002"):
        check(folder)


# -- the child that converts, played by a script


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program run in place of Python: it gets `-P -m openllm.serialisation.convert WHAT SOURCE OUT`."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(formats.sys, "executable", str(program))
    return program


def test_the_childs_error_is_told_as_it_is(tmp_path: Path, child: Path) -> None:
    """A missing package keeps its class and hint; anything else becomes CorruptModel with the cause in its line."""
    missing = json.dumps(MissingDependency("gguf is missing.", hint="pip install gguf").as_dict())
    child.write_text(f"#!/bin/sh\necho '{missing}'\nexit 1\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(MissingDependency, match="gguf") as caught:
        formats.convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert caught.value.hint == "pip install gguf"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo Traceback >&2; echo 'ValueError: odd tensor' >&2; exit 1", "ValueError: odd tensor"),
        ("kill -9 $$", "ended with -9"),
        ("exit 0", "generation_config|left no"),
    ],
)
def test_a_child_that_dies_or_does_nothing_is_one_clear_error(
    tmp_path: Path, child: Path, script: str, says: str
) -> None:
    """A traceback, a signal or an empty result: CorruptModel with the last word of the child."""
    child.write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(CorruptModel, match=says):
        formats.convert_gguf(tmp_path / "m.gguf", tmp_path / "out")


def test_a_tokenizer_that_is_there_is_used_as_it_is(tmp_path: Path) -> None:
    """No child is started for a folder with tokenizer.json."""
    folder = small.model_folder(tmp_path / "m")
    assert ensure_tokenizer(folder) == folder


def test_a_folder_without_any_tokenizer_says_so(tmp_path: Path) -> None:
    """CorruptModel naming the files that would do."""
    folder = small.model_folder(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CorruptModel, match=r"neither tokenizer\.json nor one of tokenizer\.model"):
        ensure_tokenizer(folder)


MAKE = 'for a in "$@"; do out="$a"; done; echo made > "$out/tokenizer.json"; echo "{}" > "$out/tokenizer_config.json"'


def slow_folder(path: Path) -> Path:
    folder = small.model_folder(path)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"spm")
    return folder


def test_a_slow_tokenizer_is_converted_once_beside_the_model(tmp_path: Path, child: Path) -> None:
    """The child's tokenizer.json is put into a writable folder; the model's own tokenizer_config.json stays."""
    folder = slow_folder(tmp_path / "m")
    (folder / "tokenizer_config.json").write_text('{"mine": 1}')
    child.write_text(f"#!/bin/sh\n{MAKE}\n")
    assert ensure_tokenizer(folder) == folder
    assert (folder / "tokenizer.json").read_text() == "made\n"
    assert (folder / "tokenizer_config.json").read_text() == '{"mine": 1}'
    assert not list(folder.glob(".tokenizer-*"))


def test_beside_a_read_only_model_the_cache_keeps_the_tokenizer(
    tmp_path: Path, child: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the cache has everything a tokenizer is read from, and is used again without a child."""
    folder = slow_folder(tmp_path / "m")
    child.write_text(f"#!/bin/sh\n{MAKE}\n")
    monkeypatch.setattr(formats.os, "access", lambda *_: False)
    made = ensure_tokenizer(folder)
    assert made != folder and (tmp_path / "cache") in made.parents
    assert {p.name for p in made.iterdir()} >= {"tokenizer.json", "tokenizer_config.json", "config.json"}
    assert not (folder / "tokenizer.json").exists()
    child.write_text("#!/bin/sh\nexit 9\n")
    assert ensure_tokenizer(folder) == made
    (folder / "tokenizer.model").write_bytes(b"other")
    with pytest.raises(OpenLLMError):
        ensure_tokenizer(folder)


def test_a_conversion_does_not_outlive_its_parent() -> None:
    """kill -9 of the importing process ends the child too."""
    child = "import time; from openllm.serialisation import convert; convert.end_with_parent(); print('ready', flush=True); time.sleep(60)"
    code = (
        "import subprocess, sys, time\n"
        f"print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "ready\n"
    assert running(pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.stdout.close()


def running(pid: int) -> bool:
    """Whether a process is there and no zombie waiting for someone to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
