"""Tiny random checkpoints of many architectures, made on the spot: a few hundred kilobytes each, always the same.

`tiny_checkpoint("llama", folder)` writes config, weights, tokenizer and generation config into `folder / "llama"` and
returns that path; a second call with the same folder finds what is there. Used by the tests of the torch backend and by
any test that wants a real, quick model. The tokenizer is a byte-level BPE trained on a few sentences: any text encodes.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

VOCAB_SIZE = 384
CONTEXT = 512
BOS, EOS, PAD = 1, 2, 0
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
CORPUS = (
    "the quick brown fox jumps over the lazy dog",
    "a model reads tokens and writes tokens, one after another",
    "she sells sea shells by the sea shore",
    "two cores, one request, many answers; numbers 0 1 2 3 4 5 6 7 8 9",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

_COMMON: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
_BLOCK: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    # name -> (prefix of the config class in transformers, its arguments)
    "llama": (
        "Llama",
        {**_BLOCK, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": CONTEXT},
    ),
    "llama_tied": (
        "Llama",
        {
            **_BLOCK, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": CONTEXT,
            "tie_word_embeddings": True,
        },
    ),
    "mistral": (
        "Mistral",
        {
            **_BLOCK, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": CONTEXT,
            "sliding_window": 12,
        },
    ),
    "gemma2": (
        "Gemma2",
        {
            **_BLOCK, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": CONTEXT,
            "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8,
        },
    ),
    "opt": ("OPT", {**_BLOCK, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": CONTEXT}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}),
    "gpt_neox": ("GPTNeoX", {**_BLOCK, "intermediate_size": 64, "max_position_embeddings": CONTEXT}),
    "gpt_bigcode": ("GPTBigCode", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}),
    "falcon": ("Falcon", {**_BLOCK, "alibi": False, "multi_query": True, "max_position_embeddings": CONTEXT}),
    "falcon_new": (
        "Falcon",
        {**_BLOCK, "new_decoder_architecture": True, "num_kv_heads": 2, "max_position_embeddings": CONTEXT},
    ),
    "falcon_alibi": ("Falcon", {**_BLOCK, "alibi": True, "multi_query": False, "new_decoder_architecture": False}),
    "stablelm": (
        "StableLm",
        {**_BLOCK, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": CONTEXT},
    ),
    "mpt": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": CONTEXT, "expansion_ratio": 2}),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "expand": 2, "time_step_rank": 4}),
    "t5": (
        "T5",
        {
            "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
            "decoder_start_token_id": PAD, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        },
    ),
    "bart": (
        "Bart",
        {
            "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
            "max_position_embeddings": CONTEXT, "decoder_start_token_id": EOS, "forced_eos_token_id": None,
        },
    ),
}  # fmt: skip
SEQ2SEQ = ("t5", "bart")
REMOTE_CODE = Path(__file__).parent / "remote_code"
REMOTE: dict[str, tuple[str, dict[str, Any]]] = {
    # name, also of the folder with its code -> (class of the model, further entries of config.json); the entries of
    # `auto_map` are those of the published models: ChatGLM's is no AutoModelForCausalLM
    "baichuan": (
        "BaiChuanForCausalLM",
        {
            **_COMMON, **_BLOCK, "max_position_embeddings": CONTEXT, "intermediate_size": 64,
            "auto_map": {
                "AutoConfig": "configuration_baichuan.BaiChuanConfig",
                "AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM",
            },
        },
    ),
    "chatglm": (
        "ChatGLMForConditionalGeneration",
        {
            "padded_vocab_size": 260, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 4,
            "multi_query_group_num": 2, "ffn_hidden_size": 64, "seq_length": CONTEXT,
            "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
            "auto_map": {
                "AutoConfig": "configuration_chatglm.ChatGLMConfig",
                "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
                "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
            },
        },
    ),
}  # fmt: skip
FAMILIES = {
    # family of 0.3.5 -> architecture of its tiny model
    "baichuan": "baichuan", "chatglm": "chatglm", "dolly-v2": "gpt_neox", "falcon": "falcon", "flan-t5": "t5",
    "gpt-neox": "gpt_neox", "llama": "llama", "mpt": "mpt", "opt": "opt", "stablelm": "stablelm",
    "starcoder": "gpt_bigcode",
}  # fmt: skip


# Two heads of 32 instead of four of 8, for kernels that take no narrower ones; replaces what an architecture has of these.
WIDE = {
    "hidden_size": 64, "n_embd": 64, "word_embed_proj_dim": 64, "head_dim": 32,
    "num_attention_heads": 2, "n_head": 2, "num_key_value_heads": 1,
}  # fmt: skip


def tiny_checkpoint(name: str, folder: Path, *, dtype: str = "float32", seed: int = 0, wide: bool = False) -> Path:
    """Write (once) a tiny checkpoint and return its folder.

    Args:
        name: a key of `ARCHITECTURES` or of `REMOTE`; a model of the latter brings its code, and ChatGLM's a tokenizer that
            is code alone.
        folder: where checkpoints are kept; share one per session (`tmp_path_factory.getbasetemp()`).
        dtype: torch name of the type the weights are stored in.
        seed: of the random weights; they are wide enough apart that greedy answers do not repeat one token.
        wide: with attention heads of 32; not for models of `REMOTE`.
    """
    stem = f"{name}-wide" if wide else name
    target = Path(folder) / (stem if (dtype, seed) == ("float32", 0) else f"{stem}-{dtype}-{seed}")
    if target.is_dir():
        return target
    staging = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    staging.mkdir(parents=True)
    try:
        if name in REMOTE:
            _write_remote_model(name, staging, dtype, seed)
        else:
            _write_model(name, staging, dtype, seed, wide)
        if name == "chatglm":
            _write_coded_tokenizer(staging)
        else:
            write_tokenizer(staging)
        staging.rename(target)
    except OSError:
        if not target.is_dir():  # another process may have been quicker
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _write_model(name: str, folder: Path, dtype: str, seed: int, wide: bool) -> None:
    import transformers

    prefix, arguments = ARCHITECTURES[name]
    if wide:
        arguments = arguments | {key: value for key, value in WIDE.items() if key in arguments}
    config = getattr(transformers, f"{prefix}Config")(**_COMMON, **arguments)
    auto = transformers.AutoModelForSeq2SeqLM if name in SEQ2SEQ else transformers.AutoModelForCausalLM
    _random(lambda: auto.from_config(config), dtype, seed).save_pretrained(folder)
    _write_generation_config(folder, config.decoder_start_token_id if name in SEQ2SEQ else None)


def _write_remote_model(name: str, folder: Path, dtype: str, seed: int) -> None:
    """Code, config.json and weights."""
    from safetensors.torch import save_file

    architecture, entries = REMOTE[name]
    for file in (REMOTE_CODE / name).glob("*.py"):
        shutil.copyfile(file, folder / file.name)
    module = import_module(f"tests.remote_code.{name}.modeling_{name}")
    model = _random(
        lambda: getattr(module, architecture)(getattr(module, architecture).config_class(**entries)), dtype, seed
    )
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    config = {"architectures": [architecture], "model_type": name, "dtype": dtype, **entries}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    _write_generation_config(folder, None)


def _random(make: Callable[[], Any], dtype: str, seed: int) -> Any:
    """A model whose matrices are wide enough apart that greedy answers do not repeat one token."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.normal_(0.0, 0.6 / parameter.shape[-1] ** 0.25)
    return model.to(getattr(torch, dtype))


