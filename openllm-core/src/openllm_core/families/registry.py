"""Finds the family of a name, a hub id or an architecture. Ours come from `data/*.toml`, others by entry point.

An entry point of the group `openllm.families` names a FamilySpec, or an iterable of them. Called by the store, the
service, the client and the command line; reads files at the first look-up, nothing at import.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable

from ..errors import ConfigError, UnknownModel
from . import spec
from .spec import FamilySpec

GROUP = "openllm.families"
DEFAULT = "smollm"

# The eleven of 0.3.5 in its order, then ours by name.
_FIRST = (
    "chatglm",
    "dolly-v2",
    "falcon",
    "flan-t5",
    "gpt-neox",
    "llama",
    "mpt",
    "opt",
    "stablelm",
    "starcoder",
    "baichuan",
)

_DATA = os.path.join(os.path.dirname(__file__), "data")


@functools.cache
def all() -> tuple[FamilySpec, ...]:
    """Every family: the eleven of 0.3.5 in its order, then the newer ones, then those of other packages."""
    ordered = list(built_in())
    known = {_plain(family.name) for family in ordered}
    for family in _of_other_packages():
        if _plain(family.name) in known:
            _warn(f"family {family.name!r} of another package is left out: the name is taken")
            continue
        known.add(_plain(family.name))
        ordered.append(family)
    return tuple(ordered)


@functools.cache
def built_in() -> tuple[FamilySpec, ...]:
    """Families that come with this package: the eleven of 0.3.5 in its order, then the newer ones by name."""
    ours = {family.name: family for family in map(_read, _stems().values())}
    return (*(ours.pop(name) for name in _FIRST), *sorted(ours.values(), key=lambda family: family.name))


@functools.cache
def _stems() -> dict[str, str]:
    """Plain name -> name of its file without `.toml`, which is the family's in snake case."""
    stems = (name.removesuffix(".toml") for name in os.listdir(_DATA) if name.endswith(".toml"))
    return {_plain(stem): stem for stem in stems}


@functools.cache
def _read(stem: str) -> FamilySpec:
    """The family of one file.

    Raises:
        ConfigError: a fact is wrong, or the file is not named after its family.
    """
    file = f"{stem}.toml"
    with open(os.path.join(_DATA, file), encoding="utf-8") as opened:
        family = spec.from_toml(opened.read(), file)
    if family.model_name != stem:
        raise ConfigError(f"{file}: family {family.name!r} belongs into {family.model_name}.toml.", param="name")
    return family


def _of_other_packages() -> Iterable[FamilySpec]:
    from importlib import metadata  # it and the search through all packages cost more than every look-up together

    for entry in metadata.entry_points(group=GROUP):
        try:
            found = entry.load()
            families = [found] if isinstance(found, FamilySpec) else list(found)
        except Exception as error:  # another package's fault must not keep ours from starting
            _warn(f"family {entry.name!r} of another package could not be loaded: {error}")
            continue
        for family in families:
            if isinstance(family, FamilySpec):
                yield family
            else:
                _warn(f"family {entry.name!r} of another package is not a FamilySpec")


def _warn(text: str) -> None:
    import logging  # rarely needed, and slow to load

    logging.getLogger("openllm").warning("%s", text)


def _plain(name: str) -> str:
    """`flan-t5`, `flan_t5`, `FlanT5` and `FlanT5Config` are one name."""
    plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    return plain.removesuffix("config") or plain


@functools.cache
def _by_id(families: Callable[[], tuple[FamilySpec, ...]]) -> dict[str, FamilySpec]:
    return {model_id.lower(): family for family in reversed(families()) for model_id in family.model_ids}


def get(name_or_id: str) -> FamilySpec | None:
    """Family of a name (kebab, snake or class name) or hub id (any case, `:revision` ignored); None if unknown.

    A name of ours reads that family's file alone; other packages are asked about what is none of ours.
    """
    text = name_or_id.strip()
    plain, model_id = _plain(text), text.lower().partition(":")[0]
    if plain in _stems():
        return _read(_stems()[plain])
    if model_id in _by_id(built_in):
        return _by_id(built_in)[model_id]
    return next((family for family in all() if _plain(family.name) == plain), None) or _by_id(all).get(model_id)


def find(name_or_id: str) -> FamilySpec:
    """As `get`, but an unknown one is an error.

    Raises:
        UnknownModel: the hint names near ones.
    """
    family = get(name_or_id)
    if family is not None:
        return family
    near = suggest(name_or_id)
    raise UnknownModel(
        f"{name_or_id[:200]!r} is no known family or model id.",
        hint=f"Did you mean {' or '.join(near)}?" if near else "`openllm models` lists the families.",
        param="model",
    )


def for_architecture(architecture: str) -> FamilySpec | None:
    """Family of a model of which only config.json's architecture is known; None if no family has it."""
    for families in (built_in, all):
        for family in families():
            if architecture in family.default_for:
                return family
    return next((family for family in all() if architecture in family.architectures), None)


def default() -> FamilySpec:
    """Family of the model served when none is named."""
    return find(DEFAULT)


def suggest(name: str, count: int = 3) -> list[str]:
    """Names of families and ids of models that look like a wrong one, nearest first."""
    text = name.strip().lower()
    names = [family.name for family in all()]
    from difflib import get_close_matches

    near = get_close_matches(text.replace("_", "-"), names, n=count, cutoff=0.6)
    if "/" in text:
        ids = {model_id.lower(): model_id for family in all() for model_id in family.model_ids}
        near = [ids[found] for found in get_close_matches(text, ids, n=count, cutoff=0.6)] + near
    return near[:count]
