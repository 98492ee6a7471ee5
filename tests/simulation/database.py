"""A certificate database in memory that keeps the contract of `certdb.base` and `certdb.feed`, and fails."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ocspd.certdb.base import OddRows
from ocspd.certdb.feed import CursorLostError, StatusRowChange
from ocspd.errors import Code, CodedError
from ocspd.model import CertStatus, StatusRow
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import datetime, timedelta

    from ocspd.certdb.feed import Cursor
    from ocspd.model import OCSPRow
    from tests.simulation.clock import SimulatedClock
    from tests.simulation.judge import Judge

RowKey = tuple[int, str]
"""Serial number, and how it is spelled."""
_ANSWER_S = 10.0
"""How long a statement waits for a database that gives no answer."""
_CHUNK = 3


@dataclass(slots=True)
class Transaction:
    """What somebody is about to commit: rows by key, None for one to delete."""

    rows: dict[RowKey, StatusRow | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Entry:
    serial: int
    aki: str
    urgent: bool
    at: datetime
    expiry: datetime | None


@dataclass(slots=True)
class Database:
    """See the module. `name` is for messages."""

    clock: SimulatedClock
    rng: random.Random
    judge: Judge
    aki: str
    one_snapshot: bool
    """Whether a stream of rows is one snapshot, as on PostgreSQL, or each chunk is one, as on SQLite."""
    name: str = "the model"
    failing: float = 0.0
    """The share of statements that fail."""
    hung: bool = False
    rows: dict[RowKey, StatusRow] = field(default_factory=dict)
    _entries: list[_Entry] = field(default_factory=list)
    _trimmed: int = 0
    _lineage: int = 0
    _copies: list[dict[RowKey, StatusRow]] = field(default_factory=list)
    _notice: asyncio.Event = field(default_factory=asyncio.Event)
    _awake: asyncio.Event = field(default_factory=asyncio.Event)

    # -- writers ---------------------------------------------------------------------------------

    def row(self, serial: int, status: CertStatus, expiry: datetime, *, spelling: str = "") -> StatusRow:
        """Make a row as somebody would write it now."""
        revoked = status == CertStatus.REVOKED
        now = self.clock.now().replace(microsecond=0)
        key = (spelling, self.aki) if spelling else None
        return StatusRow(serial, self.aki, status, int(revoked), now if revoked else None, expiry, key=key)

    def commit(self, transaction: Transaction) -> None:
        """Make rows visible, and the changes that triggers noted when they were written."""
        self._copies = [*self._copies[-4:], dict(self.rows)]
        now = self.clock.now()
        for key, row in transaction.rows.items():
            before = self.rows.pop(key, None)
            if row is not None:
                self.rows[key] = row
            urgent = row is None or row.status != CertStatus.GOOD
            expiry = before.expiry if row is None and before is not None else None
            self._entries.append(_Entry(key[0], self.aki, urgent, now, expiry))
        for serial in dict.fromkeys(serial for serial, _ in transaction.rows):
            self.judge.committed(serial, self.words(serial))
        self._notice.set()

    def restore(self) -> None:
        """Go back to an older copy: a backup, or a standby that was behind when it was promoted."""
        if not self._copies:
            return
        before = {serial for serial, _ in self.rows}
        self.rows = dict(self.rng.choice(self._copies))
        self._copies.clear()
        self._entries.clear()
        self._trimmed = 0
        self._lineage += 1
        for serial in sorted(before | {serial for serial, _ in self.rows}):
            self.judge.committed(serial, self.words(serial))
        self.judge.breaks_off()
        self._notice.set()

    def words(self, serial: int) -> list[str]:
        """Return what the rows of a certificate say."""
        return [row.status.word for (number, _), row in self.rows.items() if number == serial]

    def wake(self) -> None:
        """Answer again, if it did not."""
        self.hung = False
        self._awake.set()
        self._awake = asyncio.Event()

    # -- what a signer asks ----------------------------------------------------------------------

    async def statement(self) -> None:
        """Take as long as a statement does. CodedError when it is not answered."""
        await asyncio.sleep(0.001 + 0.1 * self.rng.random() ** 4)
        try:
            async with time_limit(_ANSWER_S):
                while self.hung:
                    await self._awake.wait()
        except TimeoutError:
            raise CodedError(Code.STORE_FAILED, f"{self.name}: no answer") from None
        if self.rng.random() < self.failing:
            raise CodedError(Code.STORE_FAILED, f"{self.name}: the connection is lost")

    async def stream_status(self) -> AsyncIterator[list[StatusRow]]:
        await self.statement()
        rows = dict(self.rows)
        keys = sorted(rows)
        for start in range(0, len(keys), _CHUNK):
            await self.statement()
            source = rows if self.one_snapshot else self.rows
            chunk = [source[key] for key in keys[start : start + _CHUNK] if key in source]
            if chunk := [row for row in chunk if row.key is None and row.expiry > self.clock.now()]:
                yield chunk

    async def stream_odd(self) -> AsyncIterator[OddRows]:
        await self.statement()
        if rows := [row for row in self.rows.values() if row.key is not None]:
            yield OddRows(rows, [])

    async def find_statuses(self, serials: Sequence[int]) -> list[StatusRow]:
        await self.statement()
        found = [self.rows[key] for key in sorted(self.rows) if key[0] in set(serials)]
        await self.statement()
        return found

    async def get_pem(self, row: StatusRow) -> bytes:
        await self.statement()
        return b""

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        raise NotImplementedError

    def change_feed(self) -> Feed:
        return Feed(self)


@dataclass(slots=True)
class Feed:
    """A `ChangeFeed`."""

    db: Database
    blind: str = ""

    async def current_cursor(self) -> Cursor:
        await self.db.statement()
        self.db.judge.breaks_off()  # what was committed before is for a pass and a sweep to find
        return {"lineage": str(self.db._lineage), "id": len(self.db._entries)}

    async def read(self, cursor: Mapping[str, Any], limit: int) -> tuple[list[StatusRowChange], Cursor]:
        db = self.db
        await db.statement()
        if cursor["lineage"] != str(db._lineage) or cursor["id"] < db._trimmed:
            raise CursorLostError(f"{db.name}: the change feed does not go back to where it was read")
        waiting = [*range(cursor["id"], len(db._entries)), *cursor.get("left", ())]
        waiting.sort(key=lambda number: not db._entries[number].urgent)
        found: dict[int, StatusRowChange] = {}
        for number in waiting[:limit]:
            entry = db._entries[number]
            row = db.rows.get((entry.serial, ""))
            found[entry.serial] = StatusRowChange(
                serial=entry.serial, aki=entry.aki, row=row, changed_at=entry.at, expiry=entry.expiry
            )
        after: Cursor = {"lineage": cursor["lineage"], "id": len(db._entries)}
        if left := sorted(waiting[limit:]):
            after["left"] = left
        db._notice.clear()
        await db.statement()
        return list(found.values()), after

    async def wait(self, timeout_s: float) -> None:
        try:
            async with time_limit(timeout_s):
                await self.db._notice.wait()
        except TimeoutError:
            pass

    async def trim(self, cursor: Mapping[str, Any], keep: timedelta) -> int:
        db = self.db
        await db.statement()
        if cursor["lineage"] != str(db._lineage):
            return 0
        before, oldest = db._trimmed, min(cursor.get("left", [cursor["id"]]))
        while db._trimmed < oldest and db._entries[db._trimmed].at < db.clock.now() - keep:
            db._trimmed += 1
        return db._trimmed - before

    async def close(self) -> None:
        return
