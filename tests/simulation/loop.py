"""An event loop without real time: when nothing is left to do, it is as late as the next timer says."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

CALL_S = 0.2
"""How long a call in a thread takes at most; most take a millisecond."""
MERGE_S = 3.0
"""How long what has a thread of its own, which is a merge, takes at most."""


class _Time(selectors.SelectSelector):
    """Waits by setting the time."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.now += max(timeout, 0.0)
        return []


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address in memory."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **more: Any) -> None:
        self.number = number
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.SelectorEventLoop):
    """See the module. What is called in threads happens here, in one piece, a little later."""

    def __init__(self, rng: random.Random) -> None:
        self._time = _Time()
        self._rng = rng
        super().__init__(self._time)
        numbers = itertools.count()

        def make(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
            return _Task(coro, number=next(numbers), loop=loop, **more)

        self.set_task_factory(make)

    def time(self) -> float:
        """Return seconds since the beginning."""
        return self._time.now

    def _write_to_self(self) -> None:
        """Wake nobody: there are no threads."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call a function later. One that nobody waits for any more is called or not, as with threads."""
        future: asyncio.Future[Any] = self.create_future()
        even_if_cancelled = self._rng.random() < 0.5

        def call() -> None:
            if future.cancelled() and not even_if_cancelled:
                return
            try:
                result = func(*args)
            except BaseException as err:  # noqa: BLE001  (whoever waits gets it)
                if not future.done():
                    future.set_exception(err)
            else:
                if not future.done():
                    future.set_result(result)

        longest_s = CALL_S if executor is None else MERGE_S
        self.call_later(0.001 + longest_s * self._rng.random() ** 4, call)
        return future
