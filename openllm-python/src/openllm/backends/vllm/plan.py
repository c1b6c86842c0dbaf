"""How one engine will use this machine: devices, threads, memory, compiled or not; each decision with its reason.

Pure: from options, the model's files and facts of the machine. `launch` turns a plan into variables and an estimate
before the host starts; `backend` turns it into arguments of the engine. Must not import vllm or torch.
"""

from __future__ import annotations

import attrs

from openllm_core.errors import OutOfMemory
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from .. import quantisation
from ..checkpoint import DTYPE_BYTES, Checkpoint, safetensors_tensors
from . import distribution, ranks
from .nodes import part_of

GIB = 1 << 30
RUNTIME_BYTES = {"cpu": 2 * GIB, "cuda": 1 * GIB}
"""Beside weights and cache: on a CPU the host with vllm imported, and a step's buffers; on a GPU its context and buffers."""
CACHE_SHARE = 0.6  # of the memory that is left on a CPU's node: everything else on the machine lives there too
GPU_SHARE = 0.95  # of what is free on a GPU
MOST_GPU_SHARE = 0.92  # of a GPU's whole memory, as vLLM's own default
MATRIX_FLAGS = detect.BFLOAT16_FLAGS | {"avx512f", "avx_ne_convert"}
"""A CPU without any of these has no fast matrix product for 16-bit types: oneDNN makes none, and vLLM falls back to loops that
widen each element."""
SHARE_FLAG = "--gpu-memory-utilization"
MAX_NUM_SEQS = 256
LEAST_CONTEXT = 512  # tokens of cache without which a start makes no sense
UNBOUNDED_CONTEXT = 2048  # tokens, for architectures without a limit of their own
SPARE_ADAPTERS = 2  # places besides those asked for, see `arguments`
BLOCK_TOKENS = 128  # tokens the cache is handed out by on a CPU
CACHED_TOKENS_PER_SLOT = 512
"""A CPU's cache is written in full before the first token, so it is not as large as fits but as large as many sequences at
once have use for."""
CACHED_CONTEXTS = 8  # and never less than so many sequences of the whole context
CPU_STEP_TOKENS = 512
"""Prompt tokens computed in one step. On a CPU a longer one keeps those who already stream waiting, and so does the warm-up,
which computes one of full length."""


@attrs.frozen(kw_only=True)
class Plan:
    """What was decided.

    Attributes:
        device: `cpu`, or `cuda:` and indices.
        dtype: type of the computation; `auto` leaves the checkpoint's.
        ranks: devices that share each layer.
        max_model_len: tokens; None leaves the model's own.
        max_num_seqs: sequences run at once.
        weight_bytes: of the weights in the type they are computed in, over all ranks.
        cache_bytes: keys and values on each CPU node; 0 on a GPU.
        memory_share: of each GPU's whole memory; None on a CPU, where the cache's bytes are given.
        step_tokens: prompt and new tokens computed in one step; None leaves it to vLLM.
        free_bytes: free on the device (its first rank).
        eager: run the model uncompiled.
        quantization: vLLM's name of the method; None leaves it to config.json.
        decisions: one line each.
    """

    device: str
    dtype: str
    ranks: int
    max_model_len: int | None
    max_num_seqs: int
    weight_bytes: int
    runtime_bytes: int
    cache_bytes: int
    memory_share: float | None
    step_tokens: int | None
    free_bytes: int
    eager: bool
    decisions: tuple[str, ...]
    quantization: str | None = None


def make(options: EngineOptions, checkpoint: Checkpoint, machine: detect.Machine) -> Plan:
    """Decide.

    Raises:
        NoSuitableDevice, MissingDependency: see `distribution.visible_gpus`.
        OutOfMemory: the weights and a short sequence do not fit, or the context or share that was asked for does not.
        InvalidSetting: see `ranks.on_gpus` and `quantisation.scheme_of`.
    """
    gpus = distribution.visible_gpus(options, machine)
    scheme = quantisation.scheme_of("vllm", "cuda" if gpus else "cpu", options, checkpoint, machine)
    asked = options.dtype
    options = with_dtype(options, checkpoint, machine)
    made = _on_gpus(options, checkpoint, gpus) if gpus else _on_cpu(options, checkpoint, machine)
    method = options.quantization
    if scheme is None:
        lines = (f"quantisation: {method} while loading, by vLLM",) if method else ()
    else:
        lines = (scheme.line,)
        if scheme.stored is not None and scheme.stored.beside:
            method = method or scheme.name
    if options.dtype != asked:
        lines = (f"dtype: {options.dtype} (this CPU has no {checkpoint.dtype} matrix product; --dtype)", *lines)
    if idle := distribution.idle_gpus(options, machine):
        lines = (f"device: cpu ({idle})", *lines)
    return attrs.evolve(made, quantization=method, decisions=(*made.decisions, *lines))


