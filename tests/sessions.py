"""Sessions and their weights, sched(7)."""

from __future__ import annotations

from pathlib import Path


def weight(pid: int | str = "self") -> int | None:
    """Return the nice value of a process's session.

    None when it belongs to no autogroup: the kernel has none, or the process is as old as the machine
    (a container started without a session of its own).
    """
    try:
        words = Path(f"/proc/{pid}/autogroup").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return None
    return int(words[-1]) if words else None
