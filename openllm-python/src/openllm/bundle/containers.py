"""Images of Bentos: the build context, the engine that makes the image, and where both go.

Called by `openllm build --containerize`, `--format container` and `--push`. The text of the Containerfile comes from
`containerfile.py`, the engine from `engines.py`. BentoML's own `containerize` reads the same Bento and gives the same image.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from openllm.serialisation import disk
from openllm.serialisation.removal import CONTEXTS
from openllm.serialisation.store import Store
from openllm_core.errors import OpenLLMError, ResourceError, StoreError
from openllm_core.options import StoreOptions

from . import containerfile
from .bentos import Bento
from .bentos import get as get_bento
from .engines import find_engine
from .untracked import bentoml

Say = Callable[[str], None]


def containerize(
    tag: str,
    *,
    push: bool = False,
    image_tag: str | None = None,
    engine: str | None = None,
    store: StoreOptions | None = None,
    say: Say = lambda line: None,
) -> str:
    """Make the image of a Bento with the container engine that is there.

    Args:
        tag: the Bento, `name:version`.
        push: send the image to its registry too; `image_tag` then names the registry.
        image_tag: name of the image; default: the Bento's tag, as `bentoml containerize` names it.
        engine: docker, podman, nerdctl or buildah; default: BENTOML_CONTAINERIZE_BACKEND, else the first that answers.
        store: where Bentos and models are.
        say: called with one line before each long step.

    Returns:
        the image's name.

    Raises:
        ModelNotFound: there is no such Bento, or a model of it is missing.
        ResourceError: no engine is there; the hint says where the context lies and how to build it elsewhere.
        ContainerBuildFailed: the engine says no.
    """
    options = store or StoreOptions()
    bento = get_bento(tag, options)
    name = image_tag or bento.tag
    try:
        found = find_engine(engine)
    except ResourceError as error:
        kept = keep_context(bento, options)
        raise ResourceError(
            str(error),
            hint=f"The context lies in {kept}; where an engine is: docker build --tag {name} --file Containerfile .",
            code=error.wire_code,
        ) from error
    with Store(options).staging() as scratch:
        context = scratch / "context"
        write_context(bento, context, options)
        say(f"building {name} with {found.name}")
        found.build(context, context / containerfile.NAME, [name])
    if push:
        say(f"pushing {name}")
        found.push(name)
    return name


def push_bento(tag: str, *, context: str | None = None, force: bool = False) -> None:
    """Send a Bento, not an image, to BentoCloud.

    Args:
        context: name of the BentoCloud context; default: the current one.
        force: replace what is there under the same tag.

    Raises:
        OpenLLMError: not logged in, no network, or BentoCloud says no.
    """
    cloud = bentoml()
    try:
        if context is not None:
            bentoml("._internal.configuration.containers").BentoMLContainer.cloud_context.set(context)
        cloud.push(tag, force=force)
    except cloud.exceptions.BentoMLException as error:
        raise OpenLLMError(
            f"BentoCloud did not take {tag}: {error}", hint="bentoml cloud login", code="push_failed"
        ) from error


def keep_context(bento: Bento, options: StoreOptions) -> Path:
    """Write a Bento's build context where it stays.

    Returns:
        `containers/<name>/<version>` of the store's root; what was there is replaced. It goes with its Bento.

    Raises:
        StoreBusy, StoreError, ModelNotFound: see `Store.lock` and `write_context`.
    """
    store = Store(options)
    kept = store.home / CONTEXTS / bento.name / bento.version
    with store.lock(bento.name), store.staging() as scratch:
        context = scratch / "context"
        write_context(bento, context, options)
        kept.parent.mkdir(parents=True, exist_ok=True)
        disk.put(context, kept)
    return kept


def write_context(bento: Bento, folder: Path, options: StoreOptions) -> None:
    """Put a Bento, its models and its Containerfile into a new folder.

    Files are linked where the disk allows it, so that a context of many gigabytes costs neither time nor space.

    Raises:
        ModelNotFound: a model of the Bento is not in the store.
        StoreError: the disk refuses.
    """
    models = [(model, model.find(options)) for model in bento.models]
    text = containerfile.render(bento)
    try:
        shutil.copytree(bento.path, folder, copy_function=link_or_copy)
        for model, source in models:
            target = folder / "models" / model.name
            shutil.copytree(source, target / model.version, copy_function=link_or_copy, dirs_exist_ok=True)
            (target / "latest").unlink(missing_ok=True)
            (target / "latest").write_text(model.version, encoding="utf-8")
        (folder / containerfile.NAME).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"The context of {bento.tag} cannot be written: {error.strerror or error}.") from error


def link_or_copy(source: str, target: str) -> str:
    """A hard link, or a copy where the disk has none."""
    try:
        os.link(source, target, follow_symlinks=True)
    except OSError:
        shutil.copy2(source, target)
    return target
