"""The family Connectivity: name, TCP, TLS, and whether a host is behind Cloudflare."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ocspd.authority.fetching import any_server
from ocspd.authority.scanning.target import Found, Grade, NotTrusted, verifying
from ocspd.errors import FetchError

if TYPE_CHECKING:
    from ocspd.authority.scanning.target import Target

CLOUDFLARE_LISTS = ("https://www.cloudflare.com/ips-v4", "https://www.cloudflare.com/ips-v6")
_MAX_LIST_BYTES = 64 * 1024

_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21, 27}
_NOT_IN_TIME = {9, 10}
_WRONG_NAME = {62, 64}
"""X509_V_ERR numbers of OpenSSL."""


def dns_lookup(target: Target) -> Found:
    """Look the host up."""
    return Found(Grade.GOOD, target.addresses(target.host))


def cloudflare_status(target: Target) -> Found:
    """Compare the host's addresses with the list that Cloudflare publishes; skipped without that list."""
    networks = []
    for url in CLOUDFLARE_LISTS:
        try:
            text = target.outbound.fetch(url, target.deadline.within(10), limit=_MAX_LIST_BYTES)
            networks += [ipaddress.ip_network(line) for line in text.decode().split()]
        except (FetchError, ValueError) as err:
            return Found(Grade.SKIPPED, error=f"Couldn't download CloudFlare IPs: {err}")
    found = {}
    for address in target.addresses(target.host):
        parsed = ipaddress.ip_address(address.partition("%")[0])
        found[address] = any(parsed in network for network in networks)
    return Found(Grade.GOOD if all(found.values()) else Grade.BAD, found)


def tcp_dial(target: Target) -> Found:
    """Connect."""
    target.connect()[0].close()
    return Found(Grade.GOOD)


def tls_dial(target: Target) -> Found:
    """Connect and shake hands, then once more with the certificate verified: a Warning if that fails."""
    target.connect_tls(any_server()).close()
    try:
        target.connect_tls(verifying(target.trust)).close()
    except NotTrusted as err:
        return Found(Grade.WARNING, error=_distrust(err, target.host))
    except FetchError as err:
        return Found(Grade.WARNING, error=str(err))
    return Found(Grade.GOOD)


def _distrust(err: NotTrusted, host: str) -> str:
    """Say why a certificate is not trusted, beginning as Go does, on which scripts rely."""
    if err.number in _UNKNOWN_AUTHORITY:
        return f"x509: certificate signed by unknown authority ({err})"
    if err.number in _NOT_IN_TIME:
        return f"x509: certificate has expired or is not yet valid ({err})"
    if err.number in _WRONG_NAME:
        return f"x509: certificate is not valid for {host}"
    return f"x509: {err}"
