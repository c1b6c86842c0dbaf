"""What a model folder says of itself, read without torch: config, weight files, sizes, end-of-sequence ids.

Called by each backend: by `launch` (in the server process) and where it loads (in the engine host), so that both decide
from the same facts. Reads JSON and safetensors headers only; never a weight.
"""

from __future__ import annotations

import functools
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attrs

from openllm_core.errors import CorruptModel, UnsafeConfiguration
from openllm_core.families.own_code import is_replaced

SAFETENSORS_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
INTEGERS = frozenset({"I64", "U64", "I32", "U32", "I16", "U16", "I8", "U8", "BOOL"})
QUANTISED = ("quantization_config", "compression_config", "quantization_bit")
"""Keys of config.json that tell of quantised weights."""
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float32"}
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of an element of the types that a model is computed in."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@attrs.frozen(kw_only=True)
class Checkpoint:
    """Facts of one model folder.

    Attributes:
        path: the folder.
        config: config.json.
        files: weight files, of one format.
        pickled: the weights are pickle files, which can run code when read.
        num_parameters: elements of all tensors; 0 when the files are pickled and cannot be looked into.
        weight_bytes: as stored.
        dtype: torch name of the floating type most elements are stored in; "" when unknown.
    """

    path: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    pickled: bool
    num_parameters: int
    weight_bytes: int
    dtype: str

    @property
    def name(self) -> str:
        """What people call it: a stored model's tag, NAME:VERSION, as its folder is its version; else the folder's name."""
        is_stored = (self.path / "manifest.json").is_file()
        return f"{self.path.parent.name}:{self.path.name}" if is_stored else self.path.name

    @property
    def architecture(self) -> str:
        """First entry of `architectures`; empty when config.json names none."""
        names = self.config.get("architectures") or [""]
        return str(names[0])

    @property
    def seq2seq(self) -> bool:
        """An encoder reads the prompt, a decoder writes the answer."""
        return bool(self.config.get("is_encoder_decoder"))

    @property
    def text_config(self) -> dict[str, Any]:
        """The part of config.json that describes the language model (multimodal ones nest it)."""
        nested = self.config.get("text_config")
        return cast("dict[str, Any]", nested) if isinstance(nested, dict) else self.config

    @property
    def max_positions(self) -> int | None:
        """Context length in tokens; None where the architecture has no limit of its own (T5, ALiBi)."""
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length"):
            value = self.text_config.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        return None

    @property
    def attention_heads(self) -> int:
        """Heads of each decoder layer; 0 where config.json does not say."""
        return _first(self.text_config, "num_attention_heads", "n_head", "n_heads", "num_heads") or 0

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values in each decoder layer; 0 where config.json does not say."""
        if self.text_config.get("multi_query") is True:
            return 1
        found = _first(self.text_config, "num_key_value_heads", "num_kv_heads", "multi_query_group_num")
        return found or self.attention_heads

    @property
    def kv_elements_per_token(self) -> int:
        """Elements of keys and values one token adds to the cache, over all decoder layers (an estimate)."""
        config = self.text_config
        layers = _first(config, "num_decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers") or 1
        hidden = _first(config, "hidden_size", "n_embd", "d_model") or 0
        head_dim = _first(config, "head_dim", "d_kv") or hidden // (self.attention_heads or 1)
        return 2 * layers * (self.kv_heads or 1) * head_dim


def _first(config: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None


def read(path: str | Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Look at a model folder.

    Args:
        path: folder with config.json and weights.
        allow_pickle: read weights stored as pickle.

    Raises:
        CorruptModel: no folder, config.json missing or malformed, weights missing, truncated, of whole numbers that nothing
            explains, or pickled and not allowed.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CorruptModel(f"{folder} is not a folder.", hint="Give the folder that holds config.json and the weights.")
    config = _json_object(folder / "config.json")
    if config is None:
        raise CorruptModel(f"{folder} has no config.json.", hint="Import the model again.")
    files = weight_files(folder)
    if files:
        whole = None if _says_quantised(folder, config) else _refuse_integers
        sizes = [_safetensors_sizes(file, whole) for file in files]
        elements: dict[str, int] = {}
        for size in sizes:
            for dtype, count in size.items():
                elements[dtype] = elements.get(dtype, 0) + count
        stored = sum(SAFETENSORS_BYTES.get(dtype, 1) * count for dtype, count in elements.items())
        wide = [name for name in elements if name in DTYPES]  # packed integers are no type to compute in
        main = max(wide, key=lambda name: elements[name], default="")
        return Checkpoint(
            path=folder,
            config=config,
            files=files,
            pickled=False,
            num_parameters=sum(elements.values()),
            weight_bytes=stored,
            dtype=DTYPES.get(main, ""),
        )
    pickles = tuple(sorted(f for f in folder.glob("pytorch_model*") if f.suffix in PICKLE_SUFFIXES))
    pickles = pickles or tuple(sorted(f for f in folder.iterdir() if f.suffix in PICKLE_SUFFIXES))
    if not pickles:
        raise CorruptModel(f"{folder} holds no weights (*.safetensors).", hint="Import the model again.")
    if not allow_pickle:
        raise CorruptModel(
            f"{pickles[0].name} stores weights as pickle, which can run any code when it is read.",
            hint="Convert it to safetensors, or add --allow-pickle-weights if you trust who made it.",
        )
    declared = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return Checkpoint(
        path=folder,
        config=config,
        files=pickles,
        pickled=True,
        num_parameters=0,
        weight_bytes=sum(f.stat().st_size for f in pickles),
        dtype=declared,
    )


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder, those of the index where there is one.

    Raises:
        CorruptModel: the index names a file that is not there.
    """
    index = _json_object(folder / "model.safetensors.index.json")
    if index is not None:
        weight_map = cast("dict[str, Any]", index.get("weight_map") or {})
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if not (folder / name).is_file():
                raise CorruptModel(f"{folder / name} is missing; the index names it.", hint="Import the model again.")
        return tuple(folder / name for name in names)
    return tuple(sorted(folder.glob("*.safetensors")))


