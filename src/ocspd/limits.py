"""The ranges of the numbers and durations that an operator sets, for flags and configuration files alike.

Every numeric setting declares one of these; a value outside is rejected with a line that names it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Generic, TypeVar

T = TypeVar("T", int, float, timedelta)

_UNITS = (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000))


class Range(Generic[T]):
    """The smallest and the largest value of a setting, both allowed, and the text for a value outside."""

    __slots__ = ("high", "low", "zero")

    def __init__(self, low: T, high: T, zero: str = "") -> None:
        """With `zero`, 0 is allowed as well; the text is its meaning."""
        self.low: T = low
        self.high: T = high
        self.zero = zero

    def __contains__(self, value: T) -> bool:
        return self.low <= value <= self.high or (bool(self.zero) and not value)

    def __str__(self) -> str:
        """Return what to use instead: `1 to 1024, or 0 for one on each CPU`."""
        text = f"{_show(self.low)} to {_show(self.high)}"
        if not self.zero:
            return text
        zero = "0s" if isinstance(self.low, timedelta) else "0"
        return f"{text}, or {zero} for {self.zero}"


def _show(value: float | timedelta) -> str:
    """Write a limit as an operator would: 50ms, 1m, 8760h."""
    if not isinstance(value, timedelta):
        return str(value)
    amount = value // timedelta(microseconds=1)
    unit, size = next(((unit, size) for unit, size in _UNITS if amount and amount % size == 0), ("s", 1))
    return f"{amount // size}{unit}"


_YEARS = timedelta(days=3650)

PORT = Range(1, 65535, "a port chosen by the system")
ADMIN_PORT = Range(1, 65535, "none")
LOGLEVEL = Range(0, 5)
PROCESSES = Range(1, 1024, "one on each CPU")
"""Signing processes of a pass, and workers of a responder."""
PERCENTAGE = Range(0, 100)
BUNDLE_WORKERS = Range(1, 64)
"""Certificates that `mkbundle` checks at once."""
SCAN_WORKERS = Range(1, 1024)
SCAN_HOSTS = Range(1, 1_000_000)
SCAN_TIMEOUT = Range(timedelta(milliseconds=1), timedelta(hours=24))
CRL_EXPIRY = Range(timedelta(seconds=1), _YEARS)
CRL_MAX_AGE = Range(timedelta(), timedelta(days=365))
VALIDITY = Range(timedelta(seconds=61), _YEARS)
"""Of an OCSP response: longer than the minute to which its thisUpdate is rounded."""
PASS_INTERVAL = Range(timedelta(milliseconds=1), timedelta(days=365))
REFRESH_AFTER = Range(0.1, 0.9)
INDEX_POLL = Range(timedelta(milliseconds=50), timedelta(hours=1))
MAX_AGE = Range(timedelta(seconds=1), timedelta(days=365), "no limit of its own")
DRAIN = Range(timedelta(), timedelta(hours=1))
ENTRY = Range(1, 1 << 53)
"""The number of an entry in the audit log."""
ENTRIES_SHOWN = Range(1, 10_000_000, "all")
AUDIT_ROTATE_MB = Range(1, 1 << 20, "never")
RATE = Range(1, 1_000_000, "no limit")
"""Requests a second of one client."""
