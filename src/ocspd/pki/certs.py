"""Certificates: loaded as CFSSL loads them, and turned into rows of certdb."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from ocspd.errors import Code, CodedError, DERError
from ocspd.model import CertificateRow
from ocspd.pki import der, der_reader, extensions, names, pem, sans
from ocspd.pki.cert_reader import check_issued_by, read_certificate
from ocspd.pki.certid import parts_of

if TYPE_CHECKING:
    from datetime import datetime

_TRUSTED = "TRUSTED CERTIFICATE"
_LABELS = {"CERTIFICATE", "X509 CERTIFICATE", _TRUSTED, "PKCS7", "PKCS #7 SIGNED DATA", "CMS"}
_LABEL = re.compile(r"[A-Z0-9# ]{1,60}", re.ASCII)

Certificate = x509.Certificate
"""The certificate type, for modules that must not import cryptography themselves."""


def load_certificate(data: bytes) -> x509.Certificate:
    """Load the one certificate of a text: PEM, PKCS #7 in PEM, or DER.

    CodedError: 1002 no PEM, 1003 not a certificate, or more than one.
    """
    found = load_certificates(data)
    if len(found) > 1:
        raise CodedError(
            Code.CERT_PARSE_FAILED,
            f"the PEM file should contain only one object, but contains {len(found)} certificates",
        )
    return found[0]


def load_certificates(data: bytes) -> list[x509.Certificate]:
    """Load every certificate of a text; never an empty list (errors as for `load_certificate`)."""
    if data[:1] == b"\x30":
        found = _parse(pem.without_newline(data))
    else:
        blocks = _chosen(pem.blocks(data))
        if not blocks:
            raise CodedError(
                Code.CERT_DECODE_FAILED,
                f"Failed to decode certificate: it contains no PEM block{pem.hint(data)}",
            )
        found = [certificate for block in blocks for certificate in _parse(block.content, block.label)]
    if not found:
        raise CodedError(Code.CERT_DECODE_FAILED, "Failed to decode certificate: the PKCS #7 object is empty")
    return found


def load_der(data: bytes) -> x509.Certificate:
    """Load a certificate in DER, as TLS transports it; CodedError 1003 when it is not one."""
    found = _parse(data)
    if not found:
        raise CodedError(Code.CERT_PARSE_FAILED, "Failed to parse certificate")
    return found[0]


def _chosen(blocks: list[pem.Block]) -> list[pem.Block]:
    """Return the blocks labelled as certificates, or all if there are none: CFSSL ignores labels.

    A key or parameters in the same file, as for HAProxy, are ignored, as by OpenSSL.
    """
    return [block for block in blocks if block.label.upper() in _LABELS] or blocks


def _parse(content: bytes, label: str = "") -> list[x509.Certificate]:
    try:
        if label == _TRUSTED:  # of OpenSSL: settings of its own follow the certificate
            _, _, end = der_reader.span(content, 0, len(content))
            content = content[:end]
        return [read_certificate(content)]
    except DERError as err:
        if _is_pkcs7(content):
            return _parse_pkcs7(content)
        known = not label or label.upper() in _LABELS or not _LABEL.fullmatch(label)
        cause = str(err) if known else f"its PEM label is {label}"
        raise CodedError(Code.CERT_PARSE_FAILED, f"Failed to parse certificate: {cause}") from err


def _parse_pkcs7(content: bytes) -> list[x509.Certificate]:
    """Return the certificates of a SignedData (RFC 5652 §5.1), read like any others."""
    try:
        encoded = [found.raw for found in _certificate_set(content) if found.tag == der_reader.SEQUENCE]
    except DERError:  # BER, which a library reads
        try:
            encoded = [
                found.public_bytes(serialization.Encoding.DER)
                for found in pkcs7.load_der_pkcs7_certificates(content)
            ]
        except Exception:  # noqa: BLE001  (whatever a library does not like of it)
            raise CodedError(
                Code.CERT_PARSE_FAILED, "Failed to parse certificate: the PKCS #7 object cannot be read"
            ) from None
    return [certificate for data in encoded for certificate in _parse(data)]


def _certificate_set(content: bytes) -> list[der_reader.Element]:
    outer = der_reader.elements(der_reader.single(content, der_reader.SEQUENCE, "the PKCS #7 object"))
    wrapped = der_reader.expect(outer, 1, 0xA0, "the PKCS #7 object's content").content
    signed = der_reader.elements(der_reader.single(wrapped, der_reader.SEQUENCE, "the SignedData"))
    return [found for part in signed[3:] if part.tag == 0xA0 for found in der_reader.elements(part.content)]


def _is_pkcs7(content: bytes) -> bool:
    """Return whether it is a ContentInfo, which begins with an OBJECT IDENTIFIER, unlike a certificate."""
    try:
        return der.children(content)[0][0] == der.OBJECT_IDENTIFIER
    except (DERError, IndexError):
        return False


def serial_of(certificate: x509.Certificate) -> int:
    """Return the serial number of a certificate, which may be 0 or negative in old ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about just that
        return certificate.serial_number


