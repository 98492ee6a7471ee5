"""Certificate revocation lists (RFC 5280 §5): encoded and signed.

A list is put together from encoded entries, because most of them do not change from one list to the next, and
signed through its hash, so that no more than two copies of it exist for a moment. The issuer's name is copied
byte by byte from the CA certificate, as verifiers compare it with that of the certificates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from ocspd.model import REMOVE_FROM_CRL, known_reason
from ocspd.pki import der, extensions, keys, pem
from ocspd.pki.certid import key_identifier, parts_of
from ocspd.pki.certs import subject_key_id
from ocspd.pki.extensions import Extension

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ocspd.pki.keys import PrivateKey

MAX_NUMBER_BYTES = 20
"""The longest cRLNumber (RFC 5280 §5.2.3)."""
_UTC_TIME = 0x17
_LAST_UTC_YEAR = 2049
_FIRST_UTC_YEAR = 1950
_NUMBER = "2.5.29.20"
_REASON = "2.5.29.21"
_DELTA_INDICATOR = "2.5.29.27"
_FRESHEST = "2.5.29.46"
_VERSION_2 = der.integer(1)
_SHA256_RSA = "1.2.840.113549.1.1.11"
_ECDSA: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    "secp224r1": ("1.2.840.10045.4.3.2", hashes.SHA256()),
    "secp256r1": ("1.2.840.10045.4.3.2", hashes.SHA256()),
    "secp384r1": ("1.2.840.10045.4.3.3", hashes.SHA384()),
    "secp521r1": ("1.2.840.10045.4.3.4", hashes.SHA512()),
}


def _time(instant: datetime) -> bytes:
    """Encode a time as UTCTime through the year 2049, as GeneralizedTime from 2050 (RFC 5280 §5.1.2.4)."""
    if _FIRST_UTC_YEAR <= instant.year <= _LAST_UTC_YEAR:
        return der.tlv(_UTC_TIME, der.time_text(instant)[2:])
    return der.generalized_time(instant)


@lru_cache(maxsize=4096)
def _time_at(seconds: int) -> bytes:
    return _time(datetime.fromtimestamp(seconds, UTC))


def _reason_extension(reason: int) -> bytes:
    value = der.tlv(der.ENUMERATED, bytes((reason,)))
    return der.sequence(Extension(_REASON, critical=False, value=value).encode())


_REASONS = {reason: _reason_extension(reason) for reason in range(1, 11) if known_reason(reason)}


def serial_of(serial: int) -> bytes:
    """Encode a serial number, with which every entry's content begins."""
    return der.integer(serial)


def entry(serial: int, revoked_s: int, reason: int = 0) -> bytes:
    """Encode one revoked certificate; `revoked_s` is in seconds since the epoch, 0 for an unknown time.

    A reason that does not exist is left out, as is unspecified (§5.3.1), and removeFromCRL, which does not
    revoke.
    """
    extension = b"" if reason == REMOVE_FROM_CRL else _REASONS.get(reason, b"")
    return der.sequence(der.integer(serial), _time_at(revoked_s), extension)


