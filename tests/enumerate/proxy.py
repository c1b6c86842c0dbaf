"""A TCP proxy that breaks connections: after so many bytes of either direction, or all of them when told to.

Stands between real clients and a real server in the tests of cuts and of histories. Knows nothing of what it carries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

Limit = Callable[[], tuple[int | None, int | None]]
"""Asked for each new connection: bytes that may go up and bytes that may come down before it is cut; None = all."""


class Proxy:
    """Carries connections to one address.

    Attributes:
        port: where it listens.
        limit: see `Limit`.
        carried: bytes that came down on the last connection.
    """

    def __init__(self, to_port: int, limit: Limit = lambda: (None, None)) -> None:
        self._to_port = to_port
        self.limit = limit
        self.port = 0
        self.carried = 0
        self._open: set[asyncio.Transport] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut_all(self) -> None:
        """Break every connection, with what is on its way."""
        for transport in list(self._open):
            transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        up, down = self.limit()
        self.carried = 0
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, far_writer)
        self._open.update(end.transport for end in ends)  # type: ignore[misc]
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, far_writer, up, ends))
                both.create_task(self._carry(far_reader, writer, down, ends, count=True))
        finally:
            for end in ends:
                end.transport.abort()
                self._open.discard(end.transport)  # type: ignore[arg-type]

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        most: int | None,
        ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        *,
        count: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            sent = 0
            while most is None or sent < most:
                part = await source.read(65536 if most is None else min(65536, most - sent))
                if not part:
                    if sink.can_write_eof():
                        sink.write_eof()
                    return
                sent += len(part)
                self.carried += len(part) if count else 0
                sink.write(part)
                await sink.drain()
            await asyncio.sleep(0)
            for end in ends:
                end.close()  # what was sent arrives; nothing more does


@contextlib.asynccontextmanager
async def proxying(to_port: int, limit: Limit = lambda: (None, None)) -> AsyncIterator[Proxy]:
    """A proxy on a free port of this machine."""
    proxy = Proxy(to_port, limit)
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        proxy.cut_all()
        await listener.wait_closed()
