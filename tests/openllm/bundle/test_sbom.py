"""The bill of materials: valid CycloneDX, every file of the model by its hash, every package by version and licence."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tests.openllm.serialisation import small

from openllm import serialisation
from openllm.bundle.sbom import SBOM_FILE, write_sbom
from openllm.serialisation.manifest import Manifest


@pytest.fixture
def model(tmp_path: Path) -> Manifest:
    """A stored model's manifest."""
    folder = small.model_folder(tmp_path / "Tiny")
    return serialisation.import_model(str(folder), options=small.options(tmp_path / "bentoml")).manifest


def written(folder: Path, *models: Manifest, **facts: Any) -> dict[str, Any]:
    """The document, checked against the schema and CycloneDX's own rules."""
    path = write_sbom(folder, name="llama-service", version="v1", models=models, **facts)
    assert path == folder / SBOM_FILE
    text = path.read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    return json.loads(text)


def test_it_names_every_file_of_the_model_by_its_hash(tmp_path: Path, model: Manifest) -> None:
    """The files a Bento carries can be compared with it; where the model was copied from is not told."""
    document = written(tmp_path, model)
    found = next(c for c in document["components"] if c["type"] == "machine-learning-model")
    hashes = {f["name"]: f["hashes"][0]["content"] for f in found["components"]}
    expected = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "Tiny").iterdir()}
    assert hashes == expected
    assert (found["name"], found["version"]) == ("Tiny", model.tag.partition(":")[2])
    parameters = {"architectureFamily": "llama", "modelArchitecture": "LlamaForCausalLM"}
    assert found["modelCard"]["modelParameters"] == parameters
    assert str(tmp_path) not in json.dumps(document)


def test_a_model_of_the_hub_has_its_address(tmp_path: Path, model: Manifest) -> None:
    """Organisation, name and commit stand where scanners look for them, and how it is loaded beside them."""
    facts = {"origin": "hub", "model_id": "Org/My.Model", "revision": "0123ABC", "quantize": "int8"}
    found = written(tmp_path, attrs.evolve(model, source="Org/My.Model", **facts))["components"][0]
    assert found["purl"] == "pkg:huggingface/Org/My.Model@0123abc"
    assert (found["group"], found["name"]) == ("Org", "My.Model")
    assert {"name": "openllm:quantize", "value": "int8"} in found["properties"]


def test_packages_have_version_licence_and_needs(tmp_path: Path, model: Manifest) -> None:
    """Each package that runs stands there once, with what it needs; the Bento needs them all."""
    document = written(tmp_path, model, requirements=["openllm-client"])
    libraries = {c["name"]: c for c in document["components"] if c["type"] == "library"}
    assert {"openllm-client", "openllm-core", "httpx", "attrs"} <= set(libraries)
    attrs_version = metadata.version("attrs")
    assert libraries["attrs"]["purl"] == f"pkg:pypi/attrs@{attrs_version}"
    assert libraries["attrs"]["licenses"] == [{"expression": "MIT"}]
    needs = {d["ref"]: d["dependsOn"] for d in document["dependencies"]}
    assert f"pkg:pypi/attrs@{attrs_version}" in needs[libraries["openllm-core"]["purl"]]
    assert set(needs["bento:llama-service:v1"]) >= {c["purl"] for c in libraries.values()}


def test_a_version_with_a_plus_is_escaped(tmp_path: Path, model: Manifest) -> None:
    """`2.13.0+cpu` is no legal version in a package URL as it stands."""
    torch = next(c for c in written(tmp_path, model)["components"] if c["name"] == "torch")
    assert torch["version"] == metadata.version("torch")
    assert torch["purl"] == "pkg:pypi/torch@" + torch["version"].replace("+", "%2B")


def test_adapters_are_in_it(tmp_path: Path, model: Manifest) -> None:
    """Each adapter by its name, with the hashes of its files."""
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    found = written(tmp_path, model, adapters={"legal": folder})["components"][1]
    assert found["name"] == "legal"
    assert found["components"][0]["hashes"][0]["content"] == hashlib.sha256(b"{}").hexdigest()
