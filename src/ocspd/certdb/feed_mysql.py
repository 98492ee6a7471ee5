"""The change feed on MySQL and MariaDB: the outbox is read by slots, whose counters say when to look.

InnoDB has neither snapshots to name nor numbers in the order of commits. So triggers number entries from
the counters of one of 256 slots, whose row a transaction keeps locked until it ends. So in a slot a number is
given only after every lower one was committed, or was rolled back and is given again: numbers appear in order
and without gaps, whatever order transactions commit in. A position is the counter of every slot, in one
consistent read (docs/decisions/0018).

An entry that is missing below the counter was trimmed, deleted or truncated away unread: the cursor is lost.

A cursor is {"source", "triggers", "urgent", "rest"}. `source` is a mark of the database; `triggers` changes
whenever a trigger was dropped or made, or a table made anew; "filled" is whether there were certificates, as
MariaDB does not show when a table was truncated. The two lanes (rule 4 of `feed`) are {"read":
the counter of each slot up to which everything was read or deferred, "at": when those entries were made,
"later": the windows that were deferred, newest last}; a window has [read, last] for each slot. Another time
at a number shows a database that was restored and has been written to since.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocspd.certdb import rows
from ocspd.certdb.feed import (
    MAX_WINDOWS,
    Cursor,
    CursorLostError,
    OtherDatabaseError,
    StatusRowChange,
    blindness,
    cursor_integer,
)
from ocspd.certdb.feed_polled import Sight
from ocspd.certdb.mysql_connection import MAINTENANCE_TIMEOUT_S, PAGE_TIMEOUT_S, fetch
from ocspd.certdb.mysql_values import parse_time, status_row
from ocspd.errors import CodedError
from ocspd.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import timedelta

    from ocspd.certdb.mysql_connection import Database, Session

POLL_S = 0.1
"""Seconds between polls; half of it is the mean delay it adds to a change."""
READ_TIMEOUT_S = 8.0
LOOK_S = 5
"""How often a database without our tables is read again: it does not show whether anything was committed."""
_TRIM_ROWS = 5_000
_TRIM_PAUSE_S = 0.02

_TRIGGERS = ("ocspd_delete", "ocspd_insert", "ocspd_reissued", "ocspd_update")
_LANES = (("urgent", 1), ("rest", 0))
_COUNTERS = """
SELECT s.slot, s.urgent_n, s.rest_n, u.changed_at, r.changed_at FROM ocspd_slots AS s
LEFT JOIN ocspd_changes AS u ON u.urgent = 1 AND u.slot = s.slot AND u.n = s.urgent_n
LEFT JOIN ocspd_changes AS r ON r.urgent = 0 AND r.slot = s.slot AND r.n = s.rest_n
WHERE s.urgent_n > 0 OR s.rest_n > 0
"""
_FILLED = "EXISTS (SELECT 1 FROM certificates)"
_MADE = """
SELECT TRIGGER_NAME, CREATED FROM information_schema.TRIGGERS
WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND EVENT_OBJECT_TABLE = 'certificates' AND TRIGGER_NAME LIKE 'ocspd%%'
UNION ALL SELECT TABLE_NAME, CREATE_TIME FROM information_schema.TABLES
WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ('certificates', 'ocspd_changes', 'ocspd_slots')
ORDER BY 1
"""
_READ = """
SELECT f.n, f.serial_number, f.authority_key_identifier, f.changed_at, f.expiry, c.serial_number IS NOT NULL,
       LEFT(c.status, 64), c.reason, c.revoked_at, c.expiry
FROM ocspd_changes AS f
LEFT JOIN certificates AS c ON c.serial_number = f.serial_number
    AND c.authority_key_identifier = f.authority_key_identifier
WHERE f.urgent = %s AND f.slot = %s AND f.n > %s AND f.n <= %s ORDER BY f.n LIMIT %s
"""
_TRIM = """
DELETE FROM ocspd_changes WHERE urgent = %s AND slot = %s AND n <= %s
AND changed_at <= UTC_TIMESTAMP(6) - INTERVAL %s MICROSECOND ORDER BY n LIMIT %s
"""
_SIGHT = """
SELECT CONCAT(@@hostname, '/', DATABASE()),
       (SELECT count(*) FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'ocspd_feed')
