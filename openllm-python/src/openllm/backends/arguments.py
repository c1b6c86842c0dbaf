"""What `--engine-arg KEY=VALUE` may say: each backend names the keys it takes, and every other one is refused with near names.

Called by a backend's `launch.check_arguments` before anything is loaded, and where it loads. Imports no framework.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

import attrs

from openllm_core.errors import InvalidSetting
from openllm_core.settings import Setting, convert

Arguments = TypeVar("Arguments", bound=attrs.AttrsInstance)


def read(cls: type[Arguments], given: Mapping[str, Any], backend: str) -> Arguments:
    """Build a backend's own arguments from the pairs of `--engine-arg`.

    Args:
        cls: attrs class with a default for each field; `openllm_core.settings.setting` gives a field choices and bounds.
        given: values as text (command line) or typed (Python).
        backend: its name, for the refusal.

    Raises:
        InvalidSetting: an unknown key, or a value that is none of its type, choices or range.
    """
    refuse_unknown(given, attrs.fields_dict(cls), backend)
    types = typing.get_type_hints(cls)
    facts = {attribute.name: attribute.metadata.get("setting", Setting(help="")) for attribute in attrs.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        text = isinstance(value, str) and str in (types[key], *typing.get_args(types[key])) and not facts[key].choices
        values[key] = value if text else convert(value, types[key], facts[key], origin=f"--engine-arg {key}")
    return cls(**values)


def refuse_unknown(given: Iterable[str], known: Iterable[str], backend: str) -> None:
    """Refuse keys that a backend does not take.

    Raises:
        InvalidSetting: names the first of them, and near ones, or all where they are few.
    """
    names = sorted(known)
    for key in given:
        if key in names:
            continue
        near = get_close_matches(key, names, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else None
        if hint is None and len(names) < 50:
            hint = f"It takes {', '.join(names)}."
        raise InvalidSetting(
            f"--engine-arg: the {backend} backend knows no {key[:64]!r}.", hint=hint, param="--engine-arg"
        )
