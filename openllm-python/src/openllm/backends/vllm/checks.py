"""What of `--engine-arg`, `--speculative-config` and `--quantization` can be refused without vLLM.

Called by `launch` before anything is loaded and by `arguments` where it loads, so that both say the same. Must not import vllm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, cast

from openllm_core.errors import InvalidSetting, UnsafeConfiguration
from openllm_core.options import EngineOptions

from ..arguments import refuse_unknown
from . import source

RESERVED = {
    "model": "Name the model itself: `openllm start MODEL`.",
    "tokenizer": "Leave it out: the model's own is used.",
    "trust_remote_code": "Add --trust-remote-code if you trust who wrote the model's code.",
}
"""Engine arguments that cannot be given -> what to do instead."""
NAMES_CODE = ("io_processor_plugin", "logits_processors", "scheduler_cls", "worker_cls", "worker_extension_cls")
"""Engine arguments whose values name Python code that vLLM imports and runs; a Bento or a lock file may hold them too."""
SAFE_FORMATS = ("safetensors", "dummy", "fastsafetensors", "runai_streamer", "instanttensor")


def check_arguments(options: EngineOptions) -> None:
    """Refuse what vLLM would not take, or should not be given; the values of other arguments are read where it is imported.

    Raises:
        InvalidSetting: an argument or method that it does not know (near names are told), one with a setting of its own, or
            a speculative configuration that is no JSON object.
        UnsafeConfiguration: an `--engine-arg` that would undo a safety setting, or run code nobody trusted.
    """
    given = extra(options.engine_arg)
    if known := source.engine_arguments():
        refuse_unknown(given, known, "vllm")
    if not options.trust_remote_code and (names := next((name for name in given if name in NAMES_CODE), None)):
        raise UnsafeConfiguration(
            f"--engine-arg {names} names Python code, which will run here.",
            hint="Add --trust-remote-code if you trust who wrote it.",
            param="--engine-arg",
        )
    if "load_format" in given and not options.allow_pickle_weights:
        refuse_unsafe(str(given["load_format"]).strip())
    if options.speculative_config:
        speculative_config(options.speculative_config)
    methods = source.quantisation_methods()
    if options.quantization is not None and methods and options.quantization not in methods:
        near = get_close_matches(options.quantization, sorted(methods), n=3)
        raise InvalidSetting(
            f"--quantization: the installed vLLM has no {options.quantization[:64]!r}.",
            hint=f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(sorted(methods))}.",
            param="--quantization",
        )


def extra(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """`--engine-arg` pairs with vLLM's own spelling of their names.

    Raises:
        InvalidSetting: one has a setting of its own.
    """
    given = {key.replace("-", "_"): value for key, value in pairs.items()}
    if reserved := next((name for name in given if name in RESERVED), None):
        raise InvalidSetting(
            f"--engine-arg: {reserved} has a setting of its own.", hint=RESERVED[reserved], param="--engine-arg"
        )
    return given


def refuse_unsafe(load_format: str) -> None:
    """Refuse a format of weights that may be read with pickle.

    Raises:
        UnsafeConfiguration: it may.
    """
    if load_format not in SAFE_FORMATS:
        raise UnsafeConfiguration(
            f"--engine-arg load_format={load_format[:64]} may read pickle files, which can run any code.",
            hint="Add --allow-pickle-weights if you trust who made them.",
            param="--engine-arg",
        )


def speculative_config(text: str) -> dict[str, Any]:
    """The object that `--speculative-config` holds; vLLM checks what is in it.

    Raises:
        InvalidSetting: not a JSON object.
    """
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidSetting(
            "--speculative-config: not a JSON object.",
            hint="""--speculative-config '{"method": "ngram", "num_speculative_tokens": 3}'""",
            param="--speculative-config",
        )
    return cast("dict[str, Any]", found)
