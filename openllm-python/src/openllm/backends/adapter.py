"""What a LoRA adapter folder says of itself, read without torch: configuration, layers, ranks; and whether it fits a model.

Called by the server before an adapter reaches an engine, by `openllm adapters add`, and by the backends when they load
one, so that all refuse the same for the same reason. Reads JSON and safetensors headers only; never a weight.

Format: PEFT's (`LoraConfig` in adapter_config.json, tensors `base_model.model.<layer>.lora_A.weight` [rank, in] and
`lora_B.weight` [out, rank]); QLoRA saves the same files.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, cast

import attrs

from openllm_core.errors import AdapterIncompatible, CorruptModel

from . import quantisation
from .checkpoint import Checkpoint, safetensors_tensors

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
MAX_CONFIG_BYTES = 1 << 20
HEADS = ("lm_head", "embed_out")  # may share the embedding's weights, and then are not stored
MAX_ALPHA = 1e30  # far beyond what is trained with; also keeps out what is not finite
FLOATS = ("F32", "F16", "BF16")
_TENSOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])(\.[A-Za-z0-9_]+)?\.weight")
_PATTERN = re.compile(r"(\w|\.|-|\\\.|\||\[[\w-]+\]|\(\w+(\|\w+)*\)){1,512}")
"""Names, choices and classes of characters; what repeats (`*`, `+`) could keep the matching busy for ever."""
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq")  # ways to begin that leave other base weights behind
_REFUSED = (
    # key of adapter_config.json -> what it is called
    ("use_dora", "DoRA"),
    ("modules_to_save", "whole layers beside the low-rank ones (modules_to_save)"),
    ("lora_bias", "biases (lora_bias)"),
    ("trainable_token_indices", "retrained tokens (trainable_token_indices)"),
    ("target_parameters", "parameters outside layers (target_parameters)"),
    ("layer_replication", "repeated layers (layer_replication)"),
    ("alora_invocation_tokens", "activation by tokens (aLoRA)"),
    ("use_qalora", "QA-LoRA"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("arrow_config", "Arrow routing"),
)


@attrs.frozen
class LowRank:
    """The two matrices of one layer: [rank, in] and [out, rank], and what their product is multiplied with."""

    inputs: int
    outputs: int
    rank: int
    scale: float


@attrs.frozen(kw_only=True)
class AdapterFiles:
    """One adapter folder.

    Attributes:
        path: the folder.
        config: adapter_config.json.
        layers: name of a layer in the base model -> its matrices.
        tensors: name of a layer -> names of its A and its B in the weights file.
    """

    path: Path
    config: dict[str, Any]
    layers: dict[str, LowRank]
    tensors: dict[str, tuple[str, str]]

    @property
    def rank(self) -> int:
        """The highest rank of a layer."""
        return max(layer.rank for layer in self.layers.values())

    @property
    def base(self) -> str:
        """Model it was trained on, as it says itself; a folder's basename, never a path."""
        name = str(self.config.get("base_model_name_or_path") or "")
        return Path(name).name if name.startswith(("/", ".", "~")) else name

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.path / WEIGHTS_FILE


