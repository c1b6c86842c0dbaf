"""The store of adapters: names, versions, damage, and what a text is taken for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import attrs
import pytest
from tests.openllm.serialisation.fake_hub import Hub
from tests.tiny_adapters import blank_adapter

from openllm.serialisation import hub
from openllm.serialisation.adapters import FILES, AdapterStore, split
from openllm_core.errors import AdapterIncompatible, AdapterNotFound, InvalidSetting
from openllm_core.options import StoreOptions
from openllm_core.settings import read


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    """An empty one."""
    return AdapterStore(StoreOptions(home=str(tmp_path / "home"), offline=True))


def test_added_found_listed_removed(store: AdapterStore, tmp_path: Path) -> None:
    """Two files and a record of them; the folder it came from may go."""
    folder = blank_adapter(tmp_path / "poet")
    (folder / "training_args.bin").write_bytes(b"pickle")
    entry = store.add("poet", folder, "somewhere")
    assert sorted(file.name for file in entry.path.iterdir()) == [
        "adapter.json", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert store.get("poet") == entry and store.entries() == [entry]
    store.remove("poet")
    assert store.entries() == [] and store.find("poet") is None
    with pytest.raises(AdapterNotFound):
        store.remove("poet")


def test_a_new_version_takes_the_name(store: AdapterStore, tmp_path: Path) -> None:
    """The one before stays on disk, since a server may run it; older ones go; the same files again are the same version."""
    made = [store.add("poet", blank_adapter(tmp_path / f"v{n}", lora_alpha=n), "x") for n in (1, 2, 3)]
    assert store.get("poet").path == made[2].path
    assert [entry.path.exists() for entry in made] == [False, True, True]
    assert store.add("poet", tmp_path / "v2", "x").path == made[1].path
    assert store.get("poet").path == made[1].path


@pytest.mark.parametrize("versions", [0, 1, 2])
@pytest.mark.parametrize("again", [False, True])
def test_what_is_not_put_to_use_is_taken_back(versions: int, again: bool, store: AdapterStore, tmp_path: Path) -> None:
    """The body that uses a new version fails: all that had the name are there as before, also where the files were known."""
    made = [store.add("poet", blank_adapter(tmp_path / f"v{n}", lora_alpha=n + 1), "x") for n in range(versions)]
    source = tmp_path / "v0" if again and made else blank_adapter(tmp_path / "new", lora_alpha=99)
    for _ in range(3):
        with pytest.raises(ValueError, match="refused"), store.adding("poet", source, "y") as entry:
            assert store.get("poet") == entry and entry.source == "y"
            raise ValueError("refused")
        assert store.find("poet") == (made[-1] if made else None)
        assert all(entry.path.is_dir() for entry in made)
    with store.adding("poet", source, "y") as entry:
        pass
    assert store.get("poet") == entry


def test_damage_is_noticed(store: AdapterStore, tmp_path: Path) -> None:
    """By hash, also where the size is right; a link is no file of ours."""
    entry = store.add("poet", blank_adapter(tmp_path / "a"), "x")
    weights = entry.path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\1")
    with pytest.raises(AdapterIncompatible, match="damaged"):
        store.get("poet")
    outside = tmp_path / "outside"
    outside.write_bytes(whole)
    weights.unlink()
    weights.symlink_to(outside)
    with pytest.raises(AdapterIncompatible, match="damaged"):
        store.get("poet")


@pytest.mark.parametrize("damage", ["changed", "linked", "missing"])
def test_added_again_a_damaged_one_is_whole(damage: str, store: AdapterStore, tmp_path: Path) -> None:
    """As the error says; the files of what it was made from take the place of those that differ."""
    folder = blank_adapter(tmp_path / "a")
    entry = store.add("poet", folder, "x")
    weights = entry.path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    if damage == "changed":
        weights.write_bytes(whole[:-1] + b"\1")
    elif damage == "linked":
        weights.symlink_to(folder / "adapter_model.safetensors")
    assert store.add("poet", folder, "x").path == entry.path
    assert store.get("poet").path == entry.path
    assert not weights.is_symlink() and weights.read_bytes() == whole


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", "x" * 97, "-x", "base", "http://evil.example", "ä", "a b"]
)
def test_names_are_identifiers(name: str, store: AdapterStore, tmp_path: Path) -> None:
    """Nothing that could be a path or an address is one; looking for it looks nowhere."""
    with pytest.raises(InvalidSetting):
        store.add(name, blank_adapter(tmp_path / "a"), "x")
    assert store.find(name) is None


def test_what_a_text_is_taken_for(store: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder first, then a stored name, then a hub id, which without a network says why it cannot be had."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = blank_adapter(tmp_path / "poet")
    store.add("stored", folder, "x")
    assert store.folder_of(str(folder)) == (folder, "folder")
    assert store.folder_of("stored") == (store.get("stored").path, "stored")
    with pytest.raises(AdapterNotFound, match="neither a folder nor a stored adapter"):
        store.folder_of("nobody")
    with pytest.raises(AdapterNotFound, match="not to be had from the hub"):
        store.folder_of("org/nobody")


@pytest.fixture
def online(site: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AdapterStore:
    """An empty store whose hub is the one that is played, with a cache of the test's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # read once, when it is imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "adapter_folder", partial(hub.adapter_folder, endpoint=site.url))
    return AdapterStore(StoreOptions(home=str(tmp_path / "home"), offline=False))


