"""The change feed on SQLite: the outbox is read by id, and `PRAGMA data_version` tells when to look.

A cursor is {"source": which database, "id": the last entry read}.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from ocspd.certdb import rows
from ocspd.certdb.feed import Cursor, CursorLostError, StatusRowChange
from ocspd.logs import logger

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import timedelta

    from ocspd.certdb.sqlite_connection import Worker

POLL_S = 0.1
"""Seconds between looks; half of it is the mean delay it adds to a change."""

_READ = """
SELECT f.id, f.serial_number, f.authority_key_identifier, f.changed_at, c.serial_number IS NOT NULL,
       c.status, c.reason, c.revoked_at, c.expiry
FROM ocspd_changes f
LEFT JOIN certificates c ON c.serial_number = f.serial_number
    AND c.authority_key_identifier = f.authority_key_identifier
WHERE f.id > ? ORDER BY f.id LIMIT ?
"""


class SQLiteFeed:
    """See `ocspd.certdb.feed.ChangeFeed`.

    `reader` is the certdb's worker, `watcher` one of its own: data_version only tells of changes made
    by other connections.
    """

    def __init__(
        self,
        reader: Worker,
        watcher: Worker,
        *,
        poll_s: float = POLL_S,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._in_memory = watcher.location.file is None
        self._watcher = reader if self._in_memory else watcher
        self._poll_s = poll_s
        self._sleep = sleep
        self._monotonic = monotonic
        self._seen: tuple[int, ...] | None = None

    async def current_cursor(self) -> Cursor:
        """See ChangeFeed."""
        source, _, newest = await self._reader.run(_position)
        return {"source": source, "id": newest}

    async def read(self, cursor: Mapping[str, str | int], limit: int) -> tuple[list[StatusRowChange], Cursor]:
        """See ChangeFeed."""
        after = int(cursor.get("id", 0))

        def work(connection: sqlite3.Connection) -> tuple[tuple[str, int, int], list[Any]]:
            connection.execute("BEGIN")  # position and page of the same moment
            try:
                return _position(connection), connection.execute(_READ, (after, limit)).fetchall()
            finally:
                connection.execute("COMMIT")

        (source, trimmed, newest), records = await self._reader.run(work)
        if cursor.get("source") != source or after > newest:
            raise CursorLostError(f"{self._reader.location.name} is not the one this cursor was made in")
        if after < trimmed:
            raise CursorLostError(f"{self._reader.location.name} no longer has the changes since this cursor")
        changes: dict[tuple[int, str], StatusRowChange] = {}
        for record in records:
            change = _change(record)
            if change is not None:
                changes[change.serial, change.aki] = change
        return list(changes.values()), {"source": source, "id": records[-1][0] if records else after}

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

    async def trim(self, cursor: Mapping[str, str | int], keep: timedelta) -> int:
        """See ChangeFeed."""
        after = int(cursor.get("id", 0))
        age = f"-{keep.total_seconds():.3f} seconds"

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("BEGIN IMMEDIATE")
            try:
                (last,) = connection.execute(
                    "SELECT max(id) FROM ocspd_changes WHERE id <= ? "
                    "AND changed_at <= strftime('%Y-%m-%d %H:%M:%f', 'now', ?)",
                    (after, age),
                ).fetchone()
                count = 0
                if last is not None:
                    count = connection.execute("DELETE FROM ocspd_changes WHERE id <= ?", (last,)).rowcount
                    connection.execute("UPDATE ocspd_feed SET trimmed = max(trimmed, ?)", (last,))
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return count

        return await self._reader.run(work)

    async def close(self) -> None:
        """See ChangeFeed."""
        if not self._in_memory:
            await self._watcher.close()

    def _version(self, connection: sqlite3.Connection) -> tuple[int, ...]:
        if self._in_memory:
            return (connection.total_changes,)
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        return (version,)


def _position(connection: sqlite3.Connection) -> tuple[str, int, int]:
    """Return the database's mark, the trimmed id and the newest id ever given."""
    source, trimmed = connection.execute("SELECT source, trimmed FROM ocspd_feed").fetchone()
    newest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'ocspd_changes'").fetchone()
    return source.decode(), trimmed, newest[0] if newest else 0


def _change(record: tuple[Any, ...]) -> StatusRowChange | None:
    _, serial, aki, changed_at, exists, *status = record
    try:
        moment = rows.parse_time("changed_at", changed_at)
        assert moment is not None
        return StatusRowChange(
            serial=rows.read_serial(serial),
            aki=rows.read_text(aki),
            row=rows.status_row_from_text(serial, aki, *status) if exists else None,
            changed_at=moment,
        )
    except rows.RowError as err:
        logger.warning("change left out: %s", err.message)
        return None
