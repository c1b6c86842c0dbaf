"""What `openllm prune` and `openllm models verify` find: models of this program, whole or not, of this release or an earlier one, and Bentos.

Called by the command line. Touches nothing that other programs keep in the same store. YAML is read only for entries
that have no manifest of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import attrs

from openllm_core.errors import CorruptModel, ModelNotFound, StoreError
from openllm_core.families import registry

from . import bento_record, disk
from . import manifest as manifests
from .store import Store
from .tags import normalise, without_backend

EARLIER = "stored by an earlier release"
INCOMPLETE = "incomplete"
ORPHAN = "its Bento is gone"
CONTEXTS = "containers"
"""Folder of the store's root for build contexts, `<name>/<version>` of their Bento; they link the files of its models."""
_YAML_LIMIT = 4 << 20


@attrs.frozen(kw_only=True)
class Removable:
    """One folder of the store that may go.

    Attributes:
        kind: `model`, `bento`, or `context` for what is left to build a container from.
        note: what is special about it: an earlier release made it, it is incomplete, its Bento is gone; empty else.
        names: what a user may call it, lower case with dashes.
        needed_by: tags of the Bentos that serve this model.
    """

    kind: str
    tag: str
    path: Path
    size_bytes: int
    note: str = ""
    names: frozenset[str] = frozenset()
    needed_by: tuple[str, ...] = ()


def find(store: Store, text: str | None = None, *, include_bentos: bool = False) -> list[Removable]:
    """What `text` names (family, id, tag or its name; None for everything), Bentos before the models they need.

    Args:
        include_bentos: find Bentos too, by their own names and by those of the models they serve.

    Raises:
        ModelNotFound: nothing here is named so, and it is no family either.
    """
    bentos = _bentos(store.home / "bentos", "bento") if include_bentos else ()
    found = [*bentos, *_orphans(store), *_models(store)]
    if text is None:
        return found
    wanted = _plain(text)
    family = registry.get(text)
    names = {wanted, family.name if family is not None and family.name == wanted else wanted}
    same = [item for item in found if item.names & names]
    users = {tag for item in same for tag in item.needed_by}
    same = [item for item in found if item in same or (item.kind == "bento" and item.tag in users)]
    if not same and family is None:
        raise ModelNotFound(
            f"The store {store.models} has no {text!r}.", hint="`openllm list-models` lists what it has."
        )
    return same


def remove(store: Store, item: Removable) -> None:
    """Delete it: unlisted at once, freed then; a server that runs it goes on with the files it has open.

    A Bento's build context goes with it: its links would keep the models' files on the disk.
    """
    if item.kind != "context":
        store.remove(item.path)
    if item.kind != "model":
        _remove_context(store, store.home / CONTEXTS / item.path.parent.name / item.path.name)


def _remove_context(store: Store, folder: Path) -> None:
    if not folder.is_dir():
        return
    with store.lock(folder.parent.name), store.staging() as trash:
        os.rename(folder, trash / "removed")
        if not disk.folders(folder.parent):
            with suppress(OSError):  # somebody keeps a file of his own there
                folder.parent.rmdir()


def check_unneeded(item: Removable, going: Iterable[Removable] = ()) -> None:
    """Refuse to take a model from a Bento that stays.

    Args:
        going: what is deleted too.

    Raises:
        StoreError: naming the Bento, and the two ways out.
    """
    staying = sorted(set(item.needed_by) - {other.tag for other in going if other.kind == "bento"})
    if staying:
        raise StoreError(
            f"{item.tag} stays: the Bento {staying[0]} serves it"
            + (f", and {len(staying) - 1} more do." if staying[1:] else "."),
            hint=f"openllm prune {item.tag} --include-bentos deletes both.",
        )


