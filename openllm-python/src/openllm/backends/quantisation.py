"""Quantised weights: what a checkpoint says of itself, and which scheme which backend runs on which device, as one table.

Asked by `registry` (for `--backend auto`), by each backend's `launch` in the server process, so that a refusal comes
before anything is loaded, and by the backends where they load. Reads config.json and file headers; imports no framework.
"""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any, Literal, cast

import attrs

from openllm_core.errors import InvalidSetting, MissingDependency
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from .checkpoint import Checkpoint, read, safetensors_tensors

Kind = Literal["cpu", "cuda"]
ONLINE = ("int8", "int4")
"""Schemes that need nothing but the weights: they are made while a model is loaded."""
CALIBRATED = ("gptq", "awq")
"""Schemes that are made once, with sample text, and stored."""
BITS = {"int8": 8.0, "int4": 4.5}
"""Bits a quantised weight takes in memory; 4.5 with nf4's scales, one for each 64 weights, themselves quantised."""
AUTOGPTQ_FILE = "quantize_config.json"
"""Where AutoGPTQ wrote what later makers write into config.json."""
NOT_LINEAR = ("embed", "wte", "wpe", "shared", "lm_head", "relative_attention_bias", "norm", "router")
"""Parts of the names of matrices that stay as they are: tables, the head, and what is small and sensitive."""
_CPU_KERNELS = ("avx512f", "avx512bw", "avx512dq", "avx512vl")  # what vLLM's build with 4-bit kernels asks for


@attrs.frozen(kw_only=True)
class Cell:
    """One scheme on one backend and device.

    Attributes:
        by: what runs it, for the start line; empty where nothing does.
        packages: modules it needs beside the backend's own.
        extra: of `openllm`, that brings them.
        bits: of a stored weight, that it reads; empty where any.
        symmetric: it reads only weights without zero points.
        cpu_flags: of an x86 CPU, without which it does not run.
        instead: what does run, for the refusal.
    """

    by: str = ""
    packages: tuple[str, ...] = ()
    extra: str = ""
    bits: tuple[int, ...] = ()
    symmetric: bool = False
    cpu_flags: tuple[str, ...] = ()
    instead: str = ""


_BITSANDBYTES = ("bitsandbytes", "accelerate")
_MAKE_GPTQ = "`openllm quantize MODEL --calibration FILE` makes a GPTQ checkpoint, which"
_INT8 = Cell(by="bitsandbytes LLM.int8()", packages=_BITSANDBYTES, extra="fine-tune")
_NF4 = Cell(by="bitsandbytes nf4", packages=_BITSANDBYTES, extra="fine-tune")
_GPTQ = Cell(by="gptqmodel", packages=("gptqmodel", "optimum"), extra="gptq")
_AWQ = Cell(by="gptqmodel", packages=("gptqmodel",), extra="gptq")
_ON_PT = "Use --backend pt."
_VLLM_CPU = Cell(by="vLLM's 4-bit CPU kernel", bits=(4,), cpu_flags=_CPU_KERNELS, instead=_ON_PT)

TABLE: dict[str, dict[tuple[str, Kind], Cell]] = {
    "int8": {
        ("pt", "cpu"): _INT8,
        ("pt", "cuda"): _INT8,
        ("vllm", "cpu"): Cell(instead="Use --backend pt, or vLLM's own --quantization fp8_per_channel."),
        ("vllm", "cuda"): Cell(instead="Use --backend pt, or vLLM's own --quantization fp8_per_channel."),
    },
    "int4": {
        ("pt", "cpu"): _NF4,
        ("pt", "cuda"): _NF4,
        ("vllm", "cpu"): Cell(instead=f"Use --backend pt; or {_MAKE_GPTQ} vLLM reads on CPUs with AVX-512."),
        ("vllm", "cuda"): Cell(instead=f"Use --backend pt; or {_MAKE_GPTQ} vLLM reads."),
    },
    "gptq": {
        ("pt", "cpu"): _GPTQ,
        ("pt", "cuda"): _GPTQ,
        ("vllm", "cpu"): attrs.evolve(_VLLM_CPU, symmetric=True),
        ("vllm", "cuda"): Cell(by="vLLM's GPTQ kernels", bits=(4, 8), symmetric=True, instead=_ON_PT),
    },
    "awq": {
        ("pt", "cpu"): _AWQ,
        ("pt", "cuda"): _AWQ,
        ("vllm", "cpu"): _VLLM_CPU,
        ("vllm", "cuda"): Cell(by="vLLM's AWQ kernels", bits=(4,), instead=_ON_PT),
    },
    "bitsandbytes": {  # checkpoints that were saved quantised, as bases for QLoRA often are
        ("pt", "cpu"): Cell(by="bitsandbytes", packages=_BITSANDBYTES, extra="fine-tune"),
        ("pt", "cuda"): Cell(by="bitsandbytes", packages=_BITSANDBYTES, extra="fine-tune"),
        ("vllm", "cpu"): Cell(instead=_ON_PT),
        ("vllm", "cuda"): Cell(instead=_ON_PT),
    },
}
"""Scheme -> (backend, kind of device) -> what runs it. A stored scheme that has no row (fp8, compressed-tensors, …) is
left to the backend, whose own error counts."""


