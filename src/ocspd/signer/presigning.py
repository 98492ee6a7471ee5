"""A pass: signing the status of every certificate in certdb.

It streams the status of unexpired certificates (never their PEM), hands rows to signing processes, and
writes what comes back to the table `ocsp_responses`, to an index segment, or both; or the processes write
segments themselves. Memory is bounded whatever the table's size (except for certificates with rows in several
spellings, 100 bytes each), and an interrupted pass leaves only complete responses.

The invariants kept here:

 1. Never good after revoked. A pass signs the status that rows had when they were read; if a certificate is
    revoked in the index and its row is not, every row of the certificate is read again.
 2. Revoked wins. Rows in other spellings than CFSSL's are signed first, each together with all rows of
    its certificate (`resolving`), and published before anything else; the rest of the pass leaves these
    certificates alone. So the order of rows, segments or processes does not matter.
 3. No content of a row ends a pass, nor does a failing signer: rows of issuers without a signer, rows
    that cannot be signed and those of a signer that cannot sign at present are counted by cause and, on
    request, listed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ocspd._der import parse_response
from ocspd.certdb.combining import combined
from ocspd.certdb.packed import PackedSource
from ocspd.errors import SignerError
from ocspd.model import CertStatus
from ocspd.signer.resolving import AllRows, find_together, id_of
from ocspd.signer.response_table import PassTable, TableTurns
from ocspd.signer.signers import Signers
from ocspd.signer.signing import (
    BATCH_ROWS,
    FOREIGN,
    UNREADABLE_SERIAL,
    Chunk,
    IssuerRouter,
    LocalSigning,
    RowSigner,
    Segments,
    Signed,
    ends,
    reduced,
)
from ocspd.signer.signing_pool import DEPTH, Pools
from ocspd.signer.tally import SkippedRow, Tally
from ocspd.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from ocspd.certdb.base import OddRows
    from ocspd.certdb.packed import PackedRows
    from ocspd.clock import Clock
    from ocspd.model import StatusRow
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.pass_parts import IndexWriter, SegmentSink, StatusSource
    from ocspd.signer.signers import CertKey
    from ocspd.signer.staleness import Staleness, StaleRows
    from ocspd.signer.tally import Progress

    _Piece = Callable[[], Coroutine[object, object, None]]
    """A piece of work, to be started by the task that does it: a task may be cancelled before it runs."""

HELD = "stays revoked, as it was in the database that this one replaced"
_AKI = attrgetter("aki")


async def run_pass(  # noqa: PLR0913  (each is one decision of the caller)
    db: StatusSource,
    signers: Signers | Sequence[OCSPSigner],
    *,
    clock: Clock,
    processes: int = 0,
    background: bool = False,
    table: bool = True,
    index: IndexWriter | None = None,
    segments: SegmentSink | None = None,
    staleness: Staleness | None = None,
    turns: TableTurns | None = None,
    pools: Pools | None = None,
    hold: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] | None = None,
    on_skip: Callable[[SkippedRow], None] | None = None,
    on_failed: Callable[[int, str], None] | None = None,
) -> Tally:
    """Sign responses for every unexpired certificate of the signers' issuers and store them.

    `table` writes the response for CFSSL's clients (SHA-1 CertID if that is signed) to `ocsp_responses`,
    expiring at its nextUpdate; `index` gets the responses for every CertID hash.
    `segments` gets them as files. Rows that need no new response according to `staleness` are fresh.
    `turns` has what a change wrote to the table while the pass runs, which the pass leaves alone.
    While `hold` returns true, no row takes a revocation back.
    `pools` makes signing processes; `processes` 0 means one for each usable CPU. In the `background` they
    yield to everything else.
    Raises ConfigError when two signers share an issuer, CodedError 11000 when the database fails. A signer
    that cannot sign is reported to `on_failed`, by index and reason; without that, SignerError comes in the
    end.
    """
    signing_pass = _SigningPass(
        db=db,
        signers=signers if isinstance(signers, Signers) else Signers.of(signers),
        clock=clock,
        table=table,
        index=index,
        segments=segments,
        staleness=staleness,
        turns=turns or TableTurns(),
        hold=hold,
        pools=pools or Pools(),
        on_progress=on_progress,
        on_skip=on_skip,
    )
    tally = await signing_pass.run(processes or usable_cpus(), background=background)
    for signer_index, (count, why) in tally.failed.items():
        if on_failed is None:
            raise SignerError(f"{why} ({count} certificates got no response)")
        on_failed(signer_index, why)
    return tally


def usable_cpus() -> int:
    """Return how many CPUs this process may run on."""
    return len(os.sched_getaffinity(0))


@dataclass(slots=True, kw_only=True)
class _SigningPass:
    """One pass."""

    db: StatusSource
    signers: Signers
    clock: Clock
    table: bool
    index: IndexWriter | None
    segments: SegmentSink | None
    staleness: Staleness | None
    turns: TableTurns
    hold: Callable[[], bool]
    pools: Pools
    on_progress: Callable[[Progress], None] | None
    on_skip: Callable[[SkippedRow], None] | None
    tally: Tally = field(default_factory=Tally)
    index_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    published: int = 0
    stale_rows: StaleRows | None = None
    contested: set[CertKey] = field(default_factory=set)
    spellings: dict[CertKey, list[StatusRow]] = field(default_factory=dict)
    """Every row of the certificates that are being signed together, for the table."""

    async def run(self, processes: int, *, background: bool) -> Tally:
        if isinstance(self.db, AllRows):
            await self._run_odd(self.db, processes, background=background)
        if isinstance(self.db, PackedSource) and not self._responses_return:
            await self._run_packed(self.db.stream_packed(), processes, background=background)
        else:
            await self._run_rows(self.db.stream_status(), processes, background=background)
        return self.tally

    @property
    def _responses_return(self) -> bool:
        """Whether responses must come back, not only go to segments: then rows must be kept here, too."""
        return self.table or self.index is not None or self.segments is None

    async def _run_packed(
        self, stream: AsyncIterator[PackedRows], processes: int, *, background: bool
    ) -> None:
        """Run the pass over rows that are read where they are signed."""
        async with _closing(stream):
            first, second = await anext(stream, None), await anext(stream, None)
            begin = [packed for packed in (first, second) if packed is not None]
            # rows that did not travel together are many, however few are in one piece
            count = self.pools.local_rows if second is not None else sum(packed.count for packed in begin)
            async with self._signing(count, processes, background=background) as row_signer:

                async def work() -> AsyncGenerator[_Piece]:
                    for packed in begin:
                        yield partial(self._sign_packed, row_signer, packed)
                    async for packed in stream:
                        yield partial(self._sign_packed, row_signer, packed)

                await self._do(row_signer, work(), processes)

    async def _run_rows(
        self, stream: AsyncIterator[list[StatusRow]], processes: int, *, background: bool
    ) -> None:
        """Run the pass over rows that are read here."""
        async with _closing(stream):
            first = await anext(stream, None)
            async with self._signing(len(first or ()), processes, background=background) as row_signer:

                async def work() -> AsyncGenerator[_Piece]:
                    async for signer_index, rows in self._chunks(first, stream):
                        yield partial(self._sign, row_signer, signer_index, rows)

                await self._do(row_signer, work(), processes)

    @asynccontextmanager
    async def _signing(self, rows: int, processes: int, *, background: bool) -> AsyncIterator[RowSigner]:
        """Yield the signer: this process if `rows`, the first ones, are few."""
        segments = None
        if self.segments is not None:
            created_at = int(self.clock.now().timestamp())
            segments = Segments(
                self.segments.prefix,
                created_at,
                keep=self.table or self.index is not None,
                machine=self.segments.machine,
            )
        router = IssuerRouter(self.signers.by_aki, self.staleness, frozenset(self.contested))
        if (processes == 1 and not background) or rows < self.pools.local_rows:
            yield LocalSigning(self.signers.every, segments, router)
            return
        async with self.pools.make(
            self.signers.every,
            processes=processes,
            background=background,
            segments=segments,
            router=router,
        ) as pool:
            yield pool

    async def _do(self, row_signer: RowSigner, work: AsyncGenerator[_Piece], processes: int) -> None:
        """Do pieces of work concurrently and publish what is signed from time to time and at the end."""
        # what the workers have and one that is written; the next one waits for a place
        slots = asyncio.Semaphore(DEPTH * processes + 1)

        failed = False

        async def do(piece: _Piece) -> None:
            nonlocal failed
            try:
                await piece()
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
                if self.segments is not None and self.tally.responses >= self.published + self.segments.limit:
                    await self._publish(row_signer)
        await self._publish(row_signer)

    async def _publish(self, row_signer: RowSigner) -> None:
        """Publish what the signing processes have written."""
        if self.segments is None:
            return
        self.published = self.tally.responses
        paths = await row_signer.finish()
        if paths:
            await self.segments.publish(paths)

    async def _run_odd(self, db: AllRows, processes: int, *, background: bool) -> None:
        """Sign the certificates that have rows in other spellings than CFSSL's, before everything else."""
        stream = db.stream_odd()
        async with _closing(stream):
            first = await anext(stream, None)
            if first is None:
                return
            async with self._signing(len(first.rows), processes, background=background) as row_signer:

                async def work() -> AsyncGenerator[_Piece]:
                    some: OddRows | None = first
                    while some is not None:
                        yield partial(self._sign_odd, db, row_signer, some)
                        some = await anext(stream, None)

                await self._do(row_signer, work(), processes)

    async def _sign_odd(self, db: AllRows, row_signer: RowSigner, odd: OddRows) -> None:
        now = self.clock.now()
        live = [row for row in odd.rows if row.expiry > now]
        self.tally.certificates += len(live) + len(odd.unreadable)
        for message in odd.unreadable:
            self.tally.skipped[UNREADABLE_SERIAL] += 1
            self._skip("?", "", message)
        found, _ = await find_together(db, self.signers, sorted({row.serial for row in odd.rows}))
        ours = {id_of(row) for rows in found.values() for row in rows}
        for row in live:
            if id_of(row) not in ours:
                self.tally.foreign[row.aki] += 1
                self._skip(row.serial, row.aki, FOREIGN)
        together = {key: rows for key, rows in found.items() if any(row.key is not None for row in rows)}
        for key, rows in together.items():
            if any(row.key is None for row in rows):
                self.contested.add(key)
        await self._sign_together(row_signer, together)

    async def _sign_together(self, row_signer: RowSigner, found: Mapping[CertKey, list[StatusRow]]) -> None:
        """Sign certificates by all of their rows."""
        now = self.clock.now()
        waiting: dict[int, list[StatusRow]] = {}
        for key, rows in found.items():
            row = combined(rows, now)
            if row is not None and row.expiry > now:
                waiting.setdefault(key[0], []).append(row)
                self.spellings[key] = [each for each in rows if each.expiry > now]
        for signer_index, rows in waiting.items():
            for start in range(0, len(rows), BATCH_ROWS):
                await self._sign(row_signer, signer_index, rows[start : start + BATCH_ROWS], decided=True)
        for key in found:
            self.spellings.pop(key, None)

    async def _sign_again(self, row_signer: RowSigner, lowering: Sequence[CertKey]) -> None:
        """Sign certificates that are revoked in the index, by all of their present rows."""
        assert isinstance(self.db, AllRows)
        found, _ = await find_together(self.db, self.signers, sorted({serial for _, serial in lowering}))
        await self._sign_together(row_signer, {key: found[key] for key in lowering if key in found})

    async def _chunks(
        self, first: list[StatusRow] | None, rest: AsyncIterator[list[StatusRow]]
    ) -> AsyncIterator[tuple[int, list[StatusRow]]]:
        """Sort rows by signer and yield full chunks, with the rest of each at the end."""
        waiting: dict[int, list[StatusRow]] = {at: [] for at in range(len(self.signers))}
        rows = first
        while rows is not None:
            self.tally.certificates += len(rows)
            for aki, group in groupby(rows, _AKI):
                self._route(aki, list(group), waiting)
            for signer_index, chunk in waiting.items():
                whole = len(chunk) // BATCH_ROWS * BATCH_ROWS
                for start in range(0, whole, BATCH_ROWS):
                    yield signer_index, chunk[start : start + BATCH_ROWS]
                del chunk[:whole]
            self._report_progress()
            rows = await anext(rest, None)
        for signer_index, chunk in waiting.items():
            if chunk:
                yield signer_index, chunk

    def _route(self, aki: str, rows: list[StatusRow], waiting: dict[int, list[StatusRow]]) -> None:
        """Add rows of one key identifier to those of its signers."""
        signer_indexes = self.signers.of_aki(aki)
        if not signer_indexes:
            self.tally.foreign[aki] += len(rows)
            for row in rows:
                self._skip(row.serial, aki, FOREIGN)
            return
        for signer_index in signer_indexes:
            if self.contested:
                waiting[signer_index] += [
                    row for row in rows if (signer_index, row.serial) not in self.contested
                ]
            else:
                waiting[signer_index] += rows

    async def _sign(
        self, row_signer: RowSigner, signer_index: int, rows: list[StatusRow], *, decided: bool = False
    ) -> None:
        """Sign rows of one signer; `decided` if they were combined from all rows of their certificates."""
        now = self.clock.now()
        rows, chunk = await self._wanted(row_signer, signer_index, rows, now, decided=decided)
        if not rows:
            self._report_progress()
            return
        for row in rows:
            if row.problem:
                self.tally.unreadable += 1
                self._skip(row.serial, row.aki, row.problem)
        try:
            signed = await row_signer.sign(chunk, now)
        except SignerError as err:
            self._count(Signed(Tally.of_failure(signer_index, len(rows), str(err))))
            return
        if self.index is not None or self.table:
            await self._store(signer_index, rows, signed)
        self._count(signed)
        if signed.tally.skipped:
            for row, cause in zip(rows, signed.responses, strict=True):
                if isinstance(cause, str):
                    self._skip(row.serial, row.aki, cause)

    async def _wanted(
        self, row_signer: RowSigner, signer_index: int, rows: list[StatusRow], now: datetime, *, decided: bool
    ) -> tuple[list[StatusRow], Chunk]:
        """Return the rows that need a response, and what to sign for them."""
        plain = reduced(rows)
        if self.staleness is None:
            return rows, Chunk(signer_index, plain, ends(rows))
        until = ends(rows)
        until_s = None if until is None else int(until.timestamp())
        stale = self._stale_rows(self.staleness)
        wanted, lowering = stale(signer_index, plain, int(now.timestamp()), until_s)
        if lowering and decided and self.hold():
            rows = self._hold(rows, lowering, signer_index, stale)
            plain = reduced(rows)
            wanted, lowering = stale(signer_index, plain, int(now.timestamp()), until_s)
        self.tally.fresh += len(rows) - len(wanted) - len(lowering)
        again = [(signer_index, plain[at][0]) for at in lowering]
        if lowering and (decided or not isinstance(self.db, AllRows)):
            wanted, again = sorted([*wanted, *lowering]), []
        if self.table:
            chosen = {*wanted, *lowering}
            fresh = [row for at, row in enumerate(rows) if at not in chosen]
            await self._response_table.repair(signer_index, fresh, stale)
        rows, plain = [rows[at] for at in wanted], [plain[at] for at in wanted]
        replaced = stale.replaced(signer_index, plain)
        if again:
            await self._sign_again(row_signer, again)
        return rows, Chunk(signer_index, plain, ends(rows), replaced=replaced)

    def _hold(
        self, rows: list[StatusRow], lowering: Sequence[int], signer_index: int, stale: StaleRows
    ) -> list[StatusRow]:
        """Return the rows; those that would take a revocation back as the revocation that was signed."""
        held = list(rows)
        for at in lowering:
            row = rows[at]
            if (response := stale.revoked(signer_index, row.serial)) is not None:
                said = parse_response(response.der)
                moment = datetime.fromtimestamp(said.revoked_at or 0, UTC)
                held[at] = row._replace(
                    status=CertStatus.REVOKED, reason=said.reason or 0, revoked_at=moment, problem=""
                )
                self.tally.held += 1
                self._skip(row.serial, row.aki, HELD)
        return held

    def _stale_rows(self, staleness: Staleness) -> StaleRows:
        if self.stale_rows is None:
            self.stale_rows = staleness.open()
        return self.stale_rows

    async def _sign_packed(self, row_signer: RowSigner, packed: PackedRows) -> None:
        signed = await row_signer.sign(packed, self.clock.now())
        self._count(signed)
        if signed.lowering:
            await self._sign_again(row_signer, signed.lowering)

    async def _store(self, signer_index: int, rows: list[StatusRow], signed: Signed) -> None:
        """Store responses in the `IndexWriter` and the table."""
        done = [
            (row, responses)
            for row, responses in zip(rows, signed.responses, strict=True)
            if not isinstance(responses, str)
        ]
        if self.index is not None:
            async with self.index_lock:
                await asyncio.to_thread(_add, self.index, [each for _, each in done], signed.due_s)
        if self.table:
            await self._response_table.write(signer_index, done, signed.tally.next_update)

    @property
    def _response_table(self) -> PassTable:
        return PassTable(self.db, self.signers, self.turns, self.spellings)

    def _count(self, signed: Signed) -> None:
        self.tally += signed.tally
        for left_out in signed.left_out:
            self._skip(*left_out)
        self._report_progress()

    def _skip(self, serial: int | str, aki: str, cause: str) -> None:
        if self.on_skip is not None:
            self.on_skip(SkippedRow(serial, aki, cause))

    def _report_progress(self) -> None:
        if self.on_progress is not None:
            self.on_progress(self.tally.progress)


@asynccontextmanager
async def _closing(stream: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Close the stream at the end, if it must be closed."""
    try:
        yield
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


def _add(index: IndexWriter, responses: list[list[bytes]], due_s: int) -> None:
    for group in responses:
        for response in group:
            index.add(response, due_s)
