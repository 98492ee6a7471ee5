"""Public keys of requests: read from the bytes that go into the certificate, and judged as by Go.

The certificate carries the request's SubjectPublicKeyInfo byte by byte, so nothing is accepted that
would have to be re-encoded: no explicit curve parameters, no compressed points, no RSA key under an
algorithm other than rsaEncryption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from ocspd.errors import DERError
from ocspd.pki import der_reader as reader

if TYPE_CHECKING:
    from ocspd.pki.der_reader import Element
    from ocspd.pki.keys import PublicKey

MIN_RSA_BITS = 2048
MIN_WEAK_RSA_BITS = 1024
MAX_RSA_BITS = 8192
"""As for keys generated here: a larger one only costs every verifier time."""

_RSA = "1.2.840.113549.1.1.1"
RSA_PSS = "1.2.840.113549.1.1.10"
_EC = "1.2.840.10045.2.1"
_DSA = "1.2.840.10040.4.1"
ED25519 = "1.3.101.112"
_ML_DSA = {"2.16.840.1.101.3.4.3.17", "2.16.840.1.101.3.4.3.18", "2.16.840.1.101.3.4.3.19"}
_CURVES = {
    "1.3.132.0.33": ("P-224", 28),
    "1.2.840.10045.3.1.7": ("P-256", 32),
    "1.3.132.0.34": ("P-384", 48),
    "1.3.132.0.35": ("P-521", 66),
}
_OTHERS = {
    RSA_PSS: "RSA-PSS (an RSA key under rsaEncryption can do the same)",
    _DSA: "DSA",
    "1.3.101.110": "X25519",
    "1.3.101.111": "X448",
    "1.3.101.113": "Ed448",
    "1.2.840.10046.2.1": "Diffie-Hellman",
}
_SUPPORTED = "use RSA of 2048 to 8192 bits, ECDSA P-224, P-256, P-384 or P-521, or Ed25519"


class UnsupportedKeyError(DERError):
    """A well-formed key of an unsupported kind."""


def read_public_key(key_info: bytes, *, allow_weak_rsa: bool = False) -> PublicKey:
    """Read a SubjectPublicKeyInfo; DERError when malformed, UnsupportedKeyError for an unsupported kind.

    `allow_weak_rsa` accepts RSA keys from 1024 bits instead of 2048.
    """
    parts = reader.elements(reader.single(key_info, reader.SEQUENCE, "the public key"))
    identifier = reader.expect(parts, 0, reader.SEQUENCE, "the public key's algorithm")
    bits = reader.bits(reader.expect(parts, 1, reader.BIT_STRING, "the public key").content)
    oid, parameters = reader.algorithm(identifier.content)
    if oid == _RSA:
        _check_rsa(parameters, bits, MIN_WEAK_RSA_BITS if allow_weak_rsa else MIN_RSA_BITS)
    elif oid == _EC:
        _check_curve(parameters, bits)
    elif oid == ED25519:
        if parameters is not None:
            raise DERError("an Ed25519 key with parameters")
    elif oid not in _ML_DSA:
        raise UnsupportedKeyError(f"its key is of the kind {_OTHERS.get(oid, oid)}: {_SUPPORTED}")
    return _load(key_info, oid)


def _load(key_info: bytes, oid: str) -> PublicKey:
    try:
        return cast("PublicKey", serialization.load_der_public_key(key_info))
    except UnsupportedAlgorithm:
        raise UnsupportedKeyError(f"its key is of the kind {oid}: {_SUPPORTED}") from None
    except (ValueError, TypeError):
        raise DERError("its public key is not a key of the stated kind") from None


def _check_rsa(parameters: Element | None, bits: bytes, minimum: int) -> None:
    if parameters is None or parameters.tag != reader.NULL:
        raise DERError("an RSA key without the NULL parameters that RFC 3279 requires")
    parts = reader.elements(reader.single(bits, reader.SEQUENCE, "the RSA public key"))
    modulus = reader.integer(reader.expect(parts, 0, reader.INTEGER, "the RSA modulus").content)
    exponent = reader.integer(reader.expect(parts, 1, reader.INTEGER, "the RSA exponent").content)
    if modulus <= 0:
        raise DERError("its RSA modulus is not a positive number")
    if modulus % 2 == 0:
        raise UnsupportedKeyError("its RSA modulus is even, so it is not an RSA key")
    if exponent <= 0 or exponent.bit_length() > 31:
        raise DERError("its RSA exponent is not a number from 3 to 2^31-1: use 65537")
    if exponent < 3 or exponent % 2 == 0:
        raise UnsupportedKeyError("its RSA exponent is not an odd number from 3 to 2^31-1: use 65537")
    size = modulus.bit_length()
    if size < minimum:
        raise UnsupportedKeyError(f"its RSA key of {size} bits is too weak: {_SUPPORTED}")
    if size > MAX_RSA_BITS:
        raise UnsupportedKeyError(f"its RSA key of {size} bits is too large: {_SUPPORTED}")


def check_point(parameters: Element | None, bits: bytes, key_info: bytes) -> None:
    """Raise DERError unless an ECDSA key, of which these are parts, is a point on one of the four curves."""
    _check_curve(parameters, bits)
    _load(key_info, _EC)


def _check_curve(parameters: Element | None, bits: bytes) -> None:
    if parameters is None or parameters.tag != reader.OBJECT_IDENTIFIER:
        raise DERError("its curve is given by explicit parameters: generate the key with a named curve")
    oid = reader.object_identifier(parameters.content)
    if oid not in _CURVES:
        raise DERError(f"its elliptic curve {oid} is not supported: {_SUPPORTED}")
    name, size = _CURVES[oid]
    if len(bits) != 1 + 2 * size or bits[0] != 4:
        raise DERError(f"its {name} key is not an uncompressed point of {1 + 2 * size} bytes")
