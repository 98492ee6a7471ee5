"""Name constraints (RFC 5280 §4.2.1.10) as Go applies them: DNS names, e-mail and IP addresses, URIs."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ocspd.errors import DERError
from ocspd.pki import der_reader as reader
from ocspd.pki import sans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PERMITTED, _EXCLUDED = 0xA0, 0xA1
_EMAIL, _DNS, _URI, _IP = 0x81, 0x82, 0x86, 0x87
_KINDS = {_EMAIL: "email address", _DNS: "DNS name", _URI: "URI", _IP: "IP address"}

MAX_COMPARISONS = 250_000
"""Names times constraints: in Go for one certificate, here for the whole search for its chains."""
_USUAL_BYTES = 256
"""A name or constraint that is longer counts several times: no DNS name is."""


class NameNotAllowedError(DERError):
    """A name is outside of what the constraints allow; the message says which."""


class Comparisons:
    """What is left of MAX_COMPARISONS: whoever sends certificates also wrote their names."""

    def __init__(self) -> None:
        self._left = MAX_COMPARISONS

    def spend(self, count: int) -> None:
        """Take some before they are made; DERError when there are not enough, and from then on."""
        self._left -= count
        if self._left < 0:
            raise DERError("too many name constraints to check")


def is_understood(value: bytes) -> bool:
    """Return whether every constraint is of a kind that `check` applies."""
    try:
        permitted, excluded = _read(value)
    except DERError:
        return False
    return set(permitted) | set(excluded) <= set(_KINDS)


def check(value: bytes, names: bytes, comparisons: Comparisons) -> None:
    """Check the names of a subjectAltName against nameConstraints, both as DER.

    NameNotAllowedError for the first name that is not allowed, DERError for what cannot be read, or when
    `comparisons` are used up.
    """
    comparisons.spend(1)
    permitted, excluded = _read(value)
    found = sans.parse(names, lenient=True)
    by_kind: dict[int, Sequence[str | bytes]] = {
        _EMAIL: found.emails,
        _DNS: found.dns,
        _URI: found.uris,
        _IP: found.ips,
    }
    for kind, values in by_kind.items():
        forbidden, allowed = excluded.get(kind, []), permitted.get(kind, [])
        # reading the names costs as much as comparing each of them once
        comparisons.spend(_weight(values) * (1 + _weight(forbidden) + _weight(allowed)))
        matches = _MATCHES[kind]
        for name in values:
            what = f'{_KINDS[kind]} "{_text(kind, name)}"'
            for constraint in forbidden:
                if matches(name, constraint):
                    shown = _text(kind, constraint)
                    raise NameNotAllowedError(f'{what} is excluded by constraint "{shown}"')
            if allowed and not any(matches(name, constraint) for constraint in allowed):
                raise NameNotAllowedError(f"{what} is not permitted by any constraint")


def _weight(values: Sequence[str | bytes]) -> int:
    return sum(1 + len(value) // _USUAL_BYTES for value in values)


def _read(value: bytes) -> tuple[dict[int, list[bytes]], dict[int, list[bytes]]]:
    """Return the permitted and the excluded subtrees by the tag of their GeneralName."""
    found: dict[int, dict[int, list[bytes]]] = {_PERMITTED: {}, _EXCLUDED: {}}
    for part in reader.each(reader.single(value, reader.SEQUENCE, "nameConstraints")):
        if part.tag not in found:
            raise DERError("nameConstraints has an unknown field")
        for subtree in reader.each(part.content):
            fields = reader.elements(subtree.content)
            if not fields:
                raise DERError("a name constraint is empty")
            found[part.tag].setdefault(fields[0].tag, []).append(fields[0].content)
    return found[_PERMITTED], found[_EXCLUDED]


def _address_text(value: bytes) -> str:
    """Write an address, or a network as address and mask, both of 4 or 16 bytes."""
    if len(value) in {4, 16}:
        return str(ipaddress.ip_address(value))
    if len(value) not in {8, 32}:
        return value.hex()
    half = len(value) // 2
    mask = int.from_bytes(value[half:], "big")
    return f"{ipaddress.ip_address(value[:half])}/{mask.bit_count()}"


def _text(kind: int, value: str | bytes) -> str:
    if isinstance(value, str):
        return value
    return _address_text(value) if kind == _IP else value.decode("ascii", "replace")


def _labels(domain: str) -> list[str] | None:
    """Return the labels of a domain from the last to the first, None if it is not one."""
    if not domain:
        return []
    labels = domain.lower().split(".")[::-1]
    return None if "" in labels else labels


def _domain_matches(domain: str, constraint: bytes) -> bool:
    """Return whether a domain is the constraint or below it; one with a leading period is below it only."""
    text = constraint.decode("ascii", "replace")
    below = text.startswith(".")
    wanted, labels = _labels(text.removeprefix(".")), _labels(domain)
    if wanted is None or labels is None:
        raise DERError(f"cannot parse the domain name {domain[:200]!r} or its constraint {text[:200]!r}")
    return labels[: len(wanted)] == wanted and (not below or len(labels) > len(wanted))


def _dns_matches(name: str | bytes, constraint: bytes) -> bool:
    assert isinstance(name, str)
    return _domain_matches(name, constraint)


def _email_matches(name: str | bytes, constraint: bytes) -> bool:
    assert isinstance(name, str)
    local, _, domain = name.rpartition("@")
    if b"@" in constraint:
        wanted_local, _, wanted = constraint.decode("ascii", "replace").rpartition("@")
        return local == wanted_local and domain.lower() == wanted.lower()
    return _domain_matches(domain, constraint)


def _uri_matches(name: str | bytes, constraint: bytes) -> bool:
    assert isinstance(name, str)
    try:
        host = urlsplit(name).hostname
    except ValueError:
        host = None
    if not host or sans.ip_address(host) is not None:
        raise DERError(f"the URI {name[:200]!r} has no host that name constraints could apply to")
    return _domain_matches(host, constraint)


def _ip_matches(name: str | bytes, constraint: bytes) -> bool:
    assert isinstance(name, bytes)
    if len(constraint) != 2 * len(name):
        return False
    half = len(name)
    address, network, mask = (
        int.from_bytes(part, "big") for part in (name, constraint[:half], constraint[half:])
    )
    return address & mask == network & mask


_MATCHES: dict[int, Callable[[str | bytes, bytes], bool]] = {
    _EMAIL: _email_matches,
    _DNS: _dns_matches,
    _URI: _uri_matches,
    _IP: _ip_matches,
}
