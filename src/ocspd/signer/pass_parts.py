"""What a pass reads from and writes to: the interfaces `presigning` and its callers share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ocspd.machine import Machine
    from ocspd.model import OCSPRow, StatusRow


class IndexWriter(Protocol):
    """Where responses are kept beside the table; `ocspd.index._writer.SegmentWriter` is one."""

    def add(self, der: bytes, refresh_at: int | None = None) -> None:
        """Take one response, due for replacement at `refresh_at` (seconds since the epoch)."""
        ...


class SegmentSink(Protocol):
    """Where segments go that the signing processes write themselves: faster than an `IndexWriter`."""

    @property
    def prefix(self) -> str:
        """What their paths begin with."""
        ...

    @property
    def limit(self) -> int:
        """After how many responses segments are finished and published while the pass goes on."""
        ...

    @property
    def machine(self) -> Machine:
        """Whose disk they are on."""
        ...

    async def publish(self, paths: list[str]) -> None:
        """Take finished segments."""
        ...


class StatusSource(Protocol):
    """Where the status of certificates comes from: any `certdb.base.CertDB`, or `importing.FileStatus`.

    One that is `resolving.AllRows` as well may have several rows about a certificate.
    """

    def stream_status(self) -> AsyncIterator[list[StatusRow]]:
        """Stream the status of the certificates to answer for."""
        ...

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        """Store responses, where they are wanted in a table."""
        ...
