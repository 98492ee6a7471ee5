"""Client connections: HTTP bytes in, HTTP bytes out (HTTP/1.1 RFC 9112, OCSP over HTTP RFC 6960 App. A).

`loop.add_reader(connections.fileno(), connections.turn)` and a `tick` each second are all an event loop has
to do.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import final

from ocspd._reactor import Reactor
from ocspd._responder import Responder

@final
class SlowTransport:
    """The transport aiohttp sees while it answers a request of a native connection.

    It never has the client's descriptor, and once the connection is gone or fast again it does nothing.
    """

    @property
    def ends_connection(self) -> bool:
        """Whether the reply must be the last: the framing was in doubt, or the worker drains."""
    def request_done(self, keep_alive: bool) -> None:
        """Say that the reply is written; the connection is fast again. Called by the slow path."""
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
class Connections(Reactor):
    """All client connections of a worker: what they ask is answered, limits and time-outs are kept."""

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
        """`slow_factory` makes the aiohttp protocol that answers what the fast path does not know.
        ValueError for limits that are not positive, OSError without descriptors.
        """
    def tick(self, now_s: int) -> None:
        """Call once a second: moves the responder's clock and closes what has timed out."""
    @property
    def buffered_bytes(self) -> int:
        """Bytes kept for clients: unfinished requests, and replies that are not taken."""
    def drain(self) -> None:
        """Answer every further request with Connection: close and close idle connections.

        Connections that the kernel had already accepted are still taken.
        """
    def abort(self) -> None:
        """Close every connection at once."""
