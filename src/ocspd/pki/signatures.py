"""Verifying the signatures of requests, certificates and CRLs by the AlgorithmIdentifier they carry.

Accepted are Go's list and ML-DSA: RSA PKCS #1 v1.5 and PSS, ECDSA, each with SHA-256 to SHA-512, and
Ed25519. SHA-1 only if the caller allows it; MD5 and MD2 never. Parameters that should be absent or NULL
but are not are ignored, as in Go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from ocspd.errors import DERError
from ocspd.pki import der_reader as reader
from ocspd.pki.public_keys import ED25519, RSA_PSS

if TYPE_CHECKING:
    from ocspd.pki.der_reader import Element

_DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303  (old requests, and CRLs of old CAs: the caller decides)
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_RSA = {
    "1.2.840.113549.1.1.5": "sha1",
    "1.3.14.3.2.29": "sha1",
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
}
_ECDSA = {
    "1.2.840.10045.4.1": "sha1",
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
}
_MGF1 = "1.2.840.113549.1.1.8"
_HASH_OIDS = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
_SELF_HASHING = {
    ED25519,
    "2.16.840.1.101.3.4.3.17",
    "2.16.840.1.101.3.4.3.18",
    "2.16.840.1.101.3.4.3.19",
}
_INSECURE = {
    "1.2.840.113549.1.1.2": "MD2",
    "1.2.840.113549.1.1.3": "MD4",
    "1.2.840.113549.1.1.4": "MD5",
    "1.3.14.3.2.3": "MD5",
}


class SignatureError(DERError):
    """A signature that is not accepted; the message follows the name of the signed object."""


class UnsupportedSignatureError(SignatureError):
    """A signature by an unsupported algorithm."""


def verify(key: object, algorithm: bytes, signature: bytes, data: bytes, *, allow_sha1: bool) -> None:
    """Check a signature; `algorithm` is the content of its AlgorithmIdentifier.

    SignatureError when it does not verify, or the algorithm is not accepted or does not fit the key.
    """
    oid, parameters = reader.algorithm(algorithm)
    if oid in _INSECURE:
        raise SignatureError(f"is signed with {_INSECURE[oid]}, which is not secure: sign with SHA-256")
    try:
        _verify(key, oid, parameters, signature, data, allow_sha1=allow_sha1)
    except InvalidSignature:
        raise SignatureError("has a signature that does not verify") from None
    except (UnsupportedAlgorithm, ValueError, TypeError) as err:
        if isinstance(err, DERError):
            raise
        raise SignatureError("has a signature that cannot be checked with this key") from None


def _verify(  # noqa: PLR0913  (what a signature consists of)
    key: object, oid: str, parameters: Element | None, signature: bytes, data: bytes, *, allow_sha1: bool
) -> None:
    match key:
        case ec.EllipticCurvePublicKey() if oid in _ECDSA:  # most are, and each question takes time
            key.verify(signature, data, ec.ECDSA(_digest(_ECDSA[oid], allow_sha1=allow_sha1)))
        case rsa.RSAPublicKey() if oid == RSA_PSS:
            name = _pss_digest(parameters)
            digest = _digest(name, allow_sha1=allow_sha1)
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            key.verify(signature, data, pss, digest)
        case rsa.RSAPublicKey() if oid in _RSA:
            key.verify(signature, data, padding.PKCS1v15(), _digest(_RSA[oid], allow_sha1=allow_sha1))
        case ed25519.Ed25519PublicKey() if oid == ED25519:
            key.verify(signature, data)
        case _ if oid in _SELF_HASHING - {ED25519} and type(key).__name__.startswith("MLDSA"):
            key.verify(signature, data)  # type: ignore[attr-defined]  # the one method all of them have
        case _ if oid in _RSA or oid in _ECDSA or oid in _SELF_HASHING or oid == RSA_PSS:
            raise SignatureError("is signed with an algorithm that does not fit its key")
        case _:
            raise UnsupportedSignatureError(f"is signed with the algorithm {oid}, which is not supported")


def _digest(name: str, *, allow_sha1: bool) -> hashes.HashAlgorithm:
    if name == "sha1" and not allow_sha1:
        raise SignatureError("is signed with SHA-1, which is not secure: sign with SHA-256")
    return _DIGESTS[name]


def _pss_digest(parameters: Element | None) -> str:
    """Return the hash of RSASSA-PSS parameters: the same in MGF1, a salt of its size, as Go requires."""
    unsupported = UnsupportedSignatureError("is signed with RSA-PSS with unsupported parameters")
    if parameters is None or parameters.tag != reader.SEQUENCE:
        raise unsupported
    fields = {part.tag: part.content for part in reader.elements(parameters.content)}
    try:
        digest, _ = reader.algorithm(reader.single(fields[0xA0], reader.SEQUENCE, "the hash algorithm"))
        mask, inner = reader.algorithm(reader.single(fields[0xA1], reader.SEQUENCE, "the mask generation"))
        salt = reader.integer(reader.single(fields[0xA2], reader.INTEGER, "the salt length"))
    except KeyError:
        raise unsupported from None
    if mask != _MGF1 or inner is None or inner.tag != reader.SEQUENCE:
        raise unsupported
    if reader.algorithm(inner.content)[0] != digest or digest not in _HASH_OIDS:
        raise unsupported
    name = _HASH_OIDS[digest]
    if salt != _DIGESTS[name].digest_size:
        raise unsupported
    return name
