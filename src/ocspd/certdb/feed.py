"""The change feed: which certificates were inserted, changed or deleted since a cursor, by any writer.

The triggers of migrations 003 to 005 record each change in the table `ocspd_changes`, so changes made by
CFSSL on the same database are seen as well. A database without them is polled (`feed_polled`). The rules
every implementation keeps:

 1. A change committed after a cursor was made is reported to that cursor at least once, in whatever
    order transactions commit.
 2. What is reported is the row as it is now, not as it was: several changes of one certificate may be
    reported as one.
 3. A cursor that cannot keep rule 1 (the database was replaced, or its changes were trimmed away)
    raises CursorLostError instead of skipping anything.
 4. Urgent changes come first: those after which "good" may no longer be true (revocations, deletions,
    statuses that are neither), then certificates that are new or good again. In each group, changes since
    the last read come before those that were already waiting, so no backlog delays a revocation by more
    than one page.
 5. No row stops the feed. A row whose status cannot be read comes as unknown (`rows.status_row`); a row
    without a readable serial number is reported to `on_unreadable` and skipped.

So a consumer takes `current_cursor()`, makes one full pass with `CertDB.stream_status()`, and then
keeps reading from that cursor; on CursorLostError it starts again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from ocspd.errors import OCSPDError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from ocspd.model import StatusRow

Cursor = dict[str, Any]
"""A position in the feed: a small JSON object to keep and hand back. Its keys belong to the driver."""

_SNAPSHOT = re.compile(r"[0-9]{1,20}:[0-9]{1,20}:(?:[0-9]{1,20}(?:,[0-9]{1,20})*)?")
MAX_WINDOWS = 16
"""How many ranges of waiting changes a cursor keeps apart in each of its two lanes (rule 4)."""


def is_cursor(value: Any) -> TypeGuard[Cursor]:
    """Return whether a value from a file has the form of a cursor; feeds check the rest."""
    return isinstance(value, dict) and all(map(_usable, value.items()))


def _usable(member: tuple[str, Any]) -> bool:
    """Whether a member of a cursor is what a feed writes: a row number, a snapshot or a short text."""
    name, value = member
    if name == "id":
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    if name in {"seen", "upto"}:
        return isinstance(value, str) and _SNAPSHOT.fullmatch(value) is not None
    if name == "xid":
        return isinstance(value, str | int) and str(value).isascii() and str(value).isdigit()
    if isinstance(value, list):
        return all(_usable(("", each)) for each in value)
    if isinstance(value, dict):
        return all(map(_usable, value.items()))
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def cursor_integer(value: Any) -> int:
    """Return an integer of a cursor read from a file; ValueError unless a feed can have written it."""
    integer = int(value)
    if isinstance(value, bool) or not 0 <= integer < 1 << 63:
        raise ValueError(value)
    return integer


def blindness(name: str, missing: Sequence[str]) -> str:
    """Return the text of `ChangeFeed.blind` for a database whose triggers of these names do not work."""
    if not missing:
        return ""
    return (
        f"{name} does not record every change: triggers of table certificates are disabled or missing "
        f"({', '.join(missing)}): run ocspd db up -db-config FILE"
    )


class CursorLostError(OCSPDError):
    """The feed cannot say what changed since this cursor: take a new one and make a full pass."""


class OtherDatabaseError(CursorLostError):
    """The database is not the one the cursor is of: another one, a restored one, or a promoted standby.

    Commits that were read may be missing there.
    """


class UnrecordedChangesError(CursorLostError):
    """The database has changed since this cursor and does not record how (`feed_polled`).

    The feed goes on from a new cursor; only a full pass finds what changed, and a sweep what was deleted.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRowChange:
    """A certificate that changed: `row` is its present status, None when the row no longer exists.

    A row no longer exists after a deletion and, under the old key, after an update of serial number or
    key identifier. Rows in another spelling may still be about the certificate (`CertDB.find_statuses`).
    `expiry` is when a deleted row would have expired, None if unknown. `aki` is spelled as it is stored.

    `changed_at` is the database's clock in the trigger of the newest change reported here, aware UTC
    (microseconds on PostgreSQL, milliseconds on SQLite): subtract it from the time a response is
    published to get the latency of a revocation.
    """

    serial: int
    aki: str
    row: StatusRow | None
    changed_at: datetime
    expiry: datetime | None = None


class ChangeFeed(Protocol):
    """What a signer needs to follow a certdb. One consumer task per feed object."""

    @property
    def blind(self) -> str:
        """Why the database does not record every change, and the remedy; empty while it does.

        As of the last read. Until that ends only full passes find what changed; then the cursor is lost.
        """
        ...

    async def current_cursor(self) -> Cursor:
        """Return a cursor for the present moment: everything committed so far is before it."""
        ...

    async def read(self, cursor: Mapping[str, Any], limit: int) -> tuple[list[StatusRowChange], Cursor]:
        """Return changes after the cursor, of at most `limit` feed entries, and the cursor after them.

        A row appears once per call. An empty list means there is nothing more at present; the returned
        cursor may still differ and is the one to keep. Rows that have expired are reported like others.
        Raises CursorLostError (rule 3) and CodedError 11000, the latter also when the database does not
        respond for some seconds.
        """
        ...

    async def wait(self, timeout_s: float) -> None:
        """Return when something may have changed since the last `wait` returned, or after timeout_s.

        May return early for no reason. A lost connection is not an error: it is made again, and the
        return is early then, because a notification may have been missed.
        """
        ...

    async def trim(self, cursor: Mapping[str, Any], keep: timedelta) -> int:
        """Delete feed entries before the cursor that are older than `keep`; return how many.

        `keep` is for other consumers: a cursor that has not moved for longer is lost. Works in batches on
        a connection of its own, with pauses, so that no writer waits: run it in a task beside `read`.
        """
        ...

    async def close(self) -> None:
        """Release the feed's own connection. Idempotent."""
        ...
