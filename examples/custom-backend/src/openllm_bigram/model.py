"""The model: a table of logits, one row for each token that may come before. Bytes are the tokens, and two are special."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from openllm_core.errors import CorruptModel

BOS, EOS, VOCAB_SIZE = 256, 257, 258
ARCHITECTURE = "BigramForCausalLM"

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Table:
    """Attributes:
    logits: [vocab, vocab]; the row is the token before, the column the next one.
    context: tokens that prompt and completion may have together.
    """

    logits: Logits
    context: int

    @classmethod
    def read(cls, folder: str) -> Table:
        """The model in a folder.

        Raises:
            CorruptModel: there is none.
        """
        try:
            context = int(json.loads((Path(folder) / "config.json").read_text())["max_position_embeddings"])
            logits = load_file(Path(folder) / "model.safetensors")["logits"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CorruptModel(f"{folder or 'No folder'} holds no table of bigrams: {error}.") from error
        if logits.shape != (VOCAB_SIZE, VOCAB_SIZE):
            raise CorruptModel(f"{folder}: the table is {logits.shape}, not {(VOCAB_SIZE, VOCAB_SIZE)}.")
        return cls(logits.astype(np.float32), context)

    def step(self, last: list[int]) -> Logits:
        """[batch] token ids -> [batch, vocab] logits of the next ones, all rows at once."""
        return self.logits[last]
