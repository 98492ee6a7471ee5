"""The change feed of a database that only CFSSL's goose migrated: it records nothing, so it is watched.

Nothing here writes, and a role that may SELECT from `certificates` is enough. What is polled is one value
that differs whenever anything may have been committed, never the table: the snapshot on PostgreSQL, `PRAGMA
data_version` on SQLite. A difference says that something changed but not what, so `read` raises
UnrecordedChangesError, and a full pass from a new cursor finds it.

A cursor is {"source", "polled"}: which database it is of, and that value.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocspd.certdb.feed import CursorLostError, OtherDatabaseError, UnrecordedChangesError
from ocspd.logs import logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import timedelta

    from ocspd.certdb.feed import ChangeFeed, Cursor, StatusRowChange

POLL_S = 0.25
"""Seconds between looks."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at a database shows."""

    source: str
    """Tells it from every other database."""
    state: str
    """Differs from that of an earlier look if anything was committed in between."""
    records: bool
    """Whether it records changes by now."""


class PolledFeed:
    """See `ocspd.certdb.feed.ChangeFeed`."""

    blind = ""

    def __init__(
        self, name: str, look: Callable[[], Awaitable[Sight]], close: Callable[[], Awaitable[None]]
    ) -> None:
        """`look` raises CodedError 11000 when the database cannot be read."""
        self._name = name
        self._look = look
        self._close = close

    async def current_cursor(self) -> Cursor:
        """See ChangeFeed."""
        return _cursor(await self._look())

    async def read(self, cursor: Mapping[str, Any], limit: int) -> tuple[list[StatusRowChange], Cursor]:  # noqa: ARG002  (nothing to limit)
        """See ChangeFeed."""
        sight = await self._look()
        if sight.records:
            raise CursorLostError(f"{self._name} records its changes by now")
        if "polled" not in cursor:
            raise CursorLostError(f"{self._name} no longer records its changes")
        if cursor.get("source") != sight.source:
            raise OtherDatabaseError(f"{self._name} is not the one this cursor was made on")
        if cursor["polled"] != sight.state:
            raise UnrecordedChangesError(f"{self._name} has changed")
        return [], _cursor(sight)

    async def wait(self, timeout_s: float) -> None:
        """See ChangeFeed."""
        await asyncio.sleep(min(POLL_S, timeout_s))

    async def trim(self, cursor: Mapping[str, Any], keep: timedelta) -> int:  # noqa: ARG002
        """Return 0: there are no entries."""
        return 0

    async def close(self) -> None:
        """See ChangeFeed."""
        await self._close()


def _cursor(sight: Sight) -> Cursor:
    return {"source": sight.source, "polled": sight.state}


class FoundFeed:
    """The feed that a database has when it is first read: one that records changes, or a polled one."""

    def __init__(
        self, recorded: ChangeFeed, polled: PolledFeed, look: Callable[[], Awaitable[Sight]], notice: Notice
    ) -> None:
        self._recorded = recorded
        self._polled = polled
        self._look = look
        self._notice = notice
        self._found: ChangeFeed | None = None

    @property
    def blind(self) -> str:
        """See ChangeFeed."""
        return "" if self._found is None else self._found.blind

    async def current_cursor(self) -> Cursor:
        """See ChangeFeed."""
        return await (await self._feed()).current_cursor()

    async def read(self, cursor: Mapping[str, Any], limit: int) -> tuple[list[StatusRowChange], Cursor]:
        """See ChangeFeed."""
        feed = await self._feed()
        if feed is self._polled:
            self._notice.give()
        elif "polled" in cursor:
            raise CursorLostError("the database records its changes by now")
        return await feed.read(cursor, limit)

    async def wait(self, timeout_s: float) -> None:
        """See ChangeFeed."""
        await (self._found or self._recorded).wait(timeout_s)

    async def trim(self, cursor: Mapping[str, Any], keep: timedelta) -> int:
        """See ChangeFeed."""
        return await (await self._feed()).trim(cursor, keep)

    async def close(self) -> None:
        """See ChangeFeed."""
        try:
            await self._recorded.close()
        finally:
            await self._polled.close()

    async def _feed(self) -> ChangeFeed:
        if self._found is None:
            self._found = self._recorded if (await self._look()).records else self._polled
        return self._found


class Notice:
    """Says once for a certdb what its database lacks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._given = False

    def give(self) -> None:
        """Log it, unless that was done."""
        if not self._given:
            self._given = True
            logger.warning(
                "%s is at CFSSL's version and does not record its changes: it is read again whenever it has "
                "changed, for at most a tenth of the time. Migrations 003 to 005 (ocspd db up -db-config "
                "FILE, as the owner of the tables) would add triggers that record each change, so that a "
                "revocation takes less than a second however many certificates there are, and indexes",
                self._name,
            )
