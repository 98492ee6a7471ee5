"""Signing the status of every certificate in certdb: `ocsprefresh`, and what `ocspdump` writes.

A pass streams the status of unexpired certificates (never their PEM), hands chunks of one issuer's
rows to signing processes, and writes what comes back to the table `ocsp_responses`, to an index
segment, or both. Memory is bounded whatever the table's size (but for certificates with rows in several
spellings, 100 bytes each), and a pass that was interrupted leaves complete answers only.

The invariants kept here:

 1. Never good after revoked. A pass answers what rows said at the latest when they were read; where the
    index says revoked and a row does not, every row of the certificate is read anew.
 2. Revoked wins. Rows in other spellings than CFSSL's are answered first, each together with all rows of
    its certificate (`resolving`), and published before anything else; the rest of the pass leaves these
    certificates alone. So no order of rows, segments or processes decides.
 3. Nothing a row holds ends a pass, nor does a signer that fails: rows of issuers without a signer, rows
    that cannot be signed and those of a signer that cannot sign at present are counted by cause and, on
    request, told one by one.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ocspd.certdb.packed import PackedSource
from ocspd.errors import SignerError
from ocspd.model import CertStatus, OCSPRow
from ocspd.signer.issuers import Issuers
from ocspd.signer.pass_parts import AnswerTable, PassReport, Progress, SkippedRow, TableTurns
from ocspd.signer.resolving import AllRows, combined, find_together, id_of
from ocspd.signer.signing import (
    BATCH_ROWS,
    Chunk,
    IssuerRouter,
    LocalSigning,
    PackedChunk,
    RowSigner,
    Segments,
    earlier,
    ends,
    reduced,
)
from ocspd.signer.signing_pool import DEPTH, Pools
from ocspd.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from ocspd.certdb.base import CertDB, OddRows
    from ocspd.certdb.packed import PackedRows
    from ocspd.clock import Clock
    from ocspd.model import StatusRow
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.pass_parts import IndexWriter, SegmentSink, StatusSource
    from ocspd.signer.signing import CertKey, SignedChunk
    from ocspd.signer.staleness import Staleness, StaleRows

_AKI = attrgetter("aki")
_STATUS = attrgetter("status")


async def run_pass(  # noqa: PLR0913  (each is one decision of the caller)
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
    turns: TableTurns | None = None,
    pools: Pools | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_skip: Callable[[SkippedRow], None] | None = None,
    on_failed: Callable[[int, str], None] | None = None,
) -> PassReport:
    """Sign every unexpired certificate of the signers' issuers and store the answers.

    `table` writes the answer for CFSSL's clients (SHA-1 CertID where that is signed) to
    `ocsp_responses`, expiring at its nextUpdate; `index` gets the answers for every CertID hash.
    `segments` gets them as files. Where `staleness` says that a row needs no new answer it is fresh.
    `turns` has what a change wrote to the table while the pass runs, which the pass leaves alone.
    `numbers` has the number of the signer by the rows' key identifiers; by default the signers say it.
    `pools` makes signing processes.
    `processes` 0 means one for each usable CPU; in the `background` they yield to everything else.
    Raises ConfigError when two signers share an issuer, CodedError 11000 when the database fails. A signer
    that cannot sign is told to `on_failed`, by number and reason; without that, SignerError comes in the end.
    """
    refresh = _SigningPass(
        db=db,
        issuers=Issuers.of(signers, numbers),
        clock=clock,
        table=table,
        index=index,
        segments=segments,
        staleness=staleness,
        turns=turns or TableTurns(),
        pools=pools or Pools(),
        on_progress=on_progress,
        on_skip=on_skip,
    )
    report = await refresh.run(processes or usable_cpus(), background=background)
    for number, (count, why) in report.failed.items():
        if on_failed is None:
            raise SignerError(f"{why} ({count} certificates got no answer)")
        on_failed(number, why)
    return report


def in_table(issuers: Issuers, number: int, aki: str) -> bool:
    """Tell whether the table has room for the answers of a signer: of two names of one key, the first."""
    numbers = issuers.numbers_of(aki)
    return not numbers or numbers[0] == number


def table_hash(signer: OCSPSigner) -> int:
    """Return which of the signer's CertID hashes the table's answers have: SHA-1 where it is one of them."""
    return signer.policy.certid_hashes.index("sha1") if "sha1" in signer.policy.certid_hashes else 0


def usable_cpus() -> int:
    """Return how many CPUs this process may run on."""
    return len(os.sched_getaffinity(0))


@dataclass(slots=True, kw_only=True)
class _SigningPass:
    """One pass."""

    db: StatusSource
    issuers: Issuers
    clock: Clock
    table: bool
    index: IndexWriter | None
    segments: SegmentSink | None
    staleness: Staleness | None
    turns: TableTurns
    pools: Pools
    on_progress: Callable[[Progress], None] | None
    on_skip: Callable[[SkippedRow], None] | None
    report: PassReport = field(default_factory=PassReport)
    index_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    published: int = 0
    stale_rows: StaleRows | None = None
    contested: set[CertKey] = field(default_factory=set)
    spellings: dict[CertKey, list[StatusRow]] = field(default_factory=dict)
    """Every row of the certificates that are being answered together, for the table."""

    async def run(self, processes: int, *, background: bool) -> PassReport:
        if isinstance(self.db, AllRows):
            await self._run_odd(self.db, processes, background=background)
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
            count = self.pools.local_rows if second is not None else sum(packed.count for packed in begin)
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
    async def _signing(self, rows: int, processes: int, *, background: bool) -> AsyncIterator[RowSigner]:
        """Hand out who signs: this process where `rows`, the first ones, are few."""
        segments = None
        if self.segments is not None:
            created_at = int(self.clock.now().timestamp())
            segments = Segments(
                self.segments.prefix,
                created_at,
                keep=self.table or self.index is not None,
                machine=self.segments.machine,
            )
        sorting = IssuerRouter(self.issuers.numbers, self.staleness, frozenset(self.contested))
        if (processes == 1 and not background) or rows < self.pools.local_rows:
            yield LocalSigning(self.issuers.signers, segments, sorting)
            return
        async with self.pools.make(
            self.issuers.signers,
            processes=processes,
            background=background,
            segments=segments,
            sorting=sorting,
        ) as pool:
            yield pool

    async def _do(self, signing: RowSigner, work: AsyncGenerator[Awaitable[None]], processes: int) -> None:
        """Do pieces of work side by side and publish what is signed from time to time and at the end."""
        # what the workers have and one that is written; the next one waits for a place
        slots = asyncio.Semaphore(DEPTH * processes + 1)

        failed = False

        async def do(piece: Awaitable[None]) -> None:
            nonlocal failed
            try:
                await piece
            except BaseException:
                failed = True
                raise
            finally:
                slots.release()

        async with Tasks() as tasks, aclosing(work):
            async for piece in work:
                tasks.create_task(do(piece))
                await slots.acquire()
                if failed:
                    break  # the group takes no further task, and raises what happened
                if self.segments is not None and self.report.answers >= self.published + self.segments.limit:
                    await self._publish(signing)
        await self._publish(signing)

    async def _publish(self, signing: RowSigner) -> None:
        """Publish what the signing processes have written."""
        if self.segments is None:
            return
        self.published = self.report.answers
        paths = await signing.finish()
        if paths:
            await self.segments.publish(paths)

    async def _run_odd(self, db: AllRows, processes: int, *, background: bool) -> None:
        """Answer the certificates that have rows in other spellings than CFSSL's, before everything else."""
        stream = db.stream_odd()
        async with _closing(stream):
            first = await anext(stream, None)
            if first is None:
                return
            async with self._signing(len(first.rows), processes, background=background) as signing:

                async def work() -> AsyncGenerator[Awaitable[None]]:
                    some: OddRows | None = first
                    while some is not None:
                        yield self._sign_odd(db, signing, some)
                        some = await anext(stream, None)

                await self._do(signing, work(), processes)

    async def _sign_odd(self, db: AllRows, signing: RowSigner, odd: OddRows) -> None:
        now = self.clock.now()
        live = [row for row in odd.rows if row.expiry > now]
        self.report.certificates += len(live) + len(odd.unreadable)
        self._note_unreadable(odd.unreadable)
        found, _ = await find_together(db, self.issuers, sorted({row.serial for row in odd.rows}))
        ours = {id_of(row) for rows in found.values() for row in rows}
        for row in live:
            if id_of(row) not in ours:
                self.report.foreign[row.aki] += 1
                self._skip(row.serial, row.aki, "foreign issuer")
        together = {key: rows for key, rows in found.items() if any(row.key is not None for row in rows)}
        for key, rows in together.items():
            if any(row.key is None for row in rows):
                self.contested.add(key)
        await self._sign_together(signing, together)

    async def _sign_together(self, signing: RowSigner, found: Mapping[CertKey, list[StatusRow]]) -> None:
        """Answer certificates by all of their rows."""
        now = self.clock.now()
        waiting: dict[int, list[StatusRow]] = {}
        for key, rows in found.items():
            row = combined(rows, now)
            if row is not None and row.expiry > now:
                waiting.setdefault(key[0], []).append(row)
                self.spellings[key] = [each for each in rows if each.expiry > now]
        for number, rows in waiting.items():
            for start in range(0, len(rows), BATCH_ROWS):
                await self._sign(signing, number, rows[start : start + BATCH_ROWS], decided=True)
        for key in found:
            self.spellings.pop(key, None)

    async def _sign_again(self, signing: RowSigner, lowering: Sequence[CertKey]) -> None:
        """Answer certificates that the index calls revoked, by all of their rows as they are now."""
        assert isinstance(self.db, AllRows)
        found, _ = await find_together(self.db, self.issuers, sorted({serial for _, serial in lowering}))
        await self._sign_together(signing, {key: found[key] for key in lowering if key in found})

    async def _chunks(
        self, first: list[StatusRow] | None, rest: AsyncIterator[list[StatusRow]]
    ) -> AsyncIterator[tuple[int, list[StatusRow]]]:
        """Sort rows by signer and yield full chunks, the rest of each at the end."""
        waiting: dict[int, list[StatusRow]] = {number: [] for number in range(len(self.issuers.signers))}
        rows = first
        while rows is not None:
            self.report.certificates += len(rows)
            for aki, group in groupby(rows, _AKI):
                self._sort(aki, list(group), waiting)
            for number, chunk in waiting.items():
                whole = len(chunk) // BATCH_ROWS * BATCH_ROWS
                for start in range(0, whole, BATCH_ROWS):
                    yield number, chunk[start : start + BATCH_ROWS]
                del chunk[:whole]
            self._tell()
            rows = await anext(rest, None)
        for number, chunk in waiting.items():
            if chunk:
                yield number, chunk

    def _sort(self, aki: str, rows: list[StatusRow], waiting: dict[int, list[StatusRow]]) -> None:
        """Add rows of one key identifier to those of its signers."""
        numbers = self.issuers.numbers_of(aki)
        if not numbers:
            self.report.foreign[aki] += len(rows)
            for row in rows:
                self._skip(row.serial, aki, "foreign issuer")
            return
        for number in numbers:
            if self.contested:
                waiting[number] += [row for row in rows if (number, row.serial) not in self.contested]
            else:
                waiting[number] += rows

    async def _sign(
        self, signing: RowSigner, number: int, rows: list[StatusRow], *, decided: bool = False
    ) -> None:
        """Sign rows of one signer; `decided` when they are what all rows of their certificates say."""
        now = self.clock.now()
        plain = reduced(rows)
        replaced: Sequence[int] = ()
        if self.staleness is not None:
            until = ends(rows)
            until_s = None if until is None else int(until.timestamp())
            stale = self._stale_rows(self.staleness)
            wanted, lowering = stale(number, plain, int(now.timestamp()), until_s)
            self.report.fresh += len(rows) - len(wanted) - len(lowering)
            again = [(number, plain[at][0]) for at in lowering]
            if lowering and (decided or not isinstance(self.db, AllRows)):
                wanted, again = sorted([*wanted, *lowering]), []
            if self.table:
                chosen = {*wanted, *lowering}
                await self._repair([row for at, row in enumerate(rows) if at not in chosen], number, stale)
            rows, plain = [rows[at] for at in wanted], [plain[at] for at in wanted]
            replaced = stale.replaced(number, plain)
            if again:
                await self._sign_again(signing, again)
        if not rows:
            self._tell()
            return
        for row in rows:
            if row.problem:
                self._note_problem(row.serial, row.aki, row.problem)
        try:
            signed = await signing.sign(Chunk(number, now, plain, ends(rows), replaced=replaced))
        except SignerError as err:
            self._note_failed(number, len(rows), str(err))
            return
        if self.index is not None or self.table:
            await self._store(number, rows, signed)
        self._count(rows, signed)

    def _note_unreadable(self, messages: Sequence[str]) -> None:
        for message in messages:
            self.report.skipped["unreadable serial number"] += 1
            self._skip("?", "", message)

    def _note_problem(self, serial: int, aki: str, problem: str) -> None:
        self.report.unreadable += 1
        self._skip(serial, aki, problem)

    def _note_failed(self, number: int, rows: int, why: str) -> None:
        count, _ = self.report.failed.get(number, (0, ""))
        self.report.failed[number] = count + rows, why
        self.report.skipped["signer fails"] += rows
        self._tell()

    async def _repair(self, rows: list[StatusRow], number: int, stale: StaleRows) -> None:
        """See that the table has the answers the index has, of rows that need no new one."""
        if (
            not rows
            or not isinstance(self.db, AnswerTable)
            or not in_table(self.issuers, number, rows[0].aki)
        ):
            return
        spelled = [each for row in rows for each in self.spellings.get((number, row.serial), [row])]
        stored = await self.db.find_ocsp(spelled)
        wrong: list[OCSPRow] = []
        for row, body in zip(spelled, stored, strict=True):
            answer = stale.find(number, table_hash(self.issuers.signers[number]), row.serial)
            if answer is not None and answer.der != body:
                expiry = datetime.fromtimestamp(answer.next_update, UTC)
                wrong.append(
                    OCSPRow(serial=row.serial, aki=row.aki, body=answer.der, expiry=expiry, key=row.key)
                )
        if wrong:
            await self._write_table(wrong)

    async def _write_table(self, answers: list[OCSPRow]) -> None:
        """Write to the table what no change has written since the pass began."""
        async with self.turns.writing:
            if answers := [answer for answer in answers if answer.serial not in self.turns.changed]:
                await self.db.upsert_ocsp(answers)

    def _stale_rows(self, staleness: Staleness) -> StaleRows:
        if self.stale_rows is None:
            self.stale_rows = staleness.open()
        return self.stale_rows

    async def _sign_packed(self, signing: RowSigner, packed: PackedRows) -> None:
        report = self.report
        signed = await signing.sign_packed(PackedChunk(self.clock.now(), packed.data))
        report.certificates += packed.count - signed.odd
        report.signed += signed.signed
        report.revoked += signed.revoked
        report.answers += signed.made
        report.fresh += signed.fresh
        report.reasons_dropped += signed.reasons_dropped
        report.next_update = earlier(report.next_update, signed.next_update)
        for aki, serials in signed.foreign.items():
            report.foreign[aki] += len(serials)
            for serial in serials:
                self._skip(serial, aki, "foreign issuer")
        for serial, aki, cause in signed.skipped:
            report.skipped[cause] += 1
            self._skip(serial, aki, cause)
        self._note_unreadable(signed.unreadable)
        for problem in signed.problems:
            self._note_problem(*problem)
        for number, (count, why) in signed.failed.items():
            self._note_failed(number, count, why)
        if signed.lowering:
            await self._sign_again(signing, signed.lowering)
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
                due = self.issuers.signers[number].policy.due_s(signed.this_update, signed.next_update)
                await asyncio.to_thread(_add, self.index, [answers for _, answers in done], due)
        if self.table and done and in_table(self.issuers, number, rows[0].aki):
            chosen = table_hash(self.issuers.signers[number])
            await self._write_table(
                [
                    OCSPRow(
                        serial=each.serial,
                        aki=each.aki,
                        body=answers[chosen],
                        expiry=signed.next_update,
                        key=each.key,
                    )
                    for row, answers in done
                    for each in self.spellings.get((number, row.serial), [row])
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

    def _skip(self, serial: int | str, aki: str, cause: str) -> None:
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
