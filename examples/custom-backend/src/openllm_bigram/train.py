"""`openllm-bigram-train TEXT FOLDER`: count which byte follows which, and write that as a model folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from .model import ARCHITECTURE, BOS, EOS, VOCAB_SIZE

CONTEXT = 4096


def train(text: str, folder: Path) -> None:
    """Write config, tokenizer and table: what `openllm start` looks for in every model folder.

    Args:
        text: its paragraphs are the sequences, each between BOS and EOS.
    """
    # Every byte may follow every other; of those that were seen as often, the lower one is a little likelier.
    counts = np.tile(np.linspace(0.02, 0.01, VOCAB_SIZE), (VOCAB_SIZE, 1))
    for paragraph in filter(None, text.split("\n\n")):
        tokens = [BOS, *paragraph.encode(), EOS]
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    logits = np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"logits": logits}, folder / "model.safetensors")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"architectures": [ARCHITECTURE], "model_type": "bigram", "max_position_embeddings": CONTEXT}
    config |= {"bos_token_id": BOS, "eos_token_id": EOS, "vocab_size": VOCAB_SIZE}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def byte_tokenizer() -> Tokenizer:
    """One token for each byte: a byte-level BPE without a merge, whose ids are put into the order of the bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    letters = [chr(byte if byte in printable else next(others)) for byte in range(256)]  # how ByteLevel writes bytes
    tokenizer = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return tokenizer


def main() -> int:
    """The console script."""
    if len(sys.argv) != 3:
        print("Usage: openllm-bigram-train TEXT FOLDER", file=sys.stderr)
        return 2
    text, folder = map(Path, sys.argv[1:])
    train(text.read_text(encoding="utf-8"), folder)
    print(f"{folder}: a model of what follows what in {text}.")
    return 0
