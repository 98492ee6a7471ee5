"""Subject alternative names: how CFSSL sorts a list of hosts into kinds, and their encoding.

A host is, in this order of tests, an IP address, an e-mail address, a URI, or otherwise a DNS name taken
as it is; Go's parsers decide (`go_hosts`). So `host:8080` is a URI, `010.0.0.1` a DNS name, and the empty
host of many guides (`"hosts": [""]`) an empty DNS name. Encoded order: DNS, e-mail, IP, URI.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.errors import Code, CodedError, DERError
from ocspd.pki import der, extensions, go_hosts
from ocspd.pki import der_reader as reader

if TYPE_CHECKING:
    from collections.abc import Sequence

_EMAIL = 1
_DNS = 2
_URI = 6
_IP = 7
_MAPPED = bytes(10) + b"\xff\xff"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

MAX_NAMES = 5000
"""The limit for one certificate: more than any client reads, and signed in a fraction of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativeNames:
    """The names of a subject by kind; `ips` are 4 or 16 bytes each."""

    dns: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    ips: tuple[bytes, ...] = ()
    uris: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.dns or self.emails or self.ips or self.uris)

    def only_ips(self) -> AlternativeNames:
        """Return the names that CFSSL keeps in a CA certificate."""
        return AlternativeNames(ips=self.ips)

    def is_plain(self) -> bool:
        """Return whether every reader takes them as they are: printable ASCII, and none of them empty."""
        texts = (*self.dns, *self.emails, *self.uris)
        return all(texts) and "".join(texts).isprintable() and "".join(texts).isascii()

    def encode(self) -> bytes:
        """Return the DER of GeneralNames; DERError for a name that is not ASCII or has control characters."""
        kinds = ((_DNS, self.dns), (_EMAIL, self.emails), (_IP, self.ips), (_URI, self.uris))
        return der.sequence(
            *(
                der.tlv(
                    der.context(tag, constructed=False),
                    value if isinstance(value, bytes) else _ia5(value),
                )
                for tag, values in kinds
                for value in values
            )
        )

    def to_hosts(self) -> list[str]:
        """Return the names as a list of hosts that `classify` reads again (ordered by kind, IP first)."""
        return [*(_ip_text(value) for value in self.ips), *self.dns, *self.emails, *self.uris]


def classify(hosts: Sequence[str]) -> AlternativeNames:
    """Sort hosts into kinds; the only error is CodedError 9300 for more than MAX_NAMES."""
    if len(hosts) > MAX_NAMES:
        raise CodedError(
            Code.CSR_BAD_REQUEST,
            f"{len(hosts)} hosts, more than the {MAX_NAMES} one certificate may have: request several",
        )
    ips: list[bytes] = []
    emails, uris, dns = [], [], []
    for host in hosts:
        if (address := ip_address(host)) is not None:
            ips.append(address)
        elif (email := go_hosts.email_address(host)) is not None:
            emails.append(email)
        elif (uri := go_hosts.request_uri(host)) is not None:
            uris.append(uri)
        else:
            dns.append(host)
    return AlternativeNames(dns=tuple(dns), emails=tuple(emails), ips=tuple(ips), uris=tuple(uris))


def _ia5(text: str) -> bytes:
    if has_control(text):
        raise DERError(f"host {text[:200]!r} contains a control character")
    return extensions.ia5(text)


def has_control(text: str) -> bool:
    """Return whether a name has a control character: verifiers that stop at NUL would read another name."""
    return _CONTROL.search(text) is not None


def ip_address(text: str) -> bytes | None:
    """Return the bytes of an IP address as net.ParseIP reads it; an IPv4-mapped one has four."""
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


def parse(value: bytes, *, lenient: bool = False) -> AlternativeNames:
    """Read the DER of GeneralNames as Go does; DERError when malformed.

    Kinds other than these four, and constructed ones, are ignored. URIs come back as Go writes them and
    IPv4-mapped addresses with four bytes, as in CFSSL's certificates. With `lenient`, names that cannot be
    read are left out and the rest is kept as it is: for existing certificates.
    """
    found: dict[int, list[bytes]] = {_EMAIL: [], _DNS: [], _URI: [], _IP: []}
    count = 0
    for element in reader.elements(reader.single(value, reader.SEQUENCE, "subjectAltName")):
        kind = element.tag ^ 0x80
        count += 1
        if kind in found:
            found[kind].append(element.content)
    if lenient:
        return AlternativeNames(
            dns=_readable(found[_DNS]),
            emails=_readable(found[_EMAIL]),
            ips=tuple(octets for octets in found[_IP] if len(octets) in {4, 16}),
            uris=_readable(found[_URI]),
        )
    if count > MAX_NAMES:
        raise DERError(f"{count} subject alternative names, more than one certificate may have")
    return AlternativeNames(
        dns=tuple(_text(octets, "dNSName") for octets in found[_DNS]),
        emails=tuple(_text(octets, "rfc822Name") for octets in found[_EMAIL]),
        ips=tuple(_address(octets) for octets in found[_IP]),
        uris=tuple(_uri(_text(octets, "uniformResourceIdentifier")) for octets in found[_URI]),
    )


def _readable(values: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(octets.decode() for octets in values if octets.isascii())


def _text(octets: bytes, kind: str) -> str:
    if not octets.isascii():
        raise DERError(f"a {kind} in subjectAltName is not ASCII")
    text = octets.decode()
    if has_control(text):
        raise DERError(f"a {kind} in subjectAltName contains a control character")
    return text


def _address(octets: bytes) -> bytes:
    if len(octets) not in {4, 16}:
        raise DERError(f"an IP address in subjectAltName has {len(octets)} bytes instead of 4 or 16")
    return octets[12:] if octets.startswith(_MAPPED) and len(octets) == 16 else octets


def _uri(text: str) -> str:
    shown = go_hosts.uri(text)
    if shown is None:
        raise DERError(f"cannot parse the URI {text[:200]!r} in subjectAltName")
    return shown
