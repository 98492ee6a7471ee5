"""Reading a PKCS #10 request that somebody else made (RFC 2986), and checking its signature.

`cryptography` parses the structure and verifies; names and extensions are read from the octets, because
a request is not refused for an extension that will not be copied anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import SignatureAlgorithmOID

from ocspd.errors import Code, CodedError, DERError
from ocspd.pki import extensions, keys, names, pem, sans
from ocspd.pki import ocsp_der as der

if TYPE_CHECKING:
    from ocspd.pki.extensions import BasicConstraints, Extension
    from ocspd.pki.keys import PublicKey

_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_LABELS = {"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedCSR:
    """What a verified request asks for."""

    subject: names.Name
    alternative_names: sans.AlternativeNames
    basic_constraints: BasicConstraints | None
    extensions: tuple[Extension, ...]
    public_key: PublicKey
    key_info: bytes
    """DER of the SubjectPublicKeyInfo."""


def load_csr(text: bytes) -> ReceivedCSR:
    """Read a request in PEM and verify its signature.

    CodedError: 9002 no PEM, 9300 another kind of PEM or a wrong signature, 9003 not a request.
    """
    found = pem.blocks(text)
    if not found:
        raise CodedError(Code.CSR_DECODE_FAILED, "CSR Decode failed")
    if found[0].label not in _LABELS:
        raise CodedError(Code.CSR_BAD_REQUEST, "not a csr")
    try:
        request = x509.load_der_x509_csr(found[0].content)
        valid = request.is_signature_valid or _is_valid_with_sha1(request)
        public_key = cast("PublicKey", request.public_key())
    except UnsupportedAlgorithm as err:
        raise CodedError(Code.CSR_BAD_REQUEST, f"CSR key or signature is not supported: {err}") from err
    except (ValueError, TypeError, x509.InvalidVersion) as err:
        raise CodedError(Code.CSR_PARSE_FAILED, f"CSR Parse failed: {_one_line(err)}") from err
    if not valid:
        raise CodedError(Code.CSR_BAD_REQUEST, "CSR signature does not verify under its own key")
    try:
        return _read(request, public_key)
    except (DERError, IndexError) as err:
        raise CodedError(Code.CSR_PARSE_FAILED, f"CSR Parse failed: {_one_line(err)}") from err


def _is_valid_with_sha1(request: x509.CertificateSigningRequest) -> bool:
    """Verify what `is_signature_valid` turns down: old requests, which CFSSL signs for.

    The signature only shows that the sender has the key; nobody relies on it later.
    """
    key, oid = request.public_key(), request.signature_algorithm_oid
    try:
        if isinstance(key, rsa.RSAPublicKey) and oid == SignatureAlgorithmOID.RSA_WITH_SHA1:
            sha1 = hashes.SHA1()  # noqa: S303  (see above)
            key.verify(request.signature, request.tbs_certrequest_bytes, padding.PKCS1v15(), sha1)
            return True
        if isinstance(key, ec.EllipticCurvePublicKey) and oid == SignatureAlgorithmOID.ECDSA_WITH_SHA1:
            sha1 = hashes.SHA1()  # noqa: S303  (see above)
            key.verify(request.signature, request.tbs_certrequest_bytes, ec.ECDSA(sha1))
            return True
    except InvalidSignature:
        pass
    return False


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split())[:200]


def _read(request: x509.CertificateSigningRequest, public_key: PublicKey) -> ReceivedCSR:
    _version, subject, _key, *rest = der.children(request.tbs_certrequest_bytes)
    wanted = _extension_request(rest[0]) if rest else ()
    constraints = extensions.find(wanted, extensions.BASIC_CONSTRAINTS)
    alternative = extensions.find(wanted, extensions.SUBJECT_ALT_NAME)
    return ReceivedCSR(
        subject=names.parse(subject),
        alternative_names=sans.parse(alternative.value) if alternative else sans.AlternativeNames(),
        basic_constraints=extensions.parse_basic_constraints(constraints.value) if constraints else None,
        extensions=wanted,
        public_key=public_key,
        key_info=keys.public_key_info(public_key),
    )


def _extension_request(attributes: bytes) -> tuple[Extension, ...]:
    for attribute in der.children(attributes):
        oid, values = der.children(attribute)
        if names.parse_oid(oid) == _EXTENSION_REQUEST:
            return extensions.parse_extensions(der.children(values)[0])
    return ()
