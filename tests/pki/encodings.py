"""Requests, certificates and CRLs in the encodings of other programs, octet by octet, signed for real."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ocspd.pki.der import oid, tlv
from tests.pki.chain import make_key

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNTRY, ORGANIZATION, UNIT, COMMON_NAME = "2.5.4.6", "2.5.4.10", "2.5.4.11", "2.5.4.3"
EMAIL = "1.2.840.113549.1.9.1"
SAN, BASIC_CONSTRAINTS, KEY_USAGE, SUBJECT_KEY_ID = "2.5.29.17", "2.5.29.19", "2.5.29.15", "2.5.29.14"
EXTENSION_REQUEST, CHALLENGE = "1.2.840.113549.1.9.14", "1.2.840.113549.1.9.7"
UTF8, NUMERIC, PRINTABLE, T61, IA5, VISIBLE, UNIVERSAL, BMP = 12, 18, 19, 20, 22, 26, 28, 30
ECDSA_SHA256 = "1.2.840.10045.4.3.2"
RSA_SHA256 = "1.2.840.113549.1.1.11"
NULL = b"\x05\x00"


def sequence(*parts: bytes) -> bytes:
    return tlv(0x30, *parts)


def set_of(*parts: bytes) -> bytes:
    """Encode a SET OF in the order given, sorted or not."""
    return tlv(0x31, *parts)


def attribute(kind: str, value: bytes, tag: int = UTF8) -> bytes:
    return sequence(oid(kind), tlv(tag, value))


def name(*attributes: bytes) -> bytes:
    """Encode a name with one attribute in each RDN."""
    return sequence(*(set_of(each) for each in attributes))


def extension(kind: str, value: bytes, critical: bytes = b"") -> bytes:
    """Encode an extension; `critical` is the whole BOOLEAN as it shall be written."""
    return sequence(oid(kind), critical, tlv(4, value))


def names(*general_names: tuple[int, bytes]) -> bytes:
    """Encode a subjectAltName extension of (identifier octet, content)."""
    return extension(SAN, sequence(*(tlv(tag, content) for tag, content in general_names)))


def dns(text: str) -> tuple[int, bytes]:
    return 0x82, text.encode()


def requested(*extensions: bytes) -> bytes:
    """Encode the attribute extensionRequest."""
    return sequence(oid(EXTENSION_REQUEST), set_of(sequence(*extensions)))


def key_info(key: Any) -> bytes:
    return bytes(
        key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def sign(key: Any, data: bytes, digest: Any = None) -> bytes:
    digest = digest or hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(digest))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), digest)
    return bytes(key.sign(data))


def algorithm(key: Any) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return sequence(oid(ECDSA_SHA256))
    if isinstance(key, rsa.RSAPrivateKey):
        return sequence(oid(RSA_SHA256), NULL)
    return sequence(oid("1.3.101.112"))


HOST = name(attribute(COMMON_NAME, b"h.example.com"))


def request(
    subject: bytes = HOST,
    attributes: bytes | None = b"",
    *,
    key: Any = None,
    info: bytes | None = None,
    version: bytes = b"\x00",
    signature_algorithm: bytes | None = None,
    digest: Any = None,
    more: bytes = b"",
    damage: bool = False,
) -> bytes:
    """Encode and sign a request; None for `attributes` leaves [0] out, `more` ends the outer SEQUENCE."""
    key = make_key("ecdsa-256") if key is None else key
    body = sequence(
        tlv(2, version),
        subject,
        key_info(key) if info is None else info,
        b"" if attributes is None else tlv(0xA0, attributes),
    )
    signature = sign(key, body, digest)
    if damage:
        signature = signature[:-1] + bytes((signature[-1] ^ 1,))
    return sequence(
        body,
        algorithm(key) if signature_algorithm is None else signature_algorithm,
        tlv(3, b"\0", signature),
        more,
    )


def certificate(
    key: Any = None,
    *,
    subject: bytes = HOST,
    issuer: bytes | None = None,
    issuer_key: Any = None,
    serial: bytes = b"\x01",
    version: bytes = b"\xa0\x03\x02\x01\x02",
    validity: bytes | None = None,
    extensions: Sequence[bytes] = (),
    signature_algorithm: bytes | None = None,
    info: bytes | None = None,
) -> bytes:
    """Encode and sign a certificate, by its own key unless an issuer's is given."""
    key = make_key("ecdsa-256") if key is None else key
    issuer_key = key if issuer_key is None else issuer_key
    used = algorithm(issuer_key) if signature_algorithm is None else signature_algorithm
    body = sequence(
        version,
        tlv(2, serial),
        used,
        subject if issuer is None else issuer,
        sequence(tlv(0x17, b"200101000000Z"), tlv(0x17, b"490101000000Z")) if validity is None else validity,
        subject,
        key_info(key) if info is None else info,
        tlv(0xA3, sequence(*extensions)) if extensions else b"",
    )
    return sequence(body, used, tlv(3, b"\0", sign(issuer_key, body)))


def pem(label: str, data: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(data).decode()}-----END {label}-----\n"
