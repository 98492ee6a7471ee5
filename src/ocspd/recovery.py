"""What fails and is retried: each change is logged, and the pauses grow."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.logs import logger
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def wait(seconds: float, wake: asyncio.Event | None) -> None:
    """Return after `seconds`, or as soon as `wake` is set."""
    if wake is None:
        await asyncio.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        async with time_limit(seconds):
            await wake.wait()


def without_details(why: str) -> str:
    """Return a reason up to its brackets, as addresses, sizes and request numbers in them vary."""
    return why.partition(" (")[0]


@dataclass(slots=True, kw_only=True)
class Recovery:
    """One thing that may fail.

    Each reason is logged once, with what holds until then: `WHY; meanwhile`. Then it is logged, once, that
    it works `again`. A text that is empty is not logged: the caller says it in another way.
    """

    meanwhile: str = ""
    again: str = ""
    level: int = logging.ERROR
    retry_s: tuple[float, float] = (0.25, 30.0)
    """The pause after the first failure in a row, and the longest; each is twice the one before."""
    same: Callable[[str], str] = str
    """The part of a reason that counts when two are compared."""
    wait: Callable[[float, asyncio.Event | None], Awaitable[None]] = wait
    trouble: str = ""
    """The reason of the last attempt; "" when it succeeded."""
    failures: int = 0
    """Failures in a row."""

    def failed(self, why: str | Exception, *, meanwhile: str = "", lasted_s: float = 0.0) -> bool:
        """Record that an attempt failed; return whether for another reason than the previous one.

        One that `lasted_s` longer than the longest pause had been working: the pauses start again.
        """
        before, self.trouble = self.trouble, str(why)
        self.failures = 1 if lasted_s > self.retry_s[1] else self.failures + 1
        if before and self.same(before) == self.same(self.trouble):
            return False
        if text := meanwhile or self.meanwhile:
            logger.log(self.level, "%s; %s", self.trouble, text)
        return True

    def works(self) -> bool:
        """Record that an attempt succeeded; return whether the previous one had failed."""
        before, self.trouble, self.failures = self.trouble, "", 0
        if before and self.again:
            logger.info("%s", self.again)
        return bool(before)

    @property
    def delay_s(self) -> float:
        """How long to wait before the next attempt, in seconds; 0 when the last one succeeded."""
        first, longest = self.retry_s
        return min(first * 2 ** min(self.failures - 1, 30), longest) if self.failures else 0.0

    async def pause(self, wake: asyncio.Event | None = None, *, idle_s: float = 0.0) -> None:
        """Wait for the next attempt, or for `wake`; `idle_s` when the last one succeeded."""
        await self.wait(self.delay_s or idle_s, wake)
