"""Which models come with Python code that nobody needs: transformers has classes of its own for them by now.

Called where a model folder is looked through and where it is loaded. Data only: what is named here is loaded without the
folder's code, as `trust_remote_code=False` makes transformers do for every type it knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from . import registry

_CLASS = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")  # a module of the folder itself; `repo--module.Class` is another's


def is_replaced(config: Mapping[str, Any]) -> bool:
    """Whether the code that a config.json names in `auto_map` is left aside without loss.

    Args:
        config: content of the model's config.json.
    """
    names, named = config.get("architectures"), config.get("auto_map")
    first: Any = cast("list[Any]", names)[0] if isinstance(names, list) and names else None
    if not isinstance(first, str) or not isinstance(named, dict):
        return False
    values = cast("dict[str, Any]", named).values()
    if not all(isinstance(value, str) and _CLASS.fullmatch(value) for value in values):
        return False
    spec = registry.for_architecture(first)
    return spec is not None and config.get("model_type") in spec.replaced_code
