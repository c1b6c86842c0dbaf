"""A GGUF file of a tiny llama with a byte-level vocabulary and a chat template, written by the `gguf` package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HIDDEN, LAYERS, HEADS, FEED = 32, 2, 2, 64


def byte_letters() -> list[str]:
    """GPT-2's 256 printable stand-ins for the bytes, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges."""
    return [*CONTROL, *byte_letters(), "he", "ll", "hell", "Ġ2", "20"], ["h e", "l l", "he ll", "Ġ 2", "2 0"]


def write(path: Path, *, pre: str = "smollm", eos: int = 2, vocab_size: bool = True) -> Path:
    """Write the file; weights are small random numbers, exact in bf16."""
    tokens, merges = vocabulary()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    if vocab_size:
        writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, shape in tensors(len(tokens)).items():
        count = int(np.prod(shape))
        values = ((np.arange(count) * 37 + len(name)) % 61 - 30).astype(np.float32) / 64
        writer.add_tensor(name, values.reshape(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(tokens: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights; no output matrix, so the embeddings are tied."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (tokens, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        found |= {f"blk.{i}.attn_{n}.weight": (HIDDEN, HIDDEN) for n in ("q", "k", "v", "output")}
        found |= {f"blk.{i}.ffn_{n}.weight": (FEED, HIDDEN) for n in ("gate", "up")}
        found |= {f"blk.{i}.ffn_down.weight": (HIDDEN, FEED)}
        found |= {f"blk.{i}.{n}_norm.weight": (HIDDEN,) for n in ("attn", "ffn")}
    return found
