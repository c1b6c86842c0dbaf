"""Tokenizers that exist as Python code alone, so that no tokenizer.json can be made of them: both ends of using one.

`PythonTokenizer` is the tokenizer itself, opened in the engine host, where a model's own code may run. `HostTokenizer` stands
in for it in the server process, which imports no transformers: the engine asks the host to encode, and the text of what
is generated comes with the tokens. It must not know of frames or requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import tokenizers
from tokenizers import models

from openllm_core.errors import CorruptModel, EngineUnavailable, MissingDependency, OpenLLMError

from .tokenizer import Tokenizer, config_facts, fallback_byte


class PythonTokenizer:
    """A tokenizer class of transformers, or of the model's own code.

    Attributes:
        eos_token_ids: of its end-of-text token, empty where it has none.
        special_ids: ids that have no text of their own.
    """

    def __init__(self, inner: Any) -> None:
        """Args:
        inner: what `AutoTokenizer.from_pretrained` gives.
        """
        self._inner = inner
        eos: Any = inner.eos_token_id
        self.eos_token_ids: tuple[int, ...] = (eos,) if isinstance(eos, int) else ()
        self.special_ids = frozenset(int(i) for i in inner.all_special_ids)

    @classmethod
    def open(cls, folder: str | Path, *, trust_remote_code: bool = False) -> PythonTokenizer:
        """Read it from a model's folder; imports transformers and, where trusted, the model's own code.

        Raises:
            MissingDependency: it needs a package that is not installed.
            CorruptModel: it cannot be made.
        """
        try:
            import transformers

            auto = cast(Any, transformers.AutoTokenizer)
            return cls(auto.from_pretrained(str(folder), trust_remote_code=trust_remote_code, local_files_only=True))
        except ImportError as error:
            raise MissingDependency(f"The model's tokenizer needs a package: {_line(error)}") from error
        except Exception as error:  # whatever code of a model's own raises
            raise CorruptModel(f"The tokenizer of {Path(folder).name} cannot be made: {_line(error)}") from error

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        return [int(i) for i in self._inner.encode(text, add_special_tokens=add_special_tokens)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ids in one shot."""
        return str(
            self._inner.decode(list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
        )

    def knows(self, token_id: int) -> bool:
        """Whether an id stands for a token; models have columns that no token uses."""
        return 0 <= token_id < len(self._inner)

    def is_byte_token(self, token_id: int) -> bool:
        """True for a token whose text depends on the next one: a raw byte (`<0xE2>`), or part of a word (`wo@@`)."""
        token = str(self._inner.convert_ids_to_tokens(token_id))
        return fallback_byte(token) is not None or token.endswith("@@")

    def token_text(self, token_id: int) -> str:
        """A token on its own, for people; empty for an id that stands for none."""
        return self.decode([token_id], skip_special_tokens=False) if self.knows(token_id) else ""


class HostTokenizer(Tokenizer):
    """In the server process: what the model's files say, while the host does the work.

    Special tokens and chat template are read here, from JSON. `eos_token_ids` is complete once the host has opened the
    tokenizer.
    """

    def __init__(self, folder: str | Path) -> None:
        """Args:
        folder: the model's.

        Raises:
            CorruptModel: a configuration file is not what it should be.
        """
        special, eos, template = config_facts(Path(folder))
        super().__init__(
            tokenizers.Tokenizer(models.BPE()), special_tokens=special, eos_token_ids=eos, chat_template=template
        )
        self.folder = str(folder)
        self.max_token_bytes = None
        self._texts: dict[int, str] = {}

    def opened(self, eos_token_ids: Sequence[int]) -> None:
        """The host has opened the tokenizer, whose end-of-text ids these are."""
        self.eos_token_ids = tuple(sorted({*self.eos_token_ids, *eos_token_ids}))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Not here: `Engine` asks the host.

        Raises:
            OpenLLMError: always.
        """
        raise _elsewhere()

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Not here: `Engine.decode` asks the host.

        Raises:
            OpenLLMError: always.
        """
        raise _elsewhere()

    def detokenizer(self, shown: tuple[str, ...] = ()) -> HostDetokenizer:
        """A fresh one for one sequence; it must be fed what the host sends, which shows no special token."""
        return HostDetokenizer(self._texts)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token's text, as far as the host has sent it."""
        return self._texts.get(token_id, "").encode()


class HostDetokenizer:
    """Gives out the pieces of text that the host sent with a sequence's tokens."""

    __slots__ = ("_pieces", "_texts")

    def __init__(self, texts: dict[int, str]) -> None:
        """Args:
        texts: token id -> its own text, filled by `feed`.
        """
        self._pieces: deque[str] = deque()
        self._texts = texts

    def feed(self, pieces: Sequence[str], tokens: Mapping[int, str]) -> None:
        """Text of the ids that follow, one piece each, at the end one more; and single tokens that were asked for."""
        self._pieces.extend(pieces)
        self._texts.update(tokens)

    def push(self, ids: list[int]) -> str:
        """Text of these ids."""
        pieces = self._pieces
        return "".join(pieces.popleft() for _ in range(min(len(ids), len(pieces))))

    def flush(self) -> str:
        """What is left at the end."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return text


def _elsewhere() -> OpenLLMError:
    return EngineUnavailable("This model's tokenizer runs in the engine host only.")


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
