"""Certificates, including those that `cryptography` rejects but Go or OpenSSL read.

Existing CAs have names in T61String or with `*`, `&`, `_`, `@` in a PrintableString, parts of a name not in
DER order, NULL parameters of ECDSA, Booleans written out, times without seconds. Such a certificate is
represented by a `ForeignCertificate`: its own bytes for everything that is hashed, compared or copied, and
a copy in strict DER, whose signature is thus worthless, for everything that is only read.

BER lengths are rejected, as by Go.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from ocspd.errors import DERError
from ocspd.pki import der, extensions, names
from ocspd.pki import der_reader as reader
from ocspd.pki.signatures import verify

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    from ocspd.pki.extensions import Extension

_VERSION_3 = b"\xa0\x03\x02\x01\x02"
_EXTENSIONS = 0xA3

_PLACEHOLDER = "1.2.840.113549.1.1.11"
"""An algorithm (RSA with SHA-256) that stands in the strict copy for one that cannot."""

MAX_SERIAL_BYTES = 1024
"""RFC 5280 allows 20; programs in the field wrote some more. Longer ones are not converted to decimal."""


def read_certificate(data: bytes) -> x509.Certificate:
    """Read a certificate in DER; DERError with the cause when it is not one.

    The result has the attributes of x509.Certificate that are used here, whichever reader was used.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about serial 0 and long names, which old roots have
            found = x509.load_der_x509_certificate(data)
            # read on first use, so what cannot be read comes out here
            _ = found.subject, found.issuer, found.serial_number, found.version
            _ = found.not_valid_before_utc, found.not_valid_after_utc, found.extensions
            serial = found.serial_number
    except Exception:  # noqa: BLE001  (KeyError and types of its own: whatever it is, the other reader decides)
        return cast("x509.Certificate", ForeignCertificate(data))
    _check_serial(serial)
    return found


def _check_serial(serial: int) -> None:
    size = serial.bit_length() // 8 + 1
    if size > MAX_SERIAL_BYTES:
        raise DERError(f"its serial number has {size} bytes, more than the limit of {MAX_SERIAL_BYTES}")


