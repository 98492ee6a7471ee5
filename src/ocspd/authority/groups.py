"""Work on many requests at a time: a group is what came in while the groups before it were worked on.

Nothing waits for a group to fill: under no load every request is a group of its own, and under load groups
grow until what they cost together, a commit or a message, is shared by many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Groups(Generic[T]):
    """A queue in front of a function that takes many items at a time.

    The function owns the items it is given and raises nothing. It runs in a task of its own, which goes on
    whatever becomes of those who put something in.
    """

    def __init__(
        self,
        work: Callable[[list[T]], Awaitable[None]],
        *,
        at_once: int = 1,
        shares: int | None = None,
        largest: int,
    ) -> None:
        """Work on `at_once` groups of at most `largest` items at the same time.

        A group is one of `shares` equal parts of what waits; by default there are as many as groups.
        """
        self._work = work
        self._at_once = at_once
        self._shares = shares or at_once
        self._largest = largest
        self._waiting: deque[T] = deque()
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, item: T) -> None:
        """Add an item; it is in the next group there is a place for."""
        self._waiting.append(item)
        if self._running < self._at_once:
            self._running += 1
            task = asyncio.get_running_loop().create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            while self._waiting:
                count = min(-(-len(self._waiting) // self._shares), self._largest)
                await self._work([self._waiting.popleft() for _ in range(count)])
        finally:
            self._running -= 1

    async def finish(self) -> None:
        """Wait until nothing is left to do."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def apart(error: Exception) -> Exception:
    """Return an error of its own for one of many who wait: raising one adds to its traceback."""
    try:
        return copy(error)
    except Exception:  # noqa: BLE001  (one that is not made from its arguments)
        return error
