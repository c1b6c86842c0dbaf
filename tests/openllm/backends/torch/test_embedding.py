"""Embeddings of the pt backend: equal to sentence-transformers', the same in a batch as alone, pooled as the model says."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import torch
from tests.openllm.backends.torch.conftest import MakeScheduler
from tests.openllm.engine.test_embedding import engine_of
from tests.tiny_models import CONTEXT, sentence_encoder, tiny_checkpoint, write_pooling

from openllm.backends import checkpoint, sentence
from openllm.backends.torch import embedding, launch, load
from openllm.backends.torch.backend import TorchBackend
from openllm.backends.torch.encoder import EncoderBackend
from openllm.backends.torch.model import LoadedModel
from openllm.embedding_model import embedder_of, maker_of
from openllm.engine.supervisor import launch_embedded
from openllm.tokenizer import byte_tokenizer
from openllm_core.errors import CorruptModel, UnsupportedFeature
from openllm_core.options import EngineOptions, StoreOptions

TEXTS = [[5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8, 9], [42], [9, 8]]


def reference(folder: Path, batch: Sequence[list[int]], pooling: str = "mean") -> torch.Tensor:
    """Vectors by sentence-transformers' own modules, one text at a time, so that nothing is padded."""
    import transformers
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    config = json.loads((folder / "config.json").read_text())
    trusted = "auto_map" in config
    body = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=trusted)
    body = body.get_encoder() if config.get("is_encoder_decoder") else body.base_model
    pool, normalise = Pooling(config.get("hidden_size") or config.get("d_model"), pooling), Normalize()
    found: list[torch.Tensor] = []
    with torch.inference_mode():
        for ids in batch:
            mask = torch.ones(1, len(ids), dtype=torch.long)
            hidden = body(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state
            if config["model_type"] == "chatglm":
                hidden = hidden.transpose(0, 1)
            features = pool({"token_embeddings": hidden, "attention_mask": mask})
            found.append(normalise(features)["sentence_embedding"][0])
    return torch.stack(found)


def closeness(ours: list[list[float]], theirs: torch.Tensor) -> float:
    """Largest difference of two numbers."""
    return float((torch.tensor(ours) - theirs).abs().max())


def body_of(model: LoadedModel) -> embedding.TextEncoder:
    """Its encoder, which it has."""
    found = embedding.encoder_of(model)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["llama", "opt", "gpt_neox", "t5", "bart", "chatglm"])
def test_a_model_that_generates_embeds_as_sentence_transformers_does(
    name: str, make_scheduler: MakeScheduler, checkpoints: Path
) -> None:
    """Mean of the last hidden states over a text's own tokens, of length one; decoders, T5, ChatGLM's own code."""
    vectors = embedding.embed(body_of(make_scheduler(name).model), TEXTS)
    assert closeness(vectors, reference(tiny_checkpoint(name, checkpoints), TEXTS)) < 1e-5
    for vector in vectors:
        assert math.sqrt(sum(x * x for x in vector)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_text_has_the_same_vector_in_any_batch(name: str, make_scheduler: MakeScheduler) -> None:
    """Padding and neighbours change nothing, order is kept, and different texts differ."""
    encoder = body_of(make_scheduler(name).model)
    together = embedding.embed(encoder, TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        assert embedding.embed(encoder, [text])[0] == pytest.approx(vector, abs=1e-5)
    for vector, same in zip(embedding.embed(encoder, TEXTS[::-1]), together[::-1], strict=True):
        assert vector == pytest.approx(same, abs=1e-5)
    assert together[0] != pytest.approx(together[1], abs=1e-2)


@pytest.mark.parametrize(("name", "device_type"), [("llama", "cpu"), ("t5", "cpu"), ("chatglm", "cpu")])
async def test_a_model_can_be_loaded_for_its_embeddings_alone(name: str, device_type: str, checkpoints: Path) -> None:
    """The second engine of a model gives the vectors that the generating one gives, and cannot generate."""
    folder = tiny_checkpoint(name, checkpoints)
    options = EngineOptions(model_path=str(folder), device="cpu", embed_only=True, trust_remote_code=True)
    backend = load(options, lambda text, share: None)
    assert isinstance(backend, EncoderBackend)
    assert backend.info.capabilities.embed and not backend.info.capabilities.generate
    assert backend.info.device == device_type
    assert closeness(await backend.embed(TEXTS), reference(folder, TEXTS)) < 1e-5
    await backend.aclose()


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "max"])
async def test_a_sentence_encoder_is_pooled_as_its_files_say(pooling: str, tmp_path: Path) -> None:
    """1_Pooling/config.json of sentence-transformers decides, and `max_seq_length` bounds the texts."""
    folder = sentence_encoder(tmp_path / "encoder", pooling=pooling, max_tokens=16)
    backend = load(EngineOptions(model_path=str(folder), device="cpu"), lambda text, share: None)
    assert isinstance(backend, EncoderBackend) and backend.info.max_prompt_len == 16
    assert closeness(await backend.embed(TEXTS), reference(folder, TEXTS, pooling)) < 1e-5
    with pytest.raises(UnsupportedFeature):
        await backend.load_adapter("a", "b")
    await backend.aclose()


