"""Choose type, linear layers, attention and threads for this model on this machine: measured once, then remembered.

The first start with a model of some shape takes a few short measurements on matrices of that shape; later ones read the
result from `pt-tuning.json` in the cache folder. What the options fix is never measured. Called by `backend` while it
loads. Every choice leaves one line for the start report.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import torch
import transformers
from torch import Tensor

from openllm_core.errors import InvalidSetting, UnsupportedFeature
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from ..base import Progress
from ..cache import cache_folder
from ..checkpoint import Checkpoint
from ..quantisation import Scheme
from . import compiling, quantised, verify
from .launch import LINEARS, engine_arguments
from .linears import available
from .measure import DTYPES, Clock, Shape, attention_seconds, linear_seconds
from .model import LoadedModel

VERSION = 4  # of the file's meaning; a change forgets what was remembered
STOCK = ("eager", "sdpa")  # attentions of transformers itself
SMALL = 8_000_000  # parameters under which nothing is worth a measurement
COMPILE_FROM = 1.1  # times faster a compiled block must be, as every start then waits for the compiler
BUSY = 0.6  # load per core above which threads are not measured


@attrs.frozen(kw_only=True)
class Choice:
    """What was chosen.

    Attributes:
        dtype: type of the computation.
        linear: kind of the linear layers, see `launch.LINEARS`.
        attention: grouped, sdpa or eager.
        threads: compute threads.
        compile: the feed-forward blocks are compiled.
        windowed: rows may share a window; None until `confirm` has looked.
        measured: all that was to be measured was; the threads, which a busy machine leaves open, are measured at the first
            start that finds it idle.
        decisions: one line each, with what was measured.
    """

    dtype: str
    linear: str
    attention: str
    threads: int
    compile: bool = False
    windowed: bool | None = None
    measured: bool = True
    decisions: tuple[str, ...] = ()


def choose(options: EngineOptions, checkpoint: Checkpoint, device: torch.device, progress: Progress) -> Choice:
    """Decide how to run a model, from options, memory of earlier starts, or measurement.

    Raises:
        InvalidSetting: `--engine-arg linear=` names no kind, or an option asks for what this backend cannot do.
    """
    _refuse_unsupported(options)
    scheme = quantised.scheme_of(options, checkpoint, device)
    if scheme is not None:
        return _of_quantised(options, checkpoint, device, scheme)
    linear = "plain" if options.compile == "on" else engine_arguments(options).linear
    if device.type != "cpu":
        return _for_gpu(options, checkpoint, device)
    if 0 < checkpoint.num_parameters < SMALL:
        return Choice(
            dtype=_cpu_dtypes(options, checkpoint)[0],
            linear=linear or "plain",
            attention="grouped" if options.attention == "auto" else options.attention,
            threads=options.threads or 1,
            compile=options.compile == "on",
            decisions=("threads: 1, float32, plain layers (a model this small is not worth a measurement)",),
        )
    machine = detect.machine(probe=tuple)
    key = _key(options, checkpoint, machine)
    remembered = recall(key)
    if remembered is not None and (remembered.measured or _busy(machine)):
        return remembered
    progress("measuring what is fastest here", None)
    if remembered is not None:
        completed = _with_measured_threads(remembered, checkpoint, machine)
        remember(key, completed)
        return completed
    return _measure(options, checkpoint, machine, linear)


def confirm(options: EngineOptions, checkpoint: Checkpoint, choice: Choice, model: LoadedModel) -> Choice:
    """Check the loaded model against itself (see `verify`), fall back where the fast way is wrong, and remember.

    The model is left with the attention and the `windowed` that hold.
    """
    choice = _as_compiled(choice, model)
    if choice.windowed is not None:
        model.use_attention(choice.attention)
        model.windowed = choice.windowed
        return choice
    name, shared = _what_holds(options, choice, model)
    lines = list(choice.decisions)
    if name != choice.attention:
        lines = [line for line in lines if not line.startswith("attention")]
        lines.append(f"attention: {name} ({choice.attention} does not give this architecture's own results)")
    if not shared:
        lines.append("batching: one sequence at a time (this architecture's state cannot share a window)")
    choice = attrs.evolve(choice, attention=name, windowed=shared, decisions=tuple(lines))
    if model.device.type == "cpu" and checkpoint.num_parameters >= SMALL:
        remember(_key(options, checkpoint, detect.machine(probe=tuple)), choice)
    return choice


def _as_compiled(choice: Choice, model: LoadedModel) -> Choice:
    """The choice, told as it is when compilation was chosen and nothing could be compiled."""
    if not choice.compile or model.compiled_blocks:
        return choice
    lines = [line for line in choice.decisions if not line.startswith("compile")]
    lines.append("compile: off (chosen, but this model has no feed-forward block that could be compiled here)")
    return attrs.evolve(choice, compile=False, decisions=tuple(lines))


def _what_holds(options: EngineOptions, choice: Choice, model: LoadedModel) -> tuple[str, bool]:
    """The first attention with which rows share a window correctly, else the first that is right for a row alone.

    Raises:
        UnsupportedFeature: none is: this architecture cannot be decoded step by step here.
    """
    names = (
        [choice.attention] if options.attention != "auto" else list(dict.fromkeys([choice.attention, "sdpa", "eager"]))
    )
    references = _references(model)
    for holds in (verify.windowed, verify.alone):
        for name in dict.fromkeys(names if holds is verify.windowed else [*names, *references]):
            with contextlib.suppress(ValueError, ImportError):  # the architecture has no such implementation
                model.use_attention(name)
                if holds(model, list(references.values())):
                    return name, model.windowed
    raise UnsupportedFeature(
        f"{type(model.module).__name__} cannot be decoded token by token: its steps differ from its whole-sequence results."
    )


def _references(model: LoadedModel) -> dict[str, list[Tensor]]:
    """What the model's whole passes give with each of transformers' own attentions that it runs.

    All of them are right, and in 16 bits they round so differently that one may be farther from another than what is to be checked
    is from either.
    """
    found: dict[str, list[Tensor]] = {}
    for name in STOCK:
        with contextlib.suppress(Exception):  # whatever an architecture raises means: not this one
            model.use_attention(name)
            found[name] = verify.reference(model)
    return found or {STOCK[0]: verify.reference(model)}  # an architecture without attention, or one that says why not


def _refuse_unsupported(options: EngineOptions) -> None:
    if options.compile == "on" and options.max_adapters:
        raise InvalidSetting(
            "--compile on and adapters exclude each other: adapters change the layers of a compiled block.",
            hint="Leave --compile at auto.",
            param="--compile",
        )
    if options.compile == "on" and engine_arguments(options).linear not in (None, "plain"):
        raise InvalidSetting(
            "--compile on and --engine-arg linear exclude each other: only plain linear layers can be compiled.",
            hint="Leave --compile at auto.",
            param="--compile",
        )


def _of_quantised(options: EngineOptions, checkpoint: Checkpoint, device: torch.device, scheme: Scheme) -> Choice:
    """Nothing to measure: the layers are whoever quantised them's, so only what is around them is ours to choose.

    Raises:
        InvalidSetting: layers of another kind, or compiled ones, are asked for.
    """
    if options.compile == "on" or engine_arguments(options).linear not in (None, "plain"):
        raise InvalidSetting(
            f"Quantised layers ({scheme.name}) can be neither compiled nor packed.",
            hint="Leave --compile at auto and --engine-arg linear out.",
            param="--compile" if options.compile == "on" else "linear",
        )
    if device.type != "cpu":
        choice = _for_gpu(options, checkpoint, device)
        return attrs.evolve(choice, measured=False, decisions=(*choice.decisions, scheme.line))
    machine = detect.machine(probe=tuple)
    dtype = "float32" if options.dtype == "auto" else options.dtype
    threads = options.threads or machine.physical_cores or machine.cores
    name = "grouped" if options.attention == "auto" else options.attention
    return Choice(
        dtype=dtype,
        linear="plain",
        attention=name,
        threads=threads,
        measured=False,
        decisions=(
            f"dtype: {dtype} ({'of what stays unquantised' if options.dtype == 'auto' else 'asked for'})",
            scheme.line,
            f"threads: {threads} ({'asked for' if options.threads else 'cores'})",
            f"attention: {name}",
        ),
    )


def _for_gpu(options: EngineOptions, checkpoint: Checkpoint, device: torch.device) -> Choice:
    stored = checkpoint.dtype or "float16"
    if stored == "bfloat16" and torch.cuda.get_device_capability(device)[0] < 8:
        stored = "float16"
    dtype = stored if options.dtype == "auto" else options.dtype
    name = "sdpa" if options.attention == "auto" else options.attention
    return Choice(
        dtype=dtype,
        linear="plain",
        attention=name,
        threads=options.threads or 1,
        compile=options.compile == "on",
        decisions=(f"dtype: {dtype} (the checkpoint's)", f"attention: {name}"),
    )


def computes_bfloat16(machine: detect.Machine) -> bool:
    """Whether the CPU multiplies bfloat16 itself; others only widen and round, slowly."""
    return bool(machine.cpu_flags & detect.BFLOAT16_FLAGS)


def _cpu_dtypes(options: EngineOptions, checkpoint: Checkpoint, machine: detect.Machine | None = None) -> list[str]:
    if options.dtype != "auto":
        return [options.dtype]
    if checkpoint.dtype == "bfloat16" and machine is not None and computes_bfloat16(machine):
        return ["float32", "bfloat16"]
    return ["float32"]


# -- what is measured -------------------------------------------------------------------------------------------------


def _measure(options: EngineOptions, checkpoint: Checkpoint, machine: detect.Machine, linear: str | None) -> Choice:
    shape = Shape.of(checkpoint)
    usual = options.threads or machine.physical_cores or machine.cores
    busy = _busy(machine)
    clock = time.thread_time if busy else time.perf_counter  # CPU time of one thread does not depend on the others
    torch.set_num_threads(1 if busy else usual)
    seconds = linear_seconds(shape, _candidates(options, checkpoint, machine, linear), clock)
    dtype, kind = min(seconds, key=lambda pair: seconds[pair])
    threads, why_threads = (usual, "cores; the machine is too busy to measure") if busy else (usual, "cores")
    if options.threads is not None:
        why_threads = "asked for"
    elif not busy:
        threads, why_threads = _threads(machine, shape, dtype, kind)
        torch.set_num_threads(threads)
    name, why_attention = options.attention, "asked for"
    if name == "auto":
        speeds = attention_seconds(shape, ("grouped", "sdpa"), dtype, clock)
        name, why_attention = min(speeds, key=lambda name: speeds[name]), _relative(speeds)
    compiled, why_compiled = _compile(options, shape, dtype, kind, clock)
    if compiled:
        kind = "plain"
    lines = (
        f"dtype: {dtype} ({_why_dtype(options, checkpoint, machine)})",
        f"linear layers: {kind} ({_relative(seconds)})",
        f"threads: {threads} ({why_threads})",
        f"attention: {name} ({why_attention})",
        f"compile: {'on' if compiled else 'off'} ({why_compiled})",
    )
    return Choice(
        dtype=dtype, linear=kind, attention=name, threads=threads, compile=compiled, decisions=lines,
        measured=not busy or options.threads is not None,
    )  # fmt: skip


def _busy(machine: detect.Machine) -> bool:
    """Whether others compute here now, so that threads cannot be compared."""
    return os.getloadavg()[0] > BUSY * machine.cores


def _with_measured_threads(choice: Choice, checkpoint: Checkpoint, machine: detect.Machine) -> Choice:
    """What a busy machine left open."""
    threads, why = _threads(machine, Shape.of(checkpoint), choice.dtype, choice.linear)
    torch.set_num_threads(threads)
    line = f"threads: {threads} ({why})"
    lines = tuple(line if old.startswith("threads:") else old for old in choice.decisions)
    return attrs.evolve(choice, threads=threads, measured=True, decisions=lines)


def _compile(options: EngineOptions, shape: Shape, dtype: str, kind: str, clock: Clock) -> tuple[bool, str]:
    """Whether to compile the feed-forward blocks, and why."""
    if options.compile != "auto":
        return options.compile == "on", "asked for"
    if options.max_adapters:
        return False, "adapters change the layers of a compiled block"
    if engine_arguments(options).linear not in (None, "plain"):
        return False, f"linear layers asked for are {kind}, which cannot be compiled"
    try:
        speeds = compiling.seconds(shape, dtype, kind, clock)
    except compiling.CannotCompile as reason:
        return False, f"torch.compile does not work here: {reason}"
    return speeds[kind] > COMPILE_FROM * speeds["compiled"], _relative(speeds)


def _relative(seconds: Mapping[Any, float]) -> str:
    """How the candidates compare, for a decision's line: "relative speed: a 1.00, b 1.45"."""
    slowest = max(seconds.values())
    names = {key: str(key).translate(str.maketrans("", "", "(),'")) for key in seconds}
    return "relative speed: " + ", ".join(f"{names[key]} {slowest / found:.2f}" for key, found in seconds.items())


