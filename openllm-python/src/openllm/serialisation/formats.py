"""What a model folder holds, whether we will read it, and how other formats become ours.

Called by `lookup.py` and `importing.py`. Weights are read from safetensors; GGUF is converted once, pickle only where
the operator allowed it. Conversions need torch and transformers and therefore run in a child process (`convert.py`):
the calling process imports neither. Knows nothing of the store or of networks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import attrs

from openllm_core.errors import CorruptModel, MissingDependency, StoreError, UnsafeConfiguration, from_dict

from .store import Progress

INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".tar.xz", ".tar.bz2", ".bentomodel")
OTHER_SUFFIXES = (".h5", ".msgpack", ".onnx", ".ot", ".tflite", ".npz")
# What Trainer and friends leave beside the weights: pickles we never read.
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
TOKENIZER_SOURCES = (
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json"),
    *("vocab.json", "vocab.txt", "tokenizer.tiktoken", "merges.txt"),
)
PYTHON_ONLY = "tokenizer_class"
"""`param` of the error that says: the tokenizer is sound, and exists as Python code alone."""
_HEADER_LIMIT = 100 * 1024 * 1024
_JSON_LIMIT = 64 * 1024 * 1024
_CONVERT_LIMIT_S = 3600


@attrs.frozen(kw_only=True)
class Contents:
    """What was found in a folder.

    Attributes:
        config: content of config.json, None when there is none.
        weights: the files the weights are read from.
        kind: `safetensors`, `pickle`, `gguf`, `other` or None when no weights were found.
    """

    folder: Path
    config: dict[str, Any] | None
    weights: tuple[Path, ...]
    kind: str | None

    @property
    def architecture(self) -> str | None:
        """First entry of the config's `architectures`."""
        names: Any = (self.config or {}).get("architectures")
        first: Any = cast("list[Any]", names)[0] if isinstance(names, list) and names else None
        return first if isinstance(first, str) else None


def inspect(folder: Path) -> Contents:
    """Look at the top level of a folder, nothing deeper.

    Raises:
        CorruptModel: config.json is not a JSON object.
    """
    names = sorted(p for p in folder.iterdir() if p.is_file())
    config_file = folder / "config.json"
    config = _read_object(config_file) if config_file.is_file() else None
    weights, kind = _weights(names)
    return Contents(folder=folder, config=config, weights=weights, kind=kind)


def _weights(files: Sequence[Path]) -> tuple[tuple[Path, ...], str | None]:
    safe = [p for p in files if p.suffix == ".safetensors" and not p.name.startswith("adapter_")]
    named = [p for p in safe if p.name.startswith("model")]
    pickles = [p for p in files if p.suffix in PICKLE_SUFFIXES and not is_training_state(p.name)]
    pickles = [p for p in pickles if not p.name.startswith("adapter_")]
    candidates = (
        (named or safe, "safetensors"),
        ([p for p in files if p.suffix == ".gguf"], "gguf"),
        (pickles, "pickle"),
        ([p for p in files if p.suffix in OTHER_SUFFIXES], "other"),
    )
    for found, kind in candidates:
        if found:
            return tuple(found), kind
    if any(p.name == INDEX_FILE for p in files):
        return (), "safetensors"  # an index without one of its shards; `check_weights` names them
    return (), None


def is_training_state(name: str) -> bool:
    """Whether a file is what a trainer leaves beside the weights; such a pickle is never read."""
    return name.startswith(_NOT_WEIGHTS)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise CorruptModel(f"{path.name} is larger than {_JSON_LIMIT:,} bytes.")
        data: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptModel(f"{path.name} is not readable JSON: {error}.") from None
    if not isinstance(data, dict):
        raise CorruptModel(f"{path.name} is not a JSON object.")
    return cast("dict[str, Any]", data)


# -- is it whole, may it be read ----------------------------------------------------------------------------------


