"""Models of a known shape with random weights, for measuring speed where no weights are at hand.

Used by `openllm bench --shape`. A shape is a row of the table below; add one by adding a row. Weights are drawn block by
block into safetensors files, or left out where the engine draws its own on the device. Needs no model framework.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast

import attrs
import orjson

from openllm_core.errors import InvalidSetting, OutOfMemory
from openllm_core.resources import detect

BYTES_PER_WEIGHT = 2  # bfloat16
HEADROOM = 1.15  # activations, cache of a few requests, the framework
MAX_FILE_BYTES = 4 * 1024**3
BLOCK_BYTES = 1024**2
LARGE_BYTES = 4 * 10**9


@attrs.frozen(kw_only=True)
class Shape:
    """Sizes of a Llama-architecture model, by the names of its `config.json`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of each weight, as transformers' `LlamaForCausalLM` names them; linears are [out, in]."""
        hidden, inner = self.hidden_size, self.intermediate_size
        key_value = hidden // self.num_attention_heads * self.num_key_value_heads
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        for layer in range(self.num_hidden_layers):
            at = f"model.layers.{layer}"
            yield f"{at}.self_attn.q_proj.weight", (hidden, hidden)
            yield f"{at}.self_attn.k_proj.weight", (key_value, hidden)
            yield f"{at}.self_attn.v_proj.weight", (key_value, hidden)
            yield f"{at}.self_attn.o_proj.weight", (hidden, hidden)
            yield f"{at}.mlp.gate_proj.weight", (inner, hidden)
            yield f"{at}.mlp.up_proj.weight", (inner, hidden)
            yield f"{at}.mlp.down_proj.weight", (hidden, inner)
            yield f"{at}.input_layernorm.weight", (hidden,)
            yield f"{at}.post_attention_layernorm.weight", (hidden,)
        yield "model.norm.weight", (hidden,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, hidden)

    @property
    def weight_bytes(self) -> int:
        """Of all weights in bfloat16."""
        return sum(math.prod(shape) for _, shape in self.tensors()) * BYTES_PER_WEIGHT

    @property
    def large(self) -> bool:
        """Whether its weights had better be drawn on the device than written to a disk."""
        return self.weight_bytes > LARGE_BYTES


