"""Conversions with torch and transformers: one in real children, the rest here, since each child imports for seconds."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.openllm.serialisation import gguf_models, small
from tokenizers import Tokenizer

from openllm.serialisation import convert, formats
from openllm_core.errors import CorruptModel, from_dict


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """bf16 tensors of a safetensors file as float32."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    assert {facts["dtype"] for facts in header.values()} == {"BF16"}
    found = {}
    for name, facts in header.items():
        start, end = facts["data_offsets"]
        half = np.frombuffer(raw[8 + length + start : 8 + length + end], np.uint16).astype(np.uint32)
        found[name] = (half << 16).view(np.float32).reshape(facts["shape"])
    return found


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What becomes of the tiny GGUF file."""
    folder = tmp_path_factory.mktemp("gguf")
    out = folder / "out"
    out.mkdir()
    formats.convert_gguf(gguf_models.write(folder / "tiny.gguf"), out)
    return out


def test_the_weights_are_the_files(converted: Path) -> None:
    """bf16 safetensors under transformers' names with the file's numbers; nothing else is left in the folder."""
    found = tensors(converted / "model.safetensors")
    count = gguf_models.LAYERS * 9 + 2
    assert len(found) == count
    embedding = found["model.embed_tokens.weight"]
    flat = ((np.arange(embedding.size) * 37 + len("token_embd.weight")) % 61 - 30).astype(np.float32) / 64
    assert np.array_equal(embedding, flat.reshape(embedding.shape))
    assert not [p for p in converted.iterdir() if p.name.startswith(".") or p.suffix == ".gguf"]
    formats.check_weights(formats.inspect(converted))


def test_the_configuration_is_the_files(converted: Path) -> None:
    """Architecture, sizes and context length; no trace of where it was made."""
    config = read(converted / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["num_hidden_layers"]) == (gguf_models.HIDDEN, gguf_models.LAYERS)
    assert config["max_position_embeddings"] == 64 and config["tie_word_embeddings"] is True
    assert str(converted.parent) not in (converted / "config.json").read_text()


def test_the_tokenizer_is_the_files(converted: Path) -> None:
    """Same ids, control tokens whole, digits one by one as this vocabulary was trained, and text comes back."""
    tokenizer = Tokenizer.from_file(str(converted / "tokenizer.json"))
    tokens, _ = gguf_models.vocabulary()
    assert [tokenizer.token_to_id(t) for t in tokens] == list(range(len(tokens)))
    assert tokenizer.encode("<|im_start|>hell<|im_end|>").ids == [1, tokens.index("hell"), 2]
    assert tokenizer.encode(" 20").tokens == ["Ġ", "2", "0"]
    text = "hello wörld 2026 \N{SLIGHTLY SMILING FACE}\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_template_ends_and_specials_are_the_files(converted: Path) -> None:
    """Chat template and special tokens in tokenizer_config.json, every end of turn in generation_config.json."""
    config = read(converted / "tokenizer_config.json")
    assert config["chat_template"] == gguf_models.TEMPLATE
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert config["model_max_length"] == 64 and config["add_bos_token"] is False
    generation = read(converted / "generation_config.json")
    assert generation["eos_token_id"] == [2] and generation["bos_token_id"] == 1 and generation["pad_token_id"] == 2
    assert "_from_model_config" not in generation


def test_the_templates_end_of_turn_stops_generation_too(tmp_path: Path) -> None:
    """Where the file's eos is another token, the token that ends a turn in the template is added to it."""
    assert convert.main(["tokenizer", str(gguf_models.write(tmp_path / "t.gguf", eos=0)), str(tmp_path)]) == 0
    assert read(tmp_path / "generation_config.json")["eos_token_id"] == [0, 2]


def test_a_file_without_vocab_size_is_converted_whole(tmp_path: Path) -> None:
    """The size of the vocabulary is then the number of tokens."""
    assert convert.main(["weights", str(gguf_models.write(tmp_path / "t.gguf", vocab_size=False)), str(tmp_path)]) == 0
    assert read(tmp_path / "config.json")["vocab_size"] == len(gguf_models.vocabulary()[0])


@pytest.mark.parametrize("damage", ["cut", "tensor missing", "not gguf", "unknown architecture"])
def test_a_damaged_gguf_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    """Whatever a parser raises becomes CorruptModel on one line of stdout, exit code 1; a weight never stays random."""
    path = gguf_models.write(tmp_path / "bad.gguf")
    whole = path.read_bytes()
    changed = {
        "cut": whole[:-5000],
        "tensor missing": whole.replace(b"blk.1.ffn_up.weight", b"blk.7.ffn_up.weight"),
        "not gguf": b"nothing",
        "unknown architecture": whole.replace(b"llama", b"lxama"),
    }
    path.write_bytes(changed[damage])
    assert convert.main(["weights", str(path), str(tmp_path)]) == 1
    error = from_dict(json.loads(capsys.readouterr().out.strip().splitlines()[-1]))
    assert type(error) is CorruptModel and "\n" not in error.message
    assert not (tmp_path / "model.safetensors").exists()


def test_a_slow_tokenizer_gets_its_tokenizer_json(tmp_path: Path) -> None:
    """vocab.json and merges.txt alone become a tokenizer.json that splits the same way."""
    folder = small.model_folder(tmp_path / "m", config={"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    (folder / "tokenizer.json").unlink()
    tokens, merges = gguf_models.vocabulary()
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    assert convert.main(["tokenizer", str(folder), str(tmp_path)]) == 0
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("hell").ids == [tokens.index("hell")]
