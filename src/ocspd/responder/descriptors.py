"""File descriptors: how many this process may have, and how many of them clients may take.

Otherwise a client holding many connections could take the descriptors that a responder needs to read the
next generation of its index, and so withhold a revocation from everybody.
"""

from __future__ import annotations

import contextlib
import resource

from ocspd.errors import ConfigError

_WORKER_RESERVE = 32
"""What a worker needs besides connections: its loop, channel and standard streams, segments being opened."""
_SUPERVISOR_RESERVE = 40
_SUPERVISOR_EACH = 3  # for each worker: a listening socket, a channel, the counters
_LEAST_CONNECTIONS = 8
_MAX_ADMIN = 256


def raise_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, for child processes too; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a kernel that does not let us keeps the soft one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def worker_connections(limit: int, sockets: int, wanted: int) -> int:
    """Return how many connections a worker may hold: at most `wanted`, less if the reserve requires it.

    `sockets` are the listening ones, which it may hold twice. ConfigError when the limit leaves none.
    """
    return min(wanted, _left(limit, _WORKER_RESERVE + 2 * sockets))


def admin_connections(limit: int, workers: int) -> int:
    """Return how many connections the admin listener may hold; ConfigError when the limit leaves none."""
    return min(_MAX_ADMIN, _left(limit, _SUPERVISOR_RESERVE + _SUPERVISOR_EACH * workers))


def _left(limit: int, reserve: int) -> int:
    left = limit - reserve
    if left < _LEAST_CONNECTIONS:
        raise ConfigError(
            f"the hard limit of {limit} open files is too low for this number of workers: it takes "
            f"{reserve + _LEAST_CONNECTIONS} at least (`ulimit -Hn`, LimitNOFILE=), or fewer -workers"
        )
    return left
