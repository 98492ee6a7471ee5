"""The change feed on PostgreSQL: the outbox is read by snapshot, and NOTIFY says when to look.

Transactions do not commit in the order of any number assigned while they run, so "everything after
number N" loses changes. A cursor is therefore a whole snapshot, as pg_current_snapshot() writes it: new is
what is visible now and was not visible then. That is exact whatever order transactions commit in, and
waits for none of them.

A cursor is {"source", "triggers", "urgent", "rest"}. `source` is the server's identity and timeline:
transaction ids mean nothing on another server. `triggers` changes whenever the triggers that record changes
are disabled or enabled, or the table is replaced, as changes in between were not recorded. The two lanes
(rule 4 of `feed`) are {"seen": the snapshot up to which everything was read or deferred, "later": the windows
that were deferred, newest last}; a window is {"seen", "upto", "xid", "id"}: what is visible in `upto` and was
not in `seen`, after entry (xid, id).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
from ocspd.certdb.postgres_connection import MAINTENANCE_TIMEOUT_S, SERVER_IDENTITY, RefusedError
from ocspd.certdb.postgres_snapshot import ABANDONED, Snapshot, is_abandoned
from ocspd.errors import CodedError
from ocspd.logs import logger
from ocspd.recovery import Recovery
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import timedelta

    from ocspd.certdb.postgres_connection import Database

CHANNEL = "ocspd_changes"
POLL_S = 0.25
"""Seconds between looks through a pooler."""
RETRY_S = 0.5
"""Pause after a failed attempt to connect again."""
READ_TIMEOUT_S = 8.0
"""How long a page may take: with the 5 s a consumer waits between two it is 13 s until a silent server is
noticed. A page that took longer is requested again in smaller pieces."""
_LEAST_LIMIT = 50
_TRIM_ROWS = 5_000
_TRIM_PAUSE_S = 0.05

_TRIGGERS = ("ocspd_delete", "ocspd_insert", "ocspd_truncate", "ocspd_update")
_APPLIED = "ocspd_applied"
_LANES = (("urgent", True), ("rest", False))
# Certificates are named so that their lock is waited for, and its deadline met, although nothing has changed.
# The triggers' rows in the catalogue are new ones whenever one was disabled, enabled, dropped or made; the
# file is another one after whatever rewrites a table (ALTER COLUMN ... TYPE ... USING) or swaps two.
_POSITION = f"""
SELECT pg_current_snapshot()::text, {SERVER_IDENTITY}, trimmed::text, truncated::text, pg_is_in_recovery(),
       (SELECT coalesce(string_agg(concat_ws(':', tgname, tgenabled, xmin), ' ' ORDER BY tgname), '')
        FROM pg_trigger WHERE tgrelid = 'certificates'::regclass
        AND tgname = ANY('{{{",".join((_APPLIED, *_TRIGGERS))}}}')),
       (SELECT oid::text || '/' || relfilenode FROM pg_class WHERE oid = 'certificates'::regclass)
       || (SELECT coalesce(string_agg(inhrelid || '/' || xmin::text, ' ' ORDER BY inhrelid), '')
           FROM pg_inherits WHERE inhparent = 'certificates'::regclass),
       EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = 'certificates'::regclass)
FROM ocspd_feed WHERE NOT EXISTS (SELECT FROM certificates WHERE false)
"""  # noqa: S608  (constants)
# What was not visible in a snapshot is what ran then ($2, few: each looked up by itself) and what began
# later. Bounded above as well, so that a page costs what is in it. A row is looked up by its serial number:
# where statistics are missing or old, the index over issuers looks as good, and all rows of one are read.
_READ = """
WITH page AS (
    (
        SELECT c.* FROM unnest($2::text[]::xid8[]) AS running (xid), LATERAL (
            SELECT xid, id, serial_number, authority_key_identifier, changed_at, expiry FROM ocspd_changes
            WHERE urgent = $1 AND xid = running.xid AND (xid, id) > ($4::text::xid8, $5::bigint)
              AND pg_visible_in_snapshot(xid, $6::text::pg_snapshot)
            ORDER BY id LIMIT $7
        ) AS c
    ) UNION ALL (
        SELECT xid, id, serial_number, authority_key_identifier, changed_at, expiry FROM ocspd_changes
        WHERE urgent = $1 AND xid >= $3::text::xid8 AND xid < pg_snapshot_xmax($6::text::pg_snapshot)
          AND (xid, id) > ($4::text::xid8, $5::bigint)
          AND pg_visible_in_snapshot(xid, $6::text::pg_snapshot)
        ORDER BY xid, id LIMIT $7
    )
    ORDER BY xid, id LIMIT $7
)
SELECT p.xid::text, p.id, p.serial_number, p.authority_key_identifier, p.changed_at,
       timestamptz_send(p.expiry), c.serial_number IS NOT NULL,
       substr(c.status, 1, 64), c.reason, timestamptz_send(c.revoked_at), timestamptz_send(c.expiry)