def test_an_encoder_without_such_files_is_pooled_by_the_mean(tmp_path: Path) -> None:
    """A plain BERT folder; RoBERTa's positions begin behind its padding id, so two fewer tokens fit."""
    folder = sentence_encoder(tmp_path / "encoder")
    (folder / "modules.json").unlink()
    assert sentence.describe(checkpoint.read(folder)) == sentence.SentenceEncoder(max_tokens=CONTEXT)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "roberta"}
    (folder / "config.json").write_text(json.dumps(config))
    found = checkpoint.read(folder)
    assert sentence.embeds_only(found) and sentence.describe(found).max_tokens == CONTEXT - 2


@pytest.mark.parametrize(
    ("pooling", "extra", "says"),
    [("weightedmean", [], "weightedmean"), ("mean", ["sentence_transformers.models.Dense"], "Dense")],
)
def test_what_we_cannot_do_is_refused_by_name(pooling: str, extra: list[str], says: str, tmp_path: Path) -> None:
    """A pooling or a layer that would give other vectors is refused instead of left out."""
    folder = sentence_encoder(tmp_path / "encoder", pooling=pooling, more_modules=extra)
    with pytest.raises(UnsupportedFeature, match=says):
        load(EngineOptions(model_path=str(folder), device="cpu"), lambda text, share: None)


@pytest.fixture
def decoder(checkpoints: Path, tmp_path: Path) -> Path:
    """A tiny model that generates, as sentence-transformers saves one: pooled by the last token."""
    folder = shutil.copytree(tiny_checkpoint("llama", checkpoints), tmp_path / "decoder")
    return write_pooling(folder, pooling="lasttoken")


async def test_a_decoder_is_pooled_as_its_files_say(decoder: Path) -> None:
    """The engine that generates gives the vectors the model was trained for, and says how it pools."""
    backend = load(EngineOptions(model_path=str(decoder), device="cpu"), lambda text, share: None)
    assert isinstance(backend, TorchBackend) and "pooling: lasttoken" in backend.info.decisions
    assert closeness(await backend.embed(TEXTS), reference(decoder, TEXTS, "lasttoken")) < 1e-5
    await backend.aclose()


@pytest.mark.parametrize("broken", [False, True])
async def test_a_decoder_whose_vectors_need_more_has_none_of_its_own(broken: bool, decoder: Path) -> None:
    """A layer behind the pooling, or files that say nothing, cost it its embeddings alone: it still generates."""
    if broken:
        (decoder / "1_Pooling" / "config.json").write_text("{")
    else:
        shutil.rmtree(decoder / "1_Pooling")
        write_pooling(decoder, pooling="lasttoken", more_modules=["sentence_transformers.models.Dense"])
    options = EngineOptions(model_path=str(decoder), device="cpu", backend="pt")
    assert launch.embeds(options) is False and maker_of(options) == "encoder"
    backend = load(options, lambda text, share: None)
    assert backend.info.capabilities.generate and not backend.info.capabilities.embed
    (said,) = [line for line in backend.info.decisions if line.startswith("embeddings: none")]
    assert ("config.json" if broken else "'Dense'") in said
    with pytest.raises(UnsupportedFeature):
        await backend.embed(TEXTS)
    await backend.aclose()