def check_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Verify a certificate's signature with its issuer's key; ValueError or InvalidSignature if it fails.

    UnsupportedAlgorithm for an algorithm that cannot be verified here. Both may be ForeignCertificates.
    """
    if not any(isinstance(each, ForeignCertificate) for each in (certificate, issuer)):
        certificate.verify_directly_issued_by(issuer)
        return
    _, algorithm, signature = reader.elements(
        reader.single(
            certificate.public_bytes(serialization.Encoding.DER), reader.SEQUENCE, "the certificate"
        )
    )[:3]
    verify(
        issuer.public_key(),
        algorithm.content,
        reader.bits(signature.content),
        certificate.tbs_certificate_bytes,
        allow_sha1=True,
    )


class ForeignCertificate:
    """A certificate that is not strict DER, with the attributes of x509.Certificate that are used here."""

    def __init__(self, data: bytes) -> None:
        """Read the certificate; DERError with the cause when it is not one."""
        self._data = data
        outer = reader.elements(reader.single(data, reader.SEQUENCE, "the certificate"))
        tbs = reader.expect(outer, 0, reader.SEQUENCE, "the certificate's content")
        algorithm = reader.expect(outer, 1, reader.SEQUENCE, "the signature algorithm")
        self.signature = reader.bits(
            reader.expect(outer, 2, reader.BIT_STRING, "the certificate's signature").content
        )
        self.tbs_certificate_bytes = tbs.raw
        fields = reader.elements(tbs.content)
        if fields and fields[0].tag == 0xA0:
            del fields[0]
        serial = reader.expect(fields, 0, reader.INTEGER, "the serial number")
        self.serial_number = reader.integer(serial.content, lenient=True)
        _check_serial(self.serial_number)
        if reader.expect(fields, 1, reader.SEQUENCE, "the signature algorithm").raw != algorithm.raw:
            raise DERError("the two signature algorithms differ")
        self._algorithm_oid = reader.algorithm(algorithm.content)[0]
        self._algorithm = _plain_algorithm(algorithm.content)
        self._issuer = _plain_name(reader.expect(fields, 2, reader.SEQUENCE, "the issuer").raw)
        validity = reader.elements(reader.expect(fields, 3, reader.SEQUENCE, "the validity").content)
        if len(validity) < 2:
            raise DERError("the validity does not have two times")
        self.not_valid_before_utc = reader.moment(validity[0].tag, validity[0].content)
        self.not_valid_after_utc = reader.moment(validity[1].tag, validity[1].content)
        self._subject = _plain_name(reader.expect(fields, 4, reader.SEQUENCE, "the subject").raw)
        self._key_info = reader.expect(fields, 5, reader.SEQUENCE, "the public key").raw
        encoded = [field.content for field in fields[6:] if field.tag == _EXTENSIONS]
        self._extensions = extensions.parse_extensions(encoded[0], lenient=True) if encoded else ()
        self._names_algorithm = True
        try:
            self._plain = self._strict(())
        except DERError:
            # perhaps only the algorithm is strange: RSA-PSS with unusual parameters, DSA with any
            self._names_algorithm = False
            self._algorithm = der.sequence(der.oid(_PLACEHOLDER), der.NULL)
            self._plain = self._strict(())

    def _strict(self, wanted: Sequence[Extension]) -> x509.Certificate:
        """Return a copy in strict DER with some of the extensions."""
        kept = der.tlv(_EXTENSIONS, der.sequence(*(each.encode() for each in wanted))) if wanted else b""
        body = der.sequence(
            _VERSION_3,
            der.integer(self.serial_number),
            self._algorithm,
            self._issuer,
            der.sequence(_time(self.not_valid_before_utc), _time(self.not_valid_after_utc)),
            self._subject,
            self._key_info,
            kept,
        )
        signature = der.tlv(der.BIT_STRING, b"\0", self.signature)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = x509.load_der_x509_certificate(der.sequence(body, self._algorithm, signature))
                _ = found.subject, found.issuer
                return found
        except Exception as err:
            raise DERError("its names, its key or its signature algorithm cannot be read") from err

    @property
    def subject(self) -> x509.Name:
        """The subject, for messages; its encoded form is that of `certid.parts_of`."""
        return self._plain.subject

    @property
    def issuer(self) -> x509.Name:
        """The issuer, for messages."""
        return self._plain.issuer

    @cached_property
    def extensions(self) -> x509.Extensions:
        """The extensions; one whose value cannot be read is an UnrecognizedExtension.

        DuplicateExtension when there are two with one OID.
        """
        found: list[x509.Extension[x509.ExtensionType]] = []
        for each in self._extensions:
            if not reader.is_common(each.oid):
                continue  # cryptography has no form for it, and nobody here looks for it
            oid = x509.ObjectIdentifier(each.oid)
            if any(other.oid == oid for other in found):
                raise x509.DuplicateExtension(f"duplicate extension {each.oid}", oid)
            found.append(self._extension(each, oid))
        return x509.Extensions(found)

    def _extension(self, each: Extension, oid: x509.ObjectIdentifier) -> x509.Extension[x509.ExtensionType]:
        try:
            plain: x509.Extension[x509.ExtensionType] = self._strict((_plain_extension(each),)).extensions[0]
        except Exception:  # noqa: BLE001  (as in read_certificate)
            return x509.Extension(oid, each.critical, x509.UnrecognizedExtension(oid, each.value))
        return plain

    @property
    def signature_hash_algorithm(self) -> hashes.HashAlgorithm | None:
        """The hash that was signed, None for algorithms without a choice, or with strange parameters."""
        return self._plain.signature_hash_algorithm if self._names_algorithm else None

    @property
    def signature_algorithm_oid(self) -> x509.ObjectIdentifier:
        """The algorithm the certificate is signed with."""
        return x509.ObjectIdentifier(self._algorithm_oid)

    @property
    def version(self) -> x509.Version:
        """Version 3, whatever is in the certificate."""
        return self._plain.version

    @property
    def not_valid_before(self) -> datetime:
        """As `not_valid_before_utc`."""
        return self.not_valid_before_utc

    @property
    def not_valid_after(self) -> datetime:
        """As `not_valid_after_utc`."""
        return self.not_valid_after_utc

    def public_key(self) -> CertificatePublicKeyTypes:
        """Return the public key; raises ValueError or UnsupportedAlgorithm like x509.Certificate."""
        return self._plain.public_key()

    def public_bytes(self, encoding: serialization.Encoding) -> bytes:
        """Return the certificate's own bytes, as DER or PEM."""
        if encoding is serialization.Encoding.DER:
            return self._data
        from ocspd.pki import pem  # noqa: PLC0415  (rarely needed)

        return pem.encode("CERTIFICATE", self._data).encode()

    def fingerprint(self, algorithm: hashes.HashAlgorithm) -> bytes:
        """Return the hash of the certificate's own bytes."""
        digest = hashes.Hash(algorithm)
        digest.update(self._data)
        return digest.finalize()

    def verify_directly_issued_by(self, issuer: x509.Certificate) -> None:
        """As `check_issued_by`."""
        check_issued_by(cast("x509.Certificate", self), issuer)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ForeignCertificate):
            return self._data == other._data
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._data)


def _plain_algorithm(content: bytes) -> bytes:
    """Return a signature algorithm without the parameters of ECDSA, and with the NULL of RSA."""
    oid, parameters = reader.algorithm(content)
    if oid.startswith("1.2.840.10045.4."):
        return der.sequence(der.oid(oid))
    if oid.startswith("1.2.840.113549.1.1.") and parameters is None:
        return der.sequence(der.oid(oid), der.NULL)
    return der.sequence(content)


def _plain_name(data: bytes) -> bytes:
    """Return a name with sorted sets of UTF8Strings, without duplicates and attributes that are not text."""
    rdns = []
    for rdn in names.rdns(data, lenient=True):
        attributes = sorted(
            {
                der.sequence(der.oid(oid), der.tlv(0x0C, text.encode("utf-8", "replace")))
                for oid, text in rdn
                if reader.is_common(oid)
            }
        )
        if attributes:
            rdns.append(der.tlv(reader.SET, *attributes))
    return der.sequence(*rdns)


def _plain_extension(each: Extension) -> Extension:
    """Return an extension with its value in strict DER, for the types that are easy to convert."""
    if each.oid != extensions.BASIC_CONSTRAINTS:
        return each
    constraints = extensions.parse_basic_constraints(each.value, lenient=True)
    return extensions.Extension(each.oid, each.critical, extensions.basic_constraints(constraints).value)


def _time(instant: datetime) -> bytes:
    if 1950 <= instant.year < 2050:
        return der.tlv(reader.UTC_TIME, der.time_text(instant)[2:])
    return der.generalized_time(instant)