def test_an_adapter_of_the_hub_is_fetched_once(
    online: AdapterStore, site: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its two files; later, and with HF_HUB_OFFLINE=1, those of the hub's cache on this machine, and nobody is asked."""
    folder = blank_adapter(tmp_path / "poet")
    site.files = {file.name: file.read_bytes() for file in folder.iterdir()} | {"README.md": b"#"}
    found, how = online.folder_of("org/tiny")
    assert how == "hub id" and sorted(file.name for file in found.iterdir()) == sorted(FILES)
    assert all((found / file).read_bytes() == (folder / file).read_bytes() for file in FILES)
    entry = online.add("poet", found, "org/tiny")
    assert all(not file.is_symlink() for file in entry.path.iterdir())
    asked = len(site.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = AdapterStore(attrs.evolve(read(StoreOptions).options, home=str(tmp_path / "home")))
    assert offline.folder_of("org/tiny") == (found, "hub id") == online.folder_of("org/tiny")
    assert len(site.requests) == asked


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (("adapter_config.json", "adapter_model.bin"), r"pickle \(adapter_model\.bin\)"),
        (("adapter_config.json", "README.md"), r"has no adapter_model\.safetensors"),
        (("config.json", "model.safetensors"), r"has no adapter_config\.json"),
    ],
)
def test_what_an_adapter_of_the_hub_lacks_is_named(
    files: tuple[str, ...], says: str, online: AdapterStore, site: Hub
) -> None:
    """The file, or the pickle it has instead: not the network."""
    site.files = dict.fromkeys(files, b"{}")
    with pytest.raises(AdapterIncompatible, match=says) as caught:
        online.folder_of("org/tiny")
    assert "network" not in f"{caught.value.message} {caught.value.hint}"


def test_split_at_the_last_colon(tmp_path: Path) -> None:
    """A folder whose own name has a colon is taken whole; a bad name is refused."""
    (tmp_path / "a:b").mkdir()
    assert split("org/x") == ("org/x", None)
    assert split("org/x:poet") == ("org/x", "poet")
    assert split("./c:d:poet") == ("./c:d", "poet")
    assert split(f"{tmp_path}/a:b") == (f"{tmp_path}/a:b", None)
    with pytest.raises(InvalidSetting):
        split("org/x:../poet")


def test_what_was_loaded_is_kept_by_model(store: AdapterStore, tmp_path: Path) -> None:
    """Each model has its own list, in the order of loading, until one is dropped or removed; a broken file is no list."""
    for model, name in (("one", "a"), ("one", "b"), ("two", "b"), ("one", "c"), ("one", "a")):
        store.keep(model, name)
    assert (store.kept("one"), store.kept("two"), store.kept("three")) == (["a", "b", "c"], ["b"], [])
    store.drop("one", "a")
    store.drop("three", "a")
    assert (store.kept("one"), store.kept("two")) == (["b", "c"], ["b"])
    store.add("b", blank_adapter(tmp_path / "b"), "x")
    store.remove("b")
    assert (store.kept("one"), store.kept("two")) == (["c"], [])
    (store.root / "kept.json").write_text("{")
    assert store.kept("one") == []
