"""What must be known before the engine host of the vllm backend starts: its environment, and whether the model fits.

Called by the supervisor in the server process, by the start checks, and by the backend itself. Imports no vllm.
"""

from __future__ import annotations

import os
from functools import partial

from openllm_core.errors import OutOfMemory
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from .. import arguments, quantisation
from .. import checkpoint as checkpoints
from ..base import MemoryEstimate
from ..cache import cache_folder
from . import architectures, plan, source, threads

PRELOAD = "openllm.backends.vllm.backend"
unsupported = architectures.unsupported
quantised = partial(quantisation.describe, "vllm")


def environment(options: EngineOptions, machine: detect.Machine | None = None) -> dict[str, str]:
    """Variables to set before the host starts; none that the user has set is changed, save the devices."""
    found = machine or detect.machine()
    cache = cache_folder()
    variables = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the host is the process that the engine core runs in
        "VLLM_NO_USAGE_STATS": "1",  # nothing of this machine is told to anyone
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the folder is resolved before the host starts: nothing is fetched from here on
    }
    variables = {name: value for name, value in variables.items() if name not in os.environ}
    if options.device not in ("auto", "all", "cpu", "cuda", ""):
        variables["CUDA_VISIBLE_DEVICES"] = options.device.removeprefix("cuda:")
    elif options.device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = "-1"
    if not detect.visible_gpus(found, "auto" if options.device == "cuda" else options.device):
        # vLLM 0.32 cannot read back the whole compiled model that it keeps of a CPU, so that each start compiled anew;
        # inductor's own cache, which is used without it, can be.
        if "VLLM_USE_AOT_COMPILE" not in os.environ:
            variables["VLLM_USE_AOT_COMPILE"] = "0"
        variables |= threads.variables(options, found, os.environ)
    return variables


def check_arguments(options: EngineOptions) -> None:
    """Whether vLLM has the engine arguments that are given; their values are read where it is imported.

    Raises:
        InvalidSetting: it has not.
    """
    if known := source.engine_arguments():
        arguments.refuse_unknown((key.replace("-", "_") for key in options.engine_arg), known, "vllm")


def estimate(options: EngineOptions, machine: detect.Machine | None = None) -> MemoryEstimate:
    """Memory the model needs and the device has, from its files alone.

    Raises:
        CorruptModel: the folder cannot be read.
        NoSuitableDevice, InvalidSetting: devices that are asked for are not there.
    """
    found = machine or detect.machine()
    checkpoint = checkpoints.read(options.model_path, allow_pickle=options.allow_pickle_weights)
    options = plan.with_dtype(options, checkpoint, found)
    gpus = detect.visible_gpus(found, "auto" if options.device == "cuda" else options.device)
    kind = "cuda" if gpus else "cpu"
    ranks = options.tensor_parallel_size or max(1, len(gpus))
    context = min(plan.context_of(options, checkpoint), options.max_model_len or plan.LEAST_CONTEXT)
    parts = {
        "weights": plan.weight_bytes(options, checkpoint) // ranks,
        "cache": plan.cache_bytes_per_token(options, checkpoint) // ranks * context,
        "runtime": plan.RUNTIME_BYTES[kind],
    }
    if adapters := plan.adapter_bytes(options, checkpoint):
        parts["adapters"] = adapters
    try:
        made = plan.make(options, checkpoint, found)
        device, free = made.device, made.free_bytes
    except OutOfMemory:
        device = f"cuda:{gpus[0].index}" if gpus else "cpu"
        free = gpus[0].memory_free_bytes if gpus else found.memory_available_bytes
    return MemoryEstimate(
        need_bytes=sum(parts.values()),
        have_bytes=free,
        parts=parts,
        device=device,
        bytes_per_token=plan.cache_bytes_per_token(options, checkpoint) // ranks,
        context_tokens=plan.context_of(options, checkpoint),
        slots=options.max_num_seqs or plan.MAX_NUM_SEQS,
    )
