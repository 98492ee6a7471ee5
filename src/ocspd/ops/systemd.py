"""The interface to systemd: state notifications (sd_notify(3)) and sockets passed in (sd_listen_fds(3))."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from ocspd.errors import OCSPDError

_FIRST_DESCRIPTOR = 3


class Notifier:
    """Notifies the service manager of this process's state; does nothing where there is none.

    A manager that cannot be reached is not an error: the service continues.
    """

    def __init__(self, address: str | None = None, watchdog_s: float = 0) -> None:
        """Take the manager's socket path (`@` for an abstract one) and the watchdog's interval."""
        self._address = address
        self.watchdog_s = watchdog_s
        """How often `WATCHDOG=1` is due, in seconds; 0 without a watchdog."""

    @classmethod
    def from_environment(cls) -> Notifier:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and remove them: children are not watched."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        interval = os.environ.pop("WATCHDOG_USEC", "")
        watched = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        seconds = int(interval) / 1e6 / 2 if watched and interval.isascii() and interval.isdigit() else 0
        return cls(address, seconds)

    def send(self, *assignments: str) -> None:
        """Send assignments such as `READY=1`, all in one message."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)  # noqa: FBT003  (socket's own signature)
            channel.sendto("\n".join(assignments).encode(), address)

    def reloading(self) -> None:
        """Notify that a reload begins; `ready` ends it (Type=notify-reload requires the monotonic time)."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def ready(self, status: str) -> None:
        """Notify that requests are being served."""
        self.send("READY=1", f"STATUS={status}")


def passed_sockets() -> list[socket.socket]:
    """Return the listening stream sockets (TCP or Unix) systemd passed in; they belong to the caller.

    Reads LISTEN_FDS and LISTEN_PID and removes them, so that child processes do not claim the descriptors.
    Sockets of other kinds are closed. OCSPDError when one of the descriptors is not a socket.
    """
    count = os.environ.pop("LISTEN_FDS", "")
    pid = os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    sockets: list[socket.socket] = []
    for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        try:
            os.set_inheritable(descriptor, False)  # noqa: FBT003  (os's own signature)
            passed = socket.socket(fileno=descriptor)
            listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except (OSError, OverflowError) as err:
            for opened in sockets:
                opened.close()
            raise OCSPDError(
                f"LISTEN_FDS={count}: descriptor {descriptor} is not a socket; unset LISTEN_FDS, or start "
                "this program from its socket unit"
            ) from err
        if listens and passed.type == socket.SOCK_STREAM:
            sockets.append(passed)
        else:
            passed.close()
    return sockets
