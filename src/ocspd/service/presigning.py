"""Signing the status of every certificate in certdb: `ocsprefresh`, and what `ocspdump` writes.

A pass streams the status of unexpired certificates (never their PEM), hands chunks of one issuer's
rows to signing processes, and writes what comes back to the table `ocsp_responses`, to an index
segment, or both. Nothing a row holds ends a pass: rows of issuers without a signer and rows that
cannot be signed are counted and, on request, told one by one. Memory is bounded whatever the table's
size, and a pass that was interrupted leaves complete answers only.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from ocspd.certdb.packed import PackedSource
from ocspd.certdb.rows import warn_of_unreadable
from ocspd.errors import ConfigError
from ocspd.model import CertStatus, OCSPRow, normalize_aki
from ocspd.service.signing import (
    Chunk,
    LocalSigning,
    PackedChunk,
    Segments,
    Signing,
    Sorting,
    earlier,
    ends,
    reduced,
)
from ocspd.service.signing_pool import DEPTH, SigningPool
from ocspd.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from ocspd.certdb.base import CertDB
    from ocspd.certdb.packed import PackedRows
    from ocspd.clock import Clock
    from ocspd.model import CertificateRow, StatusRow
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.service.signing import SignedChunk
    from ocspd.service.staleness import Staleness, StaleRows

CHUNK_ROWS = 1_000
"""Rows in one message to a signing process and in one upsert: 17 ms of P-256 signatures for each hash."""
LOCAL_ROWS = 400
"""A table smaller than this is signed before a process would have started."""
_AKI = attrgetter("aki")
_STATUS = attrgetter("status")


class IndexWriter(Protocol):
    """Where answers are kept beside the table; `ocspd._writer.SegmentWriter` is one."""

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

    async def publish(self, paths: list[str]) -> None:
        """Take finished segments."""
        ...


class StatusSource(Protocol):
    """Where the status of certificates comes from: any `certdb.base.CertDB`, or `importing.FileStatus`."""

    def stream_status(self) -> AsyncIterator[list[StatusRow]]:
        """Stream the status of the certificates to answer for."""
        ...

    async def get_certificate(self, serial: int, aki: str) -> CertificateRow | None:
        """Return the certificate of a row that has no key identifier, to find who issued it."""
        ...

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        """Store answers, where they are wanted in a table."""
        ...


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A certificate that got no answer; `cause` is `foreign issuer`, `bad serial` or `unknown status`."""

    serial: int
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
class RefreshReport:
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
    reasons_dropped: int = 0
    """Revoked certificates whose stored reason does not exist; they were signed without a reason."""
    fresh: int = 0
    """Certificates that were not wanted, because they have an answer that is good for longer."""
    next_update: datetime | None = None
    """When the first of the answers expires."""


async def refresh_table(  # noqa: PLR0913  (each is one decision of the caller)
    db: StatusSource,
    signers: Sequence[OCSPSigner],
    *,
    clock: Clock,
    numbers: Mapping[str, int] | None = None,
    processes: int = 0,
    background: bool = False,
    table: bool = True,
    index: IndexWriter | None = None,
    segments: SegmentSink | None = None,
    staleness: Staleness | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_skip: Callable[[SkippedRow], None] | None = None,
) -> RefreshReport:
    """Sign every unexpired certificate of the signers' issuers and store the answers.

    `table` writes the answer for CFSSL's clients (SHA-1 CertID where that is signed) to
    `ocsp_responses`, expiring at its nextUpdate; `index` gets the answers for every CertID hash.
    `segments` gets them as files. Where `staleness` says that a row needs no new answer it is fresh.
    `numbers` has the number of the signer by the rows' key identifiers; by default the signers say it.
    `processes` 0 means one for each usable CPU; in the `background` they yield to everything else.
    Raises ConfigError when two signers share an issuer, CodedError 11000 when the database fails.
    """
    refresh = _Refresh(
        db=db,
        signers=signers,
        numbers=by_issuer(signers) if numbers is None else numbers,
        clock=clock,
        table=table,
        index=index,
        segments=segments,
        staleness=staleness,
        on_progress=on_progress,
        on_skip=on_skip,
    )
    return await refresh.run(processes or usable_cpus(), background=background)


