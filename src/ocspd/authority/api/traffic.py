"""What the API replied, counted in memory; `authority.admin` shows it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, float("inf"))
"""The upper bounds of the buckets of durations, in seconds."""
ISSUING = frozenset({"sign", "authsign", "newcert"})
"""Endpoints of which each success is a certificate."""


@dataclass(slots=True)
class Durations:
    """How long the replies of one endpoint took."""

    buckets: list[int] = field(default_factory=lambda: [0] * len(BOUNDS_S))
    sum_s: float = 0.0


class Traffic:
    """Counts the replies of one server; endpoints by name, "other" for paths that do not exist."""

    def __init__(self) -> None:
        self.replies: Counter[tuple[str, int]] = Counter()
        """By endpoint and HTTP status."""
        self.refusals: Counter[tuple[str, int]] = Counter()
        """By endpoint and the code in CFSSL's error."""
        self.durations: dict[str, Durations] = {}
        """By endpoint, from the head of a request to its reply."""

    def note(self, endpoint: str, status: int, code: int | None, seconds: float) -> None:
        """Count a reply; `code` is None for a success."""
        self.replies[endpoint, status] += 1
        if code is not None:
            self.refusals[endpoint, code] += 1
        taken = self.durations.setdefault(endpoint, Durations())
        taken.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        taken.sum_s += seconds

    @property
    def issued(self) -> int:
        """How many certificates were returned."""
        return sum(self.replies[endpoint, 200] for endpoint in ISSUING)

    @property
    def revoked(self) -> int:
        """How many revocations were accepted."""
        return self.replies["revoke", 200]
