"""Subject alternative names: how CFSSL sorts a list of hosts into kinds, and their encoding.

A host is, in this order of tests, an IP address, an e-mail address, a URI, or else a DNS name taken as
it stands; Go's parsers decide (`go_hosts`). So `host:8080` is a URI, `010.0.0.1` a DNS name, and the
empty host of many guides (`"hosts": [""]`) an empty DNS name. Encoded order: DNS, e-mail, IP, URI.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ocspd.errors import DERError
from ocspd.pki import extensions, go_hosts
from ocspd.pki import ocsp_der as der

if TYPE_CHECKING:
    from collections.abc import Iterable

_EMAIL = 1
_DNS = 2
_URI = 6
_IP = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativeNames:
    """The names of a subject by kind; `ips` are 4 or 16 octets each."""

    dns: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    ips: tuple[bytes, ...] = ()
    uris: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.dns or self.emails or self.ips or self.uris)

    def only_ips(self) -> AlternativeNames:
        """Return what CFSSL leaves in the certificate of a CA."""
        return AlternativeNames(ips=self.ips)

    def encode(self) -> bytes:
        """Return the DER of GeneralNames; DERError for a name that is not ASCII."""
        kinds = ((_DNS, self.dns), (_EMAIL, self.emails), (_IP, self.ips), (_URI, self.uris))
        return der.sequence(
            *(
                der.tlv(
                    der.context(tag, constructed=False),
                    value if isinstance(value, bytes) else extensions.ia5(value),
                )
                for tag, values in kinds
                for value in values
            )
        )

    def to_hosts(self) -> list[str]:
        """Return the names as a list of hosts that `classify` reads back (order by kind, IP first)."""
        return [*(_ip_text(value) for value in self.ips), *self.dns, *self.emails, *self.uris]


def classify(hosts: Iterable[str]) -> AlternativeNames:
    """Sort hosts into kinds; nothing is refused here."""
    names = AlternativeNames()
    for host in hosts:
        if (address := ip_address(host)) is not None:
            names = replace(names, ips=(*names.ips, address))
        elif (email := go_hosts.email_address(host)) is not None:
            names = replace(names, emails=(*names.emails, email))
        elif (uri := go_hosts.request_uri(host)) is not None:
            names = replace(names, uris=(*names.uris, uri))
        else:
            names = replace(names, dns=(*names.dns, host))
    return names


def ip_address(text: str) -> bytes | None:
    """Return the octets of an IP address as net.ParseIP reads it; an IPv4-mapped one has four."""
    if "%" in text:  # a zone
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed


def _ip_text(octets: bytes) -> str:
    return str(ipaddress.ip_address(octets))


def parse(value: bytes) -> AlternativeNames:
    """Read the DER of GeneralNames; kinds other than these four are ignored. DERError when malformed."""
    found: dict[int, list[bytes]] = {_EMAIL: [], _DNS: [], _URI: [], _IP: []}
    for element in der.children(value):
        number = element[0] & 0x1F
        if element[0] & 0xC0 == 0x80 and number in found:
            found[number].append(der.content(element))
    if any(len(octets) not in {4, 16} for octets in found[_IP]):
        raise DERError("an IP address in the subject alternative names is neither 4 nor 16 octets long")

    def texts(number: int) -> tuple[str, ...]:
        try:
            return tuple(octets.decode("ascii") for octets in found[number])
        except UnicodeDecodeError:
            raise DERError("a subject alternative name is not ASCII") from None

    return AlternativeNames(dns=texts(_DNS), emails=texts(_EMAIL), ips=tuple(found[_IP]), uris=texts(_URI))