def refuse_earlier(store: Store, text: str) -> None:
    """Say so where `text` names nothing we can use but an entry that an earlier release stored.

    Raises:
        StoreError: it does; the hint is the command that clears such entries.
    """
    wanted = {_plain(text), normalise(text.partition(":")[0])}
    old = next((item.tag for item in _models(store) if item.note == EARLIER and item.names & wanted), None)
    if old is not None:
        raise StoreError(
            f"{old} was stored by an earlier release, in a form that this one does not read.",
            hint="openllm prune -y --include-bentos, then import the model again.",
            param="model",
        )


def _plain(text: str) -> str:
    return text.strip().lower().replace("_", "-")


def _names(tag: str, *others: str | None) -> frozenset[str]:
    name = tag.partition(":")[0]
    version = tag.partition(":")[2]
    bare = without_backend(name)
    words = [tag, name, bare, f"{bare}:{version}", *others]
    return frozenset(_plain(word) for word in words if word)


def _models(store: Store) -> Iterator[Removable]:
    whole = {entry.path: entry for entry in store.entries()}
    users = bento_record.users(store)
    for name in disk.folders(store.models):
        for folder in disk.folders(name):
            tag = f"{name.name}:{folder.name}"
            if (entry := whole.get(folder)) is not None:
                names = _names(tag, entry.model_id, entry.family)
                yield Removable(
                    kind="model",
                    tag=tag,
                    path=folder,
                    size_bytes=entry.size_bytes,
                    names=names,
                    needed_by=users.get(tag, ()),
                )
            elif (item := _unusable(tag, folder)) is not None:
                yield item


def _unusable(tag: str, folder: Path) -> Removable | None:
    """An entry of ours that cannot be served; None for what another program stored."""
    size = _size(folder)
    try:
        manifest = manifests.read(folder)
    except CorruptModel:
        if (folder / manifests.MANIFEST_FILE).exists():
            return Removable(kind="model", tag=tag, path=folder, size_bytes=size, note=INCOMPLETE, names=_names(tag))
    else:
        names = _names(tag, manifest.model_id, manifest.family)
        return Removable(kind="model", tag=tag, path=folder, size_bytes=size, note=INCOMPLETE, names=names)
    labels = _labels(folder / manifests.MODEL_FILE)
    if labels.get("framework") != "openllm":
        return None
    names = _names(tag, labels.get("model_name"))
    return Removable(kind="model", tag=tag, path=folder, size_bytes=size, note=EARLIER, names=names)


def _bentos(root: Path, kind: str, note: str = "") -> Iterator[Removable]:
    """Ours among the Bentos below a folder, or the contexts, which hold what their Bento holds."""
    for name in disk.folders(root):
        for folder in disk.folders(name):
            labels = _labels(folder / "bento.yaml")
            ours = labels.get("bundler") == "openllm.bundle" or {"_type", "_framework"} <= set(labels)
            if ours:
                tag = f"{name.name}:{folder.name}"
                names = _names(tag, labels.get("start_name"), labels.get("base_name_or_path"))
                with suppress(CorruptModel):
                    names |= _names(bento_record.read(folder).record.model)
                yield Removable(kind=kind, tag=tag, path=folder, size_bytes=_size(folder), note=note, names=names)


def _orphans(store: Store) -> Iterator[Removable]:
    """Contexts whose Bento is gone: `bentoml delete` leaves them."""
    for item in _bentos(store.home / CONTEXTS, "context", ORPHAN):
        if not store.home.joinpath("bentos", *item.tag.split(":")).exists():
            yield item


def _labels(path: Path) -> dict[str, str]:
    """The labels of a model.yaml or bento.yaml; none where it cannot be read."""
    import yaml

    try:
        if path.stat().st_size > _YAML_LIMIT:
            return {}
        data: Any = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    labels: Any = cast("dict[str, Any]", data).get("labels") if isinstance(data, dict) else None
    if not isinstance(labels, dict):
        return {}
    return {str(key): str(value) for key, value in cast("dict[Any, Any]", labels).items()}


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
