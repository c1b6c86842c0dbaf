"""Which model architectures the installed vLLM runs, read from its registry's source without importing it.

Called by `launch` and, through it, by the choice of `--backend auto`. Must not import vllm.
"""

from __future__ import annotations

import ast
import functools

from openllm_core.errors import UnsupportedFeature

from . import source

REGISTRY = "model_executor/models/registry.py"
GENERATING = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
FORMER = "_PREVIOUSLY_SUPPORTED_MODELS"


def installed() -> bool:
    """Whether a `vllm` package can be imported (by its location; it is not tried)."""
    return source.file(REGISTRY) is not None


def refuse_unsupported(architecture: str) -> None:
    """Refuse an architecture that the installed vLLM has no code for.

    Args:
        architecture: first entry of `architectures` in config.json; an empty one is left to vLLM to judge.

    Raises:
        UnsupportedFeature: names the version that last had it, and the backend to use instead.
    """
    reason = unsupported(architecture)
    if reason is not None:
        raise UnsupportedFeature(reason, hint="Use --backend pt.", param="--backend")


def unsupported(architecture: str) -> str | None:
    """Why vLLM cannot run an architecture; None when it can, or when its registry cannot be read."""
    supported, former = _names()
    if not architecture or not supported or architecture in supported:
        return None
    if architecture in former:
        return f"vLLM no longer has {architecture}; {former[architecture]} was the last version with it."
    return f"vLLM has no {architecture}."


@functools.cache
def _names() -> tuple[frozenset[str], dict[str, str]]:
    """Architectures it has, and those it once had with the last version that did."""
    file = source.file(REGISTRY)
    if file is None:
        return frozenset(), {}
    supported: set[str] = set()
    former: dict[str, str] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)):
            continue
        target = node.targets[0]
        name = target.id if isinstance(target, ast.Name) else ""
        if name in GENERATING:
            supported |= {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
        elif name == FORMER:
            former = {str(key): str(value) for key, value in ast.literal_eval(node.value).items()}
    return frozenset(supported), former
