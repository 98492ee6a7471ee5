"""From decisions to a signed certificate (RFC 5280 §4.1), laid out as by Go's x509.CreateCertificate.

Order of extensions: keyUsage, extKeyUsage, basicConstraints, subject and authority key identifier,
authorityInfoAccess, subjectAltName, cRLDistributionPoints, then `extra`. An extra extension with the
OID of one of these takes its place, at the end.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from ocspd.errors import Code, CodedError, DERError
from ocspd.model import CertificateRow
from ocspd.pki import der, extensions, keys, pem
from ocspd.pki import der_reader as reader
from ocspd.pki.cert_reader import read_certificate
from ocspd.pki.certid import parts_of
from ocspd.pki.certs import subject_key_id, to_row
from ocspd.pki.extensions import MAX_EXTENSIONS, BasicConstraints, Extension
from ocspd.pki.sans import AlternativeNames

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from cryptography import x509

    from ocspd.pki.keys import PrivateKey
    from ocspd.pki.names import Name
    from ocspd.pki.usages import Usages

_UTC_TIME = 0x17
_EMPTY_NAME = b"\x30\x00"

MAX_BYTES = 512 * 1024
"""TLS clients accept 100 KB to 16 MB of certificates; reading this many takes a twentieth of a second."""


@dataclass(frozen=True, slots=True)
class IssuerParts:
    """What an issuer contributes to every certificate: its name as it is encoded, and its key identifier."""

    name: bytes
    key_id: bytes | None

    @classmethod
    def of(cls, issuer: x509.Certificate) -> IssuerParts:
        """Read a certificate; its name is copied byte by byte."""
        return cls(parts_of(issuer).subject, subject_key_id(issuer))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What a key contributes to every certificate: the AlgorithmIdentifier, and how it signs."""

    algorithm: bytes
    sign: Callable[[bytes], bytes]

    @classmethod
    def of(cls, key: PrivateKey) -> SigningKey:
        """Work out what does not depend on the certificate."""
        return cls(keys.signature_algorithm(key), keys.signer(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate that was signed here, with what its row in the database says about it."""

    der: bytes
    serial: int
    aki: str
    not_before: datetime
    not_after: datetime
    dns: tuple[str, ...]
    names: tuple[str, ...]
    """Its alternative names of all kinds."""
    common_name: str

    def pem(self) -> str:
        """Return the PEM text, with a newline at its end."""
        return pem.encode("CERTIFICATE", self.der)

    def certificate(self) -> x509.Certificate:
        """Return the certificate as it is read from its bytes."""
        return read_certificate(self.der)

    def row(self, *, label: str, issued_at: datetime, replaced: bool = False) -> CertificateRow:
        """Return the row CFSSL writes for a certificate it has just signed; `sans` has DNS names only.

        `replaced` says that the request had names of its own in place of the CSR's: Go then has an empty list
        where it otherwise has none.
        """
        return CertificateRow(
            serial=self.serial,
            aki=self.aki,
            pem=self.pem(),
            expiry=self.not_after,
            ca_label=label,
            issued_at=issued_at,
            not_before=self.not_before,
            sans=list(self.dns) or ([] if replaced else None),
            common_name=self.common_name,
        )


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
        """Sign as `issue` does, and read the certificate."""
        parts = None if issuer is None else IssuerParts.of(issuer)
        return read_certificate(self.issue(SigningKey.of(key), parts).der)

    def issue(self, key: SigningKey, issuer: IssuerParts | None = None) -> Issued:
        """Sign with the issuer's key; without an issuer the certificate is self-signed.

        There is an authority key identifier if the issuer has a subject key identifier, even when issuer and
        subject have the same name: without one the database could not tell whose certificate it is.
        CodedError 1300 for values that cannot be encoded or read again; then nothing was signed.
        """
        algorithm = key.algorithm
        try:
            subject = self.subject.encode()
            constant = self._constant(None if issuer is None else issuer.key_id)
            body = self._body(subject, subject if issuer is None else issuer.name, constant, algorithm)
        except DERError as err:
            raise CodedError(Code.CERT_BAD_REQUEST, str(err)) from err
        if len(body) > MAX_BYTES:
            raise CodedError(
                Code.CERT_BAD_REQUEST,
                f"the certificate would have {len(body)} bytes, more than clients read "
                f"({MAX_BYTES}): request several",
            )
        if constant.readable and self._is_plain():
            row = None
        else:
            row = _rehearse(body, algorithm)
            constant.readable = not constant.replaced
        signature = der.tlv(der.BIT_STRING, b"\0", key.sign(body))
        return Issued(
            der=der.sequence(body, algorithm, signature),
            serial=self.serial,
            aki=constant.aki if row is None else row.aki,
            not_before=self.not_before.replace(microsecond=0),
            not_after=self.not_after.replace(microsecond=0),
            dns=self.alternative_names.dns if row is None else tuple(row.sans or ()),
            names=tuple(self.alternative_names.to_hosts()),
            common_name=self.subject.common_name if row is None else row.common_name,
        )

    def _constant(self, authority: bytes | None) -> _Constant:
        urls = (self.ocsp_urls, self.issuer_urls, self.crl_urls)
        # a request may bring extensions and the URL of a CRL
        size = sum(len(extension.value) for extension in self.extra) + sum(map(len, chain(*urls)))
        find = _constant if size <= _SMALL_BYTES else _constant.__wrapped__
        return find(self.usages, self.constraints, authority, urls, self.extra)

    def _is_plain(self) -> bool:
        """Return whether every reader takes all that varies, so that no rehearsal is needed."""
        return self.not_before.year >= 1950 and self.subject.is_plain() and self.alternative_names.is_plain()

    def _body(self, subject: bytes, issuer_name: bytes, constant: _Constant, algorithm: bytes) -> bytes:
        names = b""
        if self.alternative_names:
            names = Extension(
                extensions.SUBJECT_ALT_NAME,
                critical=subject == _EMPTY_NAME,
                value=self.alternative_names.encode(),
            ).encode()
        key_identifier = extensions.subject_key_id(key_id(self.key_info)).encode()
        wanted = constant.around(key_identifier, names)
        for kind, _ in self.subject.extra:
            _check_identifier(kind)
        return der.sequence(
            _VERSION_3,
            der.integer(self.serial),
            algorithm,
            issuer_name,
            _validity(self.not_before, self.not_after),
            subject,
            self.key_info,
            der.tlv(_EXTENSIONS, der.sequence(*wanted)),
        )


_VERSION_3 = der.tlv(der.context(0, constructed=True), der.integer(2))
_EXTENSIONS = der.context(3, constructed=True)
_SMALL_BYTES = 4096
"""Larger extensions and URLs of a request are not kept in memory for the next one."""


@dataclass(slots=True, kw_only=True)
class _Constant:
    """The extensions that follow from issuer and profile, encoded: they are the same in many certificates."""

    before: tuple[bytes, ...]
    """keyUsage, extKeyUsage, basicConstraints."""
    between: tuple[bytes, ...]
    """authorityKeyIdentifier, authorityInfoAccess."""
    after: tuple[bytes, ...]
    """cRLDistributionPoints and `extra`."""
    aki: str
    replaced: frozenset[str]
    """Which of the extensions that have a place of their own `extra` replaces."""
    readable: bool = False
    """Whether a certificate with them has been read again."""

    def around(self, key_identifier: bytes, names: bytes) -> list[bytes]:
        """Return all extensions in their order, given the two that are different in every certificate."""
        wanted = list(self.before)
        if extensions.SUBJECT_KEY_ID not in self.replaced:
            wanted.append(key_identifier)
        wanted += self.between
        if names and extensions.SUBJECT_ALT_NAME not in self.replaced:
            wanted.append(names)
        wanted += self.after
        if len(wanted) > MAX_EXTENSIONS:
            raise DERError(f"{len(wanted)} extensions, more than the {MAX_EXTENSIONS} a certificate may have")
        return wanted


@lru_cache(256)
def _constant(
    usages: Usages,
    constraints: BasicConstraints,
    authority: bytes | None,
    urls: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]],
    extra: tuple[Extension, ...],
) -> _Constant:
    ocsp_urls, issuer_urls, crl_urls = urls
    before, between, after = [], [], []
    if usages.key_usage:
        before.append(extensions.key_usage(usages.key_usage))
    if usages.extended:
        before.append(extensions.extended_key_usage(usages.extended))
    before.append(extensions.basic_constraints(constraints))
    if authority:
        between.append(extensions.authority_key_id(authority))
    if ocsp_urls or issuer_urls:
        between.append(extensions.authority_info_access(ocsp_urls, issuer_urls))
    if crl_urls:
        after.append(extensions.crl_distribution_points(crl_urls))
    for extension in (*before, *between, *after, *extra):
        _check_identifier(extension.oid)
    theirs = {extension.oid for extension in extra}

    def kept(ours: list[Extension]) -> tuple[bytes, ...]:
        return tuple(extension.encode() for extension in ours if extension.oid not in theirs)

    return _Constant(
        before=kept(before),
        between=kept(between),
        after=(*kept(after), *(extension.encode() for extension in extra)),
        aki=(authority or b"").hex(),
        replaced=frozenset(theirs & _PLACED),
    )


_PLACED = frozenset(
    {
        extensions.KEY_USAGE,
        extensions.EXTENDED_KEY_USAGE,
        extensions.BASIC_CONSTRAINTS,
        extensions.SUBJECT_KEY_ID,
        extensions.AUTHORITY_KEY_ID,
        extensions.AUTHORITY_INFO_ACCESS,
        extensions.SUBJECT_ALT_NAME,
        extensions.CRL_DISTRIBUTION_POINTS,
    }
)


def _check_identifier(dotted: str) -> None:
    # the reader that certificates are verified with has the same limit
    reader.object_identifier(der.content(der.oid(dotted)))


def _rehearse(body: bytes, algorithm: bytes) -> CertificateRow:
    """Read a certificate as it will be returned and stored, with an empty signature; return its row.

    A certificate that is signed but cannot be read would exist unrecorded and could not be revoked.
    CodedError 1300 for one.
    """
    try:
        draft = read_certificate(der.sequence(body, algorithm, der.tlv(der.BIT_STRING, b"\0\0")))
        return to_row(draft, label="", issued_at=draft.not_valid_before_utc)
    except (ValueError, CodedError) as err:
        reason = err.message if isinstance(err, CodedError) else " ".join(str(err).split())[:200]
        raise CodedError(
            Code.CERT_BAD_REQUEST, f"the certificate would not be readable, so it was not signed: {reason}"
        ) from err


def key_id(key_info: bytes) -> bytes:
    """Return SHA-1 of the subjectPublicKey bits (RFC 5280 §4.2.1.2, method 1)."""
    _, bits = der.children(key_info)
    bits = der.content(bits)[1:]
    return hashlib.sha1(bits, usedforsecurity=False).digest()


def random_serial() -> int:
    """Return a serial of 159 random bits: 20 bytes with the top bit clear; never zero."""
    return int.from_bytes(secrets.token_bytes(20), "big") & ((1 << 159) - 1) or 1


@lru_cache(256)
def _validity(start: datetime, end: datetime) -> bytes:
    return der.sequence(_time(start), _time(end))


def _time(instant: datetime) -> bytes:
    """Encode a time by RFC 5280 §4.1.2.5: UTCTime through 2049, then GeneralizedTime."""
    if 1950 <= instant.year < 2050:
        return der.tlv(_UTC_TIME, der.time_text(instant)[2:])
    return der.generalized_time(instant)