def with_dtype(options: EngineOptions, checkpoint: Checkpoint, machine: detect.Machine) -> EngineOptions:
    """`options` with float32 where nothing was asked for and a CPU computes the checkpoint's own type badly."""
    if options.dtype != "auto" or distribution.visible_gpus(options, machine):
        return options
    if quantisation.stored(checkpoint) is not None or options.quantization or DTYPE_BYTES.get(checkpoint.dtype) != 2:
        return options
    badly = machine.cpu_flags and not machine.cpu_flags & MATRIX_FLAGS
    return attrs.evolve(options, dtype="float32") if badly else options


def runs_eager(options: EngineOptions) -> tuple[bool, str]:
    """Whether the model runs uncompiled, and the line that says why."""
    if options.enforce_eager:
        return True, "startup: not compiled (--enforce-eager)"
    if options.compile != "auto":
        return options.compile == "off", f"startup: {'not ' * (options.compile == 'off')}compiled (--compile)"
    if options.startup == "fast":
        return True, "startup: fast (not compiled; --startup balanced gives more tokens per second)"
    return False, f"startup: {options.startup} (compiled, kept for the next start; --startup fast starts sooner)"


def adapter_bytes(options: EngineOptions, checkpoint: Checkpoint) -> int:
    """Bytes of the room that vLLM makes for adapters: both matrices of every linear layer, at the highest rank."""
    if not options.max_adapters or checkpoint.pickled:
        return 0
    shapes = [shape for file in checkpoint.files for _, shape in safetensors_tensors(file).values()]
    vocabulary = checkpoint.text_config.get("vocab_size")
    sides = sum(sum(shape) for shape in shapes if len(shape) == 2 and vocabulary not in shape)
    element = DTYPE_BYTES.get(options.dtype, 2)
    return sides * options.max_adapter_rank * (options.max_adapters + SPARE_ADAPTERS) * element


def context_of(options: EngineOptions, checkpoint: Checkpoint) -> int:
    """Tokens a sequence may have at most."""
    positions = checkpoint.max_positions
    return min(options.max_model_len or positions or UNBOUNDED_CONTEXT, positions or 1 << 30)


def weight_bytes(options: EngineOptions, checkpoint: Checkpoint) -> int:
    """Bytes of the weights as they will be computed in; quantised ones stay as they are stored."""
    stored = DTYPE_BYTES.get(checkpoint.dtype, 4)
    computed = DTYPE_BYTES.get(options.dtype, min(stored, 2) if stored == 4 else stored)
    if quantisation.stored(checkpoint) is not None or options.quantization or not checkpoint.num_parameters:
        return checkpoint.weight_bytes
    return checkpoint.num_parameters * computed


def cache_bytes_per_token(options: EngineOptions, checkpoint: Checkpoint) -> int:
    """Bytes of keys and values that one token holds, over all layers."""
    return max(1, checkpoint.kv_elements_per_token * DTYPE_BYTES.get(options.dtype, 2))


