"""Load a model folder into a `LoadedModel`: device, weights, type, packed layers; refuse what is not whole.

Called by `backend` in the engine host. Every choice it makes is written into `decisions`, one line each.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers.utils import logging as transformers_logging

from openllm_core.errors import (
    CorruptModel,
    InvalidSetting,
    MissingDependency,
    NoSuitableDevice,
    OpenLLMError,
    OutOfMemory,
    UnsupportedFeature,
)
from openllm_core.options import EngineOptions

from .. import sentence
from ..base import Progress
from ..checkpoint import Checkpoint, refuse_untrusted_code
from . import attention, compiling, quantised
from .linears import fuse_norms, pack_linears, widen_rest
from .lora import AdapterMixer
from .model import LoadedModel
from .tuning import Choice
from .untyped import from_pretrained

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOAD_ERRORS = (ImportError, ValueError, KeyError, OSError, RuntimeError, MemoryError)
"""What `from_pretrained` raises over a checkpoint that it cannot load."""


def choose_device(options: EngineOptions) -> torch.device:
    """The visible GPU, else the CPU; an empty or -1 CUDA_VISIBLE_DEVICES hides all GPUs.

    Raises:
        NoSuitableDevice: a GPU was asked for by name and torch can use none.
    """
    if options.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", 0)  # launch.environment made the chosen one the first
    if options.device != "auto":
        raise NoSuitableDevice(
            f"Device {options.device!r} was asked for; this torch ({torch.__version__}) sees no GPU.",
            hint="Use --device cpu, or install a torch with CUDA.",
            param="device",
        )
    return torch.device("cpu")


def load_module(
    options: EngineOptions, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, auto: Any = None
) -> Any:
    """Read the weights, in `dtype`, on `device`.

    Args:
        auto: class of transformers to load with; default: the one that generates.

    Raises:
        CorruptModel: a tensor is missing, of another shape than the config says, or unreadable.
        MissingDependency: the format needs a package that is not installed.
        OutOfMemory: the weights do not fit.
        UnsafeConfiguration: the model brings code and `trust_remote_code` was not given.
        UnsupportedFeature: transformers does not know the architecture.
    """
    refuse_untrusted_code(checkpoint, options.trust_remote_code)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    auto = auto or _auto_class(checkpoint)
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "trust_remote_code": options.trust_remote_code,
        "local_files_only": True,
        "use_safetensors": not checkpoint.pickled,
    }
    if device.type != "cpu":
        arguments["device_map"] = {"": device}
    if scheme := quantised.scheme_of(options, checkpoint, device):
        arguments |= quantised.arguments(scheme, options, checkpoint, dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module, info = from_pretrained(auto, str(checkpoint.path), **arguments)
    except OpenLLMError:
        raise
    except LOAD_ERRORS as error:
        raise load_error(error, checkpoint) from error
    _refuse_incomplete(checkpoint, module, info)
    quantised.pack_only_what_fits(module)
    return module


def load_error(error: BaseException, checkpoint: Checkpoint) -> OpenLLMError:
    """What `from_pretrained` raised over a checkpoint (one of `LOAD_ERRORS`), as an error with its reason."""
    if is_out_of_memory(error):
        return OutOfMemory(
            f"Memory ran out while loading the model: {_first_line(error)}",
            hint="Use a smaller model, a smaller --dtype, or --quantize int4.",
        )
    if isinstance(error, ImportError):
        return MissingDependency(f"This model needs a package that is not installed: {_first_line(error)}")
    if isinstance(error, (ValueError, KeyError)) and ("model type" in str(error) or "Unrecognized" in str(error)):
        return UnsupportedFeature(
            f"transformers {transformers.__version__} does not know {checkpoint.architecture or 'this architecture'}.",
            hint="A newer transformers may: pip install -U transformers",
        )
    return CorruptModel(f"{checkpoint.path} cannot be loaded: {_first_line(error)}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory, of a GPU or of the machine; on a CPU its error has no class of its own."""
    words = ("not enough memory", "can't allocate memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in words)


def _auto_class(checkpoint: Checkpoint) -> Any:
    """The transformers class that loads it; code of the model's own may be known under another one only (ChatGLM)."""
    names = ["AutoModelForSeq2SeqLM" if checkpoint.seq2seq else "AutoModelForCausalLM"]
    names += ["AutoModelForCausalLM", "AutoModelForSeq2SeqLM"]
    own = cast("dict[str, Any]", checkpoint.config.get("auto_map") or {})
    return getattr(transformers, next((name for name in names if name in own), names[0]))


def resident_bytes(device: torch.device) -> int:
    """Memory that is taken now: of the GPU by this process' tensors, else by the process; 0 where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def vocab_size(config: Any) -> int:
    """Columns of its logits, by the names that models give them.

    Raises:
        CorruptModel: config.json has none of them.
    """
    for name in ("vocab_size", "padded_vocab_size"):  # the second: ChatGLM2 and later
        size: Any = getattr(config, name, None)
        if isinstance(size, int) and size > 0:
            return size
    raise CorruptModel("config.json has no vocab_size.")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:400] if text else type(error).__name__


def _refuse_incomplete(checkpoint: Checkpoint, module: nn.Module, info: dict[str, Any]) -> None:
    """A parameter that no file holds would be random numbers: never serve it."""
    found = (str(key) for key in info.get("missing_keys") or ())
    missing = sorted(key for key in found if not key.startswith("pooler."))  # of encoders: their outputs are not used
    missing += [name for name, parameter in module.named_parameters() if parameter.is_meta and name not in missing]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CorruptModel(
            f"{checkpoint.name}: no file holds the parameter {missing[0]}{more}.", hint="Import the model again."
        )
    odd: Any = next(iter(info.get("mismatched_keys") or ()), None)
    if odd is not None:
        name: Any = odd if isinstance(odd, str) else odd[0]
        raise CorruptModel(f"{checkpoint.name}: {name} has another shape than config.json says.")


def load(
    options: EngineOptions, checkpoint: Checkpoint, choice: Choice, device: torch.device, progress: Progress
) -> LoadedModel:
    """Load and prepare a model as `choice` says; see `load_module` for the errors."""
    attention.register()
    stored = DTYPES.get(checkpoint.dtype, torch.float32)
    compute = DTYPES[choice.dtype]
    progress("reading weights", None)
    packed = device.type == "cpu" and choice.linear != "plain"
    module = load_module(options, checkpoint, device, stored if packed else compute)
    if packed:
        progress("packing weights", None)
        pack_linears(module, choice.linear, dtype=compute)
        if compute == torch.float32:
            widen_rest(module)
    if device.type == "cpu" and compute == torch.float32:
        fuse_norms(module)
    _trim()
    compiled = _compile(options, checkpoint, module, progress) if choice.compile else 0
    config = module.config
    generation: Any = getattr(module, "generation_config", None)
    start = getattr(generation, "decoder_start_token_id", None)
    if start is None:
        start = getattr(config, "decoder_start_token_id", None)
    described, _ = sentence.describe_own(checkpoint)
    return LoadedModel(
        module=module,
        device=device,
        dtype=compute,
        vocab_size=vocab_size(config.get_text_config(decoder=True)),
        seq2seq=checkpoint.seq2seq,
        start_token_id=int(start or 0),
        compiled_blocks=compiled,
        pooling=described.pooling if described is not None else None,
        adapters=AdapterMixer(module, device, compute) if options.max_adapters else None,
    )


def _trim() -> None:
    """Hand back to the system what measuring and packing have freed: the C library would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


def _compile(options: EngineOptions, checkpoint: Checkpoint, module: nn.Module, progress: Progress) -> int:
    """Compile the feed-forward blocks; returns how many. What was chosen by measurement may fail here: then none are.

    Raises:
        InvalidSetting: `--compile on`, and it cannot be done.
    """
    progress("compiling", None)
    try:
        count = compiling.compile_blocks(module)
    except compiling.CannotCompile as reason:
        if options.compile == "on":
            raise compiling.refused(reason) from reason
        return 0
    if not count and options.compile == "on":
        raise InvalidSetting(
            f"--compile on: {checkpoint.architecture} has no feed-forward block that can be compiled.",
            hint="Leave --compile at auto.",
            param="--compile",
        )
    return count
