"""The change feed on PostgreSQL: the outbox is read by snapshot, and NOTIFY tells when to look.

Transactions do not commit in the order of any number handed out while they run, so "everything after
number N" loses changes. A cursor is therefore the snapshot of the last read: `seen`, as
pg_current_snapshot() writes it. New is what is visible now and was not visible in `seen`. That is
exact whatever order transactions commit in, and waits for none of them.

A page that hits its limit adds `upto` (the snapshot whose entries are being paged through) and
`xid`, `id` (the last entry handed out). `source` is the server's identity and timeline: numbers of
transactions mean nothing on another one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import asyncpg

from ocspd.certdb import rows
from ocspd.certdb.feed import Cursor, CursorLostError, StatusRowChange
from ocspd.certdb.postgres_connection import MAINTENANCE_TIMEOUT_S
from ocspd.errors import CodedError
from ocspd.logs import logger

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from ocspd.certdb.postgres_connection import Database

CHANNEL = "ocspd_changes"
RETRY_S = 1.0
"""Pause after a failed attempt to connect again."""

_POSITION = """
SELECT pg_current_snapshot()::text,
       (SELECT system_identifier FROM pg_control_system()) || '/' ||
       (SELECT timeline_id FROM pg_control_checkpoint()) || '/' ||
       (SELECT oid FROM pg_database WHERE datname = current_database()),
       trimmed::text::numeric
FROM ocspd_feed
"""
_READ = """
WITH page AS (
    SELECT xid, id, serial_number, authority_key_identifier, changed_at FROM ocspd_changes
    WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot)
      AND (xid, id) > ($3::text::xid8, $4::bigint)
      AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot)
      AND pg_visible_in_snapshot(xid, $2::text::pg_snapshot)
    ORDER BY xid, id LIMIT $5
)
SELECT p.xid::text, p.id, p.serial_number, p.authority_key_identifier, p.changed_at,
       c.serial_number IS NOT NULL, c.status, c.reason, c.revoked_at, c.expiry
FROM page p
LEFT JOIN certificates c USING (serial_number, authority_key_identifier)
ORDER BY p.xid, p.id
"""
_TRIM = """
WITH gone AS (
    DELETE FROM ocspd_changes
    WHERE xid < pg_snapshot_xmin($1::text::pg_snapshot) AND changed_at <= clock_timestamp() - $2::interval
    RETURNING xid
), newest AS (SELECT count(*) AS count, (SELECT xid FROM gone ORDER BY xid DESC LIMIT 1) AS xid FROM gone),
mark AS (UPDATE ocspd_feed SET trimmed = newest.xid FROM newest WHERE newest.xid > trimmed)
SELECT count FROM newest
"""


class PostgresFeed:
    """See `ocspd.certdb.feed.ChangeFeed`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listener: Any = None
        self._noticed = asyncio.Event()
        self._away = False
        self._connecting: asyncio.Task[bool] | None = None

    async def current_cursor(self) -> Cursor:
        """See ChangeFeed."""
        async with self._database.connection() as connection:
            snapshot, source, _ = await connection.fetchrow(_POSITION)
        return {"source": source, "seen": snapshot}

    async def read(self, cursor: Mapping[str, str | int], limit: int) -> tuple[list[StatusRowChange], Cursor]:
        """See ChangeFeed."""
        seen = str(cursor.get("seen", ""))
        async with (
            self._database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            snapshot, source, trimmed = await connection.fetchrow(_POSITION)
            if cursor.get("source") != source or _xmax(seen) > _xmax(snapshot):
                raise CursorLostError(f"{self._database.name} is not the one this cursor was made in")
            if trimmed >= _xmin(seen):
                raise CursorLostError(f"{self._database.name} no longer has the changes since this cursor")
            upto = str(cursor.get("upto", snapshot))
            records = await connection.fetch(
                _READ, seen, upto, str(cursor.get("xid", "0")), int(cursor.get("id", 0)), limit
            )
        changes: dict[tuple[bytes, bytes], StatusRowChange] = {}
        for record in records:
            change = _change(record)
            if change is None:
                continue
            key = (record[2], record[3])
            before = changes.get(key)
            if before is None or change.changed_at > before.changed_at:
                changes[key] = change
        if len(records) < limit:
            return list(changes.values()), {"source": source, "seen": upto}
        last = records[-1]
        return list(changes.values()), {
            "source": source,
            "seen": seen,
            "upto": upto,
            "xid": last[0],
            "id": last[1],
        }

    async def wait(self, timeout_s: float) -> None:
        """See ChangeFeed."""
        if self._listener is None:
            # Whatever was committed before LISTEN went unnoticed: return at once, the caller reads.
            # Connecting goes on in the next call when it takes longer than this one.
            task = self._connecting = self._connecting or asyncio.create_task(self._listen())
            if (await asyncio.wait({task}, timeout=timeout_s))[0]:
                self._connecting = None
                if not task.result():
                    await asyncio.sleep(min(RETRY_S, timeout_s))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._noticed.wait(), timeout_s)
        self._noticed.clear()

    async def trim(self, cursor: Mapping[str, str | int], keep: timedelta) -> int:
        """See ChangeFeed."""
        async with self._database.connection() as connection:
            return int(
                await connection.fetchval(
                    _TRIM, str(cursor.get("seen", "0:0:")), keep, timeout=MAINTENANCE_TIMEOUT_S
                )
            )

    async def close(self) -> None:
        """See ChangeFeed."""
        task, self._connecting = self._connecting, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.remove_termination_listener(self._on_lost)
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await listener.close(timeout=2)

    async def _listen(self) -> bool:
        connection = None
        try:
            connection = await self._database.connect()
            with self._database.errors():
                await connection.add_listener(CHANNEL, self._on_notice)
        except CodedError as err:
            if not self._away:  # once an outage, not once a second
                logger.warning("change feed: %s", err.message)
            self._away = True
        else:
            self._away = False
            connection.add_termination_listener(self._on_lost)
            self._noticed.clear()
            self._listener, connection = connection, None
            return True
        finally:
            if connection is not None:
                connection.terminate()
        return False

    def _on_notice(self, *_: object) -> None:
        self._noticed.set()

    def _on_lost(self, connection: object) -> None:
        if connection is self._listener:
            logger.warning("change feed: connection to %s lost", self._database.name)
            self._listener = None
        self._noticed.set()


def _xmin(snapshot: str) -> int:
    return _snapshot_part(snapshot, 0)


def _xmax(snapshot: str) -> int:
    return _snapshot_part(snapshot, 1)


def _snapshot_part(snapshot: str, index: int) -> int:
    try:
        return int(snapshot.split(":")[index])
    except (ValueError, IndexError):
        raise CursorLostError("this is not a cursor of a PostgreSQL change feed") from None


def _change(record: Any) -> StatusRowChange | None:
    _, _, serial, aki, changed_at, exists, *status = record
    try:
        return StatusRowChange(
            serial=rows.read_serial(serial),
            aki=rows.read_text(aki),
            row=rows.status_row(serial, aki, *status) if exists else None,
            changed_at=changed_at,
        )
    except rows.RowError as err:
        logger.warning("change left out: %s", err.message)
        return None
