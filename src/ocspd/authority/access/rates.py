"""How often a client may call: a token bucket for each, in a table of bounded size."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BURST_S = 5
"""A client that was silent may make the requests of so many seconds at once."""
MAX_CLIENTS = 10_000


class RateLimit:
    """`per_second` requests of each client on average; the client seen longest ago is forgotten first."""

    def __init__(self, per_second: int, now: Callable[[], float], *, max_clients: int = MAX_CLIENTS) -> None:
        """`now` returns seconds of a clock that is never set."""
        self._per_second = per_second
        self._burst = float(per_second * BURST_S)
        self._now = now
        self._max_clients = max_clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> int:
        """Count a request; return 0, or after how many seconds the client may come again."""
        now = self._now()
        level, since = self._buckets.pop(client, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._per_second)
        wait = 0
        if level >= 1:
            level -= 1
        else:
            wait = max(1, math.ceil((1 - level) / self._per_second))
        self._buckets[client] = (level, now)
        if len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._buckets)


def network_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 of an IPv6 one, which one host may have.

    `address` is as the log has it, with a port.
    """
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
