"""The child process that turns foreign formats into ours: `python -m openllm.serialisation.convert WHAT SOURCE OUT`.

Started by `formats.py` alone, so that torch and transformers are never imported by the caller. WHAT is `weights` (a GGUF
file), `pickle` (a folder) or `tokenizer` (a GGUF file or a folder). It has no network, or reads no pickle. An error is one line of JSON on stdout and exit code 1.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from openllm_core.errors import CorruptModel, MissingDependency, OpenLLMError, UnsafeConfiguration

from . import formats, gguf_file, pickled, sandbox

# Names under which GGUF files of chat models keep the tokens that end a turn (keys of the metadata).
_END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_END_TEXTS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>")
_TOKENIZER_PACKAGES = ("sentencepiece", "tiktoken", "protobuf")  # what transformers asks for by name when it lacks it
_WATCH_S = 0.5
_SLIM_BYTES = 1 << 30
_CONTROL = 3  # token_type of a control token, llama.cpp's LLAMA_TOKEN_TYPE_CONTROL

# Splits before BPE, by `tokenizer.ggml.pre`. transformers gives every BPE of a GGUF GPT-2's split; these differ.
# Sources: the tokenizer.json of SmolLM2, Llama 3 and Qwen2 as published.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS: dict[str, list[dict[str, Any]]] = {
    "smollm": [{"type": "Digits", "individual_digits": True}],
    "llama-bpe": [{"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False}],
    "qwen2": [
        {
            "type": "Split",
            "pattern": {"Regex": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")},
            "behavior": "Isolated",
            "invert": False,
        }
    ],
}


def weights(gguf: Path, out: Path) -> None:
    """Dequantise a GGUF file to bf16 and save safetensors, config.json and generation_config.json."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".slim-") as folder:
        slim = _without_vocabulary(gguf, Path(folder))
        model = _dequantised(slim)
    model.save_pretrained(str(out))
    config = _read(out / "config.json")
    config.pop("_name_or_path", None)
    _write(out / "config.json", config)


def _without_vocabulary(gguf: Path, folder: Path) -> Path:
    """A copy without the token lists, which transformers would parse twice, for seconds, to use nothing of them."""
    header = gguf_file.read_header(gguf)
    architecture = header.get("general.architecture")
    if gguf.stat().st_size > _SLIM_BYTES or f"{architecture}.vocab_size" not in header.entries:
        return gguf  # copying a large file costs more than it saves; without vocab_size the tokens are counted
    slim = folder / gguf.name
    gguf_file.copy_without(gguf, header, lambda key: isinstance(header.get(key), list) and "tokenizer" in key, slim)
    return slim


def _dequantised(gguf: Path) -> Any:
    torch, transformers = _module("torch"), _module("transformers")
    _module("gguf")
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=transformers.GgufConfig(dequantize=True),
        output_loading_info=True,
        local_files_only=True,
    )
    left = sorted(str(name) for name in report["missing_keys"])
    if left:
        raise CorruptModel(f"{len(left)} parameters have no value in the file, {left[0]} for one.")
    return model


