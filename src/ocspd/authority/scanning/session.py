"""The family TLSSession: whether a session is resumed at every address of a host."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ocspd.authority.fetching import any_server
from ocspd.authority.scanning.target import Found, Grade
from ocspd.errors import FetchError

if TYPE_CHECKING:
    from ocspd.authority.scanning.target import Target

_TICKET_S = 1.0
"""How long to wait for the session tickets of TLS 1.3, which follow the handshake."""


def session_resume(target: Target) -> Found:
    """Resume one session at every address; Bad if one of them does not."""
    context = any_server()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the session is complete after the handshake
    try:
        connection = target.connect_tls(context)
    except FetchError:
        context = any_server()
        connection = target.connect_tls(context)
    with connection:
        _read_tickets(connection)
        session = connection.session
    found = {}
    for address in target.addresses(target.where):
        with target.connect_tls(context, where=address, session=session) as again:
            found[address] = bool(again.session_reused)
    return Found(Grade.GOOD if all(found.values()) else Grade.BAD, found)


def _read_tickets(connection: ssl.SSLSocket) -> None:
    if connection.version() != "TLSv1.3":
        return
    connection.settimeout(_TICKET_S)
    try:
        connection.recv(1)
    except OSError:  # it waits for a request, as it should
        return