@attrs.frozen(kw_only=True)
class Stored:
    """How a checkpoint's weights are quantised.

    Attributes:
        method: gptq, awq, bitsandbytes, fp8, … as its maker wrote it.
        bits: of a weight; None where it is not said.
        group_size: weights that share a scale; -1 for a whole row; None where it is not said.
        config: all that is said.
        beside: it stands in a file of its own and not in config.json.
    """

    method: str
    bits: int | None
    group_size: int | None
    config: dict[str, Any]
    beside: bool = False

    def __str__(self) -> str:
        facts = [f"{self.bits} bits"] if self.bits else []
        if self.group_size:
            facts.append(f"groups of {self.group_size}" if self.group_size > 0 else "one group a row")
        return ", ".join([self.method, *facts])


def stored(checkpoint: Checkpoint) -> Stored | None:
    """What a checkpoint says of its weights; None when they are not quantised."""
    return _stored(checkpoint.config, checkpoint.path)


def _stored(config: dict[str, Any], folder: Path) -> Stored | None:
    found: Any = config.get("quantization_config") or config.get("compression_config")
    beside = not isinstance(found, dict)
    if beside:
        try:
            found = json.loads((folder / AUTOGPTQ_FILE).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict):
            return None
    facts = cast("dict[str, Any]", found)
    method = str(facts.get("quant_method") or facts.get("method") or ("gptq" if beside else "unknown")).lower()
    bits = _whole(facts, "bits", "w_bit", "num_bits")
    if bits is None and method == "bitsandbytes":
        bits = 8 if facts.get("load_in_8bit") else 4
    return Stored(
        method=method, bits=bits, group_size=_whole(facts, "group_size", "q_group_size"), config=facts, beside=beside
    )


def _whole(facts: dict[str, Any], *names: str) -> int | None:
    values = (facts.get(name) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), None)


# -- what a start asks for ----------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Scheme:
    """How the weights of a start are quantised.

    Attributes:
        name: row of the table; another stored method where the table has none.
        made: they are quantised while they are loaded.
        stored: what the checkpoint says; None where it is not quantised.
        line: for the start report.
    """

    name: str
    made: bool
    stored: Stored | None
    line: str


def scheme_of(
    backend: str, kind: Kind, options: EngineOptions, checkpoint: Checkpoint, machine: detect.Machine
) -> Scheme | None:
    """What a start quantises or reads quantised; None where all is as wide as it was trained.

    Raises:
        InvalidSetting: `--quantize` and the checkpoint do not go together, or this backend cannot do it here; the hint
            names what can.
        MissingDependency: a package is missing; the hint names the extra.
    """
    found = stored(checkpoint)
    name = _asked(options, found, checkpoint.name) or (found.method if found else None)
    if backend == "pt" and options.quantization is not None:
        raise InvalidSetting(
            "--quantization chooses among vLLM's own methods; the pt backend has none of them.",
            hint="Use --quantize int8 or int4, or --backend vllm.",
            param="--quantization",
        )
    if name is None:
        return None
    cell = TABLE.get(name, {}).get((backend, kind))
    if cell is not None:
        _refuse(name, backend, kind, cell, found, machine)
    by = f"; {cell.by}" if cell else ""
    what = f"{found} (the checkpoint's{by})" if found else f"{name} (made while loading{by})"
    return Scheme(name=name, made=found is None, stored=found, line=f"quantisation: {what}")


def _asked(options: EngineOptions, found: Stored | None, model: str) -> str | None:
    """The scheme of `--quantize`, checked against what is stored."""
    asked = options.quantize
    if asked is None:
        return None
    if found is not None and asked != found.method:
        if found.method == "bitsandbytes" and asked == f"int{found.bits}":
            return found.method
        raise InvalidSetting(
            f"--quantize {asked}: the weights of {model} are {found} already.",
            hint="Leave --quantize out, or give the model they were made from.",
            param="--quantize",
        )
    if found is None and asked in CALIBRATED:
        made = (
            "`openllm quantize MODEL --calibration FILE` makes one"
            if asked == "gptq"
            else "Give a model that was published as AWQ"
        )
        raise InvalidSetting(
            f"--quantize {asked} reads a checkpoint that was quantised with sample text; {model} is none.",
            hint=f"{made}; --quantize int4 on the pt backend needs no sample text.",
            param="--quantize",
        )
    return asked


