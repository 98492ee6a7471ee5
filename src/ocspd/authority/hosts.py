"""Hosts as people write them: with or without a port, a name or an address."""

from __future__ import annotations

import ipaddress

from ocspd.errors import OCSPDError
from ocspd.shown import shown

DIAL_S = 10.0
"""The limit for one connection with its handshake, as in CFSSL's certinfo."""

_HTTPS = 443


def split_host(text: str) -> tuple[str, int]:
    """Return host and port of `host`, `host:port`, `[IPv6]:port` or an IPv6 address; 443 without a port.

    OCSPDError when the port is not a number from 1 to 65535, or the host is empty.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise OCSPDError(f"{shown(text)}: not a host with a port; write [address]:port for IPv6")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host:
        raise OCSPDError(f"{shown(text)}: no host given")
    if not port:
        return host, _HTTPS
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise OCSPDError(f"{shown(text)}: the port is not a number from 1 to 65535")
    return host, int(port)


def is_address(text: str) -> bool:
    """Return whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
