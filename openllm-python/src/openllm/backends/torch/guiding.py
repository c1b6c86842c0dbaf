"""Guides for this backend: xgrammar says before each draw which tokens may follow.

`Grammars` compiles guides for one model's vocabulary, in any thread; `Matcher` follows one sequence through one of them, in
the step thread. xgrammar is imported with the first guide and nowhere else. Knows nothing of rows, requests or time.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from openllm_core.errors import InvalidRequest, OpenLLMError, UnsupportedFeature

from ..base import TokenGuide
from ..guides import guide_refusal
from .schemas import unenforced
from .untyped import read_tokenizer

if TYPE_CHECKING:
    from xgrammar import CompiledGrammar, GrammarCompiler

CACHE_BYTES = 256 * 1024 * 1024  # of compiled grammars; the least recently used go first
ANY_OBJECT = '{"type": "object"}'


class Grammars:
    """Compiles guides for one vocabulary.

    Args:
        folder: of the model, where its tokenizer is.
        vocab_size: columns of its logits.
        end_token_ids: that end its text; a guided sequence may end with one of them once it is complete.
        trust_remote_code: whether a tokenizer that is Python code may run.
    """

    def __init__(
        self, folder: Path, vocab_size: int, end_token_ids: tuple[int, ...], *, trust_remote_code: bool = False
    ) -> None:
        self.end_token_ids = end_token_ids
        self._folder = folder
        self._vocab_size = vocab_size
        self._trust = trust_remote_code
        self._lock = threading.Lock()
        self._compiler: GrammarCompiler | None = None

    def compile(self, guide: TokenGuide) -> CompiledGrammar:
        """The grammar of a guide, made once. It may take long, and no other waits for it.

        Raises:
            InvalidRequest: it is malformed, or asks for what cannot be enforced.
            UnsupportedFeature: xgrammar is missing, or can do nothing with this model's tokenizer.
        """
        compiler = self._ready(guide)
        try:
            return _compiled(compiler, guide)
        except OpenLLMError:
            raise
        except Exception as error:  # xgrammar raises RuntimeError, TypeError and ValueError for what it cannot read
            raise guide_refusal(error, guide) from error

    def check(self, guide: TokenGuide) -> None:
        """Make the grammar of a guide, for who asks for it next; errors as `compile`."""
        self.compile(guide)

    def matcher(self, guide: TokenGuide, stop_token_ids: tuple[int, ...]) -> Matcher:
        """What holds one sequence to a guide; errors as `compile`.

        Args:
            stop_token_ids: of the request; they may end a complete text too.
        """
        return Matcher(self.compile(guide), tuple(dict.fromkeys((*stop_token_ids, *self.end_token_ids))))

    def _ready(self, guide: TokenGuide) -> GrammarCompiler:
        with self._lock:
            if self._compiler is None:
                self._compiler = self._opened(guide)
            return self._compiler

    def _opened(self, guide: TokenGuide) -> GrammarCompiler:
        try:
            import xgrammar
        except ImportError as error:
            raise UnsupportedFeature(
                f"{guide.param}: the pt backend guides answers with xgrammar, which is not installed.",
                hint='pip install "openllm[guides]"',
                param=guide.param,
            ) from error
        try:
            info = xgrammar.TokenizerInfo.from_huggingface(
                read_tokenizer(self._folder, trust_remote_code=self._trust),
                vocab_size=self._vocab_size,
                stop_token_ids=list(self.end_token_ids) or None,
            )
            return xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=CACHE_BYTES)
        except Exception as error:  # of transformers and of xgrammar, whatever they make of the files
            why = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise UnsupportedFeature(
                f"{guide.param}: answers of this model cannot be guided, its tokenizer is not understood: {why}",
                param=guide.param,
            ) from error


class Matcher:
    """One sequence's place in a grammar.

    Attributes:
        stops: tokens that end the text once it is complete; where there are none, it ends when nothing can follow.
    """

    __slots__ = ("_matcher", "stops")

    def __init__(self, grammar: CompiledGrammar, stops: tuple[int, ...]) -> None:
        import xgrammar

        self.stops = frozenset(stops)
        self._matcher = xgrammar.GrammarMatcher(
            grammar, override_stop_tokens=list(stops) or None, terminate_without_stop_token=not stops
        )

    def fill(self, mask: Tensor, row: int) -> None:
        """Write which tokens may follow into a row of a mask of `new_mask`."""
        self._matcher.fill_next_token_bitmask(mask, row)

    def accept(self, token: int) -> bool:
        """Go on behind a token; False when it may not follow."""
        return self._matcher.accept_token(token)

    @property
    def finished(self) -> bool:
        """Nothing follows any more."""
        return self._matcher.is_terminated()


def new_mask(rows: int, vocab_size: int) -> Tensor:
    """[rows, ceil(vocab_size / 32)] int32: one bit for each token that may follow; lies in the CPU's memory."""
    import xgrammar

    return xgrammar.allocate_token_bitmask(rows, vocab_size)


def apply_mask(logits: Tensor, mask: Tensor, rows: list[int]) -> None:
    """Set the logits of what may not follow to -inf, in place.

    Args:
        logits: [batch, vocab_size] float32; only `rows` of it change.
        mask: of `new_mask`, one row for each of `rows`.
    """
    import xgrammar

    words = torch.zeros((logits.shape[0], mask.shape[1]), dtype=mask.dtype)
    words[rows] = mask
    xgrammar.apply_token_bitmask_inplace(logits, words.to(logits.device), indices=rows)


def _compiled(compiler: GrammarCompiler, guide: TokenGuide) -> CompiledGrammar:
    value = cast(str, guide.value)
    match guide.kind:
        case "json":
            _check_schema(guide, json.loads(value))
            return compiler.compile_json_schema(value)
        case "json_object":
            return compiler.compile_json_schema(ANY_OBJECT)
        case "regex":
            return compiler.compile_regex(value)
        case "choice":
            texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in guide.value)
            return compiler.compile_grammar(f"root ::= {texts}")
        case "grammar":
            return compiler.compile_grammar(value)
        case "structural_tag":
            return compiler.compile_structural_tag(value)


def _check_schema(guide: TokenGuide, schema: Any) -> None:
    """xgrammar passes over the keywords that it does not know; an answer would not fit then, and nobody would know."""
    found = unenforced(schema)
    if found is not None:
        raise InvalidRequest(
            f"{guide.param}: {found} is not supported by xgrammar, so that nothing would hold the answer to it.",
            hint="Leave it out of the schema, and check the answer for it.",
            param=guide.param,
        )
