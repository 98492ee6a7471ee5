"""The change feed on SQLite: the outbox is read by id, and `PRAGMA data_version` says when to look.

A cursor is {"source", "file", "schema", "last", "urgent", "rest"}. The two lanes (rule 4 of `feed`) are
lists: first the id up to which everything was read or deferred, then the ranges [after, up to] that were
deferred, newest last. The rest shows whether this is still the database the cursor was made on:

    source  a random mark made by migration 003, which a copy of the file has, too
    schema  counts changes of the schema: between two of them triggers may have been missing
    file    device and inode: another file in its place is a restored one, whatever its mark
    last    id and time of the newest entry then: one that differs now was written to a restored file
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any, TypeVar

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

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import timedelta

    from ocspd.certdb.sqlite_connection import Worker

POLL_S = 0.1
"""Seconds between polls; half of it is the mean delay it adds to a change."""

_TRIM_ROWS = 2_000
"""Entries deleted in one transaction, some 5 ms in which others wait for the lock, and the pause after it."""
_TRIM_PAUSE_S = 0.02

_TRIGGERS = ("ocspd_delete", "ocspd_insert", "ocspd_update", "ocspd_reissued")
_LANES = (("urgent", 1), ("rest", 0))
_READ = """
SELECT f.id, f.serial_number, f.authority_key_identifier, f.changed_at, f.expiry, c.serial_number IS NOT NULL,
       substr(CAST(c.status AS BLOB), 1, 64), c.reason, c.revoked_at, c.expiry
FROM main.ocspd_changes f
LEFT JOIN main.certificates c ON c.serial_number = f.serial_number
    AND c.authority_key_identifier = f.authority_key_identifier
