"""A change feed over files (`certdb.feed`): any change of a file makes every cursor lost."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from ocspd import files
from ocspd.certdb.feed import CursorLostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from pathlib import Path

    from ocspd.certdb.feed import Cursor, StatusRowChange

POLL_S = 1.0


class FileFeed:
    """Watches files by inode, size and time of change, which both renaming and rewriting alter."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._seen = self._stamp()

    def _stamp(self) -> str:
        digest = hashlib.sha256()
        for path in self._paths:
            try:
                found = files.stamp(path)
            except OSError:
                found = (0, 0, 0)
            digest.update(repr((str(path), *found)).encode())
        return digest.hexdigest()

    @property
    def blind(self) -> str:
        """Files hide nothing."""
        return ""

    async def current_cursor(self) -> Cursor:
        """Return a cursor of the files' present state."""
        return {"files": self._stamp()}

    async def read(
        self,
        cursor: Mapping[str, str | int],
        limit: int,  # noqa: ARG002  (there is nothing to limit)
    ) -> tuple[list[StatusRowChange], Cursor]:
        """Return no changes; CursorLostError when a file has changed."""
        if cursor.get("files") != self._stamp():
            raise CursorLostError("a file has changed")
        return [], dict(cursor)

    async def wait(self, timeout_s: float) -> None:
        """Return when a file has changed, or after timeout_s."""
        end = asyncio.get_running_loop().time() + timeout_s
        while (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(POLL_S, left))
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                return

    async def trim(self, cursor: Mapping[str, str | int], keep: timedelta) -> int:  # noqa: ARG002
        """Return 0: files are not ours to trim."""
        return 0

    async def close(self) -> None:
        """Do nothing: nothing is open."""
