"""What must be known before the engine host of the vllm backend starts: its environment, and whether the model fits.

Called by the supervisor in the server process, by the start checks, and by the backend itself. Imports no vllm.
"""

from __future__ import annotations

import os

from openllm_core.errors import OpenLLMError, OutOfMemory
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from .. import checkpoint as checkpoints
from .. import installed, quantisation
from ..base import MemoryEstimate
from ..cache import cache_folder
from . import architectures, checks, distribution, plan, ranks, threads

PRELOAD = "openllm.backends.vllm.backend"
unsupported = architectures.unsupported
check_arguments = checks.check_arguments


def environment(options: EngineOptions, machine: detect.Machine | None = None) -> dict[str, str]:
    """Variables to set before the host starts; none that the user has set is changed, save the devices."""
    found = machine or detect.machine()
    cache = cache_folder()
    variables = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the host is the process that the engine core runs in
        "VLLM_NO_USAGE_STATS": "1",  # nothing of this machine is told to anyone
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",  # what it sees then is decided by `guards`
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
    if not distribution.visible_gpus(options, found):
        # vLLM 0.32 cannot read back the whole compiled model that it keeps of a CPU, so that each start compiled anew;
        # inductor's own cache, which is used without it, can be.
        if "VLLM_USE_AOT_COMPILE" not in os.environ:
            variables["VLLM_USE_AOT_COMPILE"] = "0"
        variables |= threads.variables(options, found, os.environ)
    return variables


def check_here(
    options: EngineOptions,
    architecture: str,
    machine: detect.Machine | None = None,
    version: installed.Version | None = None,
) -> None:
    """Whether the installed vLLM runs such a model on this machine with what was asked for, as far as can be told without it.

    Raises:
        UnsupportedFeature: it has no code for the architecture, or none for adapters on it.
        MissingDependency, NoSuitableDevice: see `distribution`.
    """
    architectures.refuse(unsupported(architecture) or architectures.former_layout(architecture, options.model_path))
    if (options.adapter_id or options.max_adapters) and not architectures.takes_adapters(architecture):
        architectures.refuse(f"vLLM runs {architecture} without adapters.")
    if distribution.find(version) is not None:
        distribution.refuse_other_device(options, machine or detect.machine(), version)


def why_not(
    options: EngineOptions,
    architecture: str,
    machine: detect.Machine | None = None,
    version: installed.Version | None = None,
) -> str | None:
    """Why `--backend auto` had better take another backend; None when nothing is known against this one."""
    try:
        check_here(options, architecture, machine, version)
    except OpenLLMError as error:
        return error.message
    found = distribution.find(version)
    return quantisation.against_vllm(options, machine, "cpu" if found is not None and found.on_cpus else None)


def quantised(options: EngineOptions, machine: detect.Machine | None = None) -> str | None:
    """See `quantisation.describe`."""
    found = machine or detect.machine()
    kind = "cuda" if distribution.visible_gpus(options, found) else "cpu"
    return quantisation.describe("vllm", options, found, kind)


def estimate(options: EngineOptions, machine: detect.Machine | None = None) -> MemoryEstimate:
    """Memory the model needs and the device has, from its files alone.

    Raises:
        CorruptModel: the folder cannot be read.
        NoSuitableDevice, InvalidSetting, MissingDependency: devices that are asked for are not there, or not for this vLLM.
        OutOfMemory: `plan` refuses what these sums alone would let pass.
    """
    found = machine or detect.machine()
    checkpoint = checkpoints.read(options.model_path, allow_pickle=options.allow_pickle_weights)
    options = plan.with_dtype(options, checkpoint, found)
    gpus = distribution.visible_gpus(options, found)
    shared_by = ranks.on_gpus(options, checkpoint, len(gpus)) if gpus else ranks.on_cpu(options, checkpoint, found)
    context = min(plan.context_of(options, checkpoint), options.max_model_len or plan.LEAST_CONTEXT)
    parts = {
        "weights": plan.weight_bytes(options, checkpoint) // shared_by,
        "cache": plan.cache_bytes_per_token(options, checkpoint) // shared_by * context,
        "runtime": plan.RUNTIME_BYTES["cuda" if gpus else "cpu"],
    }
    if adapters := plan.adapter_bytes(options, checkpoint):
        parts["adapters"] = adapters
    refusal: OutOfMemory | None = None
    try:
        made = plan.make(options, checkpoint, found)
        device, free = made.device, made.free_bytes
    except OutOfMemory as error:
        refusal = error
        device = f"cuda:{gpus[0].index}" if gpus else "cpu"
        free = gpus[0].memory_free_bytes if gpus else found.memory_available_bytes
    estimated = MemoryEstimate(
        need_bytes=sum(parts.values()),
        have_bytes=free,
        parts=parts,
        device=device,
        bytes_per_token=plan.cache_bytes_per_token(options, checkpoint) // shared_by,
        context_tokens=plan.context_of(options, checkpoint),
        slots=options.max_num_seqs or plan.MAX_NUM_SEQS,
    )
    if refusal is not None and estimated.fits:  # of what the sums here do not count: a share that was asked for
        raise refusal
    return estimated
