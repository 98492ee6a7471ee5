"""Checking stored OCSP answers in bulk, as a relying party would (RFC 6960 §3.2), without the asking.

Read with the tolerant reader, so that answers `cryptography` refuses (explicitly encoded default
version) are judged by their signature and not by their encoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from ocspd._der import parse_response
from ocspd.errors import OCSPDError
from ocspd.pki.cert_reader import check_issued_by, read_certificate
from ocspd.pki.certid import HASHES, issuer_hashes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Verify = Callable[[bytes, bytes, bytes], None]
    """Takes signature, signed bytes and DER AlgorithmIdentifier."""

_DIGESTS: dict[bytes, hashes.HashAlgorithm] = {
    bytes.fromhex("06082a8648ce3d040302"): hashes.SHA256(),
    bytes.fromhex("06082a8648ce3d040303"): hashes.SHA384(),
    bytes.fromhex("06082a8648ce3d040304"): hashes.SHA512(),
    bytes.fromhex("06092a864886f70d01010b"): hashes.SHA256(),
    bytes.fromhex("06092a864886f70d01010c"): hashes.SHA384(),
    bytes.fromhex("06092a864886f70d01010d"): hashes.SHA512(),
}
"""Digest by the OID of the signature algorithm: ECDSA and RSA PKCS#1 v1.5. SHA-1 is not among them (C73)."""


class AnswerChecker:
    """Checks answers of the given CAs at one instant; remembers responders it has seen."""

    def __init__(self, issuers: Sequence[x509.Certificate], now_s: int) -> None:
        self._now_s = now_s
        self._issuers = {
            (name, *issuer_hashes(issuer, name)): issuer for issuer in issuers for name in HASHES
        }
        self._verifiers: dict[tuple[bytes, bytes], Verify] = {}

    def check(self, der: bytes, prefix: tuple[str, bytes, bytes], serial: int) -> None:
        """Check an answer that an index gives for a CertID prefix and serial.

        OCSPDError saying what is wrong: another CertID, outside its window, a signature that is neither
        the issuer's nor that of a responder it appointed, or an issuer that was not given.
        """
        issuer = self._issuers.get(prefix)
        if issuer is None:
            raise OCSPDError("its issuer is not among the CA certificates given")
        answer = parse_response(der)
        if answer.count == 1 and (
            answer.serial != serial
            or (answer.hash_name, answer.issuer_name_hash, answer.issuer_key_hash) != prefix
        ):
            raise OCSPDError("it is about another certificate than the index says")
        if answer.this_update > self._now_s:
            raise OCSPDError("its thisUpdate is in the future")
        if answer.next_update is not None and answer.next_update <= self._now_s:
            raise OCSPDError("it has expired")
        responder = answer.certificates[0] if answer.certificates else b""
        verify = self._verifiers.get((prefix[2], responder))
        if verify is None:
            verify = self._verifiers[prefix[2], responder] = _verifier(responder, issuer)
        try:
            verify(answer.signature, answer.tbs, answer.signature_algorithm)
        except InvalidSignature:
            raise OCSPDError("its signature is not the responder's") from None


def _verifier(responder: bytes, issuer: x509.Certificate) -> Verify:
    """Return what checks signatures of the embedded responder, of the issuer where there is none."""
    certificate = issuer
    if responder:
        try:
            certificate = read_certificate(responder)
            if certificate != issuer:
                check_issued_by(certificate, issuer)
                usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
                if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
                    raise OCSPDError("its responder certificate lacks the key usage OCSP signing")
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError, x509.ExtensionNotFound) as err:
            raise OCSPDError("its responder certificate is not one that the issuer appointed") from err
    key = certificate.public_key()

    def verify(signature: bytes, data: bytes, algorithm: bytes) -> None:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, data, ec.ECDSA(_digest(algorithm)))
            case rsa.RSAPublicKey():
                key.verify(signature, data, padding.PKCS1v15(), _digest(algorithm))
            case ed25519.Ed25519PublicKey():
                key.verify(signature, data)
            case _:
                _verify_other(key, signature, data)

    return verify


def _verify_other(key: object, signature: bytes, data: bytes) -> None:
    """Verify with a key kind that has one algorithm and no parameters (ML-DSA)."""
    verify = getattr(key, "verify", None)
    if verify is None:
        raise OCSPDError(f"its signature is by a {type(key).__name__}, which is not known here")
    verify(signature, data)


def _digest(algorithm: bytes) -> hashes.HashAlgorithm:
    oid = algorithm[2 : 4 + algorithm[3]]
    digest = _DIGESTS.get(oid)
    if digest is None:
        raise OCSPDError("its signature algorithm is not one that clients accept")
    return digest
