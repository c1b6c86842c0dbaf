"""The adapters of an engine: loaded into each life of its host, forgotten when the last request that uses one has ended.

`Engine` asks `Adapters` before it takes a request and when a host is ready; the service loads and unloads. An adapter is
known here by a key that is never used twice, so that two versions of one name are never mixed up, not even in a prefix
cache. Names, defaults and who may load what are the service's business.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from openllm_core.errors import AdapterIncompatible, AdapterNotFound, EngineUnavailable, OpenLLMError, ShuttingDown

from .channel import LoadAdapter, UnloadAdapter
from .questions import Questions

HOST_GONE = (EngineUnavailable, ShuttingDown)
POLL_S = 0.02  # how often it is looked whether an adapter's last request has ended


class Adapters:
    """Adapters that one engine's host must have."""

    def __init__(self, questions: Questions, used: Callable[[str], bool]) -> None:
        """Args:
        used: whether a request under way uses the adapter of a key.
        """
        self._questions = questions
        self._used = used
        self._folders: dict[str, str] = {}  # key -> folder, of all that are wanted
        self._present: set[str] = set()  # keys that the present host has loaded
        self._failures: dict[str, OpenLLMError] = {}  # key -> why the present host would not take it
        self._admitting: Counter[str] = Counter()  # requests that are on their way to a place in line
        self._up = False
        self._task: asyncio.Task[None] | None = None

    # -- what the service asks for ------------------------------------------------------------------------------------

    def expect(self, key: str, folder: str) -> None:
        """Have an adapter loaded into every host that comes up from now on."""
        self._folders[key] = folder

    async def load(self, key: str, folder: str) -> None:
        """Load one into the present host, if it is up, and into every later one.

        Raises:
            OpenLLMError: why it will not be served; then nothing has changed.
        """
        self.expect(key, folder)
        try:
            if self._up:
                await self._load_missing()
            if key in self._failures:
                raise self._failures[key]
        except BaseException:
            self.retire(key)
            raise

    def failure(self, key: str) -> OpenLLMError | None:
        """Why the present host would not take an adapter."""
        return self._failures.get(key)

    def present(self, key: str) -> bool:
        """Whether the present host has it."""
        return key in self._present

    @property
    def num_present(self) -> int:
        """How many the present host has loaded."""
        return len(self._present)

    async def unload(self, key: str) -> None:
        """Take no new request for it, wait for those that use it, then let the host forget it."""
        await unload((self,), key)

    def retire(self, key: str) -> None:
        """Take no new request for it."""
        self._folders.pop(key, None)
        self._failures.pop(key, None)

    def in_use(self, key: str) -> bool:
        """Whether a request uses it."""
        return self._admitting[key] > 0 or self._used(key)

    async def forget(self, key: str) -> None:
        """Let the host forget a retired one that nobody uses."""
        if key in self._present:
            self._present.discard(key)
            await self._questions.ask(lambda number: UnloadAdapter(number, key))

    # -- what the engine tells ----------------------------------------------------------------------------------------

    def host_up(self, then: Callable[[], None]) -> bool:
        """A host has loaded its model: give it the adapters, then call `then`; False where there are none to give."""
        self._up = True
        if all(key in self._present or key in self._failures for key in self._folders):
            return False
        self._task = asyncio.get_running_loop().create_task(self._give(then))
        return True

    def host_lost(self) -> None:
        """The present host is gone; the next one has nothing."""
        self._up = False
        self._present.clear()
        self._failures.clear()

    @contextmanager
    def admitting(self, key: str | None) -> Generator[None]:
        """Hold an adapter while a request is being admitted; None is the bare base.

        Raises:
            AdapterNotFound: it is not here, or no longer.
            AdapterIncompatible: the host refused it.
        """
        if key is None:
            yield
            return
        if (error := self._failures.get(key)) is not None:
            raise AdapterIncompatible(error.message, hint=error.hint, param="adapter_name")
        if key not in self._folders:
            raise AdapterNotFound("The adapter is not loaded, or no longer.", param="adapter_name")
        self._admitting[key] += 1
        try:
            yield
        finally:
            self._admitting[key] -= 1

    async def _give(self, then: Callable[[], None]) -> None:
        try:
            await self._load_missing()
        except HOST_GONE:
            return  # the next one is given them
        then()

    async def _load_missing(self) -> None:
        """Load what the present host lacks; what it refuses stands in `_failures` then.

        Raises:
            EngineUnavailable, ShuttingDown: the host went down.
        """
        while missing := [k for k in self._folders if k not in self._present and k not in self._failures]:
            key = missing[0]
            folder = self._folders[key]
            try:
                await self._questions.ask(lambda number, key=key, folder=folder: LoadAdapter(number, key, folder))
            except HOST_GONE:
                raise
            except OpenLLMError as error:
                self._failures[key] = error
            else:
                self._present.add(key)


class PoolAdapters:
    """The adapters of several engines, the same in each; has the face of `Adapters` that the service uses."""

    def __init__(self, members: Sequence[Adapters]) -> None:
        self._members = tuple(members)

    def expect(self, key: str, folder: str) -> None:
        """See `Adapters.expect`."""
        for member in self._members:
            member.expect(key, folder)

    async def load(self, key: str, folder: str) -> None:
        """See `Adapters.load`: into all or none."""
        try:
            for member in self._members:
                await member.load(key, folder)
        except BaseException:
            await self.unload(key)
            raise

    def failure(self, key: str) -> OpenLLMError | None:
        """See `Adapters.failure`: the first engine's that has one."""
        return next((error for member in self._members if (error := member.failure(key)) is not None), None)

    def present(self, key: str) -> bool:
        """Whether a host has it."""
        return any(member.present(key) for member in self._members)

    async def unload(self, key: str) -> None:
        """See `Adapters.unload`."""
        await unload(self._members, key)


async def unload(members: Sequence[Adapters], key: str) -> None:
    """Take an adapter out of all engines once no request uses it in any: a request in line may move between them."""
    for member in members:
        member.retire(key)
    while any(member.in_use(key) for member in members):
        await asyncio.sleep(POLL_S)
    for member in members:
        await member.forget(key)


AnyAdapters = Adapters | PoolAdapters