def _write_generation_config(folder: Path, decoder_start: int | None) -> None:
    generation = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    if decoder_start is not None:
        generation["decoder_start_token_id"] = decoder_start
    (folder / "generation_config.json").write_text(json.dumps(generation))


def _write_coded_tokenizer(folder: Path) -> None:
    """The files beside tokenization_chatglm.py: a vocabulary and the class by its name."""
    (folder / "ice_text.json").write_text(json.dumps({"mask": 0x55}))
    config = {
        "tokenizer_class": "ChatGLMTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def write_tokenizer(folder: Path) -> None:
    """Train the byte-level BPE (always the same) and write tokenizer.json and tokenizer_config.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": SPECIALS[PAD], "bos_token": SPECIALS[BOS], "eos_token": SPECIALS[EOS], "unk_token": SPECIALS[3],
        "model_max_length": CONTEXT, "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def sentence_encoder(
    folder: Path, *, pooling: str = "mean", max_tokens: int = 64, more_modules: Sequence[str] = (), seed: int = 0
) -> Path:
    """Write a tiny BERT in the layout of sentence-transformers and return its folder.

    Args:
        pooling: as 1_Pooling/config.json names it.
        max_tokens: of a text, special tokens included.
        more_modules: further entries of modules.json, by type.
    """
    import transformers

    arguments = {**_BLOCK, "intermediate_size": 64, "max_position_embeddings": CONTEXT, "vocab_size": VOCAB_SIZE}
    config = transformers.BertConfig(**arguments, pad_token_id=PAD)
    _random(lambda: transformers.BertModel(config), "float32", seed).save_pretrained(folder)
    write_tokenizer(folder)
    return write_pooling(folder, pooling=pooling, max_tokens=max_tokens, more_modules=more_modules)


def write_pooling(folder: Path, *, pooling: str, max_tokens: int = 64, more_modules: Sequence[str] = ()) -> Path:
    """Write the files by which sentence-transformers pools into a model's folder; see `sentence_encoder`."""
    kinds = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling", *more_modules]
    paths = ["", "1_Pooling", *(f"{place}_More" for place in range(2, 2 + len(more_modules)))]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_tokens}))
    (folder / "1_Pooling").mkdir()
    mode = f"pooling_mode_{pooling}" + {"mean": "_tokens", "cls": "_token", "max": "_tokens"}.get(pooling, "")
    described = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": False, mode: True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(described))
    return folder
