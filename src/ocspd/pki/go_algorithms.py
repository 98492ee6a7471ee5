"""Algorithms as Go's crypto/x509 numbers them, and as CFSSL names them. Go no longer knows MD2, number 1.

These numbers are in the JSON of `certinfo -csr`, the names in that of `certinfo`.
"""

from __future__ import annotations

from ocspd.errors import DERError
from ocspd.pki import der_reader as reader
from ocspd.pki.public_keys import ED25519, RSA_PSS

_NUMBERS = {
    "1.2.840.113549.1.1.4": 2,
    "1.2.840.113549.1.1.5": 3,
    "1.3.14.3.2.29": 3,
    "1.2.840.113549.1.1.11": 4,
    "1.2.840.113549.1.1.12": 5,
    "1.2.840.113549.1.1.13": 6,
    "1.2.840.10040.4.3": 7,
    "2.16.840.1.101.3.4.3.2": 8,
    "1.2.840.10045.4.1": 9,
    "1.2.840.10045.4.3.2": 10,
    "1.2.840.10045.4.3.3": 11,
    "1.2.840.10045.4.3.4": 12,
    ED25519: 16,
}
_PSS = {
    "2.16.840.1.101.3.4.2.1": (13, 32),
    "2.16.840.1.101.3.4.2.2": (14, 48),
    "2.16.840.1.101.3.4.2.3": (15, 64),
}
"""Hash: number of the algorithm, and the only salt length that Go knows it with."""
_MGF1 = "1.2.840.113549.1.1.8"
_NAMES = (
    "",
    "MD2WithRSA",
    "MD5WithRSA",
    "SHA1WithRSA",
    "SHA256WithRSA",
    "SHA384WithRSA",
    "SHA512WithRSA",
    "DSAWithSHA1",
    "DSAWithSHA256",
    "ECDSAWithSHA1",
    "ECDSAWithSHA256",
    "ECDSAWithSHA384",
    "ECDSAWithSHA512",
)
_ED25519_NUMBER = 16
_UNKNOWN = 0
_KEYS = {
    "1.2.840.113549.1.1.1": (1, "RSA"),
    "1.2.840.10040.4.1": (2, "DSA"),
    "1.2.840.10045.2.1": (3, "ECDSA"),
    ED25519: (4, "Ed25519"),
}


def signature_number(algorithm: bytes) -> int:
    """Return Go's number of a signature algorithm, 0 for an unknown one.

    `algorithm` is the content of an AlgorithmIdentifier; DERError when it is not one.
    """
    oid, parameters = reader.algorithm(algorithm)
    if oid == RSA_PSS:
        try:
            return _pss_number(parameters)
        except (DERError, KeyError):
            return _UNKNOWN
    if oid == ED25519 and parameters is not None:
        return _UNKNOWN
    return _NUMBERS.get(oid, _UNKNOWN)


def signature_name(algorithm: bytes) -> str:
    """Return CFSSL's name of a signature algorithm; it has none for RSA-PSS. Errors as above."""
    number = signature_number(algorithm)
    if number == _ED25519_NUMBER:
        return "Ed25519"
    return _NAMES[number] if 0 < number < len(_NAMES) else "Unknown Signature"


def key_number(oid: str) -> int:
    """Return Go's number of a public key algorithm, 0 for an unknown one."""
    return _KEYS.get(oid, (_UNKNOWN, ""))[0]


def key_name(oid: str) -> str:
    """Return Go's name of a public key algorithm, "" for an unknown one."""
    return _KEYS.get(oid, (_UNKNOWN, ""))[1]


def _pss_number(parameters: reader.Element | None) -> int:
    """Return the number of RSASSA-PSS parameters: those with one hash, a salt of its size, and MGF1."""
    if parameters is None or parameters.tag != reader.SEQUENCE:
        return _UNKNOWN
    fields = {part.tag: part.content for part in reader.elements(parameters.content)}
    digest, nothing = reader.algorithm(reader.single(fields[0xA0], reader.SEQUENCE, "the hash algorithm"))
    mask, inner = reader.algorithm(reader.single(fields[0xA1], reader.SEQUENCE, "the mask generation"))
    salt = reader.integer(reader.single(fields[0xA2], reader.INTEGER, "the salt length"))
    trailer = 1
    if 0xA3 in fields:
        trailer = reader.integer(reader.single(fields[0xA3], reader.INTEGER, "the trailer field"))
    if mask != _MGF1 or inner is None or inner.tag != reader.SEQUENCE or trailer != 1:
        return _UNKNOWN
    mask_digest, mask_nothing = reader.algorithm(inner.content)
    for each in (nothing, mask_nothing):
        if each is not None and each.raw != b"\x05\x00":
            return _UNKNOWN
    number, size = _PSS.get(digest, (_UNKNOWN, -1))
    return number if mask_digest == digest and salt == size else _UNKNOWN
