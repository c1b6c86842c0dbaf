"""The installed vLLM's source, read without importing it: importing takes seconds and hundreds of megabytes.

Called where the server process needs a list of names that vLLM's code holds. Must not import vllm.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
from pathlib import Path

ARGUMENTS = "engine/arg_utils.py"
QUANTISATION = "model_executor/layers/quantization/__init__.py"


def file(relative: str) -> Path | None:
    """A file of the package; None when vllm is not installed or has no such file."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(spec.submodule_search_locations[0]) / relative
    return found if found.is_file() else None


def tree(relative: str) -> ast.Module | None:
    """The syntax tree of a file of the package; None when there is no such file."""
    found = file(relative)
    return None if found is None else _parsed(found)


@functools.lru_cache(maxsize=32)
def _parsed(found: Path) -> ast.Module:
    return ast.parse(found.read_text(encoding="utf-8"))


@functools.cache
def engine_arguments() -> frozenset[str]:
    """Names of the fields of `AsyncEngineArgs`; none when they cannot be read."""
    found = tree(ARGUMENTS)
    return frozenset(
        field.target.id
        for node in (found.body if found is not None else ())
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )


@functools.cache
def quantisation_methods() -> frozenset[str]:
    """Names that `--quantization` takes; none when they cannot be read."""
    found = tree(QUANTISATION)
    for node in found.body if found is not None else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "QuantizationMethods":
            return frozenset(str(name.value) for name in ast.walk(node.value) if isinstance(name, ast.Constant))
    return frozenset()


def inherits(module: str, name: str, ancestor: str) -> bool:
    """Whether a class of the package has a class of that name among its ancestors, or may have, where its source does not tell.

    Args:
        module: dotted name, as `vllm.model_executor.models.llama`.
    """
    home, node = _class(module, name)
    if node is None:  # of another package; or made by a call, so that nothing is written down
        return home.startswith("vllm.") and name not in dir(builtins)
    bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
    return any(base == ancestor or ("." not in base and inherits(home, base, ancestor)) for base in bases)


def _class(module: str, name: str) -> tuple[str, ast.ClassDef | None]:
    """The module where a class is written down, followed through imports inside the package; no class where it is not."""
    if not module.startswith("vllm."):
        return module, None
    path = module.removeprefix("vllm.").replace(".", "/")
    package = file(f"{path}/__init__.py") is not None
    found = tree(f"{path}/__init__.py" if package else f"{path}.py")
    for node in ast.walk(found) if found is not None else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    above = module.split(".")[: -(node.level - package) or None]
                    return _class(".".join([*(above if node.level else []), node.module or ""]).strip("."), alias.name)
    return module, None