@pytest.mark.parametrize(("name", "left_out"), [("query", True), (None, False), ("absent", False)])
async def test_a_prompt_that_is_left_out_is_told(name: str | None, left_out: bool, tmp_path: Path) -> None:
    """Texts are embedded as they are; where sentence-transformers would put words before them, the start says which."""
    folder = sentence_encoder(tmp_path / "encoder")
    config = {"prompts": {"query": "search: ", "document": ""}, "default_prompt_name": name}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    backend = load(EngineOptions(model_path=str(folder), device="cpu"), lambda text, share: None)
    assert any("'search: '" in line for line in backend.info.decisions) == left_out
    await backend.aclose()


async def test_a_model_whose_code_has_no_embeddings_leaves_them_to_the_encoder(
    checkpoints: Path, tmp_path: Path
) -> None:
    """Beside an engine that only generates the model itself is tried first; loading it tells, and the encoder takes over."""
    folder = shutil.copytree(tiny_checkpoint("chatglm", checkpoints), tmp_path / "headless")
    code = folder / "modeling_chatglm.py"
    code.write_text(code.read_text().replace('base_model_prefix = "transformer"', 'base_model_prefix = "absent"'))
    options = EngineOptions(backend="vllm", model_path=str(folder), device="cpu", trust_remote_code=True)
    assert maker_of(options) == "same model"
    serving = engine_of()
    await serving.start()
    await serving.wait_ready(30)
    embedder = embedder_of(serving, options, byte_tokenizer(), StoreOptions(home=str(tmp_path)), launch_embedded)
    assert embedder.name is None and embedder.second.otherwise is not None
    assert embedder.second.otherwise.name == "sentence-transformers/all-MiniLM-L6-v2"
    instead = attrs.evolve(embedder.second.otherwise, make=lambda: engine_of(embed=3))
    embedder.second = attrs.evolve(embedder.second, otherwise=instead)
    found = await embedder.embed(["one", "two"])
    assert [len(vector) for vector in found.vectors] == [3, 3]
    assert embedder.name == "sentence-transformers/all-MiniLM-L6-v2" and embedder.available
    await embedder.aclose()
    await serving.aclose()


def test_broken_files_are_told_by_name(tmp_path: Path) -> None:
    """A modules.json that is no JSON, or no list of modules, is CorruptModel."""
    folder = sentence_encoder(tmp_path / "encoder")
    for text in ("[", "{}", '["Pooling"]'):
        (folder / "modules.json").write_text(text)
        with pytest.raises(CorruptModel, match=r"modules\.json"):
            sentence.describe(checkpoint.read(folder))


def test_the_estimate_of_an_encoder_has_no_cache(checkpoints: Path, tmp_path: Path) -> None:
    """Weights and libraries alone; the same model needs more when it is to generate."""
    folder = sentence_encoder(tmp_path / "encoder")
    found = launch.estimate(EngineOptions(model_path=str(folder), device="cpu"))
    assert set(found.parts) == {"weights", "runtime"} and found.bytes_per_token == 0
    llama = EngineOptions(model_path=str(tiny_checkpoint("llama", checkpoints)), device="cpu")
    alone = EngineOptions(model_path=llama.model_path, device="cpu", embed_only=True)
    assert launch.estimate(alone).need_bytes < launch.estimate(llama).need_bytes


def test_long_texts_are_computed_apart_from_short_ones() -> None:
    """Groups hold about as many tokens each, the longest texts first, every text once."""
    encoder = embedding.TextEncoder(body=None, device=torch.device("cpu"))
    lengths = [3, 2000, 5, 4000, 1, 7] * 20
    groups = encoder.groups(lengths)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * lengths[group[0]] <= 2048 for group in groups)
    assert [lengths[group[0]] for group in groups] == sorted((lengths[g[0]] for g in groups), reverse=True)
