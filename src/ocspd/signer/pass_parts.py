"""What a pass reads from and writes to: the interfaces `presigning` and its callers share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ocspd.machine import Machine
    from ocspd.model import OCSPRow, StatusRow


class IndexWriter(Protocol):
    """Where responses are kept besides the table; `ocspd.index._writer.SegmentWriter` is one."""

    def add(self, der: bytes, refresh_at: int | None = None) -> None:
        """Take one response, due for renewal at `refresh_at` (seconds since the epoch)."""
        ...


class SegmentSink(Protocol):
    """Takes segments that the signing processes write themselves: faster than an `IndexWriter`."""

    @property
    def prefix(self) -> str:
        """The beginning of their paths."""
        ...

    @property
    def limit(self) -> int:
        """After how many responses segments are finished and published while the pass continues."""
        ...

    @property
    def machine(self) -> Machine:
        """The machine whose disk they are on."""
        ...

    async def publish(self, paths: list[str]) -> None:
        """Take finished segments."""
        ...


class StatusSource(Protocol):
    """The source of the status of certificates: any `certdb.base.CertDB`, or `importing.FileStatus`.

    One that is `resolving.AllRows` as well may have several rows about a certificate.
    """

    def stream_status(self) -> AsyncIterator[list[StatusRow]]:
        """Stream the status of the certificates to sign responses for."""
        ...

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        """Store responses, if they are wanted in a table."""
        ...
