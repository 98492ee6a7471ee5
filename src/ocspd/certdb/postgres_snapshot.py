"""What PostgreSQL calls a snapshot: which transactions had been committed at one moment."""

from __future__ import annotations


class Snapshot:
    """A pg_snapshot in its text form `xmin:xmax:running,…` (PostgreSQL manual, 9.26.8).

    Every transaction below xmin is visible in it or rolled back, none from xmax on; in between all but
    those that were running. Raises ValueError for other text.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ValueError("no snapshot")  # noqa: TRY004  (a value from a file)
        low, high, running = text.split(":")
        self.text = text
        self.xmin = int(low)
        self.xmax = int(high)
        self.running = [int(xid) for xid in running.split(",")] if running else []

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