WHERE f.urgent = ? AND f.id > ? AND f.id <= ? ORDER BY f.id LIMIT ?
"""

Lane = list[Any]
T = TypeVar("T")


class SQLiteFeed:
    """See `ocspd.certdb.feed.ChangeFeed`.

    `reader` is the certdb's worker; `watcher` is one of the feed's own, because data_version only shows
    changes made by other connections, and so is `trimmer`, which must not hold up readers.
    """

    def __init__(  # noqa: PLR0913  (three connections, and what tests replace)
        self,
        reader: Worker,
        watcher: Worker,
        trimmer: Worker,
        *,
        poll_s: float = POLL_S,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._in_memory = watcher.location.file is None
        self._watcher = reader if self._in_memory else watcher
        self._trimmer = reader if self._in_memory else trimmer
        self._poll_s = poll_s
        self._sleep = sleep
        self._monotonic = monotonic
        self._seen: tuple[int, ...] | None = None
        self.blind = ""
        """See ChangeFeed."""

    async def current_cursor(self) -> Cursor:
        """See ChangeFeed."""

        def work(connection: sqlite3.Connection) -> Cursor:
            source, _, newest = _position(connection)
            self._look_at_triggers(connection)
            last = [newest, _time_of(connection, newest)]
            schema = _schema(connection)
            return {"source": source, "schema": schema, "last": last, "urgent": [newest], "rest": [newest]}

        return await self._reader.run(_at_once(work)) | {"file": self._reader.file_identity}

    async def read(self, cursor: Mapping[str, Any], limit: int) -> tuple[list[StatusRowChange], Cursor]:
        """See ChangeFeed."""
        records: list[Any] = []
        changes: dict[tuple[Any, Any], StatusRowChange] = {}
        kept = dict(cursor)
        while not changes:
            records, kept = await self._page(kept, limit)
            unreadable: list[str] = []
            for record in records:
                try:
                    changes[record[1], record[2]] = _change(record)
                except rows.RowError as err:
                    unreadable.append(err.message)
            rows.warn_of_unreadable(unreadable)
            if not records:
                break
        return list(changes.values()), kept

    async def _page(self, cursor: Cursor, limit: int) -> tuple[list[Any], Cursor]:
        name = self._reader.location.name
        lanes = _lanes(cursor)
        last, moment = _last(cursor)

        def work(connection: sqlite3.Connection) -> tuple[list[Any], Cursor]:
            source, trimmed, newest = _position(connection)
            if cursor.get("source") != source or max(lane[0] for lane in lanes.values()) > newest:
                raise OtherDatabaseError(f"{name} is not the one this cursor was made on")
            if moment and last > trimmed and _time_of(connection, last) != moment:
                raise OtherDatabaseError(f"{name} has been restored since this cursor was made")
            if min(map(_oldest, lanes.values())) < trimmed:
                raise CursorLostError(f"{name} no longer has the changes since this cursor")
            self._look_at_triggers(connection)
            schema = _schema(connection)
            if cursor.get("schema", schema) != schema:
                raise CursorLostError(
                    f"{name} may not have recorded every change: its tables or triggers were altered"
                )
            records: list[Any] = []
            for lane, urgent in _LANES:
                records += _read_lane(connection, lanes[lane], urgent, newest, limit - len(records))
            mark = [newest, _time_of(connection, newest)]
            return records, {"source": source, "schema": schema, "last": mark, **lanes}

        records, after = await self._reader.run(_at_once(work))
        # only now is it known which file the connection has
        identity = self._reader.file_identity
        if cursor.get("file", identity) != identity:
            raise OtherDatabaseError(f"{name} has been replaced since this cursor was made")
        return records, after | {"file": identity}

    async def wait(self, timeout_s: float) -> None:
        """See ChangeFeed."""
        deadline = self._monotonic() + timeout_s
        while True:
            version = await self._watcher.run(self._version)
            if version != self._seen:
                self._seen = version
                return
            left = deadline - self._monotonic()
            if left <= 0:
                return
            await self._sleep(min(self._poll_s, left))

    async def trim(self, cursor: Mapping[str, Any], keep: timedelta) -> int:
        """See ChangeFeed."""
        limit = min(map(_oldest, _lanes(cursor).values()))
        age = f"-{keep.total_seconds():.3f} seconds"
        total = 0
        while True:
            count = await self._trimmer.run(lambda connection: _trim(connection, limit, age))
            total += count
            if count < _TRIM_ROWS:
                return total
            await self._sleep(_TRIM_PAUSE_S)

    async def close(self) -> None:
        """See ChangeFeed."""
        if not self._in_memory:
            await self._watcher.close()
            await self._trimmer.close()

    def _look_at_triggers(self, connection: sqlite3.Connection) -> None:
        have = {
            rows.read_text(name)
            for (name,) in connection.execute(
                "SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = 'certificates'"
            )
        }
        missing = [name for name in _TRIGGERS if name not in have]
        self.blind = blindness(self._reader.location.name, missing)

    def _version(self, connection: sqlite3.Connection) -> tuple[int, ...]:
        if self._in_memory:
            return (connection.total_changes,)
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        # a connection that was made again counts from the beginning
        return (version, self._watcher.location.openings)


def sight_of(reader: Worker, watcher: Worker) -> Callable[[], Awaitable[Sight]]:
    """Return what looks at a database for `feed_polled`.

    `watcher` must write nothing. Its connection's count of changes says nothing to another one, so a state
    is only like an earlier one of the same feed.
    """
    in_memory = watcher.location.file is None
    feed = secrets.token_hex(8)

    def records(connection: sqlite3.Connection) -> bool:
        sql = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = 'ocspd_feed'"
        return connection.execute(sql).fetchone() is not None

    def version(connection: sqlite3.Connection) -> int:
        if in_memory:
            return connection.total_changes
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    async def look() -> Sight:
        if await reader.run(records):
            return Sight(reader.file_identity, "", records=True)
        worker = reader if in_memory else watcher
        number = await worker.run(version)
        return Sight(worker.file_identity, f"{feed} {worker.location.openings} {number}", records=False)

    return look


def _change(record: tuple[Any, ...]) -> StatusRowChange:
    _, serial, aki, changed_at, expiry, exists, *status = record
    moment = rows.parse_time("changed_at", changed_at)
    return StatusRowChange(
        serial=rows.read_serial(serial),
        aki=rows.read_text(aki),
        row=rows.status_row_from_text(serial, aki, *status) if exists else None,
        changed_at=rows.read_expiry(moment),
        expiry=None if exists else _expiry_of(expiry),
    )


def _at_once(work: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
    """Do all of work at one moment of the database."""

    def transaction(connection: sqlite3.Connection) -> T:
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            connection.execute("ROLLBACK")

    return transaction


def _last(cursor: Mapping[str, Any]) -> tuple[int, str]:
    """Return id and time of the entry that was the newest, (0, "") for a cursor that does not say."""
    match cursor.get("last"):
        case [int(id_), str(moment)] if 0 <= id_ < 1 << 63:
            return id_, moment
        case None:
            return 0, ""
    raise CursorLostError("not a cursor of an SQLite change feed")


def _lanes(cursor: Mapping[str, Any]) -> dict[str, Lane]:
    """Return the lanes of a cursor, copied; one from before migration 004 has the same id for both."""
    lanes = {lane: cursor.get(lane, [cursor.get("id", 0)]) for lane, _ in _LANES}
    try:
        return {
            name: [cursor_integer(lane[0]), *([cursor_integer(a), cursor_integer(b)] for a, b in lane[1:])]
            for name, lane in lanes.items()
        }
    except (TypeError, ValueError, LookupError, OverflowError):
        raise CursorLostError("not a cursor of an SQLite change feed") from None


def _oldest(lane: Lane) -> int:
    """Return the id behind which everything of the lane was read."""
    return min(int(after) for after in (lane[0], *(window[0] for window in lane[1:])))


def _read_lane(connection: sqlite3.Connection, lane: Lane, urgent: int, newest: int, limit: int) -> list[Any]:
    """Read at most `limit` entries, first what is new since the last read, and move the lane behind them."""
    found: list[Any] = []
    if len(lane) <= MAX_WINDOWS:
        if lane[0] < newest:
            lane.append([lane[0], newest])
        lane[0] = newest
    while len(lane) > 1 and len(found) < limit:
        after, upto = lane[-1]
        some = connection.execute(_READ, (urgent, after, upto, limit - len(found))).fetchall()
        found += some
        if len(found) < limit:
            lane.pop()
        else:
            lane[-1][0] = some[-1][0]
    return found


def _trim(connection: sqlite3.Connection, upto: int, age: str) -> int:
    connection.execute("BEGIN IMMEDIATE")
    try:
        ids = [
            id_
            for (id_,) in connection.execute(
                "SELECT id FROM main.ocspd_changes WHERE id <= ? "
                "AND changed_at <= strftime('%Y-%m-%d %H:%M:%f', 'now', ?) ORDER BY id LIMIT ?",
                (upto, age, _TRIM_ROWS),
            )
        ]
        if ids:
            connection.execute("UPDATE main.ocspd_feed SET trimmed = max(trimmed, ?)", (ids[-1],))
            connection.execute("DELETE FROM main.ocspd_changes WHERE id BETWEEN ? AND ?", (ids[0], ids[-1]))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return len(ids)


def _position(connection: sqlite3.Connection) -> tuple[str, int, int]:
    """Return the database's mark, the trimmed id and the newest id ever given."""
    source, trimmed = connection.execute("SELECT source, trimmed FROM main.ocspd_feed").fetchone()
    newest = connection.execute(
        "SELECT seq FROM main.sqlite_sequence WHERE name = 'ocspd_changes'"
    ).fetchone()
    return rows.read_text(source), trimmed, newest[0] if newest else 0


def _schema(connection: sqlite3.Connection) -> int:
    """Return the number of changes the schema has had."""
    (version,) = connection.execute("PRAGMA main.schema_version").fetchone()
    return int(version)


def _time_of(connection: sqlite3.Connection, id_: int) -> str:
    """Return when an entry was made, as it is stored; empty if there is no such entry."""
    found = connection.execute("SELECT changed_at FROM main.ocspd_changes WHERE id = ?", (id_,)).fetchone()
    return rows.read_text(found[0]) if found else ""


def _expiry_of(value: object) -> Any:
    """Return when a deleted certificate would have expired, None if unknown."""
    try:
        moment = rows.parse_time("expiry", value)
    except rows.RowError:
        return None
    return None if moment is None else rows.read_expiry(moment)
