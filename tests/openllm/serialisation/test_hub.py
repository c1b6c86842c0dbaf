"""The hub, played by a small HTTP server on this machine: the real huggingface_hub talks to it."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from tests.openllm.serialisation import small
from tests.openllm.serialisation.fake_hub import COMMIT, Hub

from openllm.serialisation import formats, hub, importing
from openllm.serialisation.fetch import file_sizes
from openllm.serialisation.hub import HubId
from openllm.serialisation.importing import Trust
from openllm.serialisation.store import Store
from openllm_core.errors import CorruptModel, ModelNotFound, StoreError, UnknownModel, UnsafeConfiguration


def fetch(store: Store, site: Hub, text: str = "org/tiny", **trust: bool) -> Any:
    hub_id = HubId.parse(text)
    assert hub_id is not None
    return importing.from_hub(store, hub_id, trust=Trust(**trust), endpoint=site.url)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("org/name", HubId("org/name")),
        ("gpt2", HubId("gpt2")),
        ("org/name:v1.0", HubId("org/name", "v1.0")),
        ("org/na.me_x-1", HubId("org/na.me_x-1")),
        ("a/b/c", None),
        ("../x", None),
        ("org/..", None),
        ("org/a--b", None),
        ("-x/y", None),
        ("org/", None),
        ("a b", None),
        ("", None),
        ("x" * 200, None),
        ("org/name.git", None),
    ],
)
def test_what_may_be_an_id_of_the_hub(text: str, found: HubId | None) -> None:
    """`org/name`, a bare name, each with `:revision`; everything else cannot be one."""
    assert HubId.parse(text) == found


def test_only_what_we_read_is_fetched_and_stored(store: Store, site: Hub) -> None:
    """Safetensors, configuration and tokenizer; no other format, no readme; commit and request are remembered."""
    entry = fetch(store, site)
    names = {f.path for f in entry.manifest.files}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert (entry.model_id, entry.manifest.revision, entry.manifest.requested_revision) == ("org/tiny", COMMIT, "main")
    assert entry.tag == f"pt-org--tiny:{COMMIT}"
    assert (entry.path / "model.safetensors").read_bytes() == small.safetensors()


def test_the_same_commit_is_fetched_once(store: Store, site: Hub) -> None:
    """A second import asks for the commit and downloads nothing."""
    first = fetch(store, site)
    site.requests.clear()
    assert fetch(store, site, "org/tiny:main") == first
    assert [r for r in site.requests if "/resolve/" in r] == []


def test_an_unknown_id_a_revision_and_a_gated_model_say_which(store: Store, site: Hub) -> None:
    """Each names the model; gated also where to accept and which variable holds the token."""
    with pytest.raises(UnknownModel, match="org/other"):
        fetch(store, site, "org/other")
    with pytest.raises(ModelNotFound, match="no revision 'v9'"):
        fetch(store, site, "org/tiny:v9")
    site.gated = True
    with pytest.raises(ModelNotFound, match="org/tiny is gated") as caught:
        fetch(store, site)
    assert "https://huggingface.co/org/tiny" in (caught.value.hint or "") and "HF_TOKEN" in (caught.value.hint or "")
    assert store.entries() == []


def test_code_is_refused_before_any_weights_are_fetched(store: Store, site: Hub) -> None:
    """A config with auto_map ends the import; the weights' file was never asked for. Trusted, its Python comes along."""
    site.files["config.json"] = json.dumps(small.CONFIG | {"auto_map": {"AutoConfig": "c.C"}}).encode()
    site.files["c.py"] = b"raise SystemExit"
    with pytest.raises(UnsafeConfiguration, match="org/tiny"):
        fetch(store, site)
    assert not any("model.safetensors" in r for r in site.requests)
    entry = fetch(store, site, remote_code=True)
    assert (entry.path / "c.py").is_file()


