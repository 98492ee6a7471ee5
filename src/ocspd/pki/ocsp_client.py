"""The asking side of OCSP: a request for one certificate, and an answer checked against its issuer.

For checks of one's own responder where no other client is at hand; nothing on the serving path uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from ocspd.errors import OCSPDError
from ocspd.pki.cert_reader import check_issued_by
from ocspd.pki.certid import issuer_hashes

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a verified answer says; `status` is good, revoked or unknown, or the name of an error status."""

    status: str
    reason: str = ""
    this_update: datetime | None = None
    next_update: datetime | None = None
    revoked_at: datetime | None = None


def make_request(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """Return a DER request with a SHA-1 CertID and no nonce (RFC 9919 §3.1.1 allows no more)."""
    # The hash only names the issuer; every responder knows SHA-1.
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        *issuer_hashes(issuer, "sha1"),
        certificate.serial_number,
        hashes.SHA1(),  # noqa: S303
    )
    return builder.build().public_bytes(serialization.Encoding.DER)


def check_answer(
    der: bytes, *, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime
) -> Decision:
    """Return what the answer says about the certificate (RFC 6960 §3.2).

    OCSPDError when it is not DER, is about another certificate, is outside its window, or is not signed
    by the issuer or by a responder that the issuer appointed.
    """
    try:
        answer = ocsp.load_der_ocsp_response(der)
    except ValueError as err:
        raise OCSPDError(f"not an OCSP answer: {err}") from err
    if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return Decision(status=answer.response_status.name.lower())
    if answer.serial_number != certificate.serial_number:
        raise OCSPDError(f"the answer is about serial {answer.serial_number}")
    _check_signature(answer, _signer(answer, issuer))
    until = answer.next_update_utc
    if answer.this_update_utc > now or (until is not None and until <= now):
        raise OCSPDError(f"the answer is valid from {answer.this_update_utc} to {until}, not now")
    return Decision(
        status=answer.certificate_status.name.lower(),
        reason="" if answer.revocation_reason is None else answer.revocation_reason.value,
        this_update=answer.this_update_utc,
        next_update=until,
        revoked_at=answer.revocation_time_utc,
    )


def _signer(answer: ocsp.OCSPResponse, issuer: x509.Certificate) -> x509.Certificate:
    """Return the certificate that must have signed: a delegated responder's, else the issuer's own."""
    if not answer.certificates:
        return issuer
    responder = answer.certificates[0]
    if responder == issuer:
        return issuer
    try:
        check_issued_by(responder, issuer)
        usages = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound) as err:
        raise OCSPDError("the responder's certificate is not one that the issuer appointed") from err
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        raise OCSPDError("the responder's certificate lacks the key usage OCSP signing")
    return responder


def _check_signature(answer: ocsp.OCSPResponse, signer: x509.Certificate) -> None:
    key, signature, data = signer.public_key(), answer.signature, answer.tbs_response_bytes
    algorithm = answer.signature_hash_algorithm
    try:
        match key:
            case ec.EllipticCurvePublicKey() if algorithm is not None:
                key.verify(signature, data, ec.ECDSA(algorithm))
            case rsa.RSAPublicKey() if algorithm is not None:
                key.verify(signature, data, padding.PKCS1v15(), algorithm)
            case ed25519.Ed25519PublicKey():
                key.verify(signature, data)
            case _:
                raise OCSPDError(f"signatures by {type(key).__name__} are not checked here")
    except InvalidSignature as err:
        raise OCSPDError("the signature of the answer is not the responder's") from err