def removal(serial: int, removed_s: int) -> bytes:
    """Encode an entry of a delta CRL: the certificate is no longer revoked (removeFromCRL, §5.3.1)."""
    return der.sequence(der.integer(serial), _time_at(removed_s), _REASONS[REMOVE_FROM_CRL])


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What is in a list besides its entries."""

    number: int
    """cRLNumber, at most 20 bytes."""
    this_update: datetime
    next_update: datetime
    base: int | None = None
    """BaseCRLNumber, which makes it a delta CRL."""
    freshest: str = ""
    """The URL of the delta CRL, for a complete one."""


class CRLSigner:
    """Signs the CRLs of one CA."""

    def __init__(self, certificate: x509.Certificate, key: PrivateKey) -> None:
        """Combine certificate and key; CodedError 2300 if they do not match, 2200 if unsupported."""
        keys.check_key_matches(key, certificate)
        self.certificate = certificate
        self.key = key
        self._issuer = parts_of(certificate).subject
        self._sign, self._algorithm = _signing(key)
        identifier = subject_key_id(certificate)
        self.aki = (identifier or b"").hex()
        """The key identifier in certdb's rows of this CA: lower-case hex, "" if it has none."""
        self.name = (identifier or key_identifier(certificate)).hex()
        """How file names call the CA: its key identifier, computed (RFC 7093 §2) if it has none."""
        self._authority = b"" if not identifier else extensions.authority_key_id(identifier).encode()

    def is_same_ca(self, other: CRLSigner) -> bool:
        """Return whether CRLs of both are for the same certificates: same name, same key."""
        mine, theirs = parts_of(self.certificate), parts_of(other.certificate)
        return (mine.subject, mine.key_bits) == (theirs.subject, theirs.key_bits)

    def warnings(self) -> list[str]:
        """Return why verifiers will not accept what this CA signs."""
        found = []
        try:
            usage = self.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError, UnsupportedAlgorithm):
            usage = None
        if usage is not None and not usage.crl_sign:
            found.append(
                'the keyUsage of the CA certificate does not include cRLSign ("crl sign"): verifiers reject '
                "its CRLs"
            )
        return found

    def sign(self, heading: Heading, entries: Iterable[bytes], size: int | None = None) -> bytes:
        """Return the DER of a CertificateList; `entries` are encoded, or runs of encoded ones.

        With their total `size` in bytes they are not gathered first.
        """
        if size is None:
            entries = list(entries)
            size = sum(map(len, entries))
        before = [
            _VERSION_2,
            self._algorithm,
            self._issuer,
            _time(heading.this_update),
            _time(heading.next_update),
            der.header(der.SEQUENCE, size) if size else b"",  # absent without entries (§5.1.2.6)
        ]
        after = der.tlv(der.context(0, constructed=True), der.sequence(*self._extensions(heading)))
        inner = sum(map(len, before)) + size + len(after)
        listed = bytearray(der.header(der.SEQUENCE, inner))
        for part in before:
            listed += part
        start = len(listed)
        for run in entries:
            listed += run
        if len(listed) - start != size:
            raise ValueError("the entries of a CRL are not as long as they were said to be")
        listed += after
        signature = b"\0" + self._sign(listed)
        tail = self._algorithm + der.tlv(der.BIT_STRING, signature)
        head = der.header(der.SEQUENCE, len(listed) + len(tail))
        return b"".join((head, listed, tail))

    def _extensions(self, heading: Heading) -> Sequence[bytes]:
        if heading.number.bit_length() >= 8 * MAX_NUMBER_BYTES:
            raise ValueError(f"a CRL number of more than {MAX_NUMBER_BYTES} bytes")
        number = Extension(_NUMBER, critical=False, value=der.integer(heading.number))
        found = [self._authority, number.encode()]
        if heading.base is not None:
            base = Extension(_DELTA_INDICATOR, critical=True, value=der.integer(heading.base))
            found.append(base.encode())
        elif heading.freshest:
            points = extensions.crl_distribution_points([heading.freshest])
            found.append(Extension(_FRESHEST, critical=False, value=points.value).encode())
        return found


def _signing(key: PrivateKey) -> tuple[Callable[[bytearray], bytes], bytes]:
    """Return the signing function and the DER of its AlgorithmIdentifier: CFSSL's choice for CRLs.

    RSA keys sign with SHA-256 whatever their size. Hashing is left to hashlib, which lets other threads run.
    """
    match key:
        case ec.EllipticCurvePrivateKey() if key.curve.name in _ECDSA:
            dotted, algorithm = _ECDSA[key.curve.name]
            scheme = ec.ECDSA(Prehashed(algorithm))
            return lambda data: key.sign(_digest(algorithm, data), scheme), der.sequence(der.oid(dotted))
        case rsa.RSAPrivateKey():
            pkcs1, sha256 = padding.PKCS1v15(), hashes.SHA256()
            return (
                lambda data: key.sign(_digest(sha256, data), pkcs1, Prehashed(sha256)),
                der.sequence(der.oid(_SHA256_RSA), der.NULL),
            )
        case ed25519.Ed25519PrivateKey():
            return lambda data: key.sign(bytes(data)), keys.signature_algorithm(key)
        case _:
            return lambda data: keys.sign(key, bytes(data)), keys.signature_algorithm(key)


def _digest(algorithm: hashes.HashAlgorithm, data: bytearray) -> bytes:
    return hashlib.new(algorithm.name, data).digest()


def to_pem(crl: bytes) -> str:
    """Return the PEM text of a CRL (RFC 7468 §7), with a newline at its end."""
    return pem.encode("X509 CRL", crl)