def _refuse(name: str, backend: str, kind: Kind, cell: Cell, found: Stored | None, machine: detect.Machine) -> None:
    place = f"the {backend} backend on {'a CPU' if kind == 'cpu' else 'a GPU'}"
    if lacking := _lacking_kernel(name, cell, found):
        raise InvalidSetting(f"{lacking} does not exist for {place}.", hint=cell.instead, param="--quantize")
    if lacking := _lacking_flags(cell, machine):
        raise InvalidSetting(
            f"{name} on {place} needs AVX-512, which this CPU does not have ({', '.join(lacking)}).",
            hint=cell.instead,
            param="--quantize",
        )
    missing = [package for package in cell.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingDependency(
            f"{name} on {place} needs {' and '.join(missing)}.", hint=f'pip install "openllm[{cell.extra}]"'
        )


def _lacking_kernel(name: str, cell: Cell, found: Stored | None) -> str | None:
    """What nothing runs in this cell; None where something does, as far as the checkpoint tells."""
    if not cell.by:
        return name
    if found is not None and cell.bits and found.bits not in (None, *cell.bits):
        return f"{name} with {found.bits} bits"
    if found is not None and cell.symmetric and found.config.get("sym") is False:
        return f"{name} with zero points"
    return None


def _lacking_flags(cell: Cell, machine: detect.Machine) -> list[str]:
    if "sse2" not in machine.cpu_flags:  # not x86, whose names these are
        return []
    return [flag for flag in cell.cpu_flags if flag not in machine.cpu_flags]


def describe(
    backend: str, options: EngineOptions, machine: detect.Machine | None = None, kind: Kind | None = None
) -> str | None:
    """The start line of a model folder's quantisation; None where there is none. Errors as `scheme_of`.

    Args:
        kind: of device that the backend computes on; None = what is visible.
    """
    found = machine or detect.machine()
    checkpoint = read(options.model_path, allow_pickle=options.allow_pickle_weights)
    scheme = scheme_of(backend, kind or _kind(options, found), options, checkpoint, found)
    return None if scheme is None else scheme.line.removeprefix("quantisation: ")


def extra_for(backend: str, kind: Kind, path: str | Path, quantize: str | None) -> str:
    """The extra of `openllm` that brings what runs a model folder's weights on a machine of that kind; empty for none.

    Args:
        quantize: asked for; what the folder says of itself comes first.
    """
    found = _stored_in(str(path))
    cell = TABLE.get((found.method if found else quantize) or "", {}).get((backend, kind))
    return cell.extra if cell is not None else ""


def against_vllm(options: EngineOptions, machine: detect.Machine | None = None, kind: Kind | None = None) -> str | None:
    """Why `--backend auto` had better not take vLLM for these weights; None when nothing is known against it.

    Args:
        kind: of device that the installed vLLM computes on; None = what is visible.
    """
    found = _stored_in(options.model_path)
    name = (found.method if found else options.quantize) or ""
    row = TABLE.get(name)
    if row is None:
        return None
    machine = machine or detect.machine()
    cell = row["vllm", kind or _kind(options, machine)]
    if lacking := _lacking_kernel(name, cell, found):
        return f"vLLM has no {lacking} here"
    return f"vLLM's {name} needs AVX-512, which this CPU does not have" if _lacking_flags(cell, machine) else None


def _kind(options: EngineOptions, machine: detect.Machine) -> Kind:
    return "cuda" if detect.visible_gpus(machine, "auto" if options.device == "cuda" else options.device) else "cpu"


def _stored_in(path: str) -> Stored | None:
    """What a folder that may be no whole model says."""
    try:
        config: Any = json.loads((Path(path) / "config.json").read_bytes()) if path else {}
    except (OSError, ValueError):
        return None
    return _stored(cast("dict[str, Any]", config), Path(path)) if path and isinstance(config, dict) else None


# -- sizes --------------------------------------------------------------------------------------------------------


def weight_bytes(checkpoint: Checkpoint, scheme: Scheme, element_bytes: int) -> int:
    """Bytes of the weights in memory.

    Args:
        element_bytes: of what stays unquantised.
    """
    if not scheme.made or checkpoint.pickled:
        return checkpoint.weight_bytes
    total = 0.0
    for file in checkpoint.files:
        for name, (_, shape) in safetensors_tensors(file).items():
            count = math.prod(shape)
            total += count * BITS[scheme.name] / 8 if is_linear(name, shape) else count * element_bytes
    return int(total)


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the weight of a layer that is quantised while loading, by its name and shape."""
    return len(shape) == 2 and name.endswith("weight") and not any(part in name for part in NOT_LINEAR)