def test_pickle_weights_are_refused_before_the_download(
    store: Store, site: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without safetensors: nothing is fetched until the flag is typed; then they are converted."""
    monkeypatch.setattr(formats, "convert_pickle", small.convert_pickle)
    del site.files["model.safetensors"]
    with pytest.raises(UnsafeConfiguration, match=r"pytorch_model\.bin"):
        fetch(store, site)
    assert not any("/resolve/" in r for r in site.requests)
    entry = fetch(store, site, pickle_weights=True)
    assert entry.manifest.weights == "safetensors"
    assert not list(entry.path.glob("*.bin"))
    assert (entry.path / "tokenizer.json").read_bytes() == site.files["tokenizer.json"]


def test_a_file_with_another_hash_is_not_stored(store: Store, site: Hub) -> None:
    """The hub's own SHA-256 decides; the bad file is not kept for the next attempt."""
    site.promised["model.safetensors"] = "1" * 64
    with pytest.raises(CorruptModel, match=r"model\.safetensors"):
        fetch(store, site)
    assert store.entries() == []
    assert not list((store.home / ".staging").rglob("model.safetensors"))
    site.promised.clear()
    assert fetch(store, site).model_id == "org/tiny"


def test_a_dropped_download_goes_on_where_it_stopped(store: Store, site: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before the connection broke is kept: the next attempt does not fetch the small files again."""
    monkeypatch.setattr("time.sleep", lambda s: None)  # between the tries of huggingface_hub
    site.cut = "model.safetensors"
    with pytest.raises((StoreError, CorruptModel)):
        fetch(store, site)
    assert store.entries() == []
    site.cut = ""
    site.requests.clear()
    fetch(store, site)
    assert not any(r.startswith("GET") and r.endswith("config.json") for r in site.requests)


def big(site: Hub) -> int:
    """Let the weights be large; bytes of all files that are wanted."""
    site.files["model.safetensors"] = small.safetensors(20_000)
    return sum(
        len(site.files[n]) for n in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    )


def free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free_bytes))


def test_half_a_weight_file_goes_on_at_its_middle(store: Store, site: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came of the file is kept, and only room and bytes for the rest are asked for, by a range."""
    monkeypatch.setattr("time.sleep", lambda s: None)  # between the tries of huggingface_hub
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what it may lose of a file
    total = big(site)
    site.cut = "model.safetensors"
    with pytest.raises(StoreError):
        fetch(store, site)
    there = sum(file_sizes(store.home / ".staging"))
    assert total * 0.4 < there < total
    site.cut = ""
    site.ranges.clear()
    free(monkeypatch, total - there - 1)
    with pytest.raises(StoreError, match=f"org/tiny needs {total - there:,} bytes"):
        fetch(store, site)
    assert site.ranges == []
    free(monkeypatch, total - there)
    entry = fetch(store, site)
    (begin,) = site.ranges
    assert 0.4 * total < int(begin.removeprefix("bytes=").rstrip("-")) < total
    assert (entry.path / "model.safetensors").read_bytes() == site.files["model.safetensors"]
    assert {f.path for f in entry.manifest.files} == {p.name for p in entry.path.iterdir()} - {
        "manifest.json",
        "model.yaml",
    }
    assert not list((store.home / ".staging").iterdir())


def test_foreign_weights_need_room_for_their_conversion(
    store: Store, site: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a folder do: what is refused is refused before anything is fetched."""
    monkeypatch.setattr(formats, "convert_pickle", small.convert_pickle)
    del site.files["model.safetensors"]
    wanted = ("config.json", "pytorch_model.bin", "tokenizer.json", "tokenizer_config.json")
    size = sum(len(site.files[name]) for name in wanted)
    free(monkeypatch, 6 * size - 1)
    with pytest.raises(StoreError, match=f"needs {6 * size:,} bytes"):
        fetch(store, site, pickle_weights=True)
    assert not any("/resolve/" in r for r in site.requests)
    free(monkeypatch, 6 * size)
    assert fetch(store, site, pickle_weights=True).manifest.weights == "safetensors"


def test_imports_for_two_backends_at_once_fetch_it_once(
    store: Store, site: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second import waits for the first, whatever backend each of them names, and takes what it stored."""
    begun, go = Event(), Event()
    download = hub.download

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert go.wait(20)
        return download(*arguments, **options)

    def second() -> Any:
        recipe = importing.Recipe(backend="vllm")
        try:
            return importing.from_hub(
                store, HubId("org/tiny"), trust=Trust(), recipe=recipe, endpoint=site.url, progress=told
            )
        finally:
            go.set()

    def told(text: str, done: int, of: int | None) -> None:
        if text.startswith("waiting"):
            go.set()

    monkeypatch.setattr(hub, "download", slow)
    with ThreadPoolExecutor() as pool:
        one = pool.submit(fetch, store, site)
        assert begun.wait(20)
        other = pool.submit(second)
        assert other.result().tag == one.result().tag
    assert len(store.entries()) == 1
    assert len([r for r in site.requests if r.startswith("GET") and r.endswith("model.safetensors")]) == 1


def test_an_unreachable_hub_is_a_store_error(store: Store) -> None:
    """A refused connection names the model and what needs no hub."""
    with pytest.raises(StoreError, match="org/tiny could not be fetched") as caught:
        fetch(store, Hub({}, url="http://127.0.0.1:9"))
    assert "without a model" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (
            ["consolidated.safetensors", "model-1.safetensors", "model.safetensors.index.json"],
            ["model-1.safetensors", "model.safetensors.index.json"],
        ),
        (["weights.safetensors"], ["weights.safetensors"]),
        (["m.gguf", "config.json"], ["m.gguf"]),
        (["model.safetensors", "m.gguf", "x.bin"], ["model.safetensors"]),
        (["model.safetensors", "adapter_config.json", "adapter_model.safetensors"], ["model.safetensors"]),
        (
            ["model.safetensors", "tokenizer.model", "merges.txt", "vocab.txt", "notes.txt"],
            ["tokenizer.model", "merges.txt", "vocab.txt", "model.safetensors"],
        ),
    ],
)
def test_one_format_is_chosen(names: list[str], chosen: list[str]) -> None:
    """Safetensors first, named `model*` where there are several; a single GGUF file alone."""
    assert hub.wanted(names, "x", trust=False, allow_pickle=False) == chosen


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a.gguf", "b.gguf"], "2 GGUF files"),
        (["adapter_config.json", "adapter_model.safetensors"], "is an adapter"),
        (["x.md"], "no weights"),
    ],
)
def test_a_repository_without_a_choice_says_why(names: list[str], says: str) -> None:
    """Several GGUF files, an adapter, or nothing: CorruptModel."""
    with pytest.raises(CorruptModel, match=says):
        hub.wanted(names, "x", trust=False, allow_pickle=False)