def _candidates(
    options: EngineOptions, checkpoint: Checkpoint, machine: detect.Machine, linear: str | None
) -> list[tuple[str, str]]:
    """(dtype, kind of linear layer) that this build of torch and the options allow; never empty."""
    stored = DTYPES.get(checkpoint.dtype, torch.float32)
    found: list[tuple[str, str]] = []
    for dtype in _cpu_dtypes(options, checkpoint, machine):
        for kind in (linear,) if linear else LINEARS:
            if kind == "packed16":
                possible = dtype == "float32" and available(kind, stored)
            else:
                possible = kind == "plain" or (dtype != "float16" and available(kind, DTYPES[dtype]))
            if possible:
                found.append((dtype, kind))
    return found or [(_cpu_dtypes(options, checkpoint, machine)[0], "plain")]


def _why_dtype(options: EngineOptions, checkpoint: Checkpoint, machine: detect.Machine) -> str:
    if options.dtype != "auto":
        return "asked for"
    if checkpoint.dtype == "bfloat16" and not computes_bfloat16(machine):
        return "this CPU does not compute in bfloat16"
    return "measured" if checkpoint.dtype == "bfloat16" else "the checkpoint's"


def _threads(machine: detect.Machine, shape: Shape, dtype: str, kind: str) -> tuple[int, str]:
    """Threads to compute with, and why: measured where there is a choice to make."""
    usual = machine.physical_cores or machine.cores
    seconds: dict[int, float] = {}
    for threads in sorted({1, max(1, usual // 2), usual, machine.cores}):
        torch.set_num_threads(threads)
        seconds[threads] = linear_seconds(shape, [(dtype, kind)], time.perf_counter)[dtype, kind]
    return min(seconds, key=lambda threads: seconds[threads]), _relative(seconds)


# -- memory -----------------------------------------------------------------------------------------------------------


def memory_file() -> Path:
    """Where choices are remembered."""
    return cache_folder() / "pt-tuning.json"


def _key(options: EngineOptions, checkpoint: Checkpoint, machine: detect.Machine) -> str:
    shape = Shape.of(checkpoint)
    compiles = "no: adapters" if options.max_adapters else options.compile
    asked = (options.dtype, options.attention, options.threads, compiles, engine_arguments(options).linear)
    facts = (
        VERSION, machine.cpu_model, machine.cores, torch.__version__, transformers.__version__,
        checkpoint.architecture, checkpoint.dtype, *attrs.astuple(shape), *asked,
    )  # fmt: skip
    return "|".join(map(str, facts))


def recall(key: str) -> Choice | None:
    """What was remembered under `key`; None when nothing usable was."""
    data = _read_memory().get(key)
    if not isinstance(data, dict):
        return None
    try:
        fields = cast("dict[str, Any]", data)
        decisions = tuple(str(line) for line in fields.pop("decisions"))
        return Choice(**fields, decisions=decisions)
    except (TypeError, KeyError):
        return None


def remember(key: str, choice: Choice) -> None:
    """Keep a choice for later starts; a cache folder that cannot be written only costs the next start its time."""
    data = _read_memory() | {key: attrs.asdict(choice)}
    file = memory_file()
    staging = file.with_name(f".{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        staging.write_text(json.dumps(data, indent=1))
        staging.replace(file)


def _read_memory() -> dict[str, Any]:
    try:
        data: Any = json.loads(memory_file().read_bytes())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}
