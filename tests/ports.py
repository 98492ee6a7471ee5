"""Ports for servers that cannot choose one and tell."""

from __future__ import annotations

import contextlib
import secrets
import socket
from pathlib import Path

_LOWEST = 10_240
_given: set[int] = set()


def free_port() -> int:
    """Return a port of loopback on which nothing listens, another one each time.

    It is below those that the kernel gives to outgoing connections: one of these could be in use, by any
    client on the machine, before the server that it is meant for has started.
    """
    highest = 32_768
    with contextlib.suppress(OSError, ValueError):  # elsewhere than on Linux
        highest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if highest - _LOWEST < 1000:
        highest = 65_536
    while True:
        port = _LOWEST + secrets.randbelow(highest - _LOWEST)
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _given.add(port)
            return port
