"""PostgreSQL's snapshots: which transactions had been committed at one moment."""

from __future__ import annotations

import re

_SNAPSHOT = re.compile(r"(\d{1,19}):(\d{1,19}):((?:\d{1,19}(?:,\d{1,19})*)?)", re.ASCII)


class Snapshot:
    """A pg_snapshot in its text form `xmin:xmax:running,…` (PostgreSQL manual, 9.26.8).

    Every transaction below xmin is visible in it or rolled back, none from xmax on; in between all but
    those that were running. Raises ValueError for other text.
    """

    def __init__(self, text: str) -> None:
        match = _SNAPSHOT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError("not a snapshot")
        low, high, running = match.groups()
        self.text = text
        self.xmin = int(low)
        self.xmax = int(high)
        self.running = [int(xid) for xid in running.split(",")] if running else []
        # what PostgreSQL itself asks of one (a cursor comes from a file)
        bounds = [self.xmin, *self.running, self.xmax]
        if bounds != sorted(bounds) or self.xmin < 1 or self.xmax in self.running or self.xmax >= 1 << 63:
            raise ValueError("not a snapshot")

    def sees(self, xid: int) -> bool:
        """Return whether a committed transaction is visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)


class Newest:
    """The newest state that was read from a database: no older state may be read afterwards.

    A source is `system/timeline/database` (`postgres_connection.SERVER_IDENTITY`). A timeline begins with
    each promotion, so a lower one is a server that others have gone on without.
    """

    def __init__(self) -> None:
        self.first = 0
        """The host to try first: the next one after a server that was refused."""
        self._source = ""
        self._xmax = 0

    def see(self, source: str, snapshot: str) -> None:
        """Record a snapshot of the source that is followed."""
        xmax = Snapshot(snapshot).xmax
        if source != self._source or xmax > self._xmax:
            self._source, self._xmax = source, xmax

    def leaves(self, source: str) -> bool:
        """Return whether a source is an earlier timeline of the one that is followed."""
        return is_abandoned(source, self._source)

    def objection(self, source: str, snapshot: str, *, recovering: bool) -> str:
        """Return why a server must not be read from, to follow its name in a message; "" if it may be."""
        if not self._source:
            return ""
        if is_abandoned(source, self._source):
            return ABANDONED
        if source == self._source and Snapshot(snapshot).xmax < self._xmax:
            return (
                "is a standby that lags behind what was read before"
                if recovering
                else "has been reset to an older state"
            )
        if _parts(source)[::2] != _parts(self._source)[::2]:
            return "is not the server whose changes are followed"
        return ""


ABANDONED = (
    "is an old primary: another server was promoted since and has been followed. Stop this one, or, to go "
    "back to it, start the signer without the file signer.json of its index"
)


def is_abandoned(source: str, followed: str) -> bool:
    """Return whether a source is an earlier timeline of the one that was followed."""
    one, other = _parts(source), _parts(followed)
    return one[::2] == other[::2] and one[1].isdigit() and other[1].isdigit() and int(one[1]) < int(other[1])


def _parts(source: str) -> tuple[str, str, str]:
    system, _, rest = source.partition("/")
    timeline, _, database = rest.partition("/")
    return system, timeline, database
