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
from ocspd._index import NO_NEXT_UPDATE
from ocspd.errors import OCSPDError
from ocspd.pki.cert_reader import check_issued_by, read_certificate
from ocspd.pki.certid import HASHES, issuer_hashes, key_identifier, parts_of
from ocspd.pki.der import content

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
        self._verifiers: dict[tuple[bytes, bytes, bytes], Verify] = {}

    def check(
        self,
        der: bytes,
        prefix: tuple[str, bytes, bytes],
        serial: int,
        *,
        stored: tuple[int, int, int] | None = None,
    ) -> None:
        """Check an answer that an index gives for a CertID prefix and serial.

        `stored` are status, thisUpdate and nextUpdate as the index has them, by which it is given out.
        OCSPDError saying what is wrong: another CertID, outside its window, a status that cannot be, a
        signature that is neither the issuer's nor that of a responder it appointed, or an issuer that was
        not given.
        """
        issuer = self._issuers.get(prefix)
        if issuer is None:
            raise OCSPDError("its issuer is not among the CA certificates given")
        answer = parse_response(der)
        single = next((each for each in answer.singles if each[:4] == (*prefix, serial)), None)
        if single is None:
            raise OCSPDError("it is about another certificate than the index says")
        status, this_update, next_update, revoked_at = single[4:]
        if this_update > self._now_s:
            raise OCSPDError("its thisUpdate is in the future")
        if next_update is not None and next_update <= self._now_s:
            raise OCSPDError("it has expired")
        if revoked_at is not None and revoked_at > self._now_s:
            raise OCSPDError("its time of revocation is in the future")
        if stored is not None and stored != (
            status,
            this_update,
            NO_NEXT_UPDATE if next_update is None else next_update,
        ):
            raise OCSPDError("the index has another status or other times than the answer")
        known = (prefix[2], answer.responder_id, b"".join(answer.certificates))
        verify = self._verifiers.get(known)
        if verify is None:
            responder = _responder(answer.responder_id, answer.certificates, issuer)
            verify = self._verifiers[known] = _verifier(responder, issuer, self._now_s)
        try:
            verify(answer.signature, answer.tbs, answer.signature_algorithm)
        except InvalidSignature:
            raise OCSPDError("its signature is not the responder's") from None


def _responder(responder_id: bytes, embedded: Sequence[bytes], issuer: x509.Certificate) -> bytes:
    """Return the embedded certificate ResponderID names, b"" for the issuer itself; OCSPDError for none."""
    for der in embedded:
        try:
            certificate = read_certificate(der)
        except (UnsupportedAlgorithm, ValueError, TypeError):
            continue
        if _names(responder_id, certificate):
            return der
    if not _names(responder_id, issuer):
        raise OCSPDError("its ResponderID names neither the issuer nor a certificate in it")
    return b""


def _names(responder_id: bytes, certificate: x509.Certificate) -> bool:
    """Whether a ResponderID (RFC 6960 §4.2.1) is that of a certificate, byte by byte."""
    if responder_id[:1] == b"\xa1":
        return content(responder_id) == parts_of(certificate).subject
    return content(content(responder_id)) == key_identifier(certificate)


def _verifier(responder: bytes, issuer: x509.Certificate, now_s: int) -> Verify:
    """Return what checks signatures of the embedded responder, of the issuer where there is none."""
    certificate = issuer
    if responder:
        try:
            certificate = read_certificate(responder)
            if certificate != issuer:
                begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
                if not begin.timestamp() <= now_s <= end.timestamp():
                    raise OCSPDError("its responder certificate is not valid now")
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
