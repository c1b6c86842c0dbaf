"""EngineOptions and a plan -> arguments of vLLM's engine; `--engine-arg` checked against what the engine knows.

Called by `backend` in the engine host. What a plan or an option decides wins over vLLM's defaults, and an `--engine-arg`
over both.
"""

from __future__ import annotations

from typing import Any

from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from openllm_core.errors import InvalidSetting
from openllm_core.options import EngineOptions

from ..arguments import refuse_unknown
from .checks import extra, refuse_unsafe, speculative_config
from .plan import Plan

SPARE_LORA_SLOTS = 1
"""On a CPU vLLM takes "no adapter" for the last slot when it mixes both in a batch: one more slot, always empty, keeps the
answers of the bare base right. `backend` loads no adapter into it."""
SPARE_FOR_RELOADING = 1
"""A new version of an adapter is loaded while requests still use the one before."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for


def engine_arguments(options: EngineOptions, plan: Plan) -> AsyncEngineArgs:
    """The engine's arguments.

    Raises:
        InvalidSetting: an `--engine-arg` that the engine does not know, or a value it does not take.
        UnsafeConfiguration: an `--engine-arg` that would undo a safety setting.
    """
    given: dict[str, Any] = {
        "model": options.model_path,
        "tokenizer": options.model_path,
        "dtype": plan.dtype,
        "max_model_len": plan.max_model_len,
        "max_num_seqs": plan.max_num_seqs,
        "tensor_parallel_size": plan.ranks,
        "enforce_eager": plan.eager,
        "enable_prefix_caching": True,
        "trust_remote_code": options.trust_remote_code,
        "load_format": "auto" if options.allow_pickle_weights else "safetensors",
        "quantization": plan.quantization,
        "generation_config": "vllm",  # the engine above decides on sampling defaults and end tokens
        "disable_log_stats": False,  # their counters come with each step
        "seed": 0,
        # `auto` would check a schema with one compiler and compile it with another: the first that any request brought
        "structured_outputs_config": StructuredOutputsConfig(backend="xgrammar"),
    }
    if plan.memory_share is not None:
        given["gpu_memory_utilization"] = plan.memory_share
    else:
        given["kv_cache_memory_bytes"] = plan.cache_bytes
    if plan.step_tokens is not None:
        given["max_num_batched_tokens"] = plan.step_tokens
    if options.speculative_config:
        given["speculative_config"] = speculative_config(options.speculative_config)
    if options.startup == "throughput":
        given["performance_mode"] = "throughput"
    if options.max_adapters:
        given["enable_lora"] = True
        given["max_loras"] = options.max_adapters + SPARE_FOR_RELOADING
        given["max_lora_rank"] = next(rank for rank in RANKS if rank >= options.max_adapter_rank)
    given |= extra_arguments(options.engine_arg)
    if not options.allow_pickle_weights:
        refuse_unsafe(given["load_format"])
    if given.get("enable_lora") and plan.device == "cpu":
        given["max_loras"] = (given.get("max_loras") or 1) + SPARE_LORA_SLOTS
    return AsyncEngineArgs(**given)


def extra_arguments(pairs: dict[str, Any]) -> dict[str, Any]:
    """`--engine-arg` pairs as the engine's own command line would read them.

    Raises:
        InvalidSetting: unknown (near names are told) or malformed.
    """
    if not pairs:
        return {}
    given = extra(pairs)
    refuse_unknown(given, AsyncEngineArgs.__dataclass_fields__, "vllm")
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(exit_on_error=False))
    words: list[str] = []
    for name, value in given.items():
        words += _words(name.replace("_", "-"), value)
    try:
        read, left = parser.parse_known_args(words)
    except (Exception, SystemExit) as error:
        text = str(error) or "not a value it takes"
        raise InvalidSetting(f"--engine-arg: {text.splitlines()[-1][:300]}", param="--engine-arg") from None
    if left:
        raise InvalidSetting(f"--engine-arg: {left[0][:80]!r} is not a value it takes.", param="--engine-arg")
    return {name: getattr(read, name) for name in given}


def _words(flag: str, value: Any) -> list[str]:
    text = str(value).strip()
    if text.lower() in ("true", "yes", "on"):
        return [f"--{flag}"]
    if text.lower() in ("false", "no", "off"):
        return [f"--no-{flag}"]
    return [f"--{flag}={text}"]
