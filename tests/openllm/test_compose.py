"""`build` wires the parts by what the options and the model say, and starts nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openllm.backends import registry as backends
from openllm.compose import build, served_names, unknown_family
from openllm.engine.engine import Engine
from openllm.serialisation import ResolvedModel
from openllm.tokenizer import byte_tokenizer
from openllm_core.errors import UnknownBackend, UnknownModel
from openllm_core.options import EngineOptions, ServerOptions
from openllm_core.resources import detect


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a tokenizer and nothing else."""
    byte_tokenizer().inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    return tmp_path


def resolved(folder: Path, family: str | None) -> ResolvedModel:
    """The folder as the store would hand it over."""
    return ResolvedModel(
        path=folder, model_id="org/tiny", served_name="tiny", family=family, architecture="LlamaForCausalLM", how="test"
    )


def test_echo_needs_no_model() -> None:
    """The echo backend serves under its own name, and nothing runs before it is started."""
    composed = build(EngineOptions(backend="echo"), ServerOptions())
    assert composed.service.model.names == ("echo",) and composed.service.model.family is None
    assert composed.engine.state == "loading" and composed.engine.host_pid is None


def test_a_model_fills_in_names_family_and_configuration(folder: Path) -> None:
    """Names come from the resolved model, configuration from its family; no path is ever a name."""
    composed = build(EngineOptions(backend="echo"), ServerOptions(), resolved(folder, "smollm"))
    model = composed.service.model
    assert model.names == ("tiny",) and model.model_id == "org/tiny"
    assert model.family is not None and model.family.name == "smollm"
    metadata = composed.service.metadata()
    assert (metadata.model_name, metadata.family, metadata.model_id) == ("llama", "smollm", "org/tiny")
    assert str(folder) not in repr(metadata)
    assert (
        json.loads(metadata.configuration)["generation_config"]["temperature"] == model.family.generation["temperature"]
    )


def test_a_model_of_no_known_family_gets_no_recommendations(folder: Path) -> None:
    """An unknown family is served with neutral defaults."""
    composed = build(EngineOptions(backend="echo"), ServerOptions(), resolved(folder, None))
    assert composed.service.model.family is None
    assert composed.service.metadata().family == ""
    assert composed.service.model.config["temperature"] == 1.0
    assert unknown_family().generation == {}


def test_family_defaults_that_the_backend_cannot_do_are_told(folder: Path) -> None:
    """One line per default that is put back to neutral."""
    composed = build(EngineOptions(backend="echo"), ServerOptions(), resolved(folder, "falcon"))
    assert any("num_beams" in note for note in composed.notes)
    assert composed.service.model.config["num_beams"] == 1


def test_served_names_are_unique_and_ordered(folder: Path) -> None:
    """Names asked for replace the model's own; the first stays first; a repeated one counts once."""
    model = resolved(folder, None)
    assert served_names(ServerOptions(), model) == ("tiny",)
    assert served_names(ServerOptions(served_model_name=("b", "a", "b")), model) == ("b", "a")


def test_other_backends_need_a_model() -> None:
    """Without a model only echo can be served; an unknown backend is named."""
    with pytest.raises(UnknownModel):
        build(EngineOptions(backend="pt"), ServerOptions())
    with pytest.raises(UnknownBackend):
        build(EngineOptions(backend="nonsense"), ServerOptions())


def test_two_servers_in_one_process_count_apart() -> None:
    """Each composition has its own metrics registry."""
    first, second = (build(EngineOptions(backend="echo"), ServerOptions()) for _ in range(2))
    first.engine.metrics.generation_tokens += 5
    assert second.engine.metrics.generation_tokens == 0


def test_devices_of_worker_0_reach_the_hosts_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--workers-per-resource 0.5` on GPUs 0,1,2: the host sees 0 and 1, and no other."""
    gpus = [detect.Gpu(index=i, uuid=f"GPU-{i}", name="A", memory_total_bytes=1, memory_free_bytes=1) for i in range(3)]
    found = detect.Machine(cores=2, memory_total_bytes=1, memory_available_bytes=1, gpus=tuple(gpus))
    monkeypatch.setattr(detect, "machine", lambda: found)
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    options = EngineOptions(backend="echo", device="0,1,2")
    engine = build(options, ServerOptions(workers_per_resource="0.5")).engine
    assert isinstance(engine, Engine)
    environment = backends.get("pt").environment(engine.options, found)
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "HIP_VISIBLE_DEVICES" not in environment
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0,1,2")
    assert backends.get("pt").environment(engine.options, found)["HIP_VISIBLE_DEVICES"] == "0,1"