"""

Counters = dict[str, int]
Lane = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Position:
    """Where a database is: counters of the slots by lane, and the times of their newest entries."""

    source: str
    triggers: str
    filled: bool
    counters: dict[str, Counters]
    times: dict[str, dict[str, str]]


class MySQLFeed:
    """See `ocspd.certdb.feed.ChangeFeed`."""

    def __init__(
        self,
        database: Database,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take a database of its own, for reading, watching and trimming at the same time."""
        self._database = database
        self._sleep = sleep
        self._monotonic = monotonic
        self._seen: tuple[Any, ...] | None = None
        self._watching = Recovery(meanwhile="looking for changes until it is back", level=logging.WARNING)
        self.blind = ""
        """See ChangeFeed."""

    async def current_cursor(self) -> Cursor:
        """See ChangeFeed."""
        now, _ = await self._database.run(
            lambda connection: self._at_once(connection, _no_pages), READ_TIMEOUT_S
        )
        return {
            "source": now.source,
            "triggers": now.triggers,
            "filled": int(now.filled),
            **{name: {"read": now.counters[name], "at": now.times[name], "later": []} for name, _ in _LANES},
        }

    async def read(self, cursor: Mapping[str, Any], limit: int) -> tuple[list[StatusRowChange], Cursor]:
        """See ChangeFeed."""
        kept = dict(cursor)
        while True:
            records, kept = await self._page(kept, limit)
            changes = _changes(records)
            if changes or not records:
                return changes, kept

    async def _page(self, cursor: Cursor, limit: int) -> tuple[list[Any], Cursor]:
        lanes = _lanes(cursor)
        name = self._database.name

        def pages(connection: Any, now: _Position) -> list[Any]:
            _check(connection, name, cursor, lanes, now)
            records: list[Any] = []
            for lane, urgent in _LANES:
                if (room := limit - len(records)) > 0:
                    records += _read_lane(connection, name, lanes[lane], urgent, now.counters[lane], room)
            return records

        now, records = await self._database.run(
            lambda connection: self._at_once(connection, pages), READ_TIMEOUT_S
        )
        for lane, _ in _LANES:
            lanes[lane]["at"] = {
                slot: moment
                for slot, moment in now.times[lane].items()
                if lanes[lane]["read"].get(slot) == now.counters[lane].get(slot)
            }
        marks = {"source": now.source, "triggers": now.triggers, "filled": int(now.filled)}
        return records, marks | lanes

    def _at_once(
        self, connection: Any, pages: Callable[[Any, _Position], list[Any]]
    ) -> tuple[_Position, list[Any]]:
        """Read position and pages at one moment of the database."""
        made = fetch(connection, _MADE)
        missing = _missing(connection, {name for name, _ in made})
        self.blind = blindness(self._database.name, missing)
        with connection.cursor() as statements:
            statements.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            try:
                now = _position(connection, made, missing)
                found = pages(connection, now)
            finally:
                statements.execute("ROLLBACK")
        return now, found

    async def wait(self, timeout_s: float) -> None:
        """See ChangeFeed."""
        deadline = self._monotonic() + timeout_s
        while True:
            try:
                (counted,) = await self._database.fetch(
                    f"SELECT SUM(urgent_n), SUM(rest_n), {_FILLED} FROM ocspd_slots",  # noqa: S608  (constants)
                    limit_s=READ_TIMEOUT_S,
                )
            except CodedError as err:
                self._watching.failed(f"change feed: {err.message}")
                await self._sleep(min(POLL_S, timeout_s))
                return
            self._watching.works()
            if counted != self._seen:
                self._seen = counted
                return
            left = deadline - self._monotonic()
            if left <= 0:
                return
            await self._sleep(min(POLL_S, left))

    async def trim(self, cursor: Mapping[str, Any], keep: timedelta) -> int:
        """See ChangeFeed."""
        lanes = _lanes(cursor)
        age = keep.days * 86_400_000_000 + keep.seconds * 1_000_000 + keep.microseconds
        total = 0
        async with self._database.session() as session:
            for name, urgent in _LANES:
                for slot, last in lanes[name]["read"].items():
                    waiting = [window[slot][0] for window in lanes[name]["later"] if slot in window]
                    values = (urgent, int(slot), min([last, *waiting]), age, _TRIM_ROWS)
                    total += await self._trim_slot(session, values)
        return total

    async def _trim_slot(self, session: Session, values: tuple[int, ...]) -> int:
        def work(connection: Any) -> int:
            with connection.cursor() as statements:
                # otherwise the gap behind the last entry is locked as well, where a writer's next one goes
                statements.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                return int(statements.execute(_TRIM, values))

        total = 0
        while True:
            count = await session.run(work, MAINTENANCE_TIMEOUT_S)
            total += count
            if count < _TRIM_ROWS:
                return total
            await self._sleep(_TRIM_PAUSE_S)

    async def close(self) -> None:
        """See ChangeFeed."""
        await self._database.close()


