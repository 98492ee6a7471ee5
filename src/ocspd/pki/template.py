"""From decisions to a signed certificate (RFC 5280 §4.1), laid out as by Go's x509.CreateCertificate.

Order of extensions: keyUsage, extKeyUsage, basicConstraints, subject and authority key identifier,
authorityInfoAccess, subjectAltName, cRLDistributionPoints, then `extra`. An extra extension with the
OID of one of these takes its place, at the end.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocspd.errors import Code, CodedError, DERError
from ocspd.pki import der, extensions, keys
from ocspd.pki import der_reader as reader
from ocspd.pki.cert_reader import read_certificate
from ocspd.pki.certid import parts_of
from ocspd.pki.certs import subject_key_id, to_row
from ocspd.pki.extensions import MAX_EXTENSIONS, BasicConstraints, Extension
from ocspd.pki.sans import AlternativeNames

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

    from ocspd.pki.keys import PrivateKey
    from ocspd.pki.names import Name
    from ocspd.pki.usages import Usages

_UTC_TIME = 0x17
_EMPTY_NAME = b"\x30\x00"

MAX_BYTES = 512 * 1024
"""TLS clients accept 100 KB to 16 MB of certificates; reading this many takes a twentieth of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateTemplate:
    """All of a certificate except its issuer and signature. Fractions of seconds are dropped."""

    serial: int
    subject: Name
    key_info: bytes
    not_before: datetime
    not_after: datetime
    usages: Usages
    alternative_names: AlternativeNames = field(default_factory=AlternativeNames)
    constraints: BasicConstraints = field(default_factory=BasicConstraints)
    ocsp_urls: tuple[str, ...] = ()
    issuer_urls: tuple[str, ...] = ()
    crl_urls: tuple[str, ...] = ()
    extra: tuple[Extension, ...] = ()

    def sign(self, key: PrivateKey, issuer: x509.Certificate | None = None) -> x509.Certificate:
        """Sign with the issuer's key; without an issuer the certificate is self-signed.

        The issuer's name is copied byte by byte. There is an authority key identifier if the issuer has a
        subject key identifier, even when issuer and subject have the same name: without one the database
        could not tell whose certificate it is. CodedError 1300 for values that cannot be encoded or read
        again; then nothing was signed.
        """
        try:
            subject = self.subject.encode()
            issuer_name, authority = subject, None
            if issuer is not None:
                issuer_name = parts_of(issuer).subject
                authority = subject_key_id(issuer)
            body = self._body(subject, issuer_name, authority, keys.signature_algorithm(key))
        except DERError as err:
            raise CodedError(Code.CERT_BAD_REQUEST, str(err)) from err
        if len(body) > MAX_BYTES:
            raise CodedError(
                Code.CERT_BAD_REQUEST,
                f"the certificate would have {len(body)} bytes, more than clients read "
                f"({MAX_BYTES}): request several",
            )
        _rehearse(body, keys.signature_algorithm(key))
        signature = der.tlv(der.BIT_STRING, b"\0", keys.sign(key, body))
        return read_certificate(der.sequence(body, keys.signature_algorithm(key), signature))

    def _body(self, subject: bytes, issuer_name: bytes, authority: bytes | None, algorithm: bytes) -> bytes:
        wanted = self._extensions(subject, authority)
        if len(wanted) > MAX_EXTENSIONS:
            raise DERError(f"{len(wanted)} extensions, more than the {MAX_EXTENSIONS} a certificate may have")
        for dotted in (*(each.oid for each in wanted), *(kind for kind, _ in self.subject.extra)):
            # the reader that certificates are verified with has the same limit
            reader.object_identifier(der.content(der.oid(dotted)))
        encoded = der.sequence(*(extension.encode() for extension in wanted))
        return der.sequence(
            der.tlv(der.context(0, constructed=True), der.integer(2)),
            der.integer(self.serial),
            algorithm,
            issuer_name,
            der.sequence(_time(self.not_before), _time(self.not_after)),
            subject,
            self.key_info,
            der.tlv(der.context(3, constructed=True), encoded),
        )

    def _extensions(self, subject: bytes, authority: bytes | None) -> list[Extension]:
        wanted = []
        if self.usages.key_usage:
            wanted.append(extensions.key_usage(self.usages.key_usage))
        if self.usages.extended:
            wanted.append(extensions.extended_key_usage(self.usages.extended))
        wanted.append(extensions.basic_constraints(self.constraints))
        wanted.append(extensions.subject_key_id(key_id(self.key_info)))
        if authority:
            wanted.append(extensions.authority_key_id(authority))
        if self.ocsp_urls or self.issuer_urls:
            wanted.append(extensions.authority_info_access(self.ocsp_urls, self.issuer_urls))
        if self.alternative_names:
            value = self.alternative_names.encode()
            wanted.append(
                Extension(extensions.SUBJECT_ALT_NAME, critical=subject == _EMPTY_NAME, value=value)
            )
        if self.crl_urls:
            wanted.append(extensions.crl_distribution_points(self.crl_urls))
        replaced = {extension.oid for extension in self.extra}
        return [extension for extension in wanted if extension.oid not in replaced] + list(self.extra)


def _rehearse(body: bytes, algorithm: bytes) -> None:
    """Read a certificate as it will be returned and stored, with an empty signature.

    A certificate that is signed but cannot be read would exist unrecorded and could not be revoked.
    CodedError 1300 for one.
    """
    try:
        draft = read_certificate(der.sequence(body, algorithm, der.tlv(der.BIT_STRING, b"\0\0")))
        to_row(draft, label="", issued_at=draft.not_valid_before_utc)
    except (ValueError, CodedError) as err:
        reason = err.message if isinstance(err, CodedError) else " ".join(str(err).split())[:200]
        raise CodedError(
            Code.CERT_BAD_REQUEST, f"the certificate would not be readable, so it was not signed: {reason}"
        ) from err


def key_id(key_info: bytes) -> bytes:
    """Return SHA-1 of the subjectPublicKey bits (RFC 5280 §4.2.1.2, method 1)."""
    bits = der.content(der.children(key_info)[1])[1:]
    return hashlib.sha1(bits, usedforsecurity=False).digest()


def random_serial() -> int:
    """Return a serial of 159 random bits: 20 bytes with the top bit clear; never zero."""
    return int.from_bytes(secrets.token_bytes(20), "big") & ((1 << 159) - 1) or 1


def _time(instant: datetime) -> bytes:
    """Encode a time by RFC 5280 §4.1.2.5: UTCTime through 2049, then GeneralizedTime."""
    if 1950 <= instant.year < 2050:
        return der.tlv(_UTC_TIME, der.time_text(instant)[2:])
    return der.generalized_time(instant)
