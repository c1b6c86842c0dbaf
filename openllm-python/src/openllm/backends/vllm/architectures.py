"""Which model architectures the installed vLLM runs, read from its registry's source without importing it.

Called by `launch` and, through it, by the choice of `--backend auto`. Must not import vllm.
"""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path
from typing import Any

from openllm_core.errors import UnsupportedFeature

from . import source

REGISTRY = "model_executor/models/registry.py"
GENERATING = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
MODELS = "vllm.model_executor.models"
FORMER = "_PREVIOUSLY_SUPPORTED_MODELS"

NEEDED_KEYS = {"ChatGLMModel": "padded_vocab_size", "ChatGLMForConditionalGeneration": "padded_vocab_size"}
"""Architecture -> a key of config.json that only the models have which vLLM runs under that name. ChatGLM-6B and ChatGLM2
share theirs; vLLM's class is that of the second and what came after it (`transformers_utils/configs/chatglm.py`)."""


def installed() -> bool:
    """Whether a `vllm` package can be imported (by its location; it is not tried)."""
    return source.file(REGISTRY) is not None


def refuse(reason: str | None) -> None:
    """Refuse a model for what is known against it.

    Raises:
        UnsupportedFeature: there is a reason; the backend to use instead is named.
    """
    if reason is not None:
        raise UnsupportedFeature(reason, hint="Use --backend pt.", param="--backend")


def unsupported(architecture: str) -> str | None:
    """Why vLLM cannot run an architecture; None when it can, or when its registry cannot be read.

    Args:
        architecture: first entry of `architectures` in config.json; an empty one is left to vLLM to judge.
    """
    supported, former = _classes(), _tables().get(FORMER, {})
    if not architecture or not supported or architecture in supported:
        return None
    if architecture in former:
        return f"vLLM no longer has {architecture}; {former[architecture]} was the last version with it."
    return f"vLLM has no {architecture}."


def former_layout(architecture: str, folder: str) -> str | None:
    """Why vLLM cannot run a model whose architecture it has: another layout went by the same name; None where it can.

    Args:
        folder: of the model; an empty one tells nothing.
    """
    needed = NEEDED_KEYS.get(architecture)
    if needed is None or not folder:
        return None
    try:
        config: object = json.loads((Path(folder) / "config.json").read_bytes())
    except (OSError, ValueError):
        return None  # told where the model is read
    if not isinstance(config, dict) or needed in config:
        return None
    return f"vLLM's {architecture} is that of newer models: this one has no {needed} in its config.json."


def takes_adapters(architecture: str) -> bool:
    """Whether vLLM's class for an architecture has the code for LoRA; true as well where its source does not tell."""
    found = _classes().get(architecture)
    if found is None:
        return True
    module, name = found
    home = module if module.startswith("vllm.") else f"{MODELS}.{module}"
    return source.inherits(home, name, "SupportsLoRA")


@functools.cache
def _classes() -> dict[str, tuple[str, str]]:
    """Architectures that it has -> module and name of the class that runs each."""
    return {
        name: (str(value[0]), str(value[1])) for table in GENERATING for name, value in _tables().get(table, {}).items()
    }


@functools.cache
def _tables() -> dict[str, dict[str, Any]]:
    """The registry's dictionaries that are written out, by name."""
    found = source.tree(REGISTRY)
    tables: dict[str, dict[str, Any]] = {}
    for node in found.body if found is not None else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            name = ast.unparse(node.targets[0])
            if name in (*GENERATING, FORMER):
                tables[name] = ast.literal_eval(node.value)
    return tables