def usable_cpus() -> int:
    """Return how many CPUs this process may run on."""
    return len(os.sched_getaffinity(0))


def by_issuer(signers: Sequence[OCSPSigner]) -> dict[str, int]:
    """Map the key identifier of each issuer to its signer's number.

    An issuer without one is found by its certificates' signatures only. ConfigError when two signers
    would answer for the same key identifier.
    """
    numbers: dict[str, int] = {}
    for number, signer in enumerate(signers):
        if not signer.aki:
            continue
        if signer.aki in numbers:
            raise ConfigError(
                f"two signers for {signer.subject} (key identifier {signer.aki}): give each issuer once"
            )
        numbers[signer.aki] = number
    return numbers


@dataclass(slots=True, kw_only=True)
class _Refresh:
    """One pass."""

    db: StatusSource
    signers: Sequence[OCSPSigner]
    numbers: Mapping[str, int]
    clock: Clock
    table: bool
    index: IndexWriter | None
    segments: SegmentSink | None
    staleness: Staleness | None
    on_progress: Callable[[Progress], None] | None
    on_skip: Callable[[SkippedRow], None] | None
    report: RefreshReport = field(default_factory=RefreshReport)
    index_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    published: int = 0
    stale_rows: StaleRows | None = None

    async def run(self, processes: int, *, background: bool) -> RefreshReport:
        if isinstance(self.db, PackedSource) and not self._answers_return:
            await self._run_packed(self.db.stream_packed(), processes, background=background)
        else:
            await self._run_rows(self.db.stream_status(), processes, background=background)
        return self.report

    @property
    def _answers_return(self) -> bool:
        """Whether answers are wanted here, not only in segments: then rows have to be known here, too."""
        return self.table or self.index is not None or self.segments is None

    async def _run_packed(
        self, stream: AsyncIterator[PackedRows], processes: int, *, background: bool
    ) -> None:
        """Make the pass over rows that are read where they are signed."""
        async with _closing(stream):
            first, second = await anext(stream, None), await anext(stream, None)
            begin = [packed for packed in (first, second) if packed is not None]
            # rows that did not travel together are many, however few are in one piece
            count = LOCAL_ROWS if second is not None else sum(packed.count for packed in begin)
            async with self._signing(count, processes, background=background) as signing:

                async def work() -> AsyncGenerator[Awaitable[None]]:
                    for packed in begin:
                        yield self._sign_packed(signing, packed)
                    async for packed in stream:
                        yield self._sign_packed(signing, packed)

                await self._do(signing, work(), processes)

    async def _run_rows(
        self, stream: AsyncIterator[list[StatusRow]], processes: int, *, background: bool
    ) -> None:
        """Make the pass over rows that are read here."""
        async with _closing(stream):
            first = await anext(stream, None)
            async with self._signing(len(first or ()), processes, background=background) as signing:

                async def work() -> AsyncGenerator[Awaitable[None]]:
                    async for number, rows in self._chunks(first, stream):
                        yield self._sign(signing, number, rows)

                await self._do(signing, work(), processes)

    @asynccontextmanager
    async def _signing(self, rows: int, processes: int, *, background: bool) -> AsyncIterator[Signing]:
        """Hand out who signs: this process where `rows`, the first ones, are few."""
        segments = None
        if self.segments is not None:
            created_at = int(self.clock.now().timestamp())
            segments = Segments(self.segments.prefix, created_at, keep=self.table or self.index is not None)
        sorting = Sorting(self.numbers, self.staleness)
        if (processes == 1 and not background) or rows < LOCAL_ROWS:
            yield LocalSigning(self.signers, segments, sorting)
            return
        async with SigningPool(
            self.signers, processes=processes, background=background, segments=segments, sorting=sorting
        ) as pool:
            yield pool

    async def _do(self, signing: Signing, work: AsyncGenerator[Awaitable[None]], processes: int) -> None:
        """Do pieces of work side by side and publish what is signed from time to time and at the end."""
        # what the workers have and one that is written; the next one waits for a place
        slots = asyncio.Semaphore(DEPTH * processes + 1)

        async def do(piece: Awaitable[None]) -> None:
            try:
                await piece
            finally:
                slots.release()

        async with Tasks() as tasks, aclosing(work):
            async for piece in work:
                tasks.create_task(do(piece))
                await slots.acquire()
                if self.segments is not None and self.report.answers >= self.published + self.segments.limit:
                    await self._publish(signing)
        await self._publish(signing)

    async def _publish(self, signing: Signing) -> None:
        """Publish what the signing processes have written."""
        if self.segments is None:
            return
        self.published = self.report.answers
        paths = await signing.finish()
        if paths:
            await self.segments.publish(paths)

    async def _chunks(
        self, first: list[StatusRow] | None, rest: AsyncIterator[list[StatusRow]]
    ) -> AsyncIterator[tuple[int, list[StatusRow]]]:
        """Sort rows by signer and yield full chunks, the rest of each at the end."""
        waiting: dict[int, list[StatusRow]] = {number: [] for number in range(len(self.signers))}
        rows = first
        while rows is not None:
            self.report.certificates += len(rows)
            for aki, group in groupby(rows, _AKI):
                number = self.numbers.get(aki)
                if number is not None:
                    waiting[number] += group
                else:
                    await self._find(aki, group, waiting)
            for number, chunk in waiting.items():
                whole = len(chunk) // CHUNK_ROWS * CHUNK_ROWS
                for start in range(0, whole, CHUNK_ROWS):
                    yield number, chunk[start : start + CHUNK_ROWS]
                del chunk[:whole]
            self._tell()
            rows = await anext(rest, None)
        for number, chunk in waiting.items():
            if chunk:
                yield number, chunk

    async def _find(self, aki: str, rows: Iterable[StatusRow], waiting: dict[int, list[StatusRow]]) -> None:
        """Sort rows whose key identifier is not exactly a signer's."""
        for row in rows:
            number = self.numbers.get(normalize_aki(aki)) if aki else await self._issuer_of(row)
            if number is None:
                self.report.foreign[aki] += 1
                self._skip(row.serial, row.aki, "foreign issuer")
            else:
                waiting[number].append(row)

    async def _issuer_of(self, row: StatusRow) -> int | None:
        """Find the signer of a certificate without a key identifier, by its signature."""
        found = await self.db.get_certificate(row.serial, row.aki)
        if found is None:
            return None
        pem = found.pem.encode()
        return next((number for number, signer in enumerate(self.signers) if signer.issued(pem)), None)

    async def _sign(self, signing: Signing, number: int, rows: list[StatusRow]) -> None:
        now = self.clock.now()
        plain = reduced(rows)
        replaced: Sequence[int] = ()
        if self.staleness is not None:
            until = ends(rows)
            until_s = None if until is None else int(until.timestamp())
            stale_rows = self._stale_rows(self.staleness)
            wanted = stale_rows(number, plain, int(now.timestamp()), until_s)
            self.report.fresh += len(rows) - len(wanted)
            rows, plain = [rows[at] for at in wanted], [plain[at] for at in wanted]
            replaced = stale_rows.replaced(number, plain)
        if not rows:
            self._tell()
            return
        signed = await signing.sign(Chunk(number, now, plain, ends(rows), replaced=replaced))
        if self.index is not None or self.table:
            await self._store(number, rows, signed)
        self._count(rows, signed)

    def _stale_rows(self, staleness: Staleness) -> StaleRows:
        if self.stale_rows is None:
            self.stale_rows = staleness.open()
        return self.stale_rows

    async def _sign_packed(self, signing: Signing, packed: PackedRows) -> None:
        report = self.report
        signed = await signing.sign_packed(PackedChunk(self.clock.now(), packed.data))
        report.certificates += packed.count - len(signed.unreadable)
        report.signed += signed.signed
        report.revoked += signed.revoked
        report.answers += signed.made
        report.fresh += signed.fresh
        report.reasons_dropped += signed.reasons_dropped
        report.next_update = earlier(report.next_update, signed.next_update)
        warn_of_unreadable(signed.unreadable)
        for aki, serials in signed.foreign.items():
            report.foreign[aki] += len(serials)
            for serial in serials:
                self._skip(serial, aki, "foreign issuer")
        for serial, aki, cause in signed.skipped:
            report.skipped[cause] += 1
            self._skip(serial, aki, cause)
        if signed.nameless:
            waiting: dict[int, list[StatusRow]] = {number: [] for number in range(len(self.signers))}
            await self._find("", signed.nameless, waiting)
            for number, rows in waiting.items():
                if rows:
                    await self._sign(signing, number, rows)
        self._tell()

    async def _store(self, number: int, rows: list[StatusRow], signed: SignedChunk) -> None:
        """Put answers where an `IndexWriter` and the table want them."""
        done = [
            (row, answers)
            for row, answers in zip(rows, signed.answers, strict=True)
            if not isinstance(answers, str)
        ]
        if self.index is not None:
            async with self.index_lock:
                due = self.signers[number].due_s(signed.this_update, signed.next_update)
                await asyncio.to_thread(_add, self.index, [answers for _, answers in done], due)
        if self.table and done:
            hashes = self.signers[number].certid_hashes
            chosen = hashes.index("sha1") if "sha1" in hashes else 0
            await self.db.upsert_ocsp(
                [
                    OCSPRow(serial=row.serial, aki=row.aki, body=answers[chosen], expiry=signed.next_update)
                    for row, answers in done
                ]
            )

    def _count(self, rows: list[StatusRow], signed: SignedChunk) -> None:
        report = self.report
        report.revoked += list(map(_STATUS, rows)).count(CertStatus.REVOKED)
        report.signed += len(rows)
        report.answers += signed.made
        report.reasons_dropped += signed.reasons_dropped
        report.next_update = earlier(report.next_update, signed.next_update if signed.made else None)
        if signed.skipped:
            for row, cause in zip(rows, signed.answers, strict=True):
                if isinstance(cause, str):
                    report.signed -= 1
                    report.revoked -= row.status == CertStatus.REVOKED
                    report.skipped[cause] += 1
                    self._skip(row.serial, row.aki, cause)
        self._tell()

    def _skip(self, serial: int, aki: str, cause: str) -> None:
        if self.on_skip is not None:
            self.on_skip(SkippedRow(serial, aki, cause))

    def _tell(self) -> None:
        if self.on_progress is not None:
            report = self.report
            skipped = report.foreign.total() + report.skipped.total()
            self.on_progress(Progress(report.signed + report.fresh + skipped, report.signed))


@asynccontextmanager
async def _closing(stream: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Close the stream in the end, if it is one that has to be."""
    try:
        yield
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


def _add(index: IndexWriter, answers: list[list[bytes]], due: int) -> None:
    for group in answers:
        for answer in group:
            index.add(answer, due)


async def dump_table(db: CertDB, write: Callable[[bytes], None]) -> int:
    """Write the unexpired answers of the table as CFSSL's ocspdump: one base64 line each.

    Returns how many there were.
    """
    count = 0
    async for rows in db.unexpired_ocsp():
        write(b"".join(base64.b64encode(row.body) + b"\n" for row in rows))
        count += len(rows)
    return count
