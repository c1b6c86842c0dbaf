"""A tokenizer of the kind that exists as Python code alone, without transformers: bytes, as the echo backend has them."""

from __future__ import annotations

from collections.abc import Sequence

from openllm.tokenizer import byte_tokenizer


class Bytes:
    """The part of a transformers tokenizer that is used: ids are bytes, four special ones follow."""

    def __init__(self) -> None:
        self.inner = byte_tokenizer()
        self.eos_token_id = 257
        self.all_special_ids = [256, 257, 258, 259]

    def __len__(self) -> int:
        return 260

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Bytes behind the start token; "boom" stands for what code of a model's own may do."""
        if "boom" in text:
            raise ZeroDivisionError("boom")
        return [256] * add_special_tokens + self.inner.encode(text)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """Text of bytes."""
        assert not clean_up_tokenization_spaces
        assert all(0 <= token_id < 260 for token_id in ids), "it knows no other ids"
        return self.inner.decode(list(ids), skip_special_tokens)

    def convert_ids_to_tokens(self, token_id: int) -> str:
        """A name that says nothing."""
        return f"token{token_id}"
