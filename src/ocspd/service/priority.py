"""Work that can wait goes behind everything else on the machine."""

from __future__ import annotations

import contextlib
import os


def yield_to_others() -> None:
    """Let the calling thread run only where nothing else wants to (SCHED_IDLE, sched(7)).

    A nice value does not do this: a thread that wakes up waits until the running one has had its slice,
    some milliseconds (docs/decisions/0007). Where the policy is not to be
    had (a seccomp filter), the thread is made as nice as possible.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        with contextlib.suppress(OSError):
            os.nice(19)
