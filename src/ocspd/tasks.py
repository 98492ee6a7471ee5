"""Tasks side by side whose failure is one error, not a group of them.

`asyncio.TaskGroup` raises a group, and CPython before 3.11.4 wraps what an `except*` clause raises in
another one (Debian 12 has 3.11.2), so a caller that waits for IndexFileError would never see it. Nothing
in ocspd uses either; a test reads the sources for them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ocspd.errors import OCSPDError

if TYPE_CHECKING:
    from types import TracebackType


class Tasks(asyncio.TaskGroup):
    """A task group that raises one error alone, a bug before an OCSPDError, and ends the other tasks."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for every task."""
        try:
            await super().__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            found = _first(group)
        else:
            return
        raise found  # outside of the handler: the group is not its context


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    errors = [_first(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((error for error in errors if not isinstance(error, OCSPDError)), errors[0])
