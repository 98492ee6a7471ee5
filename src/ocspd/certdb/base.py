"""What every certdb offers: CFSSL's `certificates` and `ocsp_responses` tables as typed operations.

Rules:
 1. A connection is made at the first operation, not before. Every failure is one CodedError whose
    message names the database (password hidden) and, where there is one, the remedy.
 2. "Unexpired" means expiry later than the clock handed to `open_certdb`.
 3. Values are written exactly as CFSSL writes them, so that CFSSL keeps working on the database,
    and everything CFSSL ever wrote can be read (rows older than its migration 002 included).

Open one with `async with await open_certdb(config, clock) as db`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from types import TracebackType

    from ocspd.certdb.feed import ChangeFeed
    from ocspd.certdb.migrate import MigrationSession
    from ocspd.errors import CodedError
    from ocspd.model import AnsweredRequest, CertificateRow, OCSPRow, StatusRow

CHUNK_ROWS = 5000
"""Rows per chunk of the streaming operations: under 2 MB of memory each, whatever the table's size."""


@dataclass(frozen=True, slots=True)
class OddRows:
    """A batch of the rows that `CertDB.stream_odd` finds."""

    rows: list[StatusRow]
    unreadable: list[str]
    """Why other rows were left out: their serial number cannot be read."""


class CertDB(Protocol):
    """A certificate database. Safe to use from many tasks of one event loop.

    Every operation raises CodedError 11000 when the database cannot be reached, has not been migrated,
    holds a value that cannot be read, or rejects the statement.
    """

    @property
    def name(self) -> str:
        """How messages and logs name the database: driver and location, without the password."""
        ...

    async def insert_certificate(self, row: CertificateRow) -> None:
        """Insert a certificate. CodedError 11000 when (serial, aki) exists, 11100 when nothing was inserted.

        `revoked_at` None is written as year 1, and a metadata or sans None as JSON null, as CFSSL does.
        """
        ...

    async def insert_certificates(
        self, rows: Sequence[CertificateRow], answers: Sequence[AnsweredRequest | None] = ()
    ) -> list[CodedError | None]:
        """Insert many with one commit; return the error of each row that is not there, None for the others.

        A row that the database rejects fails alone. When the database cannot be reached, or does not confirm
        the commit, every row has that error, although some may be there. Codes as for `insert_certificate`.
        `answers`, if given, has for each row the request it answers, which is stored with it or not at all:
        a row whose request is already there fails.
        """
        ...

    async def find_answers(self, keys: Sequence[bytes]) -> list[AnsweredRequest]:
        """Return the requests with one of these keys that are still remembered, and delete the others."""
        ...

    async def trim_answers(self) -> int:
        """Delete the requests that need not be remembered any longer; return how many there were."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the connection that insertions use is open, as far as is known without asking."""
        ...

    async def get_certificate(self, serial: int, aki: str) -> CertificateRow | None:
        """Return the certificate with this serial and key identifier (certdb form), or None.

        Year 1 and NULL both read as `revoked_at` None; other NULLs as the field's default.
        """
        ...

    async def find_certificates(self, serial: int) -> list[CertificateRow]:
        """Return the certificates of every issuer with this serial, ordered by key identifier."""
        ...

    async def estimate_unexpired(self) -> int:
        """Estimate how many certificates are unexpired, and so how long a pass will take.

        On PostgreSQL the planner's estimate is used if there is one: counting would read the whole table.
        """
        ...

    def stream_status(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[list[StatusRow]]:
        """Stream the status of the unexpired certificates in non-empty lists of at most chunk_rows.

        Leaves out the rows of `stream_odd`. Reads no PEM and holds one chunk in memory at a time. A row
        that cannot be read is skipped with a warning. On PostgreSQL the whole stream is one snapshot; on
        SQLite each chunk is one, so that CFSSL is not locked out meanwhile. Take a cursor of the change
        feed first, and nothing is missed either way.
        """
        ...

    def stream_odd(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[OddRows]:
        """Stream the unexpired rows that are not spelled as CFSSL does (`spelling`), unreadable ones too.

        Includes expired rows with status revoked if another row of the certificate may be unexpired.
        Other rows of the same certificate may contradict their status: look them up with `find_statuses`.
        """
        ...

    def stream_revoked(
        self, after: datetime, *, chunk_rows: int = CHUNK_ROWS
    ) -> AsyncIterator[list[StatusRow]]:
        """Stream the rows with status revoked that expire after a time, otherwise as `stream_status` does."""
        ...

    async def find_statuses(self, serials: Sequence[int]) -> list[StatusRow]:
        """Return every row with one of these serial numbers, of any issuer, spelling and expiry."""
        ...

    async def get_pem(self, row: StatusRow) -> bytes:
        """Return the certificate of a row found here, which names the issuer; empty if it was deleted."""
        ...

    async def revoke_certificate(
        self, serial: int, aki: str, reason: int, *, keep_first: bool = False
    ) -> bool:
        """Set status revoked, this reason, and revoked_at = now; return whether the row was changed.

        Revoking again overwrites reason and time, as CFSSL does. With `keep_first` it changes nothing
        unless the certificate is on hold and the new reason is another one. Raises CodedError 11200 when
        there is no such row.
        """
        ...

    async def release_certificate(self, serial: int, aki: str) -> bool:
        """Set status good if it is revoked with reason certificateHold; return whether it was.

        CodedError 11200 when there is no such row.
        """
        ...

    async def revoke_rows(self, changes: Sequence[tuple[StatusRow, int]]) -> list[bool]:
        """Revoke rows found here, each for a reason, in one transaction; return which of them were changed.

        As `revoke_certificate` with `keep_first`: a revoked one that is not on hold, or is to be on hold, is
        not changed, nor is one that is gone. No row may be given twice.
        """
        ...

    async def find_ocsp(self, rows: Sequence[StatusRow]) -> list[bytes | None]:
        """Return the stored response of each row, expired or not; None for a row without one."""
        ...

    def unexpired_ocsp(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[list[OCSPRow]]:
        """Stream the unexpired responses in non-empty lists of at most chunk_rows."""
        ...

    async def update_ocsp(self, row: OCSPRow) -> None:
        """Replace body and expiry of a stored response. CodedError 11200 when there is none."""
        ...

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        """Insert or replace responses, all or none."""
        ...

    def change_feed(self) -> ChangeFeed:
        """Return a new change feed with a connection of its own; close it after use."""
        ...

    def migration(self, *, write: bool) -> AbstractAsyncContextManager[MigrationSession]:
        """Begin a transaction for `ocspd.certdb.migrate`; call that module, not this."""
        ...

    async def check(self) -> None:
        """Raise CodedError 11000 with the remedy unless the database is reachable and fully migrated."""
        ...

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