# Sizes as in the config.json of the models named; "tiny" is nobody's, for trying things out.
SHAPES: dict[str, Shape] = {
    "tiny": Shape(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=512,
        max_position_embeddings=2048,
    ),
    "smollm2-135m": Shape(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "llama-2-7b": Shape(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=32000,
        max_position_embeddings=4096,
    ),
    "llama-2-13b": Shape(
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=40,
        vocab_size=32000,
        max_position_embeddings=4096,
    ),
    "llama-3-8b": Shape(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
    ),
}


def find(name: str) -> Shape:
    """The shape of that name.

    Raises:
        InvalidSetting: there is none.
    """
    if name in SHAPES:
        return SHAPES[name]
    near = get_close_matches(name, SHAPES, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(SHAPES)}."
    raise InvalidSetting(f"There is no shape {name!r}.", hint=hint, param="--shape")


def check_memory(name: str, machine: detect.Machine) -> None:
    """Raises:
    OutOfMemory: the weights fit neither the largest GPU nor, without one, the memory that is free.
    """
    need = int(find(name).weight_bytes * HEADROOM)
    have = max((gpu.memory_free_bytes for gpu in machine.gpus), default=machine.memory_available_bytes)
    if need > have:
        where = "the largest GPU has" if machine.gpus else "this machine has"
        fitting = [other for other, shape in SHAPES.items() if shape.weight_bytes * HEADROOM <= have]
        raise OutOfMemory(
            f"{name} needs {need / 1e9:.1f} GB; {where} {have / 1e9:.1f} GB free.",
            hint=f"These fit: {', '.join(fitting)}." if fitting else None,
        )


def build(
    name: str,
    folder: Path,
    *,
    weights: Literal["random", "none"],
    say: Callable[[str], None],
    machine: detect.Machine | None = None,
) -> Path:
    """Write a model folder of a shape.

    Args:
        weights: `random` writes them, normal with the usual deviation of 0.02; `none` writes files of the right size
            without content, for an engine that is told to draw its own (`load_format=dummy`).
        machine: default: look.

    Returns:
        the folder of the model, in `folder`.

    Raises:
        InvalidSetting: no such shape.
        OutOfMemory: it does not fit here.
    """
    shape = find(name)
    check_memory(name, machine or detect.machine())
    target = folder / name
    target.mkdir()
    drawn = ", drawn on the device" if weights == "none" else ""
    say(f"{name}: {shape.weight_bytes / 1e9:.1f} GB of random weights{drawn}")
    (target / "config.json").write_bytes(orjson.dumps(_config(shape)))
    write_tokenizer(target, shape.vocab_size)
    _write_weights(target, shape, filled=weights == "random")
    return target


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **attrs.asdict(shape),
    }


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level tokenizer whose every id has a text, so that random output streams as text.

    Ids 0 to 2 are special; the 256 bytes follow, then made-up words that are read but never come out of encoding.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    specials = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [*specials, *alphabet, *(f"\u0120w{number}" for number in range(vocab_size))][:vocab_size]
    inner = tokenizers.Tokenizer(models.BPE(vocab={text: number for number, text in enumerate(texts)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    cast(Any, inner).add_special_tokens(specials)
    inner.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "chat_template": "{% for message in messages %}{{ message['content'] }}\n{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(config))


def _write_weights(folder: Path, shape: Shape, *, filled: bool) -> None:
    """Files of at most `MAX_FILE_BYTES` with an index, as the hub's are."""
    files: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, dimensions in shape.tensors():
        tensor_bytes = math.prod(dimensions) * BYTES_PER_WEIGHT
        if files[-1] and size + tensor_bytes > MAX_FILE_BYTES:
            files.append([])
            size = 0
        files[-1].append((name, dimensions))
        size += tensor_bytes
    names = [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    noise = _noise() if filled else None
    for file, tensors in zip(names, files, strict=True):
        _write_safetensors(folder / file, tensors, noise)
    if len(files) == 1:
        (folder / names[0]).rename(folder / "model.safetensors")
        return
    where = {name: file for file, tensors in zip(names, files, strict=True) for name, _ in tensors}
    index = {"metadata": {"total_size": shape.weight_bytes}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_bytes(orjson.dumps(index))


def _write_safetensors(path: Path, tensors: list[tuple[str, tuple[int, ...]]], noise: bytes | None) -> None:
    """Header and data by hand: the library's writer would need all tensors in memory at once.

    Source: https://github.com/huggingface/safetensors#format
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dimensions in tensors:
        end = offset + math.prod(dimensions) * BYTES_PER_WEIGHT
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [offset, end]}
        offset = end
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if noise is None:
            file.truncate(8 + len(text) + offset)
            return
        dice = random.Random(path.name)
        ones = struct.pack("<H", 0x3F80) * (BLOCK_BYTES // 2)  # 1.0, the usual scale of a norm
        for name, dimensions in tensors:
            left = math.prod(dimensions) * BYTES_PER_WEIGHT
            while left > 0:
                turn = 2 * dice.randrange(BLOCK_BYTES // 2)
                block = ones if "norm" in name else noise[turn:] + noise[:turn]
                left -= file.write(block[:left])


def _noise() -> bytes:
    """A block of bfloat16 values drawn from a normal distribution of deviation 0.02."""
    dice = random.Random(0)
    table = [struct.pack("<f", dice.gauss(0.0, 0.02))[2:] for _ in range(4096)]
    return b"".join(dice.choices(table, k=BLOCK_BYTES // 2))
