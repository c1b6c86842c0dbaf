"""The waiting line in front of an engine's slots: who is next.

`Dispatcher` puts sequences in and takes the next one out whenever the host has room. Interactive ones go before background
ones, tenants share the slots evenly, and each tenant is served in order. It must not know of slots, steps or the host.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from .stream import RequestStream
from .stream import Sequence as Choice

BACKGROUND_EVERY = 9
"""While both wait, every ninth sequence to leave is a background one: it yields, and it does not starve."""

Lane = OrderedDict[str, OrderedDict[str, Choice]]
"""Tenant -> its sequences by id, first come first; the tenant that was served longest ago comes first."""


class Line:
    """Sequences that wait, each by the id the backend will know it by."""

    def __init__(self) -> None:
        self._interactive: Lane = OrderedDict()
        self._background: Lane = OrderedDict()
        self._size = 0
        self._since_background = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Choice]:
        """All that wait: interactive ones first, then by tenant."""
        for line in chain(self._interactive.values(), self._background.values()):
            yield from line.values()

    def put(self, choice: Choice, *, first: bool = False) -> None:
        """Let a sequence wait: behind the others of its tenant, or before them."""
        lane, request_id = self._lane_of(choice), choice.backend_request.request_id
        line = lane.setdefault(choice.stream.request.tenant, OrderedDict())
        line[request_id] = choice
        if first:
            line.move_to_end(request_id, last=False)
        self._size += 1

    def remove(self, choice: Choice) -> None:
        """Take out a sequence that waits, wherever it stands."""
        lane, tenant = self._lane_of(choice), choice.stream.request.tenant
        line = lane[tenant]
        del line[choice.backend_request.request_id]
        if not line:
            del lane[tenant]
        self._size -= 1

    def next(self, held: Mapping[str, int]) -> Choice:
        """Take out the sequence whose turn it is.

        Args:
            held: tenant -> its sequences in the host. Of the tenants that wait, the one with the fewest is next; among
                equals, the one served longest ago.

        Raises:
            LookupError: nobody waits.
        """
        lane = self._next_lane()
        tenant = next(iter(lane)) if len(lane) == 1 else min(lane, key=lambda name: held.get(name, 0))
        line = lane[tenant]
        _, choice = line.popitem(last=False)
        if line:
            lane.move_to_end(tenant)
        else:
            del lane[tenant]
        self._size -= 1
        return choice

    def _next_lane(self) -> Lane:
        if not self._size:
            raise LookupError("nobody waits")
        if not self._background:
            return self._interactive
        self._since_background += 1
        if not self._interactive or self._since_background >= BACKGROUND_EVERY:
            self._since_background = 0
            return self._background
        return self._interactive

    def _lane_of(self, choice: Choice) -> Lane:
        return self._interactive if choice.stream.request.priority == "interactive" else self._background


def requests_of(choices: Iterable[Choice]) -> list[RequestStream]:
    """The requests that sequences belong to, each once, in their order."""
    return list({id(choice.stream): choice.stream for choice in choices}.values())


async def wait_in_line(streams: Sequence[RequestStream], timeout_s: float) -> None:
    """Wait until one of the requests of a batch has a slot; the others then come in their turn.

    Raises:
        OpenLLMError: what ended one of them while all waited: overload after `timeout_s`, above all. None is left behind,
            nor is one when the caller is cancelled.
    """
    loop = asyncio.get_running_loop()
    left = loop.create_future()
    for stream in streams:
        stream.left_line = left

    def on_timeout() -> None:
        for stream in streams:
            stream.home.on_queue_timeout(stream)

    timer = loop.call_later(timeout_s, on_timeout)
    try:
        await left
    except BaseException:
        for stream in streams:
            stream.close()
        raise
    finally:
        timer.cancel()
        for stream in streams:
            stream.left_line = None
