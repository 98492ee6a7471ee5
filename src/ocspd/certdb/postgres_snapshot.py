"""What PostgreSQL calls a snapshot: which transactions had been committed at one moment."""

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
            raise ValueError("no snapshot")
        low, high, running = match.groups()
        self.text = text
        self.xmin = int(low)
        self.xmax = int(high)
        self.running = [int(xid) for xid in running.split(",")] if running else []
        # what PostgreSQL itself asks of one (a cursor comes from a file)
        known = [self.xmin, *self.running, self.xmax]
        if known != sorted(known) or self.xmin < 1 or self.xmax in self.running or self.xmax >= 1 << 63:
            raise ValueError("no snapshot")

    def sees(self, xid: int) -> bool:
        """Say whether a committed transaction is visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)


class Newest:
    """The newest state of a database that was read from it: nothing older may be taken for its state."""

    def __init__(self) -> None:
        self._source = ""
        self._xmax = 0

    def see(self, source: str, snapshot: str) -> None:
        """Remember a snapshot of the server and timeline called `source`."""
        xmax = Snapshot(snapshot).xmax
        if source != self._source or xmax > self._xmax:
            self._source, self._xmax = source, xmax

    def is_newer_than(self, source: str, snapshot: str) -> bool:
        """Say whether a later state of the same server and timeline was seen."""
        return source == self._source and Snapshot(snapshot).xmax < self._xmax
