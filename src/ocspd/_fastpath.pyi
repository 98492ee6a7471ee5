"""Client connections: HTTP bytes in, HTTP bytes out (HTTP/1.1 RFC 9112, OCSP over HTTP RFC 6960 App. A)."""

import asyncio
from collections.abc import Callable, Iterable
from typing import final

from ocspd._responder import Responder

@final
class OCSPConnection:
    """One client connection, with the methods of `asyncio.Protocol`; made by `Connections.protocol`."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

@final
class SlowTransport:
    """The transport aiohttp sees while it answers a request for an OCSPConnection."""

    @property
    def ends_connection(self) -> bool:
        """Whether the answer must be the last: the framing was in doubt, or the worker drains."""
    def request_done(self, keep_alive: bool) -> None:
        """Say that the answer is written; the connection is fast again. Called by the slow path."""
    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def writelines(self, data: Iterable[bytes]) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def get_extra_info(self, name: str, default: object = None) -> object: ...
    def can_write_eof(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

@final
class Connections:
    """All client connections of a worker: limits, time-outs, draining."""

    def __init__(
        self,
        responder: Responder,
        *,
        slow_factory: Callable[[], asyncio.Protocol],
        header_timeout_s: int = 10,
        idle_timeout_s: int = 75,
        write_timeout_s: int = 30,
        max_connections: int = 50_000,
    ) -> None:
        """`slow_factory` makes the aiohttp protocol that answers what the fast path does not know."""
    def protocol(self) -> OCSPConnection:
        """Make the protocol of one new connection (for `loop.create_server`)."""
    def tick(self, now_s: int) -> None:
        """Call once a second: moves the responder's clock and closes what has timed out."""
    @property
    def current(self) -> int:
        """Open connections."""
    def drain(self) -> None:
        """Answer every further request with Connection: close and close idle connections.

        Connections that the kernel had already accepted are still taken.
        """
    def abort(self) -> None:
        """Close every connection at once."""
