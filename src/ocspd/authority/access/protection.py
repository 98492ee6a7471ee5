"""The protection of one server: its policy, read again on every reload, and what is open without one."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.authority.access.guard import Guard
from ocspd.authority.access.policy import changes
from ocspd.logs import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ocspd.authority.access.policy import Policy
    from ocspd.authority.access.rates import RateLimit
    from ocspd.authority.api.call import Endpoint
    from ocspd.authority.audit.log import AuditLog

REMIND_S = 3600.0
"""How often a server that other machines can reach says what is open."""
WITH_A_KEY = frozenset({"authsign"})
"""Endpoints that demand a key of their own, with or without a policy."""


class Protection:
    """Puts guards before endpoints. `open_endpoints` has those that change something and demand nothing."""

    def __init__(
        self,
        read: Callable[[], Policy | None],
        *,
        rate: RateLimit | None = None,
        audit: AuditLog | None = None,
        clients: str = "everybody who can connect",
    ) -> None:
        """`read` reads the policy; `clients` are those whom the server admits without one."""
        self._read = read
        self._rate = rate
        self.audit = audit
        self._clients = clients
        self.open_endpoints: tuple[str, ...] = ()

    def renewed(self) -> Callable[[Mapping[str, Endpoint]], dict[str, Endpoint]]:
        """Read the policy again, and return what puts it before endpoints. OCSPDError: it cannot be used."""
        policy = self._read()

        def protect(endpoints: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
            self.open_endpoints = _open_names(policy, endpoints)
            if policy is None and self._rate is None and self.audit is None:
                return dict(endpoints)
            return Guard(policy, rate=self._rate, audit=self.audit).protect(endpoints)

        return protect

    def warning(self, address: str, port: int) -> str:
        """Return what is open to whom, "" when nothing is."""
        if not self.open_endpoints:
            return ""
        return (
            f"open without authentication to {self._clients} to {address or 'any address'}:{port}: "
            f'{", ".join(self.open_endpoints)}. To close them, add "access" to -config or give -require-auth'
        )


async def remind(protection: Protection, address: str, port: int, every_s: float = REMIND_S) -> None:
    """Say what is open: once, and again from time to time, for ever, if other machines can connect."""
    while True:
        if warning := protection.warning(address, port):
            logger.warning("%s", warning)
        if is_loopback(address):
            return
        await asyncio.sleep(every_s)


def _open_names(policy: Policy | None, endpoints: Mapping[str, Endpoint]) -> tuple[str, ...]:
    names = [path.removeprefix(wire.API_PREFIX) for path in endpoints if path.startswith(wire.API_PREFIX)]
    return tuple(
        name
        for name in names
        if changes(name) and name not in WITH_A_KEY and (policy is None or name in policy.open)
    )


def is_loopback(address: str) -> bool:
    """Return whether only programs on this machine can connect to an address to listen on."""
    if address.lower() in {"localhost", "localhost."}:
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False  # another name, or "" for every interface
