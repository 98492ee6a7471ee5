"""Telling a shortage of resources on this machine from a fault of an index."""

from __future__ import annotations

import errno

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
_MAX_CAUSES = 8


def is_exhaustion(error: BaseException) -> bool:
    """Return whether an error was caused by a lack of descriptors, memory, processes or threads.

    Such a shortage passes, and other responders need not share it: the caller tries again and tells the
    load balancer meanwhile. A damaged index is damaged for every responder, and the last good one stays in
    service.
    """
    found: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if found is None:
            return False
        if isinstance(found, MemoryError) or (isinstance(found, OSError) and found.errno in _SHORTAGES):
            return True
        if isinstance(found, RuntimeError) and "can't start new thread" in str(found):
            return True
        found = found.__cause__
    return False
