"""Text to token ids and back, straight from `tokenizer.json`: no transformers, nothing heavy in the server process.

The engine encodes and decodes through it; the chat renderer reads its template and special tokens; `byte_tokenizer`
stands in where there is no model folder (echo). It must not know of requests, backends or HTTP.
"""

from __future__ import annotations

import codecs
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from openllm_core.errors import CorruptModel, ModelNotFound

SPECIAL_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
REPLACEMENT = "\ufffd"
MAX_JSON_BYTES = 256 * 1024 * 1024


class Detokenizer(Protocol):
    """Turns one sequence's ids into text as they come."""

    def push(self, ids: list[int]) -> str:
        """Text that is certain now; never part of a character."""
        ...

    def flush(self) -> str:
        """What is left at the end; all pushes and the flush together equal `Tokenizer.decode` of all ids."""
        ...


class Decoder(Protocol):
    """What `WindowDetokenizer` asks of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids left out of the text."""
        ...

    def knows(self, token_id: int) -> bool:
        """Whether an id stands for a token."""
        ...

    def is_byte_token(self, token_id: int) -> bool:
        """True for a token that is one raw byte of a character."""
        ...

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of ids in one shot."""
        ...


class Tokenizer:
    """One model's tokenizer with what its configuration files say about it.

    Attributes:
        vocab_size: ids including added tokens.
        chat_template: Jinja source, None when the model has none.
        special_tokens: `bos_token`, `eos_token`, … -> text, those the model names.
        eos_token_ids: of tokenizer, config and generation config together, sorted.
        max_token_bytes: no token stands for more bytes of text; None where that cannot be said. Bounds the number of
            tokens of a text from below, before it is tokenised.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        *,
        special_tokens: dict[str, str] | None = None,
        eos_token_ids: tuple[int, ...] = (),
        chat_template: str | None = None,
    ) -> None:
        inner.no_truncation()
        inner.no_padding()
        self.inner = inner
        self.special_tokens = dict(special_tokens or {})
        present = [t for t in self.special_tokens.values() if inner.token_to_id(t) is not None]
        _add_special(inner, present)
        self.chat_template = chat_template
        self.eos_token_ids = eos_token_ids
        self.vocab_size: int = inner.get_vocab_size(with_added_tokens=True)
        added = inner.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self._added = {i: token.content for i, token in added.items()}
        description: dict[str, Any] = json.loads(inner.to_str())
        self._kind = _decoder_kinds(description.get("decoder"))
        self.is_byte_level = self._kind == ("ByteLevel",)
        self._bytes = self._byte_table() if self.is_byte_level else None
        self._shown: dict[tuple[str, ...], list[bytes]] = {}
        lossless = self._bytes is not None and description.get("normalizer") is None
        self.max_token_bytes = max(map(len, self._bytes)) if lossless and self._bytes else None

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Read `tokenizer.json` and the configuration files beside it.

        Raises:
            ModelNotFound: the folder has no `tokenizer.json`.
            CorruptModel: a file is not what it should be.
        """
        folder = Path(path)
        source = folder / "tokenizer.json"
        if not source.is_file():
            raise ModelNotFound(
                f"{folder.name} has no tokenizer.json.", hint="Import the model again: `openllm import` writes one."
            )
        try:
            inner = tokenizers.Tokenizer.from_file(str(source))
        except Exception as error:  # the library raises bare Exception
            raise CorruptModel(f"tokenizer.json of {folder.name} cannot be read: {str(error)[:200]}") from error
        special, eos, template = config_facts(folder)
        named = inner.token_to_id(special["eos_token"]) if "eos_token" in special else None
        if named is not None:
            eos = tuple(sorted({*eos, named}))
        return cls(inner, special_tokens=special, eos_token_ids=eos, chat_template=template)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; releases the GIL, so a thread may do it."""
        return self.inner.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, special tokens added; uses the cores there are and releases the GIL."""
        return [found.ids for found in self.inner.encode_batch(list(texts))]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of ids in one shot; bytes that form no character become U+FFFD."""
        return self.inner.decode(ids, skip_special_tokens=skip_special_tokens)

    def detokenizer(self, shown: tuple[str, ...] = ()) -> Detokenizer:
        """A fresh one for one sequence; special tokens are left out, save those whose text is among `shown`."""
        if self._bytes is not None:
            return ByteLevelDetokenizer(self._showing(shown) if shown else self._text_bytes)
        return WindowDetokenizer(self, frozenset(i for i in self.special_ids if self._added.get(i) in shown))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for, special tokens as their own text; empty for an unknown id."""
        if self._bytes is not None:
            return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""
        token = self.inner.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            return b""
        if token_id not in self._added:
            if (byte := fallback_byte(token)) is not None and "ByteFallback" in self._kind:
                return bytes([byte])
            if "Metaspace" in self._kind or "Replace" in self._kind:
                return token.replace("▁", " ").encode()
        return token.encode()

    def knows(self, token_id: int) -> bool:
        """Whether an id stands for a token; models have columns that no token uses."""
        return self.inner.id_to_token(token_id) is not None

    def token_text(self, token_id: int) -> str:
        """A token on its own, for people; bytes that form no character show as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def is_byte_token(self, token_id: int) -> bool:
        """True for a token that is one raw byte of a character (`<0xE2>`), whose text depends on its neighbours."""
        token = self.inner.id_to_token(token_id) if token_id not in self._added else None
        return token is not None and fallback_byte(token) is not None and "ByteFallback" in self._kind

    def _byte_table(self) -> list[bytes]:
        """id -> bytes, as the ByteLevel decoder maps each token by itself."""
        alphabet = _byte_level_alphabet()
        table: list[bytes] = []
        for token_id in range(max([self.vocab_size, *(i + 1 for i in self._added)])):
            token = self._added.get(token_id)
            if token is None:
                token = self.inner.id_to_token(token_id) or ""
            mapped = [alphabet.get(char) for char in token]
            table.append(token.encode() if None in mapped else bytes(cast("list[int]", mapped)))
        return table

    @functools.cached_property
    def _text_bytes(self) -> list[bytes]:
        """id -> bytes with special tokens empty: what a detokenizer joins."""
        assert self._bytes is not None
        return [b"" if i in self.special_ids else piece for i, piece in enumerate(self._bytes)]

    def _showing(self, shown: tuple[str, ...]) -> list[bytes]:
        """`_text_bytes` with some special tokens as their own text; made once for each set."""
        if shown not in self._shown:
            table = list(self._text_bytes)
            for token_id in self.special_ids:
                if self._added.get(token_id) in shown:
                    table[token_id] = self._added[token_id].encode()
            self._shown[shown] = table
        return self._shown[shown]


