"""The time of day of a simulation: that of its loop, and what somebody has set it to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass(slots=True)
class SimulatedClock:
    """A `Clock`."""

    loop: asyncio.AbstractEventLoop
    ahead: timedelta = timedelta(0)

    def now(self) -> datetime:
        """Return the time of day."""
        return START + timedelta(seconds=self.loop.time()) + self.ahead