def read(path: str | Path) -> AdapterFiles:
    """Look at an adapter folder.

    Raises:
        AdapterIncompatible: files are missing, broken or pickled, or it is of a kind that we do not serve.
    """
    folder = Path(path)
    config = _config(folder)
    _refuse_kind(folder, config)
    if not (folder / WEIGHTS_FILE).is_file():
        if (folder / PICKLE_FILE).is_file():
            raise _refused(
                folder,
                f"stores its weights as pickle ({PICKLE_FILE}), which can run code",
                "Save it again with PEFT's save_pretrained(), which writes safetensors.",
            )
        raise _refused(folder, f"has no {WEIGHTS_FILE}")
    try:
        stored = safetensors_tensors(folder / WEIGHTS_FILE)
    except CorruptModel as error:
        raise AdapterIncompatible(error.message, hint="Copy the adapter again.") from None
    shapes: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
    for name, (dtype, shape) in stored.items():
        if name.endswith(".base_layer.weight"):  # PEFT adds the base's own weights of a head or an embedding it changed
            continue
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise _refused(folder, f"has a tensor that is no part of a linear layer's LoRA: {name[:120]}")
        if dtype not in FLOATS or len(shape) != 2:
            raise _refused(folder, f"has {name[:120]} as {dtype} {list(shape)}; a matrix of floats is needed")
        shapes.setdefault(match["layer"], {})[match["side"]] = name, shape
    layers: dict[str, LowRank] = {}
    for layer, sides in shapes.items():
        layers[layer] = _low_rank(folder, config, layer, sides)
    if not layers:
        raise _refused(folder, f"has no weights in {WEIGHTS_FILE}")
    tensors = {layer: (sides["A"][0], sides["B"][0]) for layer, sides in shapes.items()}
    return AdapterFiles(path=folder, config=config, layers=layers, tensors=tensors)


def check_fits(adapter: AdapterFiles, checkpoint: Checkpoint, max_rank: int) -> None:
    """Refuse an adapter of another base, or of too high a rank.

    Raises:
        AdapterIncompatible: naming the first layer that does not fit, with both sizes.
    """
    if adapter.rank > max_rank:
        raise _refused(
            adapter.path,
            f"has rank {adapter.rank}; this server takes {max_rank} at most",
            f"Start it with --max-adapter-rank {adapter.rank}.",
        )
    if checkpoint.pickled:
        return  # its shapes cannot be looked at; the backend compares with the loaded layers
    base: dict[str, tuple[int, ...]] = {}
    for file in checkpoint.files:
        base |= {name: shape for name, (_, shape) in safetensors_tensors(file).items()}
    found = quantisation.stored(checkpoint)
    bits = found.bits if found is not None else None
    for name, layer in adapter.layers.items():
        shape = _shape_in_base(base, name, bits)
        if shape is None and name.rpartition(".")[2] in HEADS:
            shape = _tied_head(checkpoint)
        if shape is None:
            raise _refused(
                adapter.path,
                f"was made for another model: {checkpoint.name} has no layer {name[:120]}" + _trained_on(adapter),
            )
        if len(shape) == 2 and set(shape) != {layer.inputs, layer.outputs}:
            raise _refused(
                adapter.path,
                f"was made for another model: its {name} is {layer.outputs} x {layer.inputs}, "
                f"{checkpoint.name} has {shape[0]} x {shape[1]}" + _trained_on(adapter),
            )


def _trained_on(adapter: AdapterFiles) -> str:
    return f" (trained on {adapter.base[:96]})" if adapter.base else ""


def _shape_in_base(base: dict[str, tuple[int, ...]], layer: str, bits: int | None) -> tuple[int, ...] | None:
    """Shape of a layer's weight, () where it is packed in a way we do not know; None where there is no such layer.

    Args:
        base: names and shapes; some checkpoints leave the model's own prefix out of their names.
        bits: of a quantised weight.
    """
    for name in (layer, layer.partition(".")[2]):
        if (weight := base.get(f"{name}.weight")) is not None:
            return () if f"{name}.weight.absmax" in base else weight  # bitsandbytes lays 4-bit weights out in one row
        packed, scales = base.get(f"{name}.qweight"), base.get(f"{name}.scales")
        if packed is not None and scales is not None and len(packed) == len(scales) == 2 and bits:
            return _unpacked(packed, scales[1], base.get(f"{name}.g_idx"), bits)
        if name and any(other.rpartition(".")[0] == name for other in base):
            return ()
    return None


def _unpacked(packed: tuple[int, ...], outputs: int, groups: tuple[int, ...] | None, bits: int) -> tuple[int, ...]:
    """[out, in] of a layer whose weights stand in 32-bit words: GPTQ packs along the inputs, AWQ along the outputs.

    Args:
        groups: shape of GPTQ's group of each input, where it is stored.
    """
    if packed[1] == outputs:
        return outputs, groups[0] if groups else packed[0] * 32 // bits
    return (outputs, packed[0]) if packed[1] * 32 == outputs * bits else ()


