"""The adapters of a server by name: which there are, which is the default, and what a request's words mean.

Made by `compose`; asked by `Service` for each request and by the `/v1/adapters` routes. What a name means is settled when a
request is admitted: the key it gets here belongs to one loaded version for ever, so no later change touches it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Sequence
from typing import Literal, Protocol

import attrs

from openllm.access import caller
from openllm.backends.adapter import AdapterFiles
from openllm.engine.adapters import AnyAdapters
from openllm_core.errors import (
    AdapterIncompatible,
    AdapterNotFound,
    InvalidRequest,
    UnknownServedModel,
    UnsupportedFeature,
)
from openllm_core.schema import AdapterCard, AdapterList

BARE = "base"
DEFAULT = "default"
State = Literal["loading", "ready", "failed"]


class Shelf(Protocol):
    """The stored adapters, as a server that loads them by name sees them; `compose` makes one."""

    def find(self, name: str) -> AdapterFiles:
        """A stored adapter that fits the model.

        Raises:
            AdapterNotFound, AdapterIncompatible: there is none, or it does not fit.
        """
        ...

    def keep(self, name: str) -> None:
        """Remember one that was loaded on request, for the next start."""
        ...

    def drop(self, name: str) -> None:
        """Remember one no longer."""
        ...


@attrs.frozen(kw_only=True)
class Given:
    """An adapter that is served from the start.

    Attributes:
        default: requests that name none get it on `/v1/generate`.
    """

    name: str
    files: AdapterFiles
    default: bool = False


@attrs.define
class Served:
    """One adapter under its name."""

    name: str
    key: str
    files: AdapterFiles


@attrs.frozen
class Chosen:
    """What a request will be answered by: the adapter's name and the key of its loaded version, both None for the base."""

    name: str | None = None
    key: str | None = None