def sight_of(database: Database) -> Callable[[], Awaitable[Sight]]:
    """Return what looks at a database for `feed_polled`.

    Nothing that everybody may read shows whether something was committed, so time tells: it may have been.
    """

    async def look() -> Sight:
        ((source, records),) = await database.fetch(_SIGHT, limit_s=PAGE_TIMEOUT_S)
        return Sight(rows.read_text(source), str(int(time.monotonic()) // LOOK_S), bool(records))

    return look


def _no_pages(_connection: Any, _now: _Position) -> list[Any]:
    return []


def _position(connection: Any, made: list[tuple[Any, ...]], missing: list[str]) -> _Position:
    found = fetch(connection, f"SELECT source, {_FILLED} FROM ocspd_feed")  # noqa: S608  (constants)
    counters: dict[str, Counters] = {name: {} for name, _ in _LANES}
    times: dict[str, dict[str, str]] = {name: {} for name, _ in _LANES}
    for slot, *both, urgent_at, rest_at in fetch(connection, _COUNTERS):
        for (name, _), number, moment in zip(_LANES, both, (urgent_at, rest_at), strict=True):
            if number:
                counters[name][str(slot)] = number
                if moment:
                    times[name][str(slot)] = moment
    source, filled = found[0] if found else ("", 0)
    # whoever has no right to see triggers sees neither one go nor come back, but that it does not exist
    triggers = " ".join([*(f"{name}:{moment}" for name, moment in made), *missing])
    return _Position(rows.read_text(source), triggers, bool(filled), counters, times)


def _missing(connection: Any, made: set[str]) -> list[str]:
    """Return which triggers do not exist; those that this user has no right to see count as there."""
    missing = []
    for name in _TRIGGERS:
        if name not in made:
            try:
                fetch(connection, f"SHOW CREATE TRIGGER {name}")
            except Exception as err:  # noqa: BLE001  (the driver's; its number tells)
                if err.args and err.args[0] != _NO_SUCH_TRIGGER:
                    continue
            missing.append(name)  # or it is that of another table, one that was renamed
    return missing


_NO_SUCH_TRIGGER = 1360


def _check(connection: Any, name: str, cursor: Cursor, lanes: dict[str, Lane], now: _Position) -> None:
    """Raise CursorLostError when changes since the cursor may be missing."""
    if cursor.get("source") != now.source:
        raise OtherDatabaseError(f"{name} is not the one this cursor was made on")
    for lane, urgent in _LANES:
        for slot, number in lanes[lane]["read"].items():
            present = now.counters[lane].get(slot, 0)
            if present < number:
                raise OtherDatabaseError(f"{name} is not the one this cursor was made on, or it was restored")
            moment = lanes[lane]["at"].get(slot, "")
            found = now.times[lane].get(slot, "")
            if moment and present > number:
                found = _time_of(connection, urgent, slot, number)
            if moment and found not in {moment, ""}:
                raise OtherDatabaseError(f"{name} has been restored since this cursor was made")
    if cursor.get("filled") and not now.filled:
        raise CursorLostError(f"{name} has no certificates any more: they were deleted, or truncated away")
    if cursor.get("triggers") != now.triggers:
        raise CursorLostError(
            f"{name} may not have recorded every change: a trigger or a table was dropped or made anew"
        )


def _time_of(connection: Any, urgent: int, slot: str, number: int) -> str:
    """Return when an entry was made; empty if there is no such entry."""
    sql = "SELECT changed_at FROM ocspd_changes WHERE urgent = %s AND slot = %s AND n = %s"
    found = fetch(connection, sql, (urgent, int(slot), number))
    return str(found[0][0]) if found else ""


def _read_lane(  # noqa: PLR0913, PLR0917  (the state of one lane)
    connection: Any, name: str, lane: Lane, urgent: int, now: Counters, limit: int
) -> list[Any]:
    """Read at most `limit` entries, first what is new since the last read, and move the lane behind them."""
    found: list[Any] = []
    later = lane["later"]
    if len(later) < MAX_WINDOWS:
        read = lane["read"]
        window = {slot: [read.get(slot, 0), last] for slot, last in now.items() if last > read.get(slot, 0)}
        if window:
            later.append(window)
        lane["read"] = dict(now)
    while later and len(found) < limit:
        window = later[-1]
        slot, (after, last) = next(iter(window.items()))
        some = fetch(connection, _READ, (urgent, int(slot), after, last, limit - len(found)))
        expected = min(last - after, limit - len(found))
        if [record[0] for record in some] != list(range(after + 1, after + 1 + expected)):
            raise CursorLostError(f"{name} no longer has the changes since this cursor")
        found += some
        window[slot][0] = after + expected
        if window[slot][0] == last:
            del window[slot]
        if not window:
            later.pop()
    return found


def _lanes(cursor: Mapping[str, Any]) -> dict[str, Lane]:
    """Return the lanes of a cursor, copied and checked."""
    try:
        lanes: dict[str, Lane] = {}
        for name, _ in _LANES:
            lane = cursor[name]
            lanes[name] = {
                "read": {_slot(slot): cursor_integer(number) for slot, number in lane["read"].items()},
                "at": {_slot(slot): str(moment) for slot, moment in lane["at"].items()},
                "later": [
                    {_slot(slot): [cursor_integer(a), cursor_integer(b)] for slot, (a, b) in window.items()}
                    for window in lane["later"]
                ],
            }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise CursorLostError("not a cursor of a MySQL change feed") from None
    if any(a >= b for lane in lanes.values() for window in lane["later"] for a, b in window.values()):
        raise CursorLostError("not a cursor of a MySQL change feed")
    for lane in lanes.values():
        lane["later"] = [window for window in lane["later"] if window]
    return lanes


def _slot(text: str) -> str:
    return str(cursor_integer(text))


def _changes(records: list[Any]) -> list[StatusRowChange]:
    changes: dict[tuple[bytes, bytes], StatusRowChange] = {}
    unreadable: list[str] = []
    for record in records:
        try:
            change = _change(record)
        except rows.RowError as err:
            unreadable.append(err.message)
            continue
        key = (record[1], record[2])
        before = changes.get(key)
        if before is None or change.changed_at > before.changed_at:
            changes[key] = change
    rows.warn_of_unreadable(unreadable)
    return list(changes.values())


def _change(record: tuple[Any, ...]) -> StatusRowChange:
    _, serial, aki, changed_at, expiry, exists, *status = record
    gone = None if exists else parse_time("expiry", expiry)
    return StatusRowChange(
        serial=rows.read_serial(serial),
        aki=rows.read_text(aki),
        row=status_row(serial, aki, *status) if exists else None,
        changed_at=rows.read_expiry(parse_time("changed_at", changed_at)),
        expiry=None if gone is None else rows.read_expiry(gone),
    )
