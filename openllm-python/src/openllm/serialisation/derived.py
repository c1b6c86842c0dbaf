"""Models of the store that are made of others: the same files under another tag, or new files in a folder of their own.

Called by `lookup.py` for `--quantize`, and by what computes new weights (`openllm quantize`). Decides how such a model is
stored; knows nothing of how its weights are computed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

import attrs

from . import fetch, importing
from .importing import PLAIN
from .store import Progress, Store, StoreEntry
from .tags import normalise, tag_name


class SourceModel(Protocol):
    """What is asked of a model that another one is made of."""

    @property
    def path(self) -> Path:
        """Its folder."""
        ...

    @property
    def model_id(self) -> str:
        """Its id or basename."""
        ...

    @property
    def tag(self) -> str:
        """Its tag in the store; empty for none."""
        ...


# -- a stored model, quantised ------------------------------------------------------------------------------------


def quantised(store: Store, entry: StoreEntry, quantize: str) -> StoreEntry:
    """The same files under a tag of their own that says how to load them; no byte is copied.

    Args:
        entry: a whole model of the store.
        quantize: method to remember.

    Raises:
        CorruptModel: its files are not those that were imported.
    """
    if entry.manifest.quantize == quantize:
        return entry
    name, _, version = entry.tag.partition(":")
    plain = version.removesuffix(f"-{entry.manifest.quantize}")
    tag = f"{name}:{normalise(f'{plain}-{quantize}')}"
    with store.lock(name):
        if (known := store.find(tag)) is not None:
            return known
        store.check(entry)  # with --fast too: what is published is sealed as it is, damage included
        with store.staging() as out:
            for record in entry.manifest.files:
                target = out / record.path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(entry.path / record.path, target)
            description = attrs.evolve(entry.manifest, tag=tag, quantize=quantize, created=datetime.now(UTC), files=())
            return store.publish(out, description, {r.path: r for r in entry.manifest.files})


# -- a model made of another one ----------------------------------------------------------------------------------


@attrs.define(eq=False)
class MadeModel:
    """Where a model is being made.

    Attributes:
        folder: empty, for its files.
        entry: what the store has already under its tag; nothing is to be made then.
    """

    folder: Path
    entry: StoreEntry | None
    _publish: Callable[[], StoreEntry]

    def publish(self) -> StoreEntry:
        """Put what stands in `folder` into the store; what is there already, where it is."""
        if self.entry is None:
            importing.add_tokenizer(self.folder)
            self.entry = self._publish()
        return self.entry


@contextmanager
def made_model(
    store: Store, model_id: str, version: str, source: SourceModel, progress: Progress | None = None
) -> Generator[MadeModel]:
    """A folder of the store to make a model in, under the lock of its name.

    Args:
        model_id: of the new model.
        version: of its tag.
        source: the model it is made of; needs about as much room, and as much again while it is made.
    """
    name = tag_name(PLAIN.backend, model_id)
    tag = f"{name}:{normalise(version)}"
    if (known := store.find(tag)) is not None:
        store.settled(known)
    with store.lock(name, progress), store.staging() as out:
        known = store.find(tag)
        if known is None:
            store.need_space(2 * sum(fetch.file_sizes(source.path)), model_id)
        publish = partial(
            importing.publish, store, out, tag, model_id, origin="made", source=source.tag or source.model_id
        )
        yield MadeModel(out, known, publish)
