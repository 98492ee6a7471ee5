"""The request path: HTTP bytes in, HTTP bytes out (HTTP/1.1 RFC 9112, OCSP over HTTP RFC 6960 App. A)."""

import asyncio
from collections.abc import Callable, Iterable
from mmap import mmap
from typing import final

from ocspd._index import Index

COUNTERS: tuple[str, ...]
"""Names of the 64-bit counters of one worker's block, in order; `web.metrics` maps them to metrics."""
COUNTER_BLOCK_BYTES: int
"""Size of one worker's block in shared memory."""

@final
class Reply:
    """What to answer to one OCSP request, before HTTP: used by the slow path and by tests."""

    @property
    def http_status(self) -> int:
        """200, 400 or 500."""
    @property
    def outcome(self) -> str:
        """One of the first eight of `metrics.OUTCOMES`."""
    @property
    def body(self) -> bytes:
        """The OCSPResponse."""
    @property
    def cacheable(self) -> bool:
        """Whether the answer is authoritative; if not, the four values below are 0 and ""."""
    @property
    def this_update(self) -> int: ...
    @property
    def next_update(self) -> int: ...
    @property
    def max_age_s(self) -> int: ...
    @property
    def etag(self) -> str:
        """Without quotes."""

@final
class Responder:
    """Answers requests from an index, with a clock that moves when told to, and counts what it does."""

    def __init__(
        self,
        index: Index,
        *,
        path: str = "/",
        counters: mmap | memoryview | None = None,
        max_age_cap_s: int = 0,
    ) -> None:
        """Serve below the URL path `path`; count into `counters` (COUNTER_BLOCK_BYTES, writable)."""
    index: Index
    """The index asked; assign a new one to switch generations between two requests."""
    def set_time(self, now_s: int) -> None:
        """Set the clock, seconds since the epoch: Date, max-age and expiry follow it."""
    def answer(self, request_der: bytes) -> Reply:
        """Answer a DER request; counts its CertID hash, nonce and number. Never raises for bad bytes.

        The outcome is counted by whoever writes the answer, `requests_METHOD_OUTCOME`: see metrics.
        """
    def respond(self, data: bytes) -> bytes | None:
        """Answer one complete HTTP request of the shapes the fast path knows; None for any other."""
    def count(self, counter: str, amount: int = 1) -> None:
        """Add to a counter by its name in COUNTERS."""

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
        """Whether the answer must be the connection's last: its framing was in doubt, or the worker drains."""
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
