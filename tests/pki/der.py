"""What two certificates are compared by, read with a few lines of DER of the tests' own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    from cryptography import x509


def elements(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """Split DER into (tag, content, whole element)."""
    found = []
    position = 0
    while position < len(data):
        start, length = position + 2, data[position + 1]
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[position + 2 : start], "big")
        found.append((data[position], data[start : start + length], data[position : start + length]))
        position = start + length
    assert position == len(data)
    return found


def fields(certificate: x509.Certificate) -> list[tuple[int, bytes, bytes]]:
    """Return the fields of the TBSCertificate: version, serial, algorithm, issuer, validity, …"""
    return elements(elements(certificate.tbs_certificate_bytes)[0][1])


@dataclass(frozen=True)
class Shape:
    """Everything of a certificate that does not change from one signing to the next."""

    subject: str
    issuer: str
    algorithm: str
    key: str
    lifetime: timedelta
    serial_octets: int
    extensions: list[tuple[str, bool, str]]


def extension_list(certificate: x509.Certificate) -> list[tuple[str, bool, str]]:
    """Return (OID content, critical, value), in encoded order; the octets in hex."""
    found = []
    for tag, content, _ in fields(certificate):
        if tag == 0xA3:
            for _, extension, _ in elements(elements(content)[0][1]):
                parts = elements(extension)
                found.append((parts[0][1].hex(), len(parts) == 3, parts[-1][1].hex()))
    return found


def shape(certificate: x509.Certificate) -> Shape:
    """Return the shape of a certificate."""
    _version, serial, algorithm, issuer, _validity, subject, key = (
        element for _, _, element in fields(certificate)[:7]
    )
    assert certificate.serial_number > 0
    return Shape(
        subject=subject.hex(),
        issuer=issuer.hex(),
        algorithm=algorithm.hex(),
        key=key.hex(),
        lifetime=certificate.not_valid_after_utc - certificate.not_valid_before_utc,
        serial_octets=(len(serial) - 2 + 3) // 4,  # random: 17 to 20 octets are alike
        extensions=extension_list(certificate),
    )