def check_weights(contents: Contents, *, allow_pickle_weights: bool = False) -> None:
    """Refuse a folder that cannot be served: parts missing, truncated, or of a format we do not read.

    Raises:
        CorruptModel: naming the missing or broken file.
        UnsafeConfiguration: the weights are pickle and that was not allowed.
    """
    folder = contents.folder.name or str(contents.folder)
    if contents.kind is None:
        raise CorruptModel(_no_weights(contents), hint="The folder must hold config.json and *.safetensors.")
    if contents.kind == "other":
        names = ", ".join(p.name for p in contents.weights[:3])
        raise CorruptModel(f"{folder} has weights only in a format we do not read: {names}.", hint="Save safetensors.")
    if contents.kind == "gguf":
        return
    if contents.config is None:
        raise CorruptModel(f"{folder} has weights but no config.json.", hint="Copy config.json beside the weights.")
    if contents.kind == "pickle":
        if not allow_pickle_weights:
            raise UnsafeConfiguration(
                f"{folder} has its weights only as pickle ({contents.weights[0].name}), which can run code.",
                hint="Save them as safetensors, or type --allow-pickle-weights to have them converted.",
                param="--allow-pickle-weights",
            )
        return
    _check_index(contents.folder)
    for path in contents.weights:
        check_safetensors(path)


def _no_weights(contents: Contents) -> str:
    folder = contents.folder
    name = folder.name or str(folder)
    if (folder / "adapter_config.json").is_file():
        return f"{name} is an adapter, not a model: it has no weights of its own."
    if contents.config is None:
        return f"{name} is no model: it has neither config.json nor weights (*.safetensors)."
    return f"{name} has no weights: there is no *.safetensors beside config.json."


def _check_index(folder: Path) -> None:
    index = folder / INDEX_FILE
    if not index.is_file() or (folder / "model.safetensors").is_file():
        return
    names: Any = _read_object(index).get("weight_map")
    if not isinstance(names, dict):
        raise CorruptModel(f"{INDEX_FILE} has no weight_map.")
    shards = sorted({str(v) for v in cast("dict[str, Any]", names).values()})
    missing = [s for s in shards if os.path.basename(s) != s or not (folder / s).is_file()]
    if missing:
        raise CorruptModel(
            f"{folder.name} lacks {len(missing)} of {len(shards)} weight files: {', '.join(missing[:3])}.",
            hint="Fetch the missing files again.",
        )


