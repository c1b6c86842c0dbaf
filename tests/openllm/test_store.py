"""The store from Python: `openllm.import_model`, `openllm.list_models`, and the files behind an `openllm.LLM`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.openllm.serialisation import small

import openllm
from openllm import serialisation
from openllm.serialisation.tags import folder_version
from openllm_core.errors import InvalidSetting, ModelNotFound, StoreError, UnknownBackend
from openllm_core.families import registry
from openllm_core.options import StoreOptions


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreOptions:
    """An empty store that the environment names, and the working directory beside it."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "True")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return small.options(tmp_path / "bentoml")


def test_import_model_hands_out_bentomls_model(home: StoreOptions) -> None:
    """Its tag, path and labels are those of the store's entry; a second call finds it."""
    folder = small.model_folder(Path("tiny"))
    made = openllm.import_model("./tiny", model_version="v1", backend="vllm", quantize="int8")
    assert str(made.tag) == "vllm-tiny:v1-int8" and made.info.labels["framework"] == "openllm"
    assert (Path(made.path) / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert made.info.metadata["_quantize"] == "int8"
    assert openllm.import_model("./tiny", quantize="int8").tag == made.tag


@pytest.mark.parametrize("facts", [{"quantize": "int7"}, {"serialisation": "pickle"}, {"additional_args": ["--x"]}])
def test_a_wrong_argument_is_refused(home: StoreOptions, facts: dict[str, Any]) -> None:
    """Values are checked as the command line checks them, before anything is looked for."""
    with pytest.raises(InvalidSetting):
        openllm.import_model("./nowhere", **facts)


def test_an_unknown_backend_is_refused(home: StoreOptions) -> None:
    """A tag begins with a backend's name and with nothing else: exit code 78, and nothing is stored."""
    small.model_folder(Path("tiny"))
    with pytest.raises(UnknownBackend, match="jax") as caught:
        openllm.import_model("./tiny", backend="jax")
    assert caught.value.exit_code == 78
    assert serialisation.list_models(home) == []


def test_list_models_has_families_and_what_is_here(home: StoreOptions) -> None:
    """All families by name, the local tags by family, and size and path of each stored model."""
    small.model_folder(Path("tiny"))
    tag = str(openllm.import_model("./tiny").tag)
    found = openllm.list_models()
    assert set(found) == {spec.name for spec in registry.all()} | {"local", "store"}
    assert found["local"] == {"llama": [tag]}
    assert found["store"][0]["size_bytes"] > 0 and Path(found["store"][0]["path"]).is_dir()


def test_the_tag_of_an_llm(home: StoreOptions) -> None:
    """A folder has the tag its import would have and is not copied; a stored model has its own."""
    folder = small.model_folder(Path("Tiny_Model")).absolute()
    llm = openllm.LLM("./Tiny_Model")
    assert llm.tag == f"pt-tiny-model:{folder_version(folder)}"
    assert serialisation.list_models(home) == []
    with pytest.raises(ModelNotFound):
        serialisation.get(llm)
    entry = llm.save_pretrained()
    assert (entry.tag, serialisation.get(llm)) == (llm.tag, entry)


@pytest.mark.parametrize("make", [openllm.LLM, openllm.Runner])
def test_download_model_of_an_llm_and_of_a_runner(home: StoreOptions, make: Any) -> None:
    """It brings the model into the store once and gives its `bentoml.Model`; a backend without a model says so."""
    small.model_folder(Path("tiny"))
    made = make("./tiny", backend="pt")
    found = made.download_model()
    (entry,) = serialisation.list_models(home)
    assert (str(found.tag), found.path) == (entry.tag, str(entry.path))
    assert str(make(entry.tag, backend="pt").download_model().tag) == entry.tag
    assert serialisation.list_models(home) == [entry]
    with pytest.raises(InvalidSetting, match="echo"):
        make(backend="echo").download_model()


def test_the_tag_of_a_link_is_that_of_its_folder(home: StoreOptions) -> None:
    """Served in place and imported it is the same, and the folder's copy is that of the link."""
    small.model_folder(Path("real_v3"))
    Path("current").symlink_to("real_v3")
    llm = openllm.LLM("./current")
    entry = llm.save_pretrained()
    assert llm.tag == entry.tag and entry.tag.startswith("pt-real-v3:")
    assert str(openllm.import_model("./current").tag) == str(openllm.import_model("./real_v3").tag) == entry.tag
    assert entry.model_id == "current"


def test_a_custom_import_gets_the_parsed_parameters(home: StoreOptions) -> None:
    """`import_model` of a subclass is called with what the constructor was given; its tokenizer's words are apart."""
    small.model_folder(Path("tiny"))
    seen: dict[str, Any] = {}

    class Mine(openllm.LLM):
        def import_model(self, *decls: Any, trust_remote_code: bool, **attrs: Any) -> Any:
            seen.update(attrs, decls=decls, trust_remote_code=trust_remote_code)
            return super().import_model(*decls, trust_remote_code=trust_remote_code, **attrs)

    llm = Mine("./tiny", dtype="float32", trust_remote_code=True, engine_arg={"a": 1, "_tokenizer_b": 2})
    assert serialisation.get(llm, auto_import=True).tag == llm.tag
    assert seen == {"decls": (), "trust_remote_code": True, "dtype": "float32", "a": 1}
    assert llm.llm_parameters == (((), {"dtype": "float32", "a": 1}), {"b": 2})


def test_an_old_entry_of_an_llm_says_prune(home: StoreOptions) -> None:
    """An entry of an API version before ours is an error that names the command which clears it."""
    folder = Path(home.home) / "models" / "pt-old" / "v1"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text("name: pt-old\nversion: v1\napi_version: v1\nlabels: {framework: openllm}\n")
    with pytest.raises(StoreError, match=r"pt-old:v1") as caught:
        serialisation.get("pt-old:v1", home)
    assert "openllm prune -y --include-bentos" in (caught.value.hint or "")


def test_a_recorded_quantisation_reaches_the_engine(home: StoreOptions) -> None:
    """Starting a model that was imported with --quantize loads it so; a typed one wins."""
    from openllm.compose import build
    from openllm_core.options import EngineOptions, ServerOptions

    small.model_folder(Path("tiny"))
    openllm.import_model("./tiny", quantize="int8")
    found = serialisation.resolve("tiny", options=home)
    assert found.quantize == "int8" and "int8" in found.how
    for typed, loaded in ((None, "int8"), ("int4", "int4")):
        options = attrs.evolve(EngineOptions(backend="echo"), quantize=typed)
        assert build(options, ServerOptions(), found).engine.options.quantize == loaded