def certificate_to_pem(certificate: x509.Certificate) -> str:
    """Return the PEM text, with a newline at its end."""
    return pem.encode("CERTIFICATE", certificate_to_der(certificate))


def certificate_to_der(certificate: x509.Certificate) -> bytes:
    """Return the DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def aki_hex(certificate: x509.Certificate) -> str:
    """Return the authority key identifier in certdb's form (lower-case hex), "" without one."""
    found = extensions.find(extensions.of_certificate(certificate), extensions.AUTHORITY_KEY_ID)
    if found is not None:
        try:
            for part in der.children(found.value):
                if part[0] == der.context(0, constructed=False):
                    return der.content(part).hex()
        except DERError:
            pass
    return ""


def ski_hex(certificate: x509.Certificate) -> str:
    """Return the subject key identifier as lower-case hex, "" without one."""
    identifier = subject_key_id(certificate)
    return "" if identifier is None else identifier.hex()


def subject_key_id(certificate: x509.Certificate) -> bytes | None:
    """Return the subject key identifier, None without one."""
    found = extensions.find(extensions.of_certificate(certificate), extensions.SUBJECT_KEY_ID)
    if found is None:
        return None
    try:
        return der.content(found.value)
    except DERError:
        return None


def subject_name(certificate: x509.Certificate) -> names.Name:
    """Return the subject in CFSSL's fields; CodedError 1003 when it is not a name."""
    try:
        return names.parse(parts_of(certificate).subject, lenient=True)
    except (DERError, IndexError) as err:
        raise CodedError(Code.CERT_PARSE_FAILED, f"certificate subject: {err}") from err


def alternative_names(certificate: x509.Certificate) -> sans.AlternativeNames:
    """Return the subject alternative names; an empty set if they cannot be read."""
    found = extensions.find(extensions.of_certificate(certificate), extensions.SUBJECT_ALT_NAME)
    try:
        return sans.parse(found.value, lenient=True) if found else sans.AlternativeNames()
    except DERError:
        return sans.AlternativeNames()


def basic_constraints(certificate: x509.Certificate) -> extensions.BasicConstraints:
    """Return basicConstraints; those of an end entity if they are missing or cannot be read."""
    found = extensions.find(extensions.of_certificate(certificate), extensions.BASIC_CONSTRAINTS)
    try:
        return (
            extensions.parse_basic_constraints(found.value, lenient=True)
            if found
            else extensions.BasicConstraints()
        )
    except DERError:
        return extensions.BasicConstraints()


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether a certificate names the other one as its issuer and is signed with its key."""
    try:
        check_issued_by(certificate, issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def to_row(certificate: x509.Certificate, *, label: str, issued_at: datetime | None) -> CertificateRow:
    """Return the row CFSSL writes for a certificate it has just signed; `sans` has DNS names only."""
    dns = alternative_names(certificate).dns
    return CertificateRow(
        serial=certificate.serial_number,
        aki=aki_hex(certificate),
        pem=certificate_to_pem(certificate),
        expiry=certificate.not_valid_after_utc,
        ca_label=label,
        issued_at=issued_at,
        not_before=certificate.not_valid_before_utc,
        sans=list(dns) or None,
        common_name=subject_name(certificate).common_name,
    )