def _tied_head(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Shape of a head that is not stored, since it is the embedding; () where the configuration does not say."""
    sizes = [checkpoint.text_config.get(name) for name in ("vocab_size", "hidden_size")]
    return tuple(size for size in sizes if isinstance(size, int))


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise AdapterIncompatible(
            f"There is no adapter folder {str(folder)[:300]}.", hint="`openllm adapters ls` lists the stored ones."
        )
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise _refused(folder, f"is no adapter: it has no {CONFIG_FILE}")
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("it is too large")
        data: Any = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(folder, f"has an {CONFIG_FILE} that cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise _refused(folder, f"has an {CONFIG_FILE} that is no JSON object")
    return cast("dict[str, Any]", data)


def _refuse_kind(folder: Path, config: dict[str, Any]) -> None:
    kind = str(config.get("peft_type") or "").upper()
    if kind != "LORA":
        raise _refused(folder, f"is of type {kind[:40] or 'unknown'}; only LoRA adapters are served")
    for key, name in _REFUSED:
        if config.get(key):
            raise _refused(folder, f"uses {name}, which is not served")
    if config.get("bias") not in (None, "none"):
        raise _refused(folder, f"changes biases (bias={str(config['bias'])[:40]!r}), which is not served")
    for patterns in ("rank_pattern", "alpha_pattern"):
        found: Any = config.get(patterns) or {}
        if not isinstance(found, dict):
            raise _refused(folder, f"has a {patterns} that is no object")
        for pattern in cast("dict[str, Any]", found):
            if not _PATTERN.fullmatch(pattern) or not _compiles(pattern):
                raise _refused(folder, f"has a {patterns} that is not served: {pattern[:80]!r}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        raise _refused(
            folder,
            f"began as {start[:40]}, which changes the base's own weights",
            "Convert it: PEFT's save_pretrained(path_initial_model_for_weight_conversion=...).",
        )


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:  # a class of characters whose ends stand the wrong way round
        return False
    return True


def _low_rank(
    folder: Path, config: dict[str, Any], layer: str, sides: dict[str, tuple[str, tuple[int, ...]]]
) -> LowRank:
    if set(sides) != {"A", "B"}:
        raise _refused(folder, f"has only one of the two matrices of {layer[:120]}")
    (_, (rank, inputs)), (_, (outputs, other)) = sides["A"], sides["B"]
    if rank != other:
        raise _refused(folder, f"is broken: the matrices of {layer[:120]} have rank {rank} and {other}")
    if rank < 1:
        raise _refused(folder, f"is broken: the matrices of {layer[:120]} have rank {rank}")
    said, alpha = _pattern(config, "rank_pattern", layer, "r"), _pattern(config, "alpha_pattern", layer, "lora_alpha")
    if said != rank:
        raise _refused(folder, f"is broken: {layer[:120]} has rank {rank}, its {CONFIG_FILE} says {said}")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not abs(alpha) < MAX_ALPHA:
        raise _refused(folder, f"has an {CONFIG_FILE} without lora_alpha")
    return LowRank(inputs, outputs, rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _pattern(config: dict[str, Any], patterns: str, layer: str, otherwise: str) -> Any:
    """A value that may differ by layer: a pattern holds where it matches the end of the name at a dot (PEFT's rule)."""
    found: Any = config.get(patterns)
    if isinstance(found, dict):
        for pattern, value in cast("dict[str, Any]", found).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", layer):
                return value
    return config.get(otherwise)


def _refused(folder: Path, why: str, hint: str | None = None) -> AdapterIncompatible:
    return AdapterIncompatible(f"The adapter {folder.name[:96]} {why}.", hint=hint, param="adapter_name")
