"""Tokenizer: files in, ids and text out, and streams that equal one-shot decoding."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from openllm.tokenizer import ByteLevelDetokenizer, Tokenizer, WindowDetokenizer, byte_tokenizer
from openllm_core.errors import CorruptModel, ModelNotFound

CORPUS = [
    "The capital of France is Paris.",
    "naïve café, Ünïcödé — “quoted” 日本語 テキスト 한국어 🙂👩‍👩‍👧",
    "  two  spaces\n\tand a tab, don't stop ##now",
] * 3


def byte_level() -> tokenizers.Tokenizer:
    """A small byte-level BPE like GPT-2's, with a special and a plain added token."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|end|>"]
    )
    inner.train_from_iterator(CORPUS, trainer)
    inner.add_tokens(["plain added", "é"])
    return inner


def metaspace() -> tokenizers.Tokenizer:
    """A small unigram like T5's."""
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=180, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    inner.train_from_iterator(CORPUS, trainer)
    return inner


def byte_fallback() -> tokenizers.Tokenizer:
    """A small sentencepiece-style BPE like Llama 2's: blanks as ▁, unknown characters as <0xXX>."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "é", "▁a", "▁b", "▁▁", "."]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    inner = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[("▁", "a"), ("▁", "b"), ("▁", "▁")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<s>", "</s>"])
    return inner


def word_piece() -> tokenizers.Tokenizer:
    """A small WordPiece like BERT's, which joins with blanks and ##."""
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=180, special_tokens=["[UNK]", "[SEP]"])
    inner.train_from_iterator(CORPUS, trainer)
    return inner


KINDS = {
    "bytes": byte_tokenizer,
    "byte_level": lambda: Tokenizer(byte_level()),
    "metaspace": lambda: Tokenizer(metaspace()),
    "byte_fallback": lambda: Tokenizer(byte_fallback()),
    "word_piece": lambda: Tokenizer(word_piece()),
}


@cache
def made(kind: str) -> Tokenizer:
    return KINDS[kind]()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_stream_equals_one_shot(kind: str, data: st.DataObject) -> None:
    """Whatever the ids and however they are split, pushes and flush together are the one-shot text."""
    tokenizer = made(kind)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=8).map(sorted))
    stream, text = tokenizer.detokenizer(), ""
    for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        text += stream.push(ids[start:end])
    assert text + stream.flush() == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.text(max_size=40), st.sampled_from(CORPUS)))
def test_no_broken_characters_on_the_way(kind: str, text: str) -> None:
    """Ids of real text never stream a U+FFFD that the text does not have, and never take back what was sent."""
    tokenizer = made(kind)
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    stream, sent = tokenizer.detokenizer(), ""
    for token in ids:
        sent += stream.push([token])
        assert whole.startswith(sent)
    assert sent + stream.flush() == whole


def test_the_fast_path_is_for_byte_level_alone() -> None:
    """Only a tokenizer whose decoder is ByteLevel gets the table; every other goes through its own decoder."""
    assert isinstance(made("byte_level").detokenizer(), ByteLevelDetokenizer)
    assert isinstance(made("metaspace").detokenizer(), WindowDetokenizer)
    wrapped = byte_level()
    wrapped.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    assert isinstance(Tokenizer(wrapped).detokenizer(), WindowDetokenizer)


def test_text_comes_as_soon_as_it_is_whole() -> None:
    """A character of four byte tokens appears with its last one, others at once."""
    tokenizer = byte_tokenizer()
    stream = tokenizer.detokenizer()
    assert [stream.push([b]) for b in "a🙂b".encode()] == ["a", "", "", "", "🙂", "b"]


def test_special_tokens_have_no_text() -> None:
    """Special tokens are left out of streams and of decode, and kept on request."""
    tokenizer = made("byte_level")
    ids = tokenizer.encode("a<|end|>b")
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<|end|>b"
    stream = tokenizer.detokenizer()
    assert "".join(stream.push([i]) for i in ids) == "ab"


@pytest.mark.parametrize("kind", KINDS)
def test_token_bytes_join_to_the_text(kind: str) -> None:
    """The bytes of single tokens are those of the text, up to the blank in front that decoders drop."""
    if kind == "word_piece":
        assert made(kind).token_bytes(0) == b"[UNK]"
        return
    tokenizer = made(kind)
    text = "a b ü 🙂" if kind in ("bytes", "byte_level", "byte_fallback") else "The capital"
    joined = b"".join(tokenizer.token_bytes(i) for i in tokenizer.encode(text))
    assert joined.decode().removeprefix(" ") == text


def test_unknown_ids_are_harmless() -> None:
    """Ids outside the vocabulary have no bytes and no text."""
    for kind in KINDS:
        tokenizer = made(kind)
        assert tokenizer.token_bytes(10**6) == b""
        assert tokenizer.token_text(-5) == ""
        assert tokenizer.detokenizer().push([10**6]) == ""


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_max_token_bytes_bounds_the_count(text: str) -> None:
    """No text has fewer tokens than its bytes divided by `max_token_bytes`."""
    tokenizer = made("byte_level")
    assert tokenizer.max_token_bytes is not None
    assert len(tokenizer.encode(text)) * tokenizer.max_token_bytes >= len(text.encode())


def test_no_bound_where_text_can_shrink() -> None:
    """Tokenizers that normalise or fuse unknown characters promise no bound."""
    assert made("metaspace").max_token_bytes is None
    assert made("byte_fallback").max_token_bytes is None


def folder(path: Path, **files: Any) -> Path:
    byte_level().save(str(path / "tokenizer.json"))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return path


def test_from_folder_reads_what_models_bring(tmp_path: Path) -> None:
    """Special tokens, end tokens of three files, and the template are found."""
    path = folder(
        tmp_path,
        tokenizer_config__json={"eos_token": {"content": "<|end|>"}, "pad_token": "é", "chat_template": "T"},
        config__json={"eos_token_id": 7},
        generation_config__json={"eos_token_id": [8, 7]},
    )
    tokenizer = Tokenizer.from_folder(path)
    assert tokenizer.special_tokens == {"eos_token": "<|end|>", "pad_token": "é"}
    assert tokenizer.eos_token_ids == (0, 7, 8)
    assert tokenizer.chat_template == "T"


def test_template_file_goes_first(tmp_path: Path) -> None:
    """chat_template.jinja beats the configuration; of a list the one named default is taken."""
    many = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    path = folder(tmp_path, tokenizer_config__json={"chat_template": many})
    assert Tokenizer.from_folder(path).chat_template == "plain"
    (path / "chat_template.jinja").write_text("file")
    assert Tokenizer.from_folder(path).chat_template == "file"


def test_saved_truncation_and_padding_are_off(tmp_path: Path) -> None:
    """A tokenizer.json saved with truncation or padding still gives all tokens and no others."""
    inner = byte_level()
    inner.enable_truncation(2)
    inner.enable_padding(length=50)
    inner.save(str(tmp_path / "tokenizer.json"))
    ids = Tokenizer.from_folder(tmp_path).encode("one two three four five")
    assert 2 < len(ids) < 50


def test_missing_and_broken_files(tmp_path: Path) -> None:
    """No tokenizer.json, or one that is not what it says, is one clear error."""
    with pytest.raises(ModelNotFound, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptModel, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    folder(tmp_path, tokenizer_config__json="[1]")
    with pytest.raises(CorruptModel, match="not a JSON object"):
        Tokenizer.from_folder(tmp_path)
