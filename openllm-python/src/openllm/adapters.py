"""Which adapters a server or an `openllm.LLM` begins with, and where it finds those it loads later.

Called by `compose`, `llm` and `openllm build`: reads `--adapter-id` and what was kept from the last start, looks at each
folder and holds it against the model before anything is loaded. Knows nothing of engines or requests.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import attrs

from openllm_core.errors import AdapterIncompatible, AdapterNotFound, InvalidSetting, OpenLLMError
from openllm_core.options import EngineOptions, StoreOptions

from .backends import adapter as adapters
from .backends import checkpoint as checkpoints
from .backends.adapter import AdapterFiles
from .serialisation.adapters import AdapterStore, split
from .service.adapters import DEFAULT, Given


@attrs.frozen(kw_only=True)
class Bound:
    """Adapters to begin with, and the options an engine needs for them.

    Attributes:
        options: with `max_adapters` settled.
        notes: one line for each kept adapter that is not served now; it stays kept.
    """

    options: EngineOptions
    given: tuple[Given, ...]
    notes: tuple[str, ...] = ()


class StoreShelf:
    """The stored adapters of one server: what `service.adapters.Shelf` asks for."""

    def __init__(self, store: StoreOptions, options: EngineOptions) -> None:
        self._store = AdapterStore(store)
        self._options = options

    def find(self, name: str) -> AdapterFiles:
        """See `Shelf.find`."""
        found = adapters.read(self._store.get(name).path)
        check(found, self._options)
        return found

    def keep(self, name: str) -> None:
        """See `Shelf.keep`."""
        self._store.keep(self._options.model_id, name)

    def drop(self, name: str) -> None:
        """See `Shelf.drop`."""
        self._store.drop(self._options.model_id, name)

    def kept(self) -> list[str]:
        """What was loaded on request before this start."""
        return self._store.kept(self._options.model_id)


def check(found: AdapterFiles, options: EngineOptions) -> None:
    """Hold an adapter against the model; a backend without files takes any.

    Raises:
        AdapterIncompatible: it is of another base, or of too high a rank.
    """
    if options.model_path:
        base = checkpoints.read(options.model_path, allow_pickle=options.allow_pickle_weights)
        adapters.check_fits(found, base, options.max_adapter_rank)


def bind(options: EngineOptions, store: StoreOptions, models: Collection[str] = ()) -> Bound:
    """Find and check the adapters to begin with.

    Args:
        options: with the model found.
        models: served names of the model, which no adapter may have.

    Raises:
        AdapterNotFound, AdapterIncompatible: one of `--adapter-id` is missing or does not fit.
        InvalidSetting: a name is taken or malformed, two have none, or there are more than `--max-adapters`.
    """
    named = read_ids(options.adapter_id, models)
    most = options.max_adapters or len(named)
    if len(named) > most:
        raise InvalidSetting(
            f"--adapter-id names {len(named)} adapters, --max-adapters allows {most}.", param="--max-adapters"
        )
    options = attrs.evolve(options, max_adapters=most)
    first = DEFAULT if DEFAULT in named else next(iter(named), None)
    shelf = AdapterStore(store)
    given: list[Given] = []
    for name, source in named.items():
        files = adapters.read(_folder(shelf, source))
        check(files, options)
        given.append(Given(name=name, files=files, default=name == first))
    notes: list[str] = []
    if most:
        folders = {one.name: one.files.path for one in given}
        for name in StoreShelf(store, options).kept():
            if name in named:
                if shelf.differs(name, folders[name]):
                    notes.append(
                        f"ignored: adapter {name} of the store, loaded while the last server ran: --adapter-id gives another "
                        f"under its name; --adapter-id {name}:{name} serves it"
                    )
                continue
            if name in models:
                continue
            if len(given) >= most:
                notes.append(f"ignored: adapter {name}: no more than --max-adapters {most}")
                continue
            try:
                given.append(Given(name=name, files=StoreShelf(store, options).find(name)))
            except OpenLLMError as error:
                notes.append(f"ignored: adapter {name}: {error.message}")
    return Bound(options=options, given=tuple(given), notes=tuple(notes))


def read_ids(texts: Sequence[str], models: Collection[str] = ()) -> dict[str, str]:
    """`PATH_OR_ID[:NAME]` texts as name -> source; the one without a name is called `default`.

    Raises:
        InvalidSetting: two have no name, two have the same, or one has the model's.
    """
    named: dict[str, str] = {}
    for text in texts:
        source, name = split(text)
        if name is None and DEFAULT in named:
            raise InvalidSetting(
                "Only one adapter can be set as default.",
                hint=f"Give the others a name: --adapter-id {source}:NAME.",
                param="--adapter-id",
            )
        name = name or DEFAULT
        if name in named or name in models:
            raise InvalidSetting(
                f"--adapter-id: the name {name!r} is taken{' by the model' if name in models else ''}.",
                hint="Give each adapter a name of its own: --adapter-id PATH:NAME.",
                param="--adapter-id",
            )
        named[name] = source
    return named


def _folder(shelf: AdapterStore, source: str) -> Path:
    try:
        return shelf.folder_of(source)[0]
    except AdapterNotFound as error:
        # of a start, not of a request: the same exit code as a broken one
        raise AdapterIncompatible(error.message, hint=error.hint, param="--adapter-id") from None
