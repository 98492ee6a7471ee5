"""The state a signer daemon keeps beside its index: its position in the change feed and a pending request."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from ocspd import strict_json
from ocspd.certdb.feed import is_cursor
from ocspd.files import read_bounded, write_atomic

if TYPE_CHECKING:
    from ocspd.certdb.feed import Cursor
    from ocspd.index.directory import IndexDirectory

STATE_NAME = "signer.json"
"""The file beside the manifest."""
_SIGN_AGAIN = "sign_again"
_OTHER_DATABASE = "other_database"
_SWEEP = "sweep"
_MAX_STATE_BYTES = 16 << 20
"""A snapshot names every transaction that was open: a few bytes for each."""


class DaemonState:
    """The state of one daemon, in memory and, after `save`, on disk."""

    def __init__(self, directory: IndexDirectory) -> None:
        self._path = directory.path / STATE_NAME
        self._machine = directory.machine
        self._state: dict[str, Any] = {}

    def load(self) -> None:
        """Read the state of an earlier run; a request made since this one began is kept.

        A state that cannot be used counts as none: a full pass and a sweep find what changed meanwhile.
        """
        try:
            state = strict_json.read(read_bounded(self._path, _MAX_STATE_BYTES + 1), _MAX_STATE_BYTES)
        except (OSError, ValueError):
            return
        if not isinstance(state, dict):
            return
        for name in (_SIGN_AGAIN, _SWEEP):
            if name in state and name not in self._state:
                with contextlib.suppress(ValueError):
                    self._state[name] = strict_json.natural(state[name], name)
        self._state |= {name: state[name] for name in ("database", "cursor") if name in state}
        if state.get(_OTHER_DATABASE) is True:
            self._state[_OTHER_DATABASE] = True

    def save(self) -> None:
        """Write the state. Raises OSError."""
        write_atomic(self._path, json.dumps(self._state).encode() + b"\n", machine=self._machine)

    def cursor_of(self, database: str) -> Cursor | None:
        """Return the position in this database's feed, None if it is not known."""
        cursor = self._state.get("cursor")
        return cursor if self._state.get("database") == database and is_cursor(cursor) else None

    def save_cursor(self, database: str, cursor: Cursor) -> None:
        """Set the position in this database's feed."""
        self._state |= {"database": database, "cursor": cursor}
        self.save()

    def note_database(self, database: str) -> None:
        """Record which database is followed: a different one may not have commits that were signed."""
        if self._state.get("database", database) != database:
            self._state[_OTHER_DATABASE] = True

    @property
    def other_database(self) -> bool:
        """Whether the followed database was ever replaced by another one (decision 0015)."""
        return _OTHER_DATABASE in self._state

    def forget_cursor(self, *, other_database: bool = False) -> None:
        """Forget the position, so that following starts again; the caller calls `save`."""
        self._state.pop("cursor", None)
        if other_database:
            self._state[_OTHER_DATABASE] = True

    @property
    def sweep_due(self) -> int:
        """How many interruptions of the feed no sweep has followed yet; the caller calls `save`."""
        count: int = self._state.get(_SWEEP, 0)
        return count

    @sweep_due.setter
    def sweep_due(self, count: int) -> None:
        self._state[_SWEEP] = count
        if not count:
            del self._state[_SWEEP]

    @property
    def sign_again_s(self) -> int:
        """Responses from before this time (seconds since the epoch) are to be signed again; 0: none."""
        moment: int = self._state.get(_SIGN_AGAIN, 0)
        return moment

    @sign_again_s.setter
    def sign_again_s(self, moment_s: int) -> None:
        self._state[_SIGN_AGAIN] = moment_s
        if not moment_s:
            del self._state[_SIGN_AGAIN]