FROM page p
LEFT JOIN certificates c
    ON c.serial_number = p.serial_number AND c.authority_key_identifier || '' = p.authority_key_identifier
ORDER BY p.xid, p.id
"""
# A page is a range of the primary key, whatever the planner thinks of a table that was empty a moment ago:
# after an import of a million rows it would sort all of them for each page, until autovacuum has seen them.
_PLAN = "; ".join(
    f"SET LOCAL {name} = off" for name in ("enable_bitmapscan", "enable_seqscan", "enable_sort", "jit")
)
# Entries and marks with numbers that no transaction has had yet came from another server with a dump.
_TRIM = """
WITH now AS (SELECT pg_snapshot_xmax(pg_current_snapshot()) AS xmax),
old AS (
    SELECT ctid FROM ocspd_changes
    WHERE urgent = $1 AND changed_at <= clock_timestamp() - $3::interval
      AND (xid < $2::text::xid8 OR xid >= (SELECT xmax FROM now))
    LIMIT $4
), gone AS (
    DELETE FROM ocspd_changes WHERE ctid = ANY(ARRAY(SELECT ctid FROM old)) RETURNING xid
), newest AS (
    SELECT count(*) AS count,
           (SELECT xid FROM gone WHERE xid < $2::text::xid8 ORDER BY xid DESC LIMIT 1) AS xid FROM gone
), mark AS (
    UPDATE ocspd_feed SET trimmed = newest.xid FROM newest
    WHERE newest.xid > trimmed OR trimmed >= (SELECT xmax FROM now) AND newest.xid IS NOT NULL
)
SELECT count FROM newest
"""


class PostgresFeed:
    """See `ocspd.certdb.feed.ChangeFeed`."""

    def __init__(self, database: Database) -> None:
        """Take a database of its own: a pass that has every connection must not hold up the feed."""
        self._database = database
        self.blind = ""
        """See ChangeFeed."""
        self._listener: Any = None
        self._noticed = asyncio.Event()
        self._listening = Recovery(
            meanwhile="polling for changes every half second until it is back", level=logging.WARNING
        )
        self._connecting: asyncio.Task[bool] | None = None
        self._most = 1 << 30  # entries a page may have, fewer after one that took too long

    async def current_cursor(self) -> Cursor:
        """See ChangeFeed."""
        async with self._database.connection(READ_TIMEOUT_S) as connection:
            snapshot, source, triggers, _ = await self._position(connection)
        self._database.newest.see(source, snapshot)
        return {
            "source": source,
            "triggers": triggers,
            **{name: {"seen": snapshot, "later": []} for name, _ in _LANES},
        }

    async def read(self, cursor: Mapping[str, Any], limit: int) -> tuple[list[StatusRowChange], Cursor]:
        """See ChangeFeed."""
        kept = dict(cursor)
        while True:
            try:
                records, kept = await self._page(kept, min(limit, self._most))
            except CodedError:
                self._most = max(min(limit, self._most) // 2, _LEAST_LIMIT)
                raise
            self._most = min(self._most * 2, 1 << 30)
            changes = self._changes(records)
            if changes or not records:
                return changes, kept

    async def _page(self, cursor: Cursor, limit: int) -> tuple[list[Any], Cursor]:
        records: list[Any] = []
        lanes = _lanes(cursor)
        async with self._database.transaction(
            READ_TIMEOUT_S, isolation="repeatable_read", readonly=True
        ) as connection:
            snapshot, source, triggers, marks = await self._position(connection)
            self._check(cursor, lanes, source, Snapshot(snapshot), marks)
            if cursor.get("triggers", triggers) != triggers:
                name = self._database.name
                raise CursorLostError(
                    f"{name} may not have recorded every change: triggers were off, or the table was replaced"
                )
            await connection.execute(_PLAN)
            for name, urgent in _LANES:
                room = limit - len(records)
                if room > 0:
                    records += await _read_lane(connection, lanes[name], urgent, snapshot, room)
        self._database.newest.see(source, snapshot)
        return records, {"source": source, "triggers": triggers, **lanes}

    async def _position(self, connection: Any) -> tuple[str, str, str, tuple[int, int]]:
        record = await connection.fetchrow(_POSITION)
        snapshot, source, trimmed, truncated, recovering, triggers, table, subscribed = record
        if recovering:
            # its snapshots do not say which transactions are still running
            raise RefusedError(
                f"{self._database.name} is a standby, which cannot be followed: name the primary in "
                "data_source, or list every host and leave out target_session_attrs"
            )
        if self._database.newest.leaves(source):
            raise RefusedError(f"{self._database.name} {ABANDONED}")
        self.blind = self._blindness(triggers, subscribed=subscribed)
        return snapshot, source, f"{triggers} {table}", (int(trimmed), int(truncated))

    def _blindness(self, triggers: str, *, subscribed: bool) -> str:
        """Return which triggers do not work; `triggers` has name, state and row version of each."""
        states = dict(trigger.split(":")[:2] for trigger in triggers.split())
        missing = [name for name in _TRIGGERS if states.get(name, "D") not in "AO"]
        if subscribed and states.get(_APPLIED, "D") not in "AR":
            missing.append(_APPLIED)
        return blindness(self._database.name, missing)

    def _check(
        self, cursor: Cursor, lanes: dict[str, Any], source: str, now: Snapshot, marks: tuple[int, int]
    ) -> None:
        """Raise CursorLostError when changes since the cursor may be missing."""
        name = self._database.name
        seen = [Snapshot(window["seen"]) for lane in lanes.values() for window in (lane, *lane["later"])]
        followed = cursor.get("source")
        if isinstance(followed, str) and is_abandoned(source, followed):
            raise RefusedError(f"{name} {ABANDONED}")
        if followed != source or any(lane.xmax > now.xmax for lane in seen):
            raise OtherDatabaseError(f"{name} is not the one this cursor was made on")
        trimmed, truncated = (0 if mark >= now.xmax else mark for mark in marks)  # see _TRIM
        if any(trimmed >= lane.xmin or not lane.sees(truncated) for lane in seen):
            raise CursorLostError(f"{name} no longer has the changes since this cursor")

    async def wait(self, timeout_s: float) -> None:
        """See ChangeFeed."""
        if self._database.pooled:  # a notification would go to whoever has the server's connection then
            await asyncio.sleep(min(POLL_S, timeout_s))
            return
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
            async with time_limit(timeout_s):
                await self._noticed.wait()
        self._noticed.clear()

    async def trim(self, cursor: Mapping[str, Any], keep: timedelta) -> int:
        """See ChangeFeed."""
        lanes = _lanes(cursor)
        oldest = min(
            Snapshot(window["seen"]).xmin for lane in lanes.values() for window in (lane, *lane["later"])
        )
        total = 0
        for _, urgent in _LANES:
            while True:
                async with self._database.connection(MAINTENANCE_TIMEOUT_S) as connection:
                    count = int(await connection.fetchval(_TRIM, urgent, str(oldest), keep, _TRIM_ROWS))
                total += count
                if count < _TRIM_ROWS:
                    break
                await asyncio.sleep(_TRIM_PAUSE_S)
        return total

    async def close(self) -> None:
        """See ChangeFeed."""
        task, self._connecting = self._connecting, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.remove_termination_listener(self._on_lost)
            listener.terminate()
        await self._database.close()

    async def _listen(self) -> bool:
        connection = None
        try:
            connection = await self._database.connect()
            if self._database.pooled:
                return True
            with self._database.errors():
                await connection.add_listener(CHANNEL, self._on_notice)
        except CodedError as err:
            self._listening.failed(f"change feed: {err.message}")
        else:
            self._listening.works()
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

    def _changes(self, records: list[Any]) -> list[StatusRowChange]:
        changes: dict[tuple[bytes, bytes], StatusRowChange] = {}
        unreadable: list[str] = []
        for record in records:
            try:
                change = _change(record)
            except rows.RowError as err:
                unreadable.append(err.message)
                continue
            key = (record[2], record[3])
            before = changes.get(key)
            if before is None or change.changed_at > before.changed_at:
                changes[key] = change
        rows.warn_of_unreadable(unreadable)
        return list(changes.values())


_SIGHT = f"""
SELECT {SERVER_IDENTITY}, pg_current_snapshot()::text,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()::text ELSE '' END,
       to_regclass('ocspd_feed') IS NOT NULL