def refuse_untrusted_code(checkpoint: Checkpoint, trusted: bool) -> None:
    """Refuse a model that needs Python code of its own unless that was allowed.

    Raises:
        UnsafeConfiguration: it does, and it was not.
    """
    modules = checkpoint.config.get("auto_map")
    if modules and not trusted and not is_replaced(checkpoint.config):
        raise UnsafeConfiguration(
            f"{checkpoint.name} carries Python code that would run here (auto_map in config.json).",
            hint="Add --trust-remote-code if you trust who wrote it.",
            param="--trust-remote-code",
        )


def eos_token_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Ids that end a text: of the tokenizer's eos token and of generation_config.json together, in that order.

    config.json counts only where generation_config.json names none.
    """
    found: list[int] = []
    name = _token_name(_json_object(checkpoint.path / "tokenizer_config.json"), "eos_token")
    name = name or _token_name(_json_object(checkpoint.path / "special_tokens_map.json"), "eos_token")
    if name is not None and (token_id := _token_id(checkpoint.path, name)) is not None:
        found.append(token_id)
    generation = _json_object(checkpoint.path / "generation_config.json") or {}
    listed = _ids(generation.get("eos_token_id"))
    found += listed or _ids(checkpoint.text_config.get("eos_token_id", checkpoint.config.get("eos_token_id")))
    return tuple(dict.fromkeys(found))


def bos_token_id(checkpoint: Checkpoint) -> int | None:
    """Id that begins a text, where the model has one."""
    generation = _json_object(checkpoint.path / "generation_config.json") or {}
    for source in (generation, checkpoint.text_config, checkpoint.config):
        if ids := _ids(source.get("bos_token_id")):
            return ids[0]
    return None


def _ids(value: Any) -> list[int]:
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0]


def _token_name(source: dict[str, Any] | None, key: str) -> str | None:
    value = (source or {}).get(key)
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("content")
    return value if isinstance(value, str) else None


def _token_id(folder: Path, token: str) -> int | None:
    data = _json_object(folder / "tokenizer.json") or {}
    for added in cast("list[dict[str, Any]]", data.get("added_tokens") or []):
        if added.get("content") == token:
            return int(added["id"])
    vocabulary = cast("dict[str, Any]", data.get("model") or {}).get("vocab")
    if isinstance(vocabulary, dict):
        found = cast("dict[str, Any]", vocabulary).get(token)
        return found if isinstance(found, int) else None
    if isinstance(vocabulary, list):  # Unigram: [piece, score] by position
        for position, piece in enumerate(cast("list[list[Any]]", vocabulary)):
            if piece and piece[0] == token:
                return position
    return None


def _json_object(file: Path) -> dict[str, Any] | None:
    """A JSON file's object; None when there is no such file.

    Raises:
        CorruptModel: the file is no JSON object.
    """
    if not file.is_file():
        return None
    return _read_json_object(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read_json_object(file: Path, mtime_ns: int) -> dict[str, Any]:
    try:
        data: Any = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptModel(f"{file} cannot be read: {error}.", hint="Import the model again.") from None
    if not isinstance(data, dict):
        raise CorruptModel(f"{file} holds no JSON object.", hint="Import the model again.")
    return cast("dict[str, Any]", data)


def _says_quantised(folder: Path, config: dict[str, Any]) -> bool:
    """Whether it is written anywhere that weights are stored in parts, which whole numbers may be."""
    return any(config.get(key) for key in QUANTISED) or (folder / "quantize_config.json").exists()


def _refuse_integers(file: Path, name: str, dtype: str) -> None:
    """A weight of whole numbers would be computed with as it stands: nonsense, and no error."""
    if name.endswith(".weight") and dtype in INTEGERS:
        raise CorruptModel(
            f"{file}: {name[:120]} is stored as {dtype}, and config.json does not say how it was quantised.",
            hint="Import the model again, from a checkpoint with floating-point weights or a quantization_config.",
        )


def _safetensors_sizes(file: Path, look: Callable[[Path, str, str], None] | None) -> dict[str, int]:
    """Elements by dtype of one safetensors file; `look` may refuse a tensor by its name and dtype."""
    elements: dict[str, int] = {}
    for name, (dtype, shape) in safetensors_tensors(file).items():
        if look is not None:
            look(file, name, dtype)
        elements[dtype] = elements.get(dtype, 0) + math.prod(shape)
    return elements


def _span(name: str, tensor: dict[str, Any]) -> tuple[int, int]:
    """Where a tensor's bytes lie, which must be as many as its type and shape need."""
    (start, stop), shape, element = tensor["data_offsets"], tensor["shape"], SAFETENSORS_BYTES.get(tensor["dtype"])
    needed = stop - start if element is None else math.prod(shape) * element
    if min([0, *shape]) < 0 or not 0 <= start <= stop or stop - start != needed:
        raise ValueError(f"its {name[:120]} does not have the bytes that its shape needs")
    return start, stop


def safetensors_tensors(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype as stored, shape) of the tensors of one safetensors file.

    Raises:
        CorruptModel: it is none, or its bytes are not those that its header says.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(MAX_HEADER_BYTES, size):
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(stream.read(length))
        tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
        spans: list[tuple[int, int]] = []
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            tensors[name] = tensor["dtype"], tuple(tensor["shape"])
            spans.append(_span(name, tensor))
        end = 0
        for start, stop in sorted(spans):
            if start != end:
                raise ValueError("its tensors do not lie one behind the other")
            end = stop
        if 8 + length + end != size:
            raise ValueError(f"it has {size} bytes and should have {8 + length + end}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CorruptModel(
            f"{file} is not a whole safetensors file: {error}.", hint="Import the model again."
        ) from None
    return tensors
