"""CertID: a certificate named by hashes of its issuer and by its serial (RFC 6960 §4.1.1)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.errors import ConfigError
from ocspd.pki import der

if TYPE_CHECKING:
    from cryptography import x509

HASHES: dict[str, str] = {
    "sha1": "1.3.14.3.2.26",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
"""CertID hash algorithms by the name used throughout ocspd, with their OIDs (RFC 6960 names no others)."""


@dataclass(frozen=True, slots=True)
class CertificateParts:
    """Parts of a certificate exactly as they are encoded in it."""

    issuer: bytes
    """DER of the issuer Name."""
    subject: bytes
    """DER of the subject Name."""
    key_info: bytes
    """DER of the SubjectPublicKeyInfo."""
    key_bits: bytes
    """Value of the subjectPublicKey BIT STRING, without tag, length and unused-bits octet."""


def parts_of(certificate: x509.Certificate) -> CertificateParts:
    """Cut names and key out of a certificate.

    `Name.public_bytes()` would re-encode them, and a hash over that identifies another issuer if the
    certificate's own encoding differs from ours (string types, order in a multi-valued RDN).
    """
    fields = der.children(certificate.tbs_certificate_bytes)
    if fields[0][0] == der.context(0, constructed=True):  # version, absent in v1
        del fields[0]
    _serial, _algorithm, issuer, _validity, subject, key_info = fields[:6]
    _, key = der.children(key_info)
    return CertificateParts(issuer, subject, key_info, der.content(key)[1:])


def issuer_hashes(issuer: x509.Certificate, hash_name: str) -> tuple[bytes, bytes]:
    """Return issuerNameHash and issuerKeyHash of certificates issued by `issuer`.

    `hash_name` is a key of HASHES; ConfigError otherwise.
    """
    check_hash_name(hash_name)
    parts = parts_of(issuer)
    return _digest(hash_name, parts.subject), _digest(hash_name, parts.key_bits)


def check_hash_name(hash_name: str) -> None:
    """Raise ConfigError naming the supported algorithms unless hash_name is one of them."""
    if hash_name not in HASHES:
        raise ConfigError(f"unknown CertID hash {hash_name!r}: use {', '.join(HASHES)}")


def certid_prefix(issuer: x509.Certificate, hash_name: str) -> bytes:
    """Encode the content of a CertID up to its serial number, the only part that differs by certificate.

    The AlgorithmIdentifier carries NULL parameters, as all clients in use send it.
    """
    name_hash, key_hash = issuer_hashes(issuer, hash_name)
    return b"".join(
        (
            der.sequence(der.oid(HASHES[hash_name]), der.NULL),
            der.tlv(der.OCTET_STRING, name_hash),
            der.tlv(der.OCTET_STRING, key_hash),
        )
    )


def key_identifier(certificate: x509.Certificate) -> bytes:
    """Return SHA-1 of the certificate's subjectPublicKey bits: KeyHash of ResponderID (RFC 6960 §4.2.1)."""
    return _digest("sha1", parts_of(certificate).key_bits)


def _digest(hash_name: str, data: bytes) -> bytes:
    # SHA-1 names an issuer here and protects nothing
    return hashlib.new(hash_name, data, usedforsecurity=False).digest()