"""


def sight_of(database: Database) -> Callable[[], Awaitable[Sight]]:
    """Return what looks at a database for `feed_polled`.

    Two equal snapshots see the same commits. On a standby, whose snapshots do not say which transactions
    are running, the position in the log tells.
    """

    async def look() -> Sight:
        async with database.connection(READ_TIMEOUT_S) as connection:
            source, snapshot, replayed, records = await connection.fetchrow(_SIGHT)
            if database.newest.leaves(source):
                raise RefusedError(f"{database.name} {ABANDONED}")
        database.newest.see(source, snapshot)
        return Sight(source, f"{snapshot} {replayed}", records)

    return look


def _lanes(cursor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lanes of a cursor, copied and checked; one from before migration 004 serves for both."""
    lanes: dict[str, Any]
    if "seen" in cursor:
        seen = cursor["seen"]
        upto = cursor.get("upto")
        windows = [{key: cursor.get(key) for key in ("seen", "upto", "xid", "id")}] if upto else []
        lanes = {name: {"seen": upto or seen, "later": windows} for name, _ in _LANES}
    else:
        lanes = {name: cursor.get(name, {}) for name, _ in _LANES}
    try:
        return {
            name: {
                "seen": Snapshot(lane["seen"]).text,
                "later": [
                    {
                        "seen": Snapshot(window["seen"]).text,
                        "upto": Snapshot(window["upto"]).text,
                        "xid": str(cursor_integer(window["xid"])),
                        "id": cursor_integer(window["id"]),
                    }
                    for window in lane["later"]
                ],
            }
            for name, lane in lanes.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise CursorLostError("not a cursor of a PostgreSQL change feed") from None


async def _read_lane(
    connection: Any,
    lane: dict[str, Any],
    urgent: bool,  # noqa: FBT001  (a column)
    snapshot: str,
    limit: int,
) -> list[Any]:
    """Read at most `limit` entries, first what is new since the last read, and move the lane behind them."""
    found: list[Any] = []
    later = lane["later"]
    if len(later) < MAX_WINDOWS and lane["seen"] != snapshot:
        later.append({"seen": lane["seen"], "upto": snapshot, "xid": "0", "id": 0})
        lane["seen"] = snapshot
    while later and len(found) < limit:
        window = later[-1]
        seen = Snapshot(window["seen"])
        running = [str(xid) for xid in seen.running if xid >= int(window["xid"])]
        some = await connection.fetch(
            _READ,
            urgent,
            running,
            str(seen.xmax),
            window["xid"],
            window["id"],
            window["upto"],
            limit - len(found),
        )
        found += some
        if len(found) < limit:
            later.pop()
        else:
            window["xid"], window["id"] = some[-1][0], some[-1][1]
    return found


def _change(record: Any) -> StatusRowChange:
    _, _, serial, aki, changed_at, expiry, exists, *status = record
    gone = None if exists else rows.parse_binary_time("expiry", expiry)
    return StatusRowChange(
        serial=rows.read_serial(serial),
        aki=rows.read_text(aki),
        row=rows.status_row_from_times(serial, aki, *status) if exists else None,
        changed_at=changed_at,
        expiry=None if gone is None else rows.read_expiry(gone),
    )
