"""Time as an argument: nothing below the command line reads the system clock by itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """The source of the time for a component."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        return datetime.now(UTC)


@dataclass(slots=True)
class ManualClock:
    """A clock that moves only on request; used by tests and by `--at` style options."""

    instant: datetime

    def now(self) -> datetime:
        """Return the instant it was last set to."""
        return self.instant

    def advance(self, delta: timedelta) -> None:
        """Move the clock by delta, which may be negative (a clock step)."""
        self.instant += delta
