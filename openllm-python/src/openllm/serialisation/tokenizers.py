"""Which tokenizer a model folder has: one that a tokenizer.json holds, made once where need be, or Python code alone.

Called by `compose`, `openllm.LLM` and `loading`. Decides by the folder's files; never imports transformers and never runs
code of the model's own, which is the engine host's business.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from openllm_core.errors import CorruptModel

from ..python_tokenizer import HostTokenizer
from ..tokenizer import Tokenizer
from .formats import PYTHON_ONLY, ensure_tokenizer

_WITHOUT_FILES = ("ByT5Tokenizer",)  # classes of transformers that read no vocabulary: their ids are the text's bytes


def open_tokenizer(path: Path, *, trust_remote_code: bool = False) -> Tokenizer:
    """The tokenizer of the model in `path`; a `HostTokenizer` where it exists as Python code alone.

    Args:
        trust_remote_code: whether the model's own tokenizer class may run, in the engine host.

    Raises:
        ModelNotFound, CorruptModel, MissingDependency: the folder has none, or it cannot be read.
    """
    folder = tokenizer_folder(path, trust_remote_code=trust_remote_code)
    return HostTokenizer(path) if folder is None else Tokenizer.from_folder(folder)


def tokenizer_folder(path: Path, *, trust_remote_code: bool = False) -> Path | None:
    """The folder with the model's tokenizer.json (see `ensure_tokenizer`); None where none can be made.

    Raises:
        CorruptModel, MissingDependency: see `open_tokenizer`.
    """
    if is_code(path, trust_remote_code=trust_remote_code):
        return None
    try:
        return ensure_tokenizer(path)
    except CorruptModel as error:
        if error.param == PYTHON_ONLY:
            return None
        raise


def is_code(path: Path, *, trust_remote_code: bool = False) -> bool:
    """Whether the folder's own files say that its tokenizer exists as Python code alone.

    Raises:
        CorruptModel: tokenizer_config.json cannot be read.
    """
    if (path / "tokenizer.json").is_file():
        return False
    config = _config(path)
    own = cast("dict[str, Any]", config.get("auto_map") or {})
    return (trust_remote_code and "AutoTokenizer" in own) or config.get("tokenizer_class") in _WITHOUT_FILES


def _config(path: Path) -> dict[str, Any]:
    file = path / "tokenizer_config.json"
    try:
        data: Any = json.loads(file.read_bytes()) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptModel(f"{file.name} of {path.name} is not readable JSON: {error}.") from None
    if not isinstance(data, dict):
        raise CorruptModel(f"{file.name} of {path.name} is not a JSON object.")
    return cast("dict[str, Any]", data)
