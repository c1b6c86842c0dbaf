"""A Bento of ours by its tag: which model it serves, and what its damaged or hostile files cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.openllm.bundle import bentos
from tests.openllm.serialisation import small

from openllm.serialisation import bento_record, importing, removal, resolve
from openllm.serialisation.store import StoreEntry
from openllm_core.errors import CorruptModel, ModelNotFound, StoreError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def entry(home: Path, tmp_path: Path) -> StoreEntry:
    """A stored model, `pt-tiny:v1`."""
    folder = small.model_folder(tmp_path / "tiny")
    recipe = importing.Recipe(version="v1")
    return importing.from_folder(bentos.store_of(home), folder, trust=importing.Trust(), recipe=recipe)


@pytest.mark.parametrize("text", ["tiny-service", "tiny-service:latest", "tiny-service:v1", "Tiny-Service:v1"])
def test_a_bentos_tag_means_its_model(home: Path, entry: StoreEntry, text: str) -> None:
    """Wherever a model is named, the tag of a Bento, or its bare name, means the model that it serves."""
    bentos.written(home, entry)
    found = resolve(text, options=small.options(home))
    assert (found.tag, found.path) == (entry.tag, entry.path)
    assert found.how == "model of the Bento tiny-service:v1, stored as pt-tiny:v1"


def test_a_models_tag_wins_over_a_bentos(home: Path, entry: StoreEntry) -> None:
    """Where a model and a Bento have the same tag, the model is meant."""
    bentos.written(home, entry, tag="pt-tiny:v1")
    assert bento_record.find(small.options(home), "pt-tiny:v1") is None
    assert resolve("pt-tiny:v1", options=small.options(home)).how.startswith("store tag")


def test_a_bento_whose_model_is_gone_says_so(home: Path, entry: StoreEntry) -> None:
    """The error names the Bento and the model, and how to get it back."""
    bentos.written(home, attrs.evolve(entry, tag="pt-gone:v9"))
    with pytest.raises(ModelNotFound, match="tiny-service:v1 needs the model pt-gone:v9") as caught:
        resolve("tiny-service", options=small.options(home))
    assert "bentoml import" in (caught.value.hint or "")


def test_the_model_that_a_bento_carries_itself_is_found(home: Path, entry: StoreEntry, tmp_path: Path) -> None:
    """An exported Bento, unpacked anywhere, needs no store."""
    folder = bentos.written(home, entry)
    (folder / "models" / "pt-tiny").mkdir(parents=True)
    entry.path.rename(folder / "models" / "pt-tiny" / "v1")
    empty = small.options(tmp_path / "empty")
    bento = bento_record.find(empty, str(folder))
    assert bento is not None and bento.tag == "tiny-service:v1"
    assert bento.model(bentos.store_of(tmp_path / "empty")).path == folder / "models" / "pt-tiny" / "v1"


def test_without_a_word_the_bento_we_run_in_is_meant(home: Path, entry: StoreEntry) -> None:
    """BENTO_PATH, as BentoML sets it in a container, names the Bento; a folder that is none means nothing."""
    folder = bentos.written(home, entry)
    inside = bento_record.find(small.options(home, bento_path=str(folder)), None)
    assert inside is not None and inside.record.model == entry.tag
    assert bento_record.find(small.options(home, bento_path=str(home)), None) is None
    assert bento_record.find(small.options(home), None) is None


def test_a_container_of_bentoml_is_known_without_its_environment(
    home: Path, entry: StoreEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where /.dockerenv is, BentoML's own folder is the Bento, for tags and relative ids too; elsewhere it is not."""
    folder = bentos.written(home, entry)
    small.model_folder(folder / "models" / "pt-plain" / "v2")
    monkeypatch.setattr(bento_record, "IN_CONTAINER", folder)
    monkeypatch.setattr(bento_record, "IN_DOCKER", tmp_path / "dockerenv")
    assert bento_record.find(small.options(home), None) is None
    (tmp_path / "dockerenv").touch()
    inside = bento_record.find(small.options(home), None)
    assert inside is not None and inside.tag == "tiny-service:v1"
    found = resolve("./models/pt-plain/v2", options=small.options(home))
    assert found.path == folder / "models" / "pt-plain" / "v2"


def test_a_foreign_bento_is_refused_with_the_command_that_serves_it(home: Path) -> None:
    """A Bento that another program made is no model of ours."""
    folder = home / "bentos" / "iris" / "v1"
    folder.mkdir(parents=True)
    (folder / "bento.yaml").write_text("service: x:svc\n")
    with pytest.raises(CorruptModel, match="not made by `openllm build`") as caught:
        bento_record.find(small.options(home), "iris:v1")
    assert (caught.value.hint or "").startswith("bentoml serve ")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"model": "../../etc:passwd"},
        {"model": "pt-tiny"},
        {"tag": "a b:c"},
        {"adapters": [{"name": "x", "path": "../../../etc", "files": {}}]},
        {"adapters": [{"name": "x", "path": "/etc", "files": {}}]},
        {"adapters": 3},
        {"settings": "all"},
    ],
)
def test_a_record_that_points_elsewhere_is_refused(home: Path, entry: StoreEntry, change: dict[str, Any]) -> None:
    """Tags are tags and paths stay inside the Bento, whoever wrote the file; listings leave such a Bento out."""
    file = bentos.written(home, entry, adapters=(bentos.adapter("a"),)) / "src" / "openllm.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | change))
    with pytest.raises(CorruptModel, match="cannot be read"):
        bento_record.find(small.options(home), "tiny-service")
    assert list(bento_record.entries(bentos.store_of(home))) == []


def test_a_record_reads_as_it_was_written(home: Path, entry: StoreEntry) -> None:
    """Settings, fields and adapters come back; adapters as --adapter-id takes them, by absolute path."""
    folder = bentos.written(
        home, entry, settings={"backend": "pt"}, fields={"temperature": 0.5}, adapters=(bentos.adapter("french"),)
    )
    bento = bento_record.read(folder)
    assert bento.settings() == {"backend": "pt", "adapter_id": [f"{folder}/src/adapters/french:french"]}
    assert bento.record.fields == {"temperature": 0.5}


def test_a_model_that_a_bento_serves_stays(home: Path, entry: StoreEntry) -> None:
    """It goes only when the Bento goes too, and the Bento goes first."""
    bentos.written(home, entry)
    store = bentos.store_of(home)
    (item,) = removal.find(store, "pt-tiny:v1")
    assert item.needed_by == ("tiny-service:v1",)
    with pytest.raises(StoreError, match="the Bento tiny-service:v1 serves it") as caught:
        removal.check_unneeded(item)
    assert caught.value.hint == "openllm prune pt-tiny:v1 --include-bentos deletes both."
    both = removal.find(store, "pt-tiny:v1", include_bentos=True)
    assert [one.kind for one in both] == ["bento", "model"]
    removal.check_unneeded(both[1], both[:1])
