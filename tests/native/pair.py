"""The same service twice: natively with aiohttp behind it, and by aiohttp alone."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, cast

from ocspd._fastpath import Connections
from ocspd._responder import COUNTER_BLOCK_BYTES, COUNTERS, Responder
from ocspd.clock import ManualClock
from ocspd.responder.ocsp import OCSPServer
from tests.native.answers import NOW
from tests.native.world import NOW_S, open_index

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ocspd._index import Index


class Service:
    """A responder, its counters, and both ways to serve it."""

    def __init__(
        self,
        *,
        path: str = "/",
        index: Index | None = None,
        header_timeout_s: int = 10,
        max_connections: int = 100,
    ) -> None:
        self.block = bytearray(COUNTER_BLOCK_BYTES)
        self.responder = Responder(index or open_index(), path=path, counters=memoryview(self.block))
        self.responder.set_time(NOW_S)
        self.server = OCSPServer(self.responder, clock=ManualClock(NOW), path=path)
        self.connections = Connections(
            self.responder,
            slow_factory=self.server,
            header_timeout_s=header_timeout_s,
            idle_timeout_s=75,
            write_timeout_s=30,
            max_connections=max_connections,
        )

    def counts(self) -> dict[str, int]:
        """What was counted, without zeros."""
        values = struct.unpack_from(f"={len(COUNTERS)}Q", self.block)
        return {name: value for name, value in zip(COUNTERS, values, strict=True) if value}

    def outcomes(self) -> dict[str, int]:
        """The counters that do not depend on which way a request took."""
        prefixes = ("requests_", "certid_", "request_")
        return {name: value for name, value in self.counts().items() if name.startswith(prefixes)}

    def slow(self) -> int:
        """How many requests went to aiohttp."""
        return sum(value for name, value in self.counts().items() if name.startswith("slow_"))

    def tick(self, times: int = 1) -> None:
        """Let seconds pass for the limits, but not for the answers."""
        for _ in range(times):
            self.connections.tick(NOW_S)


def native(service: Service, *, send_buffer: int = 0) -> AbstractAsyncContextManager[int]:
    """Serve the native connections of a service, see `serving_connections`."""
    return serving_connections(service.connections, send_buffer=send_buffer)


@asynccontextmanager
async def serving_connections(connections: Connections, *, send_buffer: int = 0) -> AsyncIterator[int]:
    """Serve native connections on a port; a small send buffer makes every client a slow reader."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        if send_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        connections.listen(listener.fileno())
        loop.add_reader(connections.fileno(), connections.turn)
        try:
            yield listener.getsockname()[1]
        finally:
            connections.unlisten(listener.fileno())
            connections.abort()
            await asyncio.sleep(0)
            loop.remove_reader(connections.fileno())


@asynccontextmanager
async def serving(factory: object, *, send_buffer: int = 0) -> AsyncIterator[int]:
    """Serve a protocol on a port of its own; a small send buffer makes every client a slow reader."""
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = await asyncio.get_running_loop().create_server(
        cast("Callable[[], asyncio.Protocol]", factory), sock=listener
    )
    yield listener.getsockname()[1]
    server.close()