def _on_cpu(options: EngineOptions, checkpoint: Checkpoint, machine: detect.Machine) -> Plan:
    nodes = machine.numa_nodes
    shared_by = ranks.on_cpu(options, checkpoint, machine)
    free = machine.memory_available_bytes  # counts what the kernel can drop, which a node's own count does only in part
    mine = part_of(options, machine).nodes
    if len(nodes) > 1:
        free = min([free, *(node.memory_free_bytes for node in mine)])
    where = f"NUMA node {mine[0].index}" if mine else "this machine"
    if options.memory_bytes is not None:
        free = min(free, options.memory_bytes)
        where += f" for one of {options.sharing_engines} engines"
    weights = weight_bytes(options, checkpoint)
    runtime = RUNTIME_BYTES["cpu"] + adapter_bytes(options, checkpoint)
    left = free - weights // shared_by - runtime
    per_token = cache_bytes_per_token(options, checkpoint) // shared_by or 1
    length, slots = context_of(options, checkpoint), options.max_num_seqs or MAX_NUM_SEQS
    whole = mine[0].memory_total_bytes if mine else machine.memory_total_bytes
    room = _room(options, free, whole, where)
    if options.gpu_memory_utilization is not None:
        cache = room - weights // shared_by - runtime
    else:
        cache = int(min(left * CACHE_SHARE, per_token * _useful_tokens(slots, length)))
    fits = cache // per_token - BLOCK_TOKENS
    _refuse(options, checkpoint, room, weights // shared_by + runtime, fits, length, per_token, where)
    shortened = length if fits >= length else fits // BLOCK_TOKENS * BLOCK_TOKENS
    eager, startup = runs_eager(options)
    if options.max_adapters and not eager:
        eager, startup = True, "startup: not compiled (on a CPU vLLM compiles no model with adapters)"
    step_tokens = max(CPU_STEP_TOKENS, slots)
    lines = [
        f"memory: {cache / GIB:.1f} GiB for {cache // per_token:,} tokens of cache "
        f"({free / GIB:.1f} GiB are free on {where}, weights take {weights / GIB:.1f}; --engine-arg kv_cache_memory_bytes=)",
        f"prefill: {step_tokens:,} tokens a step (shorter steps keep streams even; --engine-arg max_num_batched_tokens=)",
        startup,
    ]
    if shortened < length:
        lines.append(f"context: {shortened:,} tokens (the longest whose cache fits; the model's own is {length:,})")
    return Plan(
        device="cpu", dtype=options.dtype, ranks=shared_by, max_model_len=shortened, max_num_seqs=slots, weight_bytes=weights,
        runtime_bytes=runtime, cache_bytes=cache, memory_share=None, step_tokens=step_tokens, free_bytes=free, eager=eager,
        decisions=tuple(lines),
    )  # fmt: skip


def _useful_tokens(slots: int, length: int) -> int:
    """Tokens of cache that a CPU's engine has use for: all sequences in full where they are few or short."""
    return min(slots, max(CACHED_CONTEXTS, slots * CACHED_TOKENS_PER_SLOT // length)) * (length + BLOCK_TOKENS)


def _on_gpus(options: EngineOptions, checkpoint: Checkpoint, gpus: tuple[detect.Gpu, ...]) -> Plan:
    shared_by = ranks.on_gpus(options, checkpoint, len(gpus))
    used = gpus[:shared_by]
    tightest = min(used, key=lambda gpu: gpu.memory_free_bytes)
    free, whole = tightest.memory_free_bytes, max(1, tightest.memory_total_bytes)
    if options.memory_bytes is not None:
        free = min(free, options.memory_bytes)
    share = options.gpu_memory_utilization or min(MOST_GPU_SHARE, int(free * GPU_SHARE / whole * 1000) / 1000)
    weights = weight_bytes(options, checkpoint)
    runtime = RUNTIME_BYTES["cuda"] + adapter_bytes(options, checkpoint)
    per_token = cache_bytes_per_token(options, checkpoint) // shared_by or 1
    fits = (int(whole * share) - weights // shared_by - runtime) // per_token
    length = context_of(options, checkpoint)
    names = ",".join(str(gpu.index) for gpu in used)
    where = f"GPU {tightest.index} ({tightest.name})"
    room = _room(options, free, whole, where)
    _refuse(options, checkpoint, room, weights // shared_by + runtime, fits, length, per_token, where)
    shortened = min(length, fits)
    eager, startup = runs_eager(options)
    lines = [
        f"memory: {share:.3f} of {whole / GIB:.1f} GiB on {where} "
        f"({free / GIB:.1f} GiB are free, weights take {weights / GIB:.1f} over {shared_by}; {SHARE_FLAG})",
        startup,
    ]
    if shared_by < len(gpus) and options.tensor_parallel_size is None:
        lines.insert(
            0,
            f"ranks: {shared_by} of {len(gpus)} GPUs ({ranks.heads_of(checkpoint)} go evenly over no more; {ranks.FLAG})",
        )
    if shortened < length:
        lines.append(f"context: {shortened:,} tokens (the longest whose cache fits; the model's own is {length:,})")
    return Plan(
        device=f"cuda:{names}", dtype=options.dtype, ranks=shared_by, max_model_len=shortened if shortened < length else options.max_model_len,
        max_num_seqs=options.max_num_seqs or MAX_NUM_SEQS, weight_bytes=weights, runtime_bytes=runtime, cache_bytes=0,
        memory_share=share, step_tokens=None, free_bytes=free, eager=eager, decisions=tuple(lines),
    )  # fmt: skip


def _room(options: EngineOptions, free: int, whole: int, where: str) -> int:
    """Bytes that an engine may take on a device: all that is free, or the share that was asked for.

    Raises:
        OutOfMemory: less is free than that share.
    """
    share = options.gpu_memory_utilization
    if share is None:
        return free
    asked = int(whole * share)
    if asked > free:
        fitting = int(free * GPU_SHARE / whole * 100) / 100
        raise OutOfMemory(
            f"{SHARE_FLAG} {share:g} takes {asked:,} of the {whole:,} bytes of {where}; {free:,} are free.",
            hint=f"{SHARE_FLAG} {fitting:g}, or leave it out: the memory is then sized from what is free.",
            param=SHARE_FLAG,
        )
    return asked


def _refuse(
    options: EngineOptions, checkpoint: Checkpoint, free: int, fixed: int, fits: int, length: int, per_token: int,
    where: str,
) -> None:  # fmt: skip
    """Refuse what will not fit, naming need, have, and the longest context that would.

    Args:
        free: bytes that the engine may take, see `_room`.
    """
    least = min(length, options.max_model_len or LEAST_CONTEXT)
    if fits >= least:
        return
    need = fixed + least * per_token
    name, share = checkpoint.name, options.gpu_memory_utilization
    have = f"{free:,} are free" if share is None else f"{SHARE_FLAG} {share:g} is {free:,}"
    if fits >= min(length, LEAST_CONTEXT):
        raise OutOfMemory(
            f"{name} with a context of {length:,} tokens needs {need:,} bytes on {where}; {have}. "
            f"The longest context that fits is {fits:,}.",
            hint=f"--max-model-len {fits}",
            param="--max-model-len",
        )
    smaller = "Free memory, choose a smaller model, or quantised weights."
    raise OutOfMemory(
        f"{name} needs about {need:,} bytes on {where} ({fixed:,} for weights and runtime); {have}.",
        hint=smaller if share is None else f"Give a larger {SHARE_FLAG}, or leave it out.",
    )
