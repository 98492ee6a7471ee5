"""Deciding: from an HTTP request to the bytes of its reply (RFC 9112, RFC 6960 App. A)."""

from mmap import mmap
from typing import final

from ocspd._index import Index

COUNTERS: tuple[str, ...]
"""Names of the 64-bit counters of one worker's block, in order; `web.metrics` maps them to metrics."""
COUNTER_BLOCK_BYTES: int
"""Size of one worker's block in shared memory."""

@final
class Reply:
    """What to reply to one OCSP request, before HTTP: used by the slow path and by tests."""

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
        """Whether the body is a signed response; if not, the four values below are 0 and ""."""
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
    def reply_to(self, request_der: bytes) -> Reply:
        """Reply to a DER request; counts its CertID hash, its nonce and a request for several certificates.

        Never raises for bad bytes.

        The outcome is counted by whoever writes the reply, `requests_METHOD_OUTCOME`: see metrics.
        """
    def respond(self, data: bytes) -> bytes | None:
        """Answer one complete HTTP request of the shapes the fast path knows; None for any other."""
    def count(self, counter: str, amount: int = 1) -> None:
        """Add to a counter by its name in COUNTERS."""
