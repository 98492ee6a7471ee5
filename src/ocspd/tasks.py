"""Tasks side by side whose failure is one error, not a group of them.

`asyncio.TaskGroup` raises a group, and CPython before 3.11.4 wraps what an `except*` clause raises in
another one (Debian 12 has 3.11.2), so a caller that waits for IndexFileError would never see it. Nothing
in ocspd uses either; a test reads the sources for them.

Two more defects of asyncio are mended here, since a task that counts a cancellation nobody asked for ends
at the next time-out: before 3.13 a group whose task fails while the group is being left keeps the
cancellation it asked of its own parent, and before 3.11.3 a time-out of a task with a cancellation counted
before raises CancelledError.
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
        """Whether the group has cancelled the task it was made in, to end the body of its `async with`."""
        return bool(getattr(self, "_parent_cancel_requested", False))


@asynccontextmanager
async def time_limit(seconds: float | None) -> AsyncIterator[None]:
    """`asyncio.timeout`, also in a task that is being cancelled already. TimeoutError after `seconds`."""
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
    """Whether the current task, which has met a CancelledError, is to end: somebody called its `cancel`.

    Otherwise the error came out of what it waited for, and a task that must not end goes on.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    errors = [_first(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((error for error in errors if not isinstance(error, OCSPDError)), errors[0])
