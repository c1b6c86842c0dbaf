"""The installed vLLM's source, read without importing it: importing takes seconds and hundreds of megabytes.

Called where the server process needs a list of names that vLLM's code holds. Must not import vllm.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

ARGUMENTS = "engine/arg_utils.py"


def file(relative: str) -> Path | None:
    """A file of the package; None when vllm is not installed or has no such file."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(spec.submodule_search_locations[0]) / relative
    return found if found.is_file() else None


@functools.cache
def engine_arguments() -> frozenset[str]:
    """Names of the fields of `AsyncEngineArgs`; none when they cannot be read."""
    found = file(ARGUMENTS)
    if found is None:
        return frozenset()
    return frozenset(
        field.target.id
        for node in ast.parse(found.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )
