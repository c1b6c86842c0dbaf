"""A tiny tokenizer that exists as Python code alone; transformers imports it from the model's folder.

Ids 0 to 3 are special; 4 to 259 are the bytes of the text, each XORed with the mask in `ice_text.json`. transformers has
no way to make a `tokenizer.json` of such a class. Every encoded text begins with [gMASK].
"""

import json
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizer

SPECIALS = ("<pad>", "[gMASK]", "</s>", "<unk>")


class ChatGLMTokenizer(PreTrainedTokenizer):
    """Bytes in disguise."""

    vocab_files_names: ClassVar = {"vocab_file": "ice_text.json"}
    model_input_names: ClassVar = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file, **rest):
        self.vocab_file = vocab_file
        self.mask = json.loads(Path(vocab_file).read_text())["mask"]
        rest = {
            "pad_token": SPECIALS[0],
            "bos_token": SPECIALS[1],
            "eos_token": SPECIALS[2],
            "unk_token": SPECIALS[3],
            **rest,
        }
        super().__init__(**rest)

    @property
    def vocab_size(self):
        """Special tokens and bytes."""
        return len(SPECIALS) + 256

    def get_vocab(self):
        """Token -> id."""
        return {self._convert_id_to_token(token_id): token_id for token_id in range(self.vocab_size)}

    def _tokenize(self, text, **unused):
        return [f"byte{byte ^ self.mask}" for byte in text.encode()]

    def _convert_token_to_id(self, token):
        return SPECIALS.index(token) if token in SPECIALS else len(SPECIALS) + int(token.removeprefix("byte"))

    def _convert_id_to_token(self, index):
        return SPECIALS[index] if index < len(SPECIALS) else f"byte{index - len(SPECIALS)}"

    def convert_tokens_to_string(self, tokens):
        """Text of tokens; bytes that form no character become U+FFFD."""
        pieces = [
            bytes([int(token.removeprefix("byte")) ^ self.mask]) if token.startswith("byte") else token.encode()
            for token in tokens
        ]
        return b"".join(pieces).decode("utf-8", "replace")

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        """[gMASK] before the text."""
        return [1, *token_ids_0, *(token_ids_1 or [])]

    def save_vocabulary(self, save_directory, filename_prefix=None):
        """Nothing but the file it was made from."""
        name = Path(save_directory) / ((filename_prefix + "-" if filename_prefix else "") + "ice_text.json")
        name.write_text(json.dumps({"mask": self.mask}))
        return (str(name),)
