"""Our base images: their names and tags, which one a Bento is built on, and how they are made.

Called by `openllm build`, for what a Bento's container starts from, and by `openllm build-base-container`. What is in them
stands in `images/Containerfile`. Knows nothing of models.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Literal

import attrs

from openllm.serialisation.removal import CONTEXTS
from openllm.serialisation.store import Store
from openllm_core.errors import InvalidSetting, ResourceError
from openllm_core.options import StoreOptions

from . import containerfile, registry, wheels
from .engines import find_engine

Device = Literal["cpu", "cuda"]

CONTAINER_NAMES = {
    "docker": "docker.io/bentoml/openllm",
    "gh": "ghcr.io/bentoml/openllm",
    "ecr": "public.ecr.aws/y5w8i4y6/bentoml/openllm",
}
"""Registry -> name of our images there."""
supported_registries = tuple(CONTAINER_NAMES)
SEARCHED = ("ecr", "gh", "docker")
"""In the order they are asked."""
STRATEGIES = ("release", "latest", "nightly")
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
PYTHON = "3.11"
"""Python of our images; a Bento on them uses it too."""
_COMMIT_DIGITS = 7


@attrs.frozen(kw_only=True)
class RefResolver:
    """What an image's tag is made from.

    Attributes:
        strategy: `release`, `latest` or `nightly`.
        version: of the openllm that runs here.
        git_hash: the commit of the source tree it runs from; empty outside of one.
    """

    strategy: str
    version: str
    git_hash: str = ""

    @classmethod
    def from_strategy(cls, strategy: str) -> RefResolver:
        """Look at what is installed, and for `nightly` at its commit.

        Raises:
            InvalidSetting: there is no such strategy, or no commit.
        """
        if strategy not in STRATEGIES:
            raise InvalidSetting(f"There is no version strategy {strategy!r}.", hint=f"One of {', '.join(STRATEGIES)}.")
        found = cls(strategy=strategy, version=installed_version("openllm"), git_hash=commit() or "")
        if strategy == "nightly" and not found.git_hash:
            raise InvalidSetting(
                "The strategy nightly names an image by the commit, and openllm does not run from a git checkout here.",
                hint="release or latest.",
            )
        return found

    @property
    def tag(self) -> str:
        """`sha-<commit>`, `latest`, or the version as a tag."""
        if self.strategy == "nightly":
            return f"sha-{self.git_hash[:_COMMIT_DIGITS]}"
        return "latest" if self.strategy == "latest" else re.sub(r"[^\w.-]", "-", self.version)


def get_base_container_name(name: str) -> str:
    """Name of our images in a registry, without tag.

    Raises:
        InvalidSetting: we have none there.
    """
    if name not in CONTAINER_NAMES:
        raise InvalidSetting(f"There is no registry {name!r}.", hint=f"One of {', '.join(supported_registries)}.")
    return CONTAINER_NAMES[name]


def get_base_container_tag(strategy: str = "release", *, device: Device = "cuda", base: bool = True) -> str:
    """Tag of one of our images.

    Args:
        device: what it is for; `-cpu` stands in the tag of those without CUDA.
        base: the one that Bentos are built on (`-base`), or the one to run.

    Raises:
        InvalidSetting: there is no such strategy, or no commit to name.
    """
    ref = RefResolver.from_strategy(strategy).tag
    return ref + ("-cpu" if device == "cpu" else "") + ("-base" if base else "")


def choose(
    image: str | None = None,
    *,
    device: Device,
    container_registry: str | None = None,
    strategy: str = "release",
    offline: bool = False,
    has: Callable[[str], bool] = registry.has,
) -> tuple[str | None, str]:
    """What the container of a Bento is built on.

    Args:
        image: one asked for; it is taken as it is.
        container_registry: take our image from there, answering or not: the container engine may have it already.
        offline: ask no registry.
        has: whether a registry has an image.

    Returns:
        the image, or None for a slim Python; and why.

    Raises:
        InvalidSetting: the name cannot be an image's, or the registry or strategy does not exist.
    """
    if image is not None:
        if not containerfile.IMAGE.fullmatch(image):
            raise InvalidSetting(
                f"{image[:80]!r} is no name of an image.", hint="As in registry.example/team/image:tag."
            )
        return image, "asked for"
    tag = get_base_container_tag(strategy, device=device)
    if container_registry is not None:
        return f"{get_base_container_name(container_registry)}:{tag}", f"our image for {device}"
    if strategy == "release" and not wheels.released():
        return None, f"openllm {installed_version('openllm')} is no release, so there is no image of ours for it"
    if offline:
        return None, "offline: no registry was asked for our image"
    for name in SEARCHED:
        if has(found := f"{CONTAINER_NAMES[name]}:{tag}"):
            return found, f"our image for {device}"
    return None, f"no registry answered for our image {tag}"


def python_of(image: str | None) -> str:
    """Python that a Bento uses on an image: ours on our own images, else the one that runs here."""
    ours = image is not None and image.startswith(tuple(f"{name}:" for name in CONTAINER_NAMES.values()))
    return PYTHON if ours else f"{sys.version_info.major}.{sys.version_info.minor}"


def build_container(
    registries: Sequence[str] | str = ("ecr",),
    version_strategy: str = "nightly",
    push: bool = False,
    *,
    device: Device = "cuda",
    engine: str | None = None,
    store: StoreOptions | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, list[str]]:
    """Make our two images for a device, with the container engine that is there.

    Args:
        registries: of CONTAINER_NAMES; each one's name is given to the images.
        version_strategy: what the tags follow: the commit, the version, or `latest`.
        push: send them to the registries.
        device: what torch and vLLM are built for; making them takes no GPU.
        store: beside it the context stays where no engine is there.
        say: called with one line before each long step.

    Returns:
        registry -> names of its images: the one to run, the one to build on.

    Raises:
        ResourceError: no engine is there; the hint says where the context lies and how to build it elsewhere.
        ContainerBuildFailed: the engine says no.
    """
    chosen = (registries,) if isinstance(registries, str) else tuple(registries)
    names = [get_base_container_name(name) for name in chosen]
    targets = {base: get_base_container_tag(version_strategy, device=device, base=base) for base in (False, True)}
    arguments = {"DEVICE": device, "OPENLLM_VERSION": installed_version("openllm"), "PYTHON_VERSION": PYTHON}
    models = Store(store or StoreOptions())
    try:
        found = find_engine(engine)
    except ResourceError as error:
        folder = write_context(models.home / CONTEXTS / "openllm")
        words = " ".join(f"--build-arg {name}={value}" for name, value in arguments.items())
        raise ResourceError(
            str(error),
            hint=f"The context lies in {folder}; where an engine is: docker build --target server {words} .",
            code=error.wire_code,
        ) from error
    with models.staging() as scratch:
        context = write_context(scratch / "context")
        for base, tag in targets.items():
            images = [f"{name}:{tag}" for name in names]
            say(f"building {images[0]} with {found.name}")
            found.build(
                context,
                context / containerfile.NAME,
                images,
                target="base" if base else "server",
                arguments=arguments,
                labels=labels(),
            )
    made = {
        registry: [f"{name}:{tag}" for tag in targets.values()] for registry, name in zip(chosen, names, strict=True)
    }
    for image in (image for images in made.values() for image in images if push):
        say(f"pushing {image}")
        found.push(image)
    return made


def write_context(folder: Path) -> Path:
    """What our Containerfile is built from: itself, and our own wheels where no index has this version.

    Args:
        folder: replaced when there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "wheels").mkdir(parents=True)
    shutil.copyfile(containerfile.IMAGE_FILE, folder / containerfile.NAME)
    if not wheels.released():
        wheels.embed(folder / "wheels")
    return folder


def labels() -> dict[str, str]:
    """What a registry shows of an image (https://github.com/opencontainers/image-spec, annotations)."""
    found = {
        "org.opencontainers.image.title": "OpenLLM",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.source": "https://github.com/bentoml/OpenLLM",
        "org.opencontainers.image.version": installed_version("openllm"),
    }
    revision = commit()
    return found | ({"org.opencontainers.image.revision": revision} if revision else {})


def commit() -> str | None:
    """The commit of the source tree that this module runs from; None when it is installed."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:  # not of this repository: site-packages inside somebody else's
            return None
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() or None
