"""Responses from certdb: those in the table `ocsp_responses`, and those signed here from `certificates`.

Without a signer, an index directory of its own is kept in step with the unexpired rows of the table. With
one, the signer begins with the rows read at the start, signs what has no fresh response there and whatever
changes from then on; only rows of other issuers are still followed in the table. This module sees it as a
`TableSigner`; the assembly brings the two together.

A failure during service (database down, signing fails) is logged once and retried; what was published
stays in service until it expires.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ocspd._index import Segment
from ocspd.errors import DERError, OCSPDError
from ocspd.logs import logger
from ocspd.recovery import Recovery
from ocspd.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
    from ocspd.index._writer import SegmentWriter
    from ocspd.index.directory import IndexDirectory
    from ocspd.model import OCSPRow

_EVERY_S = 0.5
_SHARE = 20
"""Reading the table takes at most a twentieth of the time: every 0.5 s while small, less often when large."""
_LATEST_S = 60.0
_RETRY_S = (0.5, 30.0)
GRACE_S = 60.0
"""How long files of the private index are kept once no manifest names them, in seconds."""

Digest = tuple[int, int]


class TableSigner(Protocol):
    """Signs for the certificates of some issuers into the same index directory (`signer.serving`)."""

    @property
    def akis(self) -> frozenset[str]:
        """Key identifiers of the issuers it signs for."""
        ...

    @property
    def up(self) -> bool:
        """Whether signers, database and index can be used."""
        ...

    async def prepare(self) -> None:
        """Start; returns once every known certificate has its response. OCSPDError when that fails."""
        ...

    async def follow(self) -> None:
        """Continue until cancelled."""
        ...

    async def add(self, change: Callable[[SegmentWriter], None]) -> None:
        """Publish responses about other issuers."""
        ...

    def stop(self) -> None:
        """End what `prepare` started."""
        ...


@dataclass(slots=True, kw_only=True)
class TableSource:
    """Keeps an index directory of its own in step with a certdb."""

    db: CertDB
    directory: IndexDirectory
    clock: Clock
    signer: TableSigner | None = None
    _digest: Digest = (0, 0)
    _read_s: float = 0.0
    _forced: asyncio.Event = field(default_factory=asyncio.Event)
    _table: Recovery = field(init=False)

    def __post_init__(self) -> None:
        """Prepare to follow the table."""
        self._table = Recovery(
            meanwhile="still serving, retrying", again=f"{self.db.name} works again", retry_s=_RETRY_S
        )

    async def prepare(self) -> None:
        """Read the table and sign what has no fresh response; OCSPDError when that is impossible."""
        await self.db.check()
        await self._read_table()
        if self.signer is not None:
            await self.signer.prepare()
            self._digest = await self._fingerprint()  # from now on without the signer's own issuers

    async def follow(self) -> None:
        """Follow table and certificates until cancelled."""
        try:
            async with Tasks() as tasks:
                tasks.create_task(self._follow_table())
                if self.signer is not None:
                    tasks.create_task(self.signer.follow())
        finally:
            if self.signer is not None:
                self.signer.stop()

    @property
    def up(self) -> bool:
        """Whether the last read of the table succeeded, and signers, database and index are usable."""
        return not self._table.trouble and (self.signer is None or self.signer.up)

    def reload(self) -> None:
        """Read the table again at once."""
        self._forced.set()

    async def _follow_table(self) -> None:
        """Read the table repeatedly; after an error at growing intervals."""
        while True:
            idle_s = min(max(self._read_s * _SHARE, _EVERY_S), _LATEST_S)
            await self._table.pause(self._forced, idle_s=idle_s)
            self._forced.clear()
            try:
                if await self._fingerprint() != self._digest:
                    await self._read_table()
            except OCSPDError as err:
                self._table.failed(err)
            else:
                self._table.works()

    async def _rows(self) -> AsyncIterator[list[OCSPRow]]:
        """Yield the unexpired rows, without those of issuers that are signed for here."""
        ours = frozenset() if self.signer is None else self.signer.akis
        async for rows in self.db.unexpired_ocsp():
            yield [row for row in rows if row.aki not in ours] if ours else rows

    async def _fingerprint(self) -> Digest:
        """Return count and sum of hashes of the rows, whatever their order."""
        started = time.monotonic()
        count = total = 0
        async for rows in self._rows():
            count += len(rows)
            for row in rows:
                total += int.from_bytes(blake2b(row.body, digest_size=16).digest())
        self._read_s = time.monotonic() - started
        return count, total

    async def _read_table(self) -> None:
        """Publish the rows as they are now."""
        digest = await self._fingerprint()
        skipped = 0
        with self.directory.writer(int(self.clock.now().timestamp())) as writer:
            async for rows in self._rows():
                skipped += await asyncio.to_thread(_add_rows, writer, rows)
            added = writer.added
            await asyncio.to_thread(writer.finish)
            if self.signer is None:
                await asyncio.to_thread(self._replace, writer)
            else:
                await self._add(self.signer, writer.path)
        self._digest = digest
        logger.info("Read %d OCSP responses", added)
        if skipped:
            logger.error(
                "%s: skipped %d rows of ocsp_responses that do not contain an OCSP response",
                self.db.name,
                skipped,
            )

    async def _add(self, signer: TableSigner, path: str) -> None:
        """Publish a segment's responses before those of the signer, which are about other issuers."""

        def copy(newest: SegmentWriter) -> None:
            newest.add_segment(Segment(path))
            Path(path).unlink()

        await signer.add(copy)

    def _replace(self, writer: SegmentWriter) -> None:
        now = self.clock.now().timestamp()
        self.directory.publish([self.directory.adopt(writer.path)], int(now))
        self.directory.collect(now, GRACE_S)


def _add_rows(writer: SegmentWriter, rows: Sequence[OCSPRow]) -> int:
    """Add rows to a segment; return how many contain no response."""
    skipped = 0
    for row in rows:
        try:
            writer.add(row.body)
        except DERError:
            skipped += 1
    return skipped
