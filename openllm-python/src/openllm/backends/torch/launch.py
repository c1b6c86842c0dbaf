"""What must be known before the engine host of the pt backend starts: its environment, and whether the model fits.

Called by the supervisor in the server process and by the backend itself before it loads. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import attrs

from openllm_core.errors import CorruptModel
from openllm_core.options import EngineOptions
from openllm_core.resources import detect
from openllm_core.resources.visible_devices import HIP_VARIABLE
from openllm_core.settings import setting

from .. import arguments, quantisation, sentence
from .. import checkpoint as checkpoints
from ..base import MemoryEstimate

PRELOAD = "openllm.backends.torch.backend"  # imports torch and transformers
RUNTIME_BYTES = 600 * 1024 * 1024  # torch, transformers and their working buffers, resident after import
MIN_CONTEXT = 512  # tokens of cache without which a start makes no sense
UNBOUNDED_CONTEXT = 2048  # tokens, for architectures without a limit of their own
MAX_ROWS = 64  # sequences that run at once unless the operator says otherwise

LINEARS = ("plain", "packed16", "onednn")
"""Kinds of linear layers, see `linears`."""

quantised = partial(quantisation.describe, "pt")


@attrs.frozen(kw_only=True)
class TorchArguments:
    """What `--engine-arg` says to this backend; None leaves it to measurement or the device."""

    linear: str | None = setting(
        None, "Kind of the linear layers, instead of the one measured as fastest.", choices=LINEARS
    )
    prefill_tokens: int | None = setting(None, "Tokens of prompts computed in one step.", ge=1)


def engine_arguments(options: EngineOptions) -> TorchArguments:
    """Read `--engine-arg`.

    Raises:
        InvalidSetting: a key or value that is none.
    """
    return arguments.read(TorchArguments, options.engine_arg, "pt")


def check_arguments(options: EngineOptions) -> None:
    """Whether `--engine-arg` can be read.

    Raises:
        InvalidSetting: it cannot.
    """
    engine_arguments(options)


def environment(options: EngineOptions, machine: detect.Machine | None = None) -> dict[str, str]:
    """Variables to set before the host starts.

    OpenMP threads wait for one another several hundred times in a step. Left alone they spin for milliseconds and steal the
    core that the server process needs; told to sleep at once they wake too late. So they spin for some 100 microseconds.
    """
    found = machine or detect.machine()
    variables = {
        "OMP_NUM_THREADS": str(options.threads or found.physical_cores or found.cores),
        "GOMP_SPINCOUNT": "20000",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the folder is resolved before the host starts: nothing is fetched from here on
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if options.device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = "-1"
    elif options.device not in ("auto", "all", "cuda", ""):
        variables["CUDA_VISIBLE_DEVICES"] = options.device.removeprefix("cuda:")
        if HIP_VARIABLE in os.environ:  # which HIP reads first
            variables[HIP_VARIABLE] = variables["CUDA_VISIBLE_DEVICES"]
    return variables


def estimate(options: EngineOptions, machine: detect.Machine | None = None) -> MemoryEstimate:
    """Memory the model needs and the device has, from its files alone.

    A context that was asked for must fit once; without one a short one must. What is left serves the other slots, and the
    scheduler keeps within it.

    Raises:
        CorruptModel: the folder cannot be read.
        NoSuitableDevice: the asked-for GPU is not there.
        InvalidSetting, MissingDependency: see `quantisation.scheme_of`.
    """
    found = machine or detect.machine()
    checkpoint = checkpoints.read(options.model_path, allow_pickle=options.allow_pickle_weights)
    gpus = detect.visible_gpus(found, "auto" if options.device == "cuda" else options.device)
    scheme = quantisation.scheme_of("pt", "cuda" if gpus else "cpu", options, checkpoint, found)
    if embeds_only(options, checkpoint):
        return _of_encoder(options, checkpoint, gpus, found)
    stored = checkpoints.DTYPE_BYTES.get(checkpoint.dtype, 4)
    computed = checkpoints.DTYPE_BYTES.get(options.dtype, stored)
    weights = checkpoint.num_parameters * computed or checkpoint.weight_bytes * computed // stored
    cache_type = computed if gpus or options.dtype != "auto" else 4  # the CPU mostly computes in float32
    if scheme is not None:
        weights = quantisation.weight_bytes(checkpoint, scheme, cache_type)
    per_token = checkpoint.kv_elements_per_token * cache_type
    longest = min(
        options.max_model_len or checkpoint.max_positions or UNBOUNDED_CONTEXT, checkpoint.max_positions or 1 << 30
    )
    needed = longest if options.max_model_len is not None else min(longest, MIN_CONTEXT)
    parts = {"weights": weights, "cache": per_token * needed, "runtime": RUNTIME_BYTES}
    return MemoryEstimate(
        need_bytes=sum(parts.values()),
        have_bytes=gpus[0].memory_free_bytes if gpus else found.memory_available_bytes,
        parts=parts,
        device=f"cuda:{gpus[0].index}" if gpus else "cpu",
        bytes_per_token=per_token,
        context_tokens=longest,
        slots=options.max_num_seqs or MAX_ROWS,
    )


def embeds(options: EngineOptions) -> bool | None:
    """Whether a model has embeddings of its own; None where only loading it tells, since it brings its own code.

    A folder that cannot be read has none: another backend may serve it, and says what is wrong with it if that cannot. Nor
    has one whose vectors need what we do not do.
    """
    try:
        checkpoint = checkpoints.read(options.model_path, allow_pickle=options.allow_pickle_weights)
    except CorruptModel:
        return False
    if sentence.describe_own(checkpoint)[0] is None:
        return False
    return None if checkpoint.config.get("auto_map") else True


def embeds_only(options: EngineOptions, checkpoint: checkpoints.Checkpoint) -> bool:
    """Whether nothing that generates is loaded: none was asked for, or the model has none."""
    return options.embed_only or sentence.embeds_only(checkpoint)


def _of_encoder(
    options: EngineOptions, checkpoint: checkpoints.Checkpoint, gpus: Sequence[detect.Gpu], machine: detect.Machine
) -> MemoryEstimate:
    """Of what only makes embeddings: no cache, and on a CPU float32 unless another type was asked for."""
    usual = checkpoints.DTYPE_BYTES.get(checkpoint.dtype, 4) if gpus else 4
    computed = checkpoints.DTYPE_BYTES.get(options.dtype, usual)
    parts = {"weights": checkpoint.num_parameters * computed or checkpoint.weight_bytes, "runtime": RUNTIME_BYTES}
    return MemoryEstimate(
        need_bytes=sum(parts.values()),
        have_bytes=gpus[0].memory_free_bytes if gpus else machine.memory_available_bytes,
        parts=parts,
        device=f"cuda:{gpus[0].index}" if gpus else "cpu",
    )
