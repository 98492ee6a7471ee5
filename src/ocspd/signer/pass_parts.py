"""What a pass reads from, writes to and reports: the words `presigning` and its callers share."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from datetime import datetime

    from ocspd.machine import Machine
    from ocspd.model import OCSPRow, StatusRow


class IndexWriter(Protocol):
    """Where answers are kept beside the table; `ocspd.index._writer.SegmentWriter` is one."""

    def add(self, der: bytes, refresh_at: int | None = None) -> None:
        """Take one answer, due for replacement at `refresh_at` (seconds since the epoch)."""
        ...


class SegmentSink(Protocol):
    """Where segments go that the signing processes write themselves: faster than an `IndexWriter`."""

    @property
    def prefix(self) -> str:
        """What their paths begin with."""
        ...

    @property
    def limit(self) -> int:
        """After how many answers segments are finished and published while the pass goes on."""
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
        """Store answers, where they are wanted in a table."""
        ...


@runtime_checkable
class AnswerTable(Protocol):
    """A source that has a table of answers, whatever wrote them."""

    async def find_ocsp(self, rows: Sequence[StatusRow]) -> list[bytes | None]:
        """Return the stored answer of each row, None where there is none."""
        ...

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        """Store answers."""
        ...

    async def update_ocsp(self, row: OCSPRow) -> None:
        """Replace an answer that is there; CodedError 11200 when there is none."""
        ...


class TableTurns:
    """Who may write what to the table of answers while a pass and changes are both at it.

    The index orders them by itself, the table has what was written last. So whoever follows changes notes
    here what it is going to answer, *before* reading it from the database, and the pass, which may have
    read the same certificate earlier, leaves that out: what the change writes stays.
    """

    def __init__(self) -> None:
        self.writing = asyncio.Lock()
        """Held while the table is written to."""
        self.changed: set[int] = set()
        """The serial numbers of what has changed since the pass began."""
        self._noted = False

    def begin_pass(self, *, table: bool) -> None:
        """Begin anew; without `table` nothing is noted."""
        self._noted = table
        self.changed.clear()

    def will_answer(self, certificates: Iterable[tuple[int, int]]) -> None:
        """Note the certificates that a change is going to answer."""
        if self._noted:
            self.changed.update(serial for _, serial in certificates)


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A certificate that got no answer, or not what its row says.

    `cause` is `foreign issuer`, `bad serial`, `cannot be signed`, `signer fails: …`, or what is unreadable.
    """

    serial: int | str
    aki: str
    cause: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pass is."""

    certificates: int
    """Rows that are done with, skipped ones included."""
    signed: int
    """Rows that have their answers."""


@dataclass(slots=True)
class PassReport:
    """What a pass did."""

    certificates: int = 0
    """Unexpired certificates seen."""
    signed: int = 0
    """Certificates that got answers, and how many of them are revoked."""
    revoked: int = 0
    answers: int = 0
    """Signatures made: one for each certificate and CertID hash."""
    foreign: Counter[str] = field(default_factory=Counter)
    """Certificates of issuers no signer was given for, by key identifier."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Certificates of our issuers that could not be signed, by cause."""
    unreadable: int = 0
    """Certificates signed as unknown, or revoked, because their rows cannot be read whole."""
    failed: dict[int, tuple[int, str]] = field(default_factory=dict)
    """By number of a signer that cannot sign: how many certificates that left out, and why."""
    reasons_dropped: int = 0
    """Revoked certificates whose stored reason does not exist; they were signed without a reason."""
    fresh: int = 0
    """Certificates that were not wanted, because they have an answer that is good for longer."""
    next_update: datetime | None = None
    """When the first of the answers expires."""
