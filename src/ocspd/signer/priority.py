"""Giving work that can wait the lowest priority on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path


def leave_cpu_to_others() -> None:
    """Make the calling process run only when nothing else wants the CPU.

    It becomes a session of its own, to be given the lowest weight (`weigh_session_least`), with the policy
    SCHED_IDLE in case there are no autogroups.
    """
    with contextlib.suppress(OSError):
        os.setsid()
    yield_to_others()


def weigh_session_least() -> bool:
    """Give the lowest weight to this process's session if it leads one (a service, not a shell's command).

    The kernel divides CPUs between sessions first (autogroups, sched(7)); a policy or a nice value
    counts only inside a session. A task that wakes up in a session that has used little is still served soon.
    Returns False to try again: without privileges the kernel lets one process do this every 0.1 s.
    """
    if os.getsid(0) == os.getpid():
        try:
            Path("/proc/self/autogroup").write_text("19", encoding="ascii")
        except BlockingIOError:
            return False
        except OSError:
            pass  # a kernel without autogroups, or none to be changed
    return True


async def behind_requests() -> None:
    """Do `weigh_session_least` as soon as the kernel allows it."""
    while not weigh_session_least():  # noqa: ASYNC110  (the kernel tells nobody when it is allowed again)
        await asyncio.sleep(0.1)


def yield_to_others() -> None:
    """Let the calling thread run only when nothing else wants the CPU (SCHED_IDLE, sched(7)).

    A nice value does not do this: a thread that wakes up waits until the running one has had its slice,
    some milliseconds (docs/decisions/0007). If the policy is not permitted (a seccomp filter), the thread
    is made as nice as possible.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        with contextlib.suppress(OSError):
            os.nice(19)