class ByteLevelDetokenizer:
    """Joins the bytes of byte-level tokens; the UTF-8 decoder holds back what is not a whole character yet."""

    __slots__ = ("_decode", "_table")

    def __init__(self, table: list[bytes]) -> None:
        self._table = table
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, ids: list[int]) -> str:
        """Text of the whole characters that these ids completed; ids outside the vocabulary have none."""
        table = self._table
        try:
            if len(ids) == 1:
                return self._decode(table[ids[0]])
            return self._decode(b"".join([table[i] for i in ids]))
        except IndexError:
            return self._decode(b"".join([table[i] for i in ids if 0 <= i < len(table)]))

    def flush(self) -> str:
        """U+FFFD for bytes left over, as one-shot decoding gives."""
        return self._decode(b"", True)


class WindowDetokenizer:
    """For every other decoder: decodes the newest tokens beside those before them and emits the difference.

    A token's text may depend on its neighbours (leading blanks, `##` pieces, runs of byte tokens), so tokens wait while
    they are bytes or their text ends in U+FFFD, and the last ones emitted stay as context.
    """

    __slots__ = ("_context", "_context_text", "_hidden", "_pending", "_skips", "_tokenizer")

    def __init__(self, tokenizer: Decoder, shown: frozenset[int] = frozenset()) -> None:
        """Args:
        shown: special tokens whose text is part of the text.
        """
        self._tokenizer = tokenizer
        self._hidden = tokenizer.special_ids - shown
        self._skips = not shown
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []

    def push(self, ids: list[int]) -> str:
        """Text that no later token can change."""
        tokenizer, out = self._tokenizer, ""
        for token_id in ids:
            if token_id in self._hidden or not tokenizer.knows(token_id):
                continue
            self._pending.append(token_id)
            if not tokenizer.is_byte_token(token_id):
                out += self._emit(final=False)
        return out

    def flush(self) -> str:
        """The text still held."""
        return self._emit(final=True) if self._pending else ""

    def _emit(self, *, final: bool) -> str:
        text = self._tokenizer.decode(self._context + self._pending, self._skips)
        if not final and text.endswith(REPLACEMENT):
            return ""
        new = text[len(self._context_text) :]
        alone = self._tokenizer.decode(self._pending, self._skips)
        if alone:
            self._context, self._context_text = self._pending, alone
        else:  # a blank that a decoder strips at the start is no context by itself
            self._context, self._context_text = self._context + self._pending, text
        self._pending = []
        return new