def tokenizer(source: Path, out: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of a GGUF file or of a folder with a slow tokenizer."""
    transformers = _module("transformers")
    if source.is_dir():
        made = transformers.AutoTokenizer.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)
        if not getattr(made, "is_fast", False):
            text = f"{type(made).__name__} has no form that tokenizer.json can hold."
            raise CorruptModel(text, param=formats.PYTHON_ONLY)
        made.save_pretrained(str(out))
        return
    made = transformers.AutoTokenizer.from_pretrained(
        str(source.parent), gguf_file=source.name, local_files_only=True, trust_remote_code=False
    )
    made.save_pretrained(str(out))
    header = gguf_file.read_header(source)
    facts = {key: entry.value for key, entry in header.entries.items()}
    _mend_split(out, str(facts.get("tokenizer.ggml.pre", "")))
    _check_vocabulary(out, facts)
    _finish_config(out, facts)
    _finish_generation(out, facts)


def _mend_split(out: Path, name: str) -> None:
    steps = _SPLITS.get(name)
    if steps is None:
        return
    data = _read(out / "tokenizer.json")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": name == "smollm"}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, level]}
    _write(out / "tokenizer.json", data)


def _check_vocabulary(out: Path, facts: dict[str, Any]) -> None:
    """The ids are the file's, and each control token is one token."""
    made = _module("tokenizers").Tokenizer.from_file(str(out / "tokenizer.json"))
    tokens: list[str] = facts.get("tokenizer.ggml.tokens", [])
    if not tokens:
        raise CorruptModel("The GGUF file carries no tokens.")
    vocabulary: dict[str, int] = made.get_vocab(with_added_tokens=True)
    wrong = [t for i, t in enumerate(tokens) if vocabulary.get(t, -1) != i and tokens.count(t) == 1][:1]
    if wrong:
        raise CorruptModel(f"Token {wrong[0]!r} has not the id it has in the file.")
    types: list[int] = facts.get("tokenizer.ggml.token_type", [])
    for index, (token, kind) in enumerate(zip(tokens, types, strict=False)):
        if kind == _CONTROL and made.encode(token, add_special_tokens=False).ids != [index]:
            raise CorruptModel(f"Control token {token!r} does not become the single id {index}.")


def _finish_config(out: Path, facts: dict[str, Any]) -> None:
    path = out / "tokenizer_config.json"
    config = _read(path)
    for key in ("is_local", "local_files_only", "name_or_path"):
        config.pop(key, None)
    template = facts.get("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    if isinstance(facts.get("tokenizer.ggml.add_bos_token"), bool):
        config["add_bos_token"] = facts["tokenizer.ggml.add_bos_token"]
    lengths = [v for k, v in facts.items() if k.endswith(".context_length")]
    if lengths and isinstance(lengths[0], int):
        config["model_max_length"] = lengths[0]
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")):
        index = facts.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(index, int) and 0 <= index < len(tokens):
            config[name] = tokens[index]
    _write(path, config)


def _finish_generation(out: Path, facts: dict[str, Any]) -> None:
    """Every token that ends a turn goes into `eos_token_id`; the weights' child writes the rest of the file."""
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    types: list[int] = facts.get("tokenizer.ggml.token_type", [])
    template = facts.get("tokenizer.chat_template") or ""
    ends = [facts[key] for key in _END_KEYS if isinstance(facts.get(key), int)]
    for text in _END_TEXTS:
        if text in template and text in tokens and types[tokens.index(text)] == _CONTROL:
            ends.append(tokens.index(text))
    data: dict[str, Any] = {"eos_token_id": sorted(set(ends))}
    for name, key in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        if isinstance(facts.get(f"tokenizer.ggml.{key}_token_id"), int):
            data[name] = facts[f"tokenizer.ggml.{key}_token_id"]
    _write(out / "generation_config.json", data)


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependency(
            f"{error.name or name} is needed to convert this model and is not installed.",
            hint=f"pip install {error.name or name}",
        ) from None


def _read(path: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(path.read_bytes()))


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _one_line(error: Exception) -> OpenLLMError:
    text = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:300]
    needed = next((name for name in _TOKENIZER_PACKAGES if name in text.lower()), None)
    if needed is not None and isinstance(error, (ImportError, ValueError)):
        return MissingDependency(f"This tokenizer is read by {needed}: {text}", hint=f"pip install {needed}")
    return CorruptModel(text)


def end_with_parent() -> None:
    """End this process within a second of its parent's death, even by kill -9: nobody would use what it makes."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, name="openllm-parent", daemon=True).start()


def main(arguments: list[str], *, network: bool = False) -> int:
    """Run one conversion; the exit code.

    Args:
        network: the kernel did not take the network away; pickle is not read then.
    """
    what, source, out = arguments
    commands: dict[str, Callable[[Path, Path], None]] = {
        "weights": weights,
        "pickle": pickled.convert,
        "tokenizer": tokenizer,
    }
    try:
        if what == "pickle" and network:
            raise UnsafeConfiguration(
                "Pickle is read only where the network can be taken away from the process that reads it, and this system "
                "does not allow that (seccomp).",
                hint="Convert the weights on a Linux machine or in a container that allows seccomp, or get safetensors.",
            )
        commands[what](Path(source), Path(out))
    except OpenLLMError as error:
        print(json.dumps(error.as_dict()))
    except Exception as error:  # whatever a parser of a foreign file raises becomes one line for the parent
        print(json.dumps(_one_line(error).as_dict()))
    else:
        return 0
    return 1


if __name__ == "__main__":
    walled = sandbox.forbid_network()  # before any other thread is there, which would keep its network
    end_with_parent()
    sys.exit(main(sys.argv[1:], network=not walled))