class ServedAdapters:
    """The adapters of one server.

    Attributes:
        max_adapters: that may be loaded at once; 0 = adapters are off.
        default: name of the default one; None is the bare base.
    """

    def __init__(
        self,
        engine: AnyAdapters,
        *,
        models: Collection[str] = (),
        given: Sequence[Given] = (),
        max_adapters: int = 0,
        shelf: Shelf | None = None,
    ) -> None:
        """Args:
        engine: where they run.
        models: served names of the model itself; none where it is used in its own process, by whoever holds it.
        given: served from the start.
        shelf: None where nothing is loaded on request.
        """
        self.max_adapters = max_adapters
        self.default: str | None = None
        self._engine = engine
        self._models = frozenset(models)
        self._shelf = shelf
        self._served: dict[str, Served] = {}
        self._numbers = itertools.count(1)
        self._changing = asyncio.Lock()
        self._going: set[asyncio.Task[None]] = set()
        for one in given:
            served = self._new(one.name, one.files)
            engine.expect(served.key, str(one.files.path))
            self._served[one.name] = served
            if one.default:
                self.default = one.name

    def _new(self, name: str, files: AdapterFiles) -> Served:
        return Served(name, f"{name}#{next(self._numbers)}", files)

    # -- for each request ---------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """In the order they were loaded."""
        return list(self._served)

    def choose(self, name: str | None) -> Chosen:
        """What `adapter_name` means where nothing else names a model: nothing or "default" is the server's default.

        Raises:
            AdapterNotFound: there is no such adapter for this caller.
            UnknownServedModel: it means the bare base, which the caller may not use.
        """
        if name == BARE:
            return self._bare()
        if not name or (name == DEFAULT and DEFAULT not in self._served):
            name = self.default
            if name is None:
                return self._bare()
        served = self._served.get(name)
        if served is None or not caller().allows(name):
            raise AdapterNotFound(f"There is no adapter {name[:96]!r}.", param="adapter_name")
        return Chosen(name, served.key)

    def choose_by_model(self, model: str, name: str | None) -> Chosen:
        """What `model` and `adapter_name` mean together: the model's own name alone is the bare base.

        Raises:
            UnknownServedModel, AdapterNotFound: there is no such model or adapter.
            InvalidRequest: they name two different adapters.
        """
        if not caller().allows(model) or (model not in self._models and model not in self._served):
            raise UnknownServedModel(
                f"The model {model[:200]!r} does not exist; this server serves {self._listed()}.", param="model"
            )
        if model in self._models:
            return self.choose(name) if name else Chosen()
        if name and name != model:
            raise InvalidRequest("model and adapter_name name two different adapters.", param="adapter_name")
        return self.choose(model)

    def _bare(self) -> Chosen:
        if self._models and not any(map(caller().allows, self._models)):
            raise UnknownServedModel(f"Name one of what this server serves: {self._listed()}.", param="adapter_name")
        return Chosen()

    def _listed(self) -> str:
        """Some of the names that the caller may use."""
        return (
            ", ".join(list(filter(caller().allows, [*sorted(self._models), *self._served]))[:12])
            or "nothing that you may use"
        )

    # -- what there is ------------------------------------------------------------------------------------------------

    def show(self) -> AdapterList:
        """The true state, of the adapters that the caller may use.

        Raises:
            UnsupportedFeature: `adapters_disabled`, where the server takes none.
        """
        self._require_enabled()
        allows = caller().allows
        seen = [served for served in self._served.values() if allows(served.name)]
        return AdapterList(
            result={served.name: served.files.config for served in seen},
            default=self.default if self.default is None or allows(self.default) else None,
            adapters=[self._card(served) for served in seen],
            max_adapters=self.max_adapters,
        )

    def _card(self, served: Served) -> AdapterCard:
        failure = self._engine.failure(served.key)
        state: State = "failed" if failure is not None else "ready" if self._engine.present(served.key) else "loading"
        return AdapterCard(
            name=served.name,
            state=state,
            rank=served.files.rank,
            base=served.files.base,
            default=served.name == self.default,
            error=failure.message if failure is not None else None,
        )

    def _require_enabled(self) -> None:
        if not self.max_adapters:
            raise UnsupportedFeature(
                "No adapters available for current running server.",
                hint="Start it with --adapter-id ADAPTER, or with --max-adapters N to load some later.",
                code="adapters_disabled",
                param="adapter_name",
            )

    # -- changes ------------------------------------------------------------------------------------------------------

    def set_default(self, name: str) -> AdapterList:
        """Make an adapter (or "base") what requests without a name get on `/v1/generate`, from the next one on.

        Raises:
            UnsupportedFeature, AdapterNotFound: adapters are off, or there is none of that name.
        """
        self._require_enabled()
        if name != BARE and name not in self._served:
            raise AdapterNotFound(f"There is no adapter {name[:96]!r}.", param="adapter_name")
        self.default = None if name == BARE else name
        return self.show()

    async def load(self, name: str) -> AdapterList:
        """Load a stored adapter, or its newest version in place of the one that is served under the name.

        Requests that were admitted before keep the version they have.

        Raises:
            UnsupportedFeature: adapters are off, or as many are loaded as may be.
            AdapterNotFound, AdapterIncompatible: the store has none, or it does not fit.
        """
        self._require_enabled()
        if self._shelf is None:
            raise UnsupportedFeature("This server loads no adapters on request.", code="adapters_disabled")
        async with self._changing:
            old = self._served.get(name)
            if old is None and len(self._served) >= self.max_adapters:
                raise UnsupportedFeature(
                    f"{self.max_adapters} adapters are loaded, the most this server takes.",
                    hint="Unload one, or start it with a higher --max-adapters.",
                    param="adapter_name",
                )
            if name in self._models:
                raise AdapterIncompatible(f"{name[:96]!r} is the name of the model itself.", param="adapter_name")
            files = await asyncio.to_thread(self._shelf.find, name)
            while self._going and len(self._served) + len(self._going) > self.max_adapters:
                await asyncio.wait(self._going, return_when=asyncio.FIRST_COMPLETED)  # until there is a place for it
            new = self._new(name, files)
            await self._engine.load(new.key, str(files.path))
            self._served[name] = new
            if old is not None:
                self._let_go(old)
            await asyncio.to_thread(self._shelf.keep, name)
            return self.show()

    async def unload(self, name: str) -> AdapterList:
        """Serve an adapter no longer; requests that use it finish first.

        Raises:
            UnsupportedFeature, AdapterNotFound: adapters are off, or there is none of that name.
        """
        self._require_enabled()
        async with self._changing:
            gone = self._served.pop(name, None)
            if gone is None:
                raise AdapterNotFound(f"There is no adapter {name[:96]!r}.", param="adapter_name")
            if self.default == name:
                self.default = None
            self._let_go(gone)
            if self._shelf is not None:
                await asyncio.to_thread(self._shelf.drop, name)
            return self.show()

    def _let_go(self, served: Served) -> None:
        task = asyncio.get_running_loop().create_task(self._engine.unload(served.key))
        self._going.add(task)
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._going.discard(task)
        if not task.cancelled():
            task.exception()  # the host went down, and the adapter with it
