"""Answers from certdb: those of the table `ocsp_responses`, and those signed here for what certdb says.

Published into an index directory, newest first:

    changes   small segments, one for each batch of certificates that changed, signed at once
    signed    one segment with every unexpired certificate of our signers' issuers, signed anew in time
    table     one segment with every unexpired row of ocsp_responses

Without signers there is the table alone. Whatever fails once it serves (database gone, signing refused)
is told once and tried again; what was published goes on being served until it expires.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from ocspd._index import Index, Segment
from ocspd.certdb.feed import CursorLostError
from ocspd.errors import DERError, OCSPDError
from ocspd.logs import logger
from ocspd.pki.ocsp import refresh_at
from ocspd.service.presigning import by_issuer, refresh_table
from ocspd.service.signing_pool import Chunk, LocalSigning, to_row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ocspd.certdb.base import CertDB
    from ocspd.certdb.feed import Cursor, StatusRowChange
    from ocspd.clock import Clock
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import SegmentRef
    from ocspd.model import OCSPRow
    from ocspd.pki.ocsp import OCSPSigner

_TABLE_EVERY_S = 0.5
_TABLE_SHARE = 20
"""The table is read at most a twentieth of the time: every 0.5 s while small, less often when large."""
_TABLE_LATEST_S = 60.0
_FEED_WAIT_S = 0.5
_FEED_LIMIT = 5000
_MAX_CHANGES = 8
"""Segments of changes before they are merged into one."""
_RETRY_S = (0.5, 30.0)
_EMPTY_PASS = timedelta(hours=1)  # when a pass that signed nothing is repeated
_GRACE_S = 60


class _Sink(Protocol):
    def add(self, der: bytes, refresh_at: int | None = None) -> None: ...


@dataclass(slots=True, kw_only=True)
class TableSource:
    """Keeps an index directory of its own in step with a certdb."""

    db: CertDB
    signers: Sequence[OCSPSigner]
    directory: IndexDirectory
    clock: Clock
    _changes: list[SegmentRef] = field(default_factory=list)
    _signed: SegmentRef | None = None
    _table: SegmentRef | None = None
    _digest: tuple[int, int] = (0, 0)
    _read_s: float = 0.0
    _cursor: Cursor | None = None
    _due: float = 0.0
    """When everything is to be signed again, seconds since the epoch."""
    _forced: asyncio.Event = field(default_factory=asyncio.Event)

    async def prepare(self) -> None:
        """Read the table and sign what is to be signed; OCSPDError when that is impossible."""
        await self.db.check()
        await self._read_table(first=True)
        if self.signers:
            await self._sign_all()
        await self._publish()

    async def follow(self) -> None:
        """Follow table and certificates until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again(self._follow_table))
            if self.signers:
                tasks.create_task(self._again(self._follow_certificates))

    def reload(self) -> None:
        """Read the table again at once."""
        self._forced.set()

    async def _again(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step; after an error more and more slowly, telling of each new one and of its end."""
        delay, complaint = _RETRY_S[0], ""
        while True:
            try:
                await step()
            except OCSPDError as err:
                if str(err) != complaint:
                    complaint = str(err)
                    logger.error("%s; serving on, trying again", err)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_S[1])
                continue
            if complaint:
                logger.info("%s: works again", self.db.name)
            delay, complaint = _RETRY_S[0], ""

    # -- the table ---------------------------------------------------------------------------------

    async def _follow_table(self) -> None:
        pause = min(max(self._read_s * _TABLE_SHARE, _TABLE_EVERY_S), _TABLE_LATEST_S)
        forced = asyncio.create_task(self._forced.wait())
        await asyncio.wait([forced], timeout=pause)
        forced.cancel()
        self._forced.clear()
        if await self._read_table(first=False):
            await self._publish()

    async def _read_table(self, *, first: bool) -> bool:
        """Make the table's segment if its rows are others than last time; whether they are."""
        started = time.monotonic()
        digest = await self._fingerprint()
        self._read_s = time.monotonic() - started
        if digest == self._digest and not first:
            return False
        writer = self.directory.writer(self._now())
        skipped = 0
        try:
            async for rows in self.db.unexpired_ocsp():
                skipped += await asyncio.to_thread(_add_rows, writer, rows)
            added = writer.added
            await asyncio.to_thread(writer.finish)
        finally:
            writer.abort()
        self._table = await asyncio.to_thread(self.directory.adopt, writer.path)
        self._digest = digest
        logger.info("Read %d OCSP responses", added)
        if skipped:
            logger.error(
                "%s: %d rows of ocsp_responses hold no OCSP response: skipped", self.db.name, skipped
            )
        return True

    async def _fingerprint(self) -> tuple[int, int]:
        """Return number and sum of hashes of the unexpired rows, whatever their order."""
        count = total = 0
        async for rows in self.db.unexpired_ocsp():
            count += len(rows)
            for row in rows:
                total += int.from_bytes(blake2b(row.body, digest_size=16).digest())
        return count, total

    # -- signing -----------------------------------------------------------------------------------

    async def _sign_all(self) -> None:
        """Sign every unexpired certificate of our issuers into one segment."""
        feed = self.db.change_feed()
        try:
            cursor = await feed.current_cursor()
        finally:
            await feed.close()
        writer = self.directory.writer(self._now())
        try:
            report = await refresh_table(self.db, self.signers, clock=self.clock, table=False, index=writer)
            await asyncio.to_thread(writer.finish)
        finally:
            writer.abort()
        self._signed = await asyncio.to_thread(self.directory.adopt, writer.path)
        self._changes.clear()
        self._cursor = cursor
        now = self.clock.now()
        due = now + _EMPTY_PASS if report.next_update is None else refresh_at(now, report.next_update)
        self._due = due.timestamp()
        logger.info("signed %d OCSP responses for %d certificates", report.answers, report.signed)

    async def _follow_certificates(self) -> None:
        """Sign what changes, until everything is due again or something fails."""
        if self._cursor is None or self._now() >= self._due:
            await self._sign_all()
            await self._publish()
        assert self._cursor is not None
        feed = self.db.change_feed()
        try:
            while self._now() < self._due:
                changes, cursor = await feed.read(self._cursor, _FEED_LIMIT)
                if changes:
                    await self._sign_changes(changes)
                self._cursor = cursor
                if not changes:
                    await feed.wait(_FEED_WAIT_S)
        except CursorLostError as err:
            logger.warning("%s", err)
            self._cursor = None
        finally:
            await feed.close()

    async def _sign_changes(self, changes: Sequence[StatusRowChange]) -> None:
        numbers = by_issuer(self.signers)
        now = self.clock.now()
        signing = LocalSigning(self.signers)
        writer = self.directory.writer(self._now())
        try:
            for aki, number in numbers.items():
                rows = [to_row(change.row) for change in changes if change.row and change.aki == aki]
                if not rows:
                    continue
                signed = await signing.sign(Chunk(number, now, rows))
                due = int(refresh_at(signed.this_update, signed.next_update).timestamp())
                for answers in signed.answers:
                    if isinstance(answers, str):
                        logger.error("%s: a changed certificate is not signed: %s", self.db.name, answers)
                        continue
                    for answer in answers:
                        writer.add(answer, due)
            if not writer.added:
                return
            count = writer.added
            await asyncio.to_thread(writer.finish)
        finally:
            writer.abort()
        self._changes.insert(0, await asyncio.to_thread(self.directory.adopt, writer.path))
        if len(self._changes) > _MAX_CHANGES:
            self._changes = [await asyncio.to_thread(self._merge, self._changes)]
        await self._publish()
        logger.info("signed %d OCSP responses for certificates that changed", count)

    def _merge(self, refs: Sequence[SegmentRef]) -> SegmentRef:
        """Make one segment of several, newest first."""
        newer: list[Segment] = []
        writer = self.directory.writer(self._now())
        try:
            for ref in refs:
                segment = Segment(str(self.directory.segment_path(ref)))
                writer.add_segment(segment, Index(newer), self._now())
                newer.append(segment)
            writer.finish()
        finally:
            writer.abort()
        return self.directory.adopt(writer.path)

    # -- both --------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self.clock.now().timestamp())

    async def _publish(self) -> None:
        segments = [*self._changes, *(ref for ref in (self._signed, self._table) if ref is not None)]
        self.directory.publish(segments, self._now())
        self.directory.collect(self.clock.now().timestamp(), _GRACE_S)


def _add_rows(writer: _Sink, rows: Sequence[OCSPRow]) -> int:
    """Add rows to a segment; how many hold no answer."""
    skipped = 0
    for row in rows:
        try:
            writer.add(row.body)
        except DERError:
            skipped += 1
    return skipped
