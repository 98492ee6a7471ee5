"""Work that can wait goes behind everything else on the machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def leave_cpu_to_others() -> None:
    """Make the calling process, one of its own, run only where nothing else wants to.

    It becomes a session of its own, as `weigh_session_least` has it, with the policy SCHED_IDLE for where
    there are no autogroups.
    """
    with contextlib.suppress(OSError):
        os.setsid()
    weigh_session_least()
    yield_to_others()


def weigh_session_least() -> None:
    """Give the lowest weight to the session this process leads, if it does: a service, not a shell's command.

    The kernel shares CPUs out between sessions first (autogroups, sched(7)); a policy or a nice value
    counts inside a session only. What wakes up in a session that has used little is still served soon.
    """
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text("19", encoding="ascii")


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
