"""Inside a Bento: BENTO_PATH makes relative ids and tags mean what lies in it; and OPENLLM_USE_LOCAL_LATEST takes the newest."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest
from tests.openllm.serialisation import small

from openllm.serialisation import import_model, importing, resolve
from openllm.serialisation.store import Store
from openllm.serialisation.tags import folder_tag, folder_version
from openllm_core.errors import CorruptModel, ModelNotFound
from openllm_core.options import StoreOptions
from openllm_core.settings import read

TRUST = importing.Trust()


@pytest.fixture
def bento(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Bento with the stored model `pt-tiny:v1`, a plain folder, and BENTO_PATH; the working directory is elsewhere."""
    root = tmp_path / "bento"
    folder = small.model_folder(tmp_path / "tiny")
    importing.from_folder(Store(small.options(root)), folder, trust=TRUST, recipe=importing.Recipe(version="v1"))
    small.model_folder(root / "models" / "pt-plain" / "v2")
    monkeypatch.setenv("BENTO_PATH", str(root))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return root


def options() -> StoreOptions:
    return read(StoreOptions).options


def test_a_relative_id_is_looked_for_in_the_bento(bento: Path) -> None:
    """From any folder, `./models/NAME/VERSION` is the Bento's; its tag is the end of that path."""
    for text in ("./models/pt-plain/v2", "models/pt-plain/v2"):
        found = resolve(text, options=options())
        assert (found.path, found.tag) == (bento / "models" / "pt-plain" / "v2", "pt-plain:v2")
    assert resolve("./models/pt-tiny/v1", options=options()).served_name == "tiny"


def test_a_tag_is_looked_for_in_the_bento(bento: Path) -> None:
    """A tag that the store lacks and the Bento has is served from the Bento."""
    found = resolve("pt-tiny:v1", options=options())
    assert (found.path, found.tag) == (bento / "models" / "pt-tiny" / "v1", "pt-tiny:v1")


def test_what_lies_here_comes_first(bento: Path) -> None:
    """A folder of the working directory wins over the Bento's; without BENTO_PATH the Bento means nothing."""
    here = small.model_folder(Path("models/pt-plain/v2")).absolute()
    assert resolve("./models/pt-plain/v2", options=options()).path == here
    with pytest.raises(ModelNotFound):
        resolve("./models/pt-tiny/v1", options=attrs.evolve(options(), bento_path=""))


def test_tags_of_folders(tmp_path: Path) -> None:
    """Backend, basename and the hash of the modification time; a touched folder has another version."""
    folder = small.model_folder(tmp_path / "My_Model")
    os.utime(folder, (1_000_000_000, 1_000_000_000))
    assert folder_tag(folder) == f"pt-my-model:{folder_version(folder)}"
    first = folder_tag(folder, backend="vllm")
    os.utime(folder, (1_000_000_001, 1_000_000_001))
    assert first.startswith("vllm-my-model:") and folder_tag(folder, backend="vllm") != first


def test_the_newest_of_a_name_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With OPENLLM_USE_LOCAL_LATEST a bare name means its newest version, and its files are not compared."""
    store = Store(small.options(tmp_path / "home"))
    folder = small.model_folder(tmp_path / "tiny")
    for version in ("v1", "v2"):
        newest = importing.from_folder(store, folder, trust=TRUST, recipe=importing.Recipe(version=version))
    monkeypatch.setenv("BENTOML_HOME", str(store.home))
    config = newest.path / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "MamboForCausalLM"))  # the size stays
    with pytest.raises(CorruptModel):
        resolve("tiny", options=options())
    monkeypatch.setenv("OPENLLM_USE_LOCAL_LATEST", "True")
    assert resolve("tiny", options=options()).path == newest.path
    assert import_model("tiny", options=options()) == newest
