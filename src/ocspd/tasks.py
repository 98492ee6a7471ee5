"""Concurrent tasks whose failure is one error, not a group of them.

`asyncio.TaskGroup` raises a group, and CPython before 3.11.4 wraps what an `except*` clause raises in
another one (Debian 12 has 3.11.2), so a caller that waits for IndexFileError would never see it. Nothing
in ocspd uses either; a test reads the sources for them.

Two more defects of asyncio are worked around here, since a task with a stray cancellation count ends at
the next timeout: before 3.13, a group whose task fails while the group is being left keeps the
cancellation it requested of its own parent, and before 3.11.3, a timeout in a task with an earlier
cancellation count raises CancelledError.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ocspd.errors import OCSPDError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

_KEEPS_CANCELLATION = sys.version_info < (3, 13)


class Tasks(asyncio.TaskGroup):
    """A task group that raises one error alone, a bug before an OCSPDError, and ends the other tasks."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for every task."""
        before = self._cancels_parent
        try:
            await super().__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            found = _first(group)
        else:
            return
        finally:
            parent = asyncio.current_task()
            if _KEEPS_CANCELLATION and self._cancels_parent and not before and parent is not None:
                parent.uncancel()
        raise found  # outside of the handler: the group is not its context

    @property
    def _cancels_parent(self) -> bool:
        """Return whether the group has cancelled its parent task, to end the body of its `async with`."""
        return bool(getattr(self, "_parent_cancel_requested", False))


@asynccontextmanager
async def time_limit(seconds: float | None) -> AsyncIterator[None]:
    """`asyncio.timeout` that also works in a task already being cancelled. TimeoutError after `seconds`."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except asyncio.CancelledError:
        if limit.expired() and task.cancelling() <= before:
            raise TimeoutError from None
        raise


def cancelled_from_outside() -> bool:
    """Return whether the current task, after a CancelledError, must end: its own `cancel` was called.

    Otherwise the error came from what it waited for, and a task that must not end continues.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    errors = [_first(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((error for error in errors if not isinstance(error, OCSPDError)), errors[0])
