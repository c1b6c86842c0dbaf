"""openllm.Runner and LLM over the pt backend, in this process: the store, the flags, and embeddings of tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny_models import sentence_encoder, tiny_checkpoint

from openllm import LLM, AutoLLM, Runner
from openllm_core.errors import InvalidRequest
from openllm_core.options import StoreOptions


@pytest.fixture
def home(tmp_path: Path) -> StoreOptions:
    """An empty store."""
    return StoreOptions(home=str(tmp_path / "store"))


def test_a_runner_imports_an_absent_model_once(checkpoints: Path, home: StoreOptions) -> None:
    """The first one brings the folder into the store; the next ones find it there and copy nothing; both generate."""
    folder = tiny_checkpoint("opt", checkpoints)
    models = Path(home.home) / "models"
    with Runner("opt", model_id=str(folder), backend="pt", embedded=True, store=home) as first:
        written = {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()}
        assert (first.name, first.llm_type, first.has_adapters) == ("llm-opt-runner", "opt", False)
        assert first.supports_embeddings and first.supports_hf_agent
        assert str(first.llm.resolved().path).startswith(str(models))
        text = first("two cores", max_new_tokens=4, temperature=0)
        vectors = first.embed(["one", "two cores"])
    second = Runner("opt", model_id=str(folder), backend="pt", embedded=True, store=home)
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()} == written
    assert second.llm_tag == first.llm_tag and [model.tag.name for model in second.models] == ["pt-opt"]
    with second:
        assert second("two cores", max_new_tokens=4, temperature=0) == text
        assert second.embed(["one", "two cores"]) == vectors
        assert len(vectors.embeddings[0]) == 32


@pytest.mark.parametrize(
    ("name", "embeds", "agent"), [("t5", True, True), ("chatglm", True, True), ("encoder", True, False)]
)
def test_flags(name: str, embeds: bool, agent: bool, checkpoints: Path, tmp_path: Path) -> None:
    """T5, a model with code of its own, and a sentence encoder: what is claimed is what works."""
    folder = sentence_encoder(tmp_path / name) if name == "encoder" else tiny_checkpoint(name, checkpoints)
    with LLM(str(folder), backend="pt", embedded=True, trust_remote_code=name == "chatglm") as llm:
        assert (llm.supports_embeddings, llm.supports_hf_agent) == (embeds, agent)
        found = llm.embeddings(["one", "two"])
        assert len(found.embeddings) == 2 and sum(x * x for x in found.embeddings[0]) == pytest.approx(1, abs=1e-5)
        if agent:
            assert set(llm.generate_one("one", max_new_tokens=2)[0]) == {"generated_text"}
        else:
            with pytest.raises(InvalidRequest, match="generates no text"):
                llm.generate("one")


def test_a_model_that_cannot_embed_falls_back_to_the_named_encoder(checkpoints: Path, tmp_path: Path) -> None:
    """`embedding_model` makes the vectors, whatever the model could do itself."""
    encoder = sentence_encoder(tmp_path / "encoder")
    with LLM(str(encoder), backend="pt", embedded=True) as reference:
        expected = reference.embed(["one", "two"])
    folder = tiny_checkpoint("llama", checkpoints)
    with LLM(str(folder), backend="pt", embedded=True, embedding_model=str(encoder)) as llm:
        assert llm.embed(["one", "two"]) == expected
        assert llm.generate("one", max_tokens=2).choices[0].token_ids


def test_a_version_is_the_stores(checkpoints: Path, home: StoreOptions) -> None:
    """`model_version` names the copy in the store, which is what runs."""
    folder = tiny_checkpoint("opt", checkpoints)
    llm = AutoLLM.for_model("opt", str(folder), "v7", store=home, backend="pt")
    assert llm.tag.endswith(":v7") and llm.resolved().family == "opt"
    available = AutoLLM.for_model("opt", str(folder), ensure_available=True, store=home, backend="pt")
    assert str(available.resolved().path).startswith(home.home)
