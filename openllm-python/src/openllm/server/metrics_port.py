"""`/metrics` on a port of its own: on 127.0.0.1, without a key, for a scraper that runs beside the server.

`run.py` listens while it serves, gRPC alone included. The same limits hold on a connection as on the other port.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import TYPE_CHECKING

from openllm_core.options import ServerOptions

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HOST = "127.0.0.1"


class MetricsPort:
    """One listener.

    Args:
        app: of `create_metrics_app`.
        options: limits of a connection.
        sock: bound.
    """

    def __init__(self, app: ASGIApp, options: ServerOptions, sock: socket.socket) -> None:
        self._app = app
        self._options = options
        self._sock = sock
        self._listener: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; gives the port."""
        from uvicorn.server import ServerState

        from .protocol import LimitedProtocol, configure

        loop = asyncio.get_running_loop()
        state = self._state = ServerState()
        make = functools.partial(LimitedProtocol, configure(self._app, self._options), state, {}, loop)
        self._listener = await loop.create_server(make, sock=self._sock)
        return self._sock.getsockname()[1]

    def close(self) -> None:
        """Listen no more; a scrape under way is cut."""
        if self._listener is not None:
            self._listener.close()
            for connection in list(self._state.connections):
                connection.transport.abort()
        self._sock.close()
