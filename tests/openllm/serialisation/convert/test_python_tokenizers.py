"""Real tokenizers that exist as Python code alone: ByT5's and CTRL's of transformers, and one of a model's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tiny_models import tiny_checkpoint
from transformers import AutoTokenizer

from openllm.backends.base import BackendRequest, SequenceDelta, StepOutput, TokenSampling
from openllm.engine.text import HostText
from openllm.python_tokenizer import HostTokenizer, PythonTokenizer
from openllm.serialisation import open_tokenizer
from openllm_core.errors import CorruptModel

TEXT = "naïve — 日本語 🙂 two  blanks"


def in_pieces(tokenizer: PythonTokenizer, ids: list[int]) -> str:
    """Text of ids as it comes, one by one."""
    host, text = HostText(tokenizer), ""
    host.submit([BackendRequest("a", [1], TokenSampling(max_tokens=99))])
    for at, token_id in enumerate(ids):
        reason = "length" if at == len(ids) - 1 else None
        (delta,) = host.with_text(StepOutput([SequenceDelta("a", [token_id], reason)])).deltas
        assert delta.text is not None
        text += "".join(delta.text.pieces)
    return text


def test_byt5(tmp_path: Path) -> None:
    """No file at all: ids are bytes, and text that comes byte by byte is the same text."""
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}')
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert isinstance(open_tokenizer(tmp_path), HostTokenizer)
    tokenizer = PythonTokenizer.open(tmp_path)
    ids = tokenizer.encode(TEXT)
    assert ids == [byte + 3 for byte in TEXT.encode()] + [1]
    assert tokenizer.eos_token_ids == (1,)
    assert tokenizer.decode(ids) == in_pieces(tokenizer, ids) == TEXT


def test_a_slow_class_of_transformers(tmp_path: Path) -> None:
    """CTRL's has vocabulary files and no form that tokenizer.json can hold: found out by the child, used in the host."""
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "ctrl"}')
    (tmp_path / "vocab.json").write_text(json.dumps({"<unk>": 0, "h@@": 1, "i": 2, "o": 3}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    assert isinstance(open_tokenizer(tmp_path), HostTokenizer)
    assert not (tmp_path / "tokenizer.json").exists()
    tokenizer = PythonTokenizer.open(tmp_path)
    ids = tokenizer.encode("hi ho hi")
    stock = AutoTokenizer.from_pretrained(tmp_path)
    assert ids == stock("hi ho hi")["input_ids"] == [1, 2, 1, 3, 1, 2]
    assert in_pieces(tokenizer, ids) == stock.decode(ids) == "hi ho hi"


def test_a_class_of_a_models_own(tmp_path: Path) -> None:
    """Only trusted; what is random bytes comes out as one-shot decoding has it."""
    folder = tiny_checkpoint("chatglm", tmp_path)
    with pytest.raises(CorruptModel, match="chatglm cannot be made"):
        PythonTokenizer.open(folder)
    tokenizer = PythonTokenizer.open(folder, trust_remote_code=True)
    ids = tokenizer.encode(TEXT)
    assert ids[0] == 1 and tokenizer.decode(ids) == in_pieces(tokenizer, ids) == TEXT
    scattered = [4 + (at * at * 37 + 11) % 256 for at in range(200)]
    assert in_pieces(tokenizer, scattered) == tokenizer.decode(scattered)