@functools.cache
def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + i): b for i, b in enumerate(others)}


def _add_special(inner: tokenizers.Tokenizer, texts: Sequence[str]) -> None:
    """Make these special, adding those that are not there; the library's own signature is untyped."""
    tokens = [tokenizers.AddedToken(text, special=True, normalized=False) for text in texts]
    cast(Any, inner).add_special_tokens(tokens)


def _decoder_kinds(decoder: dict[str, Any] | None) -> tuple[str, ...]:
    if decoder is None:
        return ()
    if decoder["type"] == "Sequence":
        return tuple(kind for part in decoder["decoders"] for kind in _decoder_kinds(part))
    return (decoder["type"],)


def fallback_byte(token: str) -> int | None:
    """The byte that a token like `<0xE2>` stands for; None for any other."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            return None
    return None


def config_facts(folder: Path) -> tuple[dict[str, str], tuple[int, ...], str | None]:
    """What a model's JSON files say of its tokenizer: (special tokens, end-of-text ids, chat template or None).

    Raises:
        CorruptModel: a file is not what it should be.
    """
    config = _read_json(folder / "tokenizer_config.json")
    special = _special_tokens(config, _read_json(folder / "special_tokens_map.json"))
    eos = _eos_ids(_read_json(folder / "config.json"), _read_json(folder / "generation_config.json"))
    return special, tuple(sorted(eos)), _chat_template(folder, config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CorruptModel(f"{path.name} is larger than {MAX_JSON_BYTES} bytes.")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise CorruptModel(f"{path.name} is not JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise CorruptModel(f"{path.name} is not a JSON object.")
    return cast("dict[str, Any]", found)


def _special_tokens(*sources: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in sources:
        for key in SPECIAL_KEYS:
            value = source.get(key)
            text = cast("dict[str, Any]", value).get("content") if isinstance(value, dict) else value
            if isinstance(text, str) and text:
                found.setdefault(key, text)
    return found


def _eos_ids(*configs: dict[str, Any]) -> set[int]:
    found: set[int] = set()
    for config in configs:
        value = config.get("eos_token_id", cast("dict[str, Any]", config.get("text_config") or {}).get("eos_token_id"))
        for item in cast("list[Any]", value) if isinstance(value, list) else [value]:
            if isinstance(item, int) and not isinstance(item, bool) and item >= 0:
                found.add(item)
    return found


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The default template; a `chat_template.jinja` file goes before the one in the configuration."""
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    template = config.get("chat_template") or _read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):
        named = {str(t.get("name")): t.get("template") for t in cast("list[dict[str, Any]]", template)}
        template = named.get("default")
    return template if isinstance(template, str) else None


BYTE_SPECIALS = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
BYTE_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """A tokenizer that needs no files: id = byte, then bos 256, eos 257, turn start 258, turn end 259.

    Its chat template is the plain turn-by-turn one. Made for the echo backend.
    """
    alphabet = _byte_level_alphabet()
    inner = tokenizers.Tokenizer(models.BPE(vocab={char: byte for char, byte in alphabet.items()}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    _add_special(inner, BYTE_SPECIALS)
    bos, eos, _, turn_end = BYTE_SPECIALS
    return Tokenizer(
        inner,
        special_tokens={"bos_token": bos, "eos_token": eos, "pad_token": turn_end},
        eos_token_ids=(257,),
        chat_template=BYTE_CHAT_TEMPLATE,
    )
