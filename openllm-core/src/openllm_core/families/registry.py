"""Finds the family of a name, a hub id or an architecture. Ours come from `data/*.toml`, others by entry point.

An entry point of the group `openllm.families` names a FamilySpec, or an iterable of them. Called by the store, the
service, the client and the command line; reads files at the first look-up, nothing at import.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from ..errors import UnknownModel
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

_log = logging.getLogger("openllm")


@functools.cache
def all() -> tuple[FamilySpec, ...]:
    """Every family: the eleven of 0.3.5 in its order, then the newer ones, then those of other packages."""
    ours = {family.name: family for family in _built_in()}
    ordered = [ours.pop(name) for name in _FIRST] + sorted(ours.values(), key=lambda family: family.name)
    known = {_plain(family.name) for family in ordered}
    for family in _of_other_packages():
        if _plain(family.name) in known:
            _log.warning("family %r of another package is left out: the name is taken", family.name)
            continue
        known.add(_plain(family.name))
        ordered.append(family)
    return tuple(ordered)


def _built_in() -> Iterable[FamilySpec]:
    for file in (Path(__file__).parent / "data").glob("*.toml"):
        yield spec.from_toml(file.read_text(encoding="utf-8"), file.name)


def _of_other_packages() -> Iterable[FamilySpec]:
    from importlib import metadata  # costs 20 ms, and only this look-up needs it

    for entry in metadata.entry_points(group=GROUP):
        try:
            found = entry.load()
            families = [found] if isinstance(found, FamilySpec) else list(found)
        except Exception as error:  # another package's fault must not keep ours from starting
            _log.warning("family %r of another package could not be loaded: %s", entry.name, error)
            continue
        for family in families:
            if isinstance(family, FamilySpec):
                yield family
            else:
                _log.warning("family %r of another package is not a FamilySpec", entry.name)


def _plain(name: str) -> str:
    """`flan-t5`, `flan_t5`, `FlanT5` and `FlanT5Config` are one name."""
    plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    return plain.removesuffix("config") or plain


@functools.cache
def _by_name() -> dict[str, FamilySpec]:
    return {_plain(family.name): family for family in all()}


@functools.cache
def _by_id() -> dict[str, FamilySpec]:
    return {model_id.lower(): family for family in reversed(all()) for model_id in family.model_ids}


def get(name_or_id: str) -> FamilySpec | None:
    """Family of a name (kebab, snake or class name) or hub id (any case, `:revision` ignored); None if unknown."""
    text = name_or_id.strip()
    return _by_name().get(_plain(text)) or _by_id().get(text.lower().partition(":")[0])


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
    having = [family for family in all() if architecture in family.architectures]
    return next((family for family in having if architecture in family.default_for), None) or next(iter(having), None)


def default() -> FamilySpec:
    """Family of the model served when none is named."""
    return find(DEFAULT)


def suggest(name: str, count: int = 3) -> list[str]:
    """Names of families and ids of models that look like a wrong one, nearest first."""
    text = name.strip().lower()
    names = [family.name for family in all()]
    near = get_close_matches(text.replace("_", "-"), names, n=count, cutoff=0.6)
    if "/" in text:
        ids = {model_id.lower(): model_id for family in all() for model_id in family.model_ids}
        near = [ids[found] for found in get_close_matches(text, ids, n=count, cutoff=0.6)] + near
    return near[:count]