def check_safetensors(path: Path) -> None:
    """Compare a safetensors file's length with its own header; reads the header only.

    Format: 8 bytes little-endian header length, JSON header, data (github.com/huggingface/safetensors).

    Raises:
        CorruptModel: truncated, or not a safetensors file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT, size):
            raise CorruptModel(f"{path.name} is not a safetensors file.", hint="Fetch the file again.")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        ends = [int(v["data_offsets"][1]) for k, v in header.items() if k != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise CorruptModel(f"{path.name} has a broken safetensors header.", hint="Fetch the file again.") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise CorruptModel(
            f"{path.name} has {size:,} bytes instead of the {expected:,} its header promises.",
            hint="It is truncated or was changed: fetch the file again.",
        )


# -- conversions, in a child --------------------------------------------------------------------------------------


def convert_gguf(gguf: Path, out: Path, progress: Progress | None = None, *, name: str | None = None) -> None:
    """Turn a GGUF file into bf16 safetensors with config, tokenizer, chat template and generation config in `out`.

    Weights and tokenizer are made by two children at once, since each takes seconds of one core.

    Raises:
        CorruptModel: the file cannot be read, or what came out does not agree with it.
        MissingDependency: torch, transformers or gguf is not installed.
    """
    if progress is not None:
        progress(f"converting {name or gguf.stem} to safetensors, once", 0, None)
    side = out / ".tokenizer"
    side.mkdir()
    children = [_start("weights", gguf, out), _start("tokenizer", gguf, side)]
    try:
        for child in children:
            _finish(child, gguf.name)
    finally:
        for child in children:
            _stop(child)
    generation = out / "generation_config.json"
    merged = (_read_object(generation) if generation.is_file() else {}) | _read_object(side / generation.name)
    merged.pop("_from_model_config", None)  # it would let transformers make these values anew from config.json
    (side / generation.name).write_text(json.dumps(merged, indent=2) + "\n")
    for path in side.iterdir():
        os.replace(path, out / path.name)
    side.rmdir()
    missing = [n for n in ("config.json", "model.safetensors", "tokenizer.json") if not (out / n).is_file()]
    if missing and not (missing == ["model.safetensors"] and (out / INDEX_FILE).is_file()):
        raise CorruptModel(f"Converting {gguf.name} left no {', '.join(missing)}.")


def convert_pickle(folder: Path, out: Path, progress: Progress | None = None) -> None:
    """Turn a folder's pickle weights into safetensors in `out`, in a child without network that runs nothing of them.

    Args:
        out: folder with the model's other files, config.json among them.

    Raises:
        CorruptModel: a file cannot be read.
        UnsafeConfiguration: a file holds more than tensors.
        MissingDependency: torch or safetensors is not installed.
    """
    if progress is not None:
        progress(f"converting {folder.name} to safetensors, once", 0, None)
    child = _start("pickle", folder, out)
    try:
        _finish(child, folder.name)
    finally:
        _stop(child)
    check_weights(inspect(out))


def ensure_tokenizer(path: Path) -> Path:
    """A folder with a tokenizer.json for the model at `path`, made once where the model has only a slow tokenizer.

    Returns:
        `path` itself when tokenizer.json is there or could be put there, else a folder of the cache that holds it
        with the tokenizer's other files.

    Raises:
        CorruptModel: the folder has no tokenizer at all, or none can be made of what it has.
    """
    if (path / "tokenizer.json").is_file():
        return path
    sources = [path / name for name in TOKENIZER_SOURCES if (path / name).is_file()]
    if not sources:
        raise CorruptModel(
            f"{path.name} has no tokenizer: neither tokenizer.json nor one of {', '.join(TOKENIZER_SOURCES[:5])}.",
            hint="Copy the tokenizer's files beside the weights.",
        )
    cached = _tokenizer_cache(path, sources)
    if (cached / "tokenizer.json").is_file():
        return cached
    beside = os.access(path, os.W_OK)
    home = path if beside else cached.parent
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tokenizer-", dir=home) as text:
        made = Path(text) / "made"
        made.mkdir()
        child = _start("tokenizer", path, made)
        try:
            _finish(child, path.name)
        finally:
            _stop(child)
        if not (made / "tokenizer.json").is_file():
            raise CorruptModel(f"No tokenizer.json can be made of {sources[0].name}.")
        if beside:
            os.replace(made / "tokenizer.json", path / "tokenizer.json")
            if not (path / "tokenizer_config.json").exists():
                os.replace(made / "tokenizer_config.json", path / "tokenizer_config.json")
            return path
        for extra in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "added_tokens.json"):
            if (path / extra).is_file():
                shutil.copyfile(path / extra, made / extra)
        for extra in ("config.json", "generation_config.json"):
            if (path / extra).is_file():
                shutil.copyfile(path / extra, made / extra)
        try:
            os.rename(made, cached)
        except OSError:
            if not (cached / "tokenizer.json").is_file():  # else another process was first
                raise
    return cached


def _tokenizer_cache(path: Path, sources: Sequence[Path]) -> Path:
    facts = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in sources]
    key = hashlib.sha256(os.fsencode(repr(facts))).hexdigest()[:32]
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root) / "openllm" / "tokenizers" / key


def _start(what: str, source: Path, out: Path) -> subprocess.Popen[bytes]:
    # -P: a file named torch.py in the working directory must not be taken for torch.
    command = [sys.executable, "-P", "-m", "openllm.serialisation.convert", what, str(source), str(out)]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONUTF8": "1",
    }
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def _finish(child: subprocess.Popen[bytes], name: str) -> None:
    try:
        out, talk = child.communicate(timeout=_CONVERT_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise StoreError(f"Converting {name} took longer than {_CONVERT_LIMIT_S} s.") from None
    if child.returncode == 0:
        return
    last = out.decode("utf-8", "replace").strip().rpartition("\n")[2]
    try:
        error = from_dict(json.loads(last))
    except (ValueError, TypeError, AttributeError):
        lines = [line for line in talk.decode("utf-8", "replace").splitlines() if line.strip()]
        cause = lines[-1].strip()[:300] if lines else f"the child ended with {child.returncode}"
        raise CorruptModel(f"{name} cannot be converted: {cause}") from None
    if isinstance(error, (MissingDependency, UnsafeConfiguration)):
        raise error
    raise CorruptModel(f"{name} cannot be converted: {error.message}", hint=error.hint, param=error.param)


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
        child.wait()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
