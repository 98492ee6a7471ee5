"""The sockets a responder accepts on: one for each worker, sharing a port, or those systemd passed in.

The supervisor creates them, so that a port in use is reported before anything is started, and so that
connections waiting in a socket's queue survive the worker that should have accepted them.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocspd.errors import OCSPDError
from ocspd.wire import DEFAULT_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound sockets. `shared`: every worker accepts on all of them; otherwise each has its own."""

    sockets: tuple[socket.socket, ...]
    shared: bool

    @property
    def name(self) -> str:
        """Where to connect, for messages: `127.0.0.1:8889`, `[::1]:8889` or `unix:/run/ocsp.sock`.

        Several sockets sharing one address are named once.
        """
        return ", ".join(dict.fromkeys(map(_name, self.sockets)))

    def listen(self, backlog: int) -> None:
        """Start to accept connections: from now on they wait for a worker instead of being refused.

        A worker gets a connection once its first bytes have arrived, or after about a second
        (TCP_DEFER_ACCEPT). The option is set here and nowhere else: a worker that starts late must not
        undo `accept_at_once` on a shared socket.
        """
        for listener in self.sockets:
            _defer(listener, seconds=1)
            listener.listen(backlog)

    def accept_at_once(self) -> None:
        """Let workers accept connections that have not sent anything yet.

        The kernel holds these back and resets them when the sockets close: their clients would not see an
        orderly end of the connection.
        """
        for listener in self.sockets:
            _defer(listener, seconds=0)

    def close(self) -> None:
        """Close the sockets in this process. Idempotent."""
        for listener in self.sockets:
            listener.close()


def _name(listener: socket.socket) -> str:
    address: Any = listener.getsockname()
    if listener.family == socket.AF_UNIX:  # an abstract name comes as bytes
        return f"unix:{address if isinstance(address, str) else '@' + address[1:].decode(errors='replace')}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _defer(listener: socket.socket, *, seconds: int) -> None:
    with contextlib.suppress(OSError):  # a Unix socket knows no such thing
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)


def bind(address: str, port: int, workers: int) -> Listeners:
    """Bind one SO_REUSEPORT socket for each worker; `address` "" means every interface.

    No connection is accepted yet. OCSPDError in one line when the address cannot be used, or when another
    process listens on the port (SO_REUSEPORT alone would share it with another responder of this user).
    """
    sockets: list[socket.socket] = []
    try:
        family, target = _resolve(address, port)
        with _socket(family, shared=False) as probe:
            probe.bind(target)
            target = (target[0], probe.getsockname()[1], *target[2:])
        for _ in range(workers):
            sockets.append(_socket(family, shared=True))
            sockets[-1].bind(target)
    except (OSError, OverflowError) as err:
        for opened in sockets:
            opened.close()
        raise OCSPDError(f"cannot listen on {address}:{port}: {_why(err, port)}") from err
    return Listeners(tuple(sockets), shared=False)


def passed(sockets: Sequence[socket.socket]) -> Listeners:
    """Use sockets passed by systemd: they stay open while this program restarts."""
    return Listeners(tuple(sockets), shared=True)


def _resolve(address: str, port: int) -> tuple[int, tuple[Any, ...]]:
    if not address:
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, ("::", port)
        return socket.AF_INET, ("0.0.0.0", port)  # noqa: S104  (what an empty -address means)
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)  # "localhost" is 127.0.0.1, as in Go
    return found[0][0], found[0][4]


def _socket(family: int, *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.setblocking(False)  # noqa: FBT003  (socket's own signature)
    return made


def in_use(port_flag: str, port: int) -> str:
    """Explain a port in use, also to those who start both servers on CFSSL's default port."""
    both = "; serve and ocspserve both use 8888 by default" if port == DEFAULT_PORT else ""
    return (
        f"address already in use (choose another {port_flag}, or stop the program that listens there{both})"
    )


def _why(error: OSError | OverflowError, port: int) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return in_use("-port", port)
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE or a systemd socket)"
    return getattr(error, "strerror", None) or str(error)
