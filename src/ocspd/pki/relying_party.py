"""The relying party's side of OCSP: a request, and the one check of responses that ocspd has.

A response is accepted under the conditions of RFC 6960 §3.2, in its order:

 1. It is about the requested certificate: hash algorithm, issuer and serial number of the CertID.
 2. Its signature is valid, by an algorithm of `signatures.verify` without SHA-1.
 3. The signer is the one its ResponderID names (§4.2.1): the issuer, or a certificate embedded in it.
 4. The signer is authorized now (§4.2.2.2): the issuer itself, or a certificate that the issuer signed
    directly, that is valid now and has the extended key usage OCSP signing.
 5. thisUpdate is not in the future, and neither is a time of revocation.
 6. nextUpdate, where there is one, is in the future.

§3.2 requires a valid signature and leaves the algorithms to the client (§4.3: it must support SHA-256 with
RSA, and should support SHA-1). `openssl ocsp` accepts SHA-1 unless the distribution forbids it (3.0.19 of
Debian 12 reports "Response verify OK"); Mozilla's root store policy (§5.1.3) forbids it to CAs. This check is
for finding out whether *every* client will accept the responses of one's own responder, so the strictest
client counts.

Responses are read with the tolerant reader, so that one `cryptography` rejects (explicitly encoded default
version) is judged by its signature and not by its encoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from ocspd._der import parse_response
from ocspd._index import NO_NEXT_UPDATE
from ocspd.errors import ConfigError, DERError, OCSPDError
from ocspd.model import CertStatus
from ocspd.pki.cert_reader import check_issued_by, read_certificate
from ocspd.pki.certid import HASHES, issuer_hashes, key_identifier, parts_of
from ocspd.pki.der import ENUMERATED, children, content
from ocspd.pki.ocsp_check import extension_of
from ocspd.pki.signatures import SignatureError, verify

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_ERRORS = {1: "malformedRequest", 2: "internalError", 3: "tryLater", 5: "sigRequired", 6: "unauthorized"}
"""OCSPResponseStatus, RFC 6960 §4.2.1."""
_REASONS = {
    0: "unspecified",
    1: "keyCompromise",
    2: "cACompromise",
    3: "affiliationChanged",
    4: "superseded",
    5: "cessationOfOperation",
    6: "certificateHold",
    8: "removeFromCRL",
    9: "privilegeWithdrawn",
    10: "aACompromise",
}
"""CRLReason, RFC 5280 §5.3.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedStatus:
    """The content of an accepted response; times in seconds since the epoch."""

    status: CertStatus
    this_update: int
    next_update: int | None = None
    revoked_at: int | None = None
    reason: str = ""
    """RFC 5280's name of the reason, if any, and if the first SingleResponse is about the certificate."""


class ErrorStatusError(OCSPDError):
    """An error status, which is not signed and so proves nothing; the message is its name."""


class ResponseChecker:
    """Checks responses of the given CAs at one instant; remembers signers it has found authorized."""

    def __init__(self, issuers: Sequence[x509.Certificate], now_s: int, *, skew_s: int = 0) -> None:
        """`skew_s` is how far ahead of ours the responder's clock may be."""
        self._now_s = now_s
        self._latest_s = now_s + skew_s
        self._issuers = {
            (name, *issuer_hashes(issuer, name)): issuer for issuer in issuers for name in HASHES
        }
        self._keys: dict[tuple[bytes, bytes, bytes], object] = {}

    def check(
        self,
        der: bytes,
        prefix: tuple[str, bytes, bytes],
        serial: int,
        *,
        stored: tuple[int, int, int] | None = None,
    ) -> CheckedStatus:
        """Check a response about a CertID: hash name, issuer's name and key hash, and serial number.

        `stored` are status, thisUpdate and nextUpdate as recorded in an index, by which it serves the
        response. OCSPDError says what is wrong, ErrorStatusError that it is an error status.
        """
        issuer = self._issuers.get(prefix)
        if issuer is None:
            raise OCSPDError("its issuer is not among the given CA certificates")
        try:
            response = parse_response(der)
        except DERError:
            _refuse_error_status(der)
            raise
        single = next((each for each in response.singles if each[:4] == (*prefix, serial)), None)
        if single is None:
            raise OCSPDError("it is about a certificate other than the requested one")
        status, this_update, next_update, revoked_at = single[4:]
        if this_update > self._latest_s:
            raise OCSPDError("its thisUpdate is in the future")
        if next_update is not None and next_update <= self._now_s:
            raise OCSPDError("it has expired")
        if revoked_at is not None and revoked_at > self._latest_s:
            raise OCSPDError("its time of revocation is in the future")
        if stored is not None and stored != (
            status,
            this_update,
            NO_NEXT_UPDATE if next_update is None else next_update,
        ):
            raise OCSPDError("the index records another status or other times than the response")
        cache_key = (prefix[2], response.responder_id, b"".join(response.certificates))
        key = self._keys.get(cache_key)
        if key is None:
            responder = _responder(response.responder_id, response.certificates, issuer)
            key = self._keys[cache_key] = _authorized_key(responder, issuer, self._now_s)
        try:
            algorithm = content(response.signature_algorithm)
            verify(key, algorithm, response.signature, response.tbs, allow_sha1=False)
        except SignatureError as err:
            raise OCSPDError(f"it {err}") from err
        return CheckedStatus(
            status=CertStatus(status),
            this_update=this_update,
            next_update=next_update,
            revoked_at=revoked_at,
            reason=_reason(response.reason) if single is response.singles[0] else "",
        )


def make_request(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """Return a DER request with a SHA-1 CertID and no nonce (RFC 9919 §3.1.1 allows no more)."""
    # The hash only identifies the issuer; every responder supports SHA-1.
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        *issuer_hashes(issuer, "sha1"),
        certificate.serial_number,
        hashes.SHA1(),  # noqa: S303
    )
    return builder.build().public_bytes(serialization.Encoding.DER)


def check_response(
    der: bytes,
    *,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    now: datetime,
    skew_s: int = 0,
) -> CheckedStatus:
    """Check the response to `make_request` and return its content; errors as for `ResponseChecker`."""
    checker = ResponseChecker([issuer], int(now.timestamp()), skew_s=skew_s)
    return checker.check(der, ("sha1", *issuer_hashes(issuer, "sha1")), certificate.serial_number)


def _reason(code: int | None) -> str:
    return "" if code is None else _REASONS.get(code, str(code))


def _refuse_error_status(der: bytes) -> None:
    """Raise ErrorStatusError when a response is an error status: a SEQUENCE of one ENUMERATED."""
    try:
        (status,) = children(der)
        name = _ERRORS.get(content(status)[0]) if status[0] == ENUMERATED else None
    except (DERError, IndexError, ValueError):
        return
    if name is not None:
        raise ErrorStatusError(name)


def _responder(responder_id: bytes, embedded: Sequence[bytes], issuer: x509.Certificate) -> bytes:
    """Return the embedded certificate that ResponderID names, b"" for the issuer; OCSPDError if neither."""
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
    """Return whether a ResponderID (RFC 6960 §4.2.1) is that of a certificate, byte by byte."""
    if responder_id[:1] == b"\xa1":
        return content(responder_id) == parts_of(certificate).subject
    return content(content(responder_id)) == key_identifier(certificate)


def _authorized_key(responder: bytes, issuer: x509.Certificate, now_s: int) -> object:
    """Return the public key of the embedded responder, of the issuer where there is none.

    OCSPDError when the issuer has not authorized it.
    """
    try:
        certificate = read_certificate(responder) if responder else issuer
        if certificate != issuer:
            begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not begin.timestamp() <= now_s <= end.timestamp():
                raise OCSPDError("its responder certificate is not valid now")
            check_issued_by(certificate, issuer)
            usages = extension_of(certificate, x509.ExtendedKeyUsage)
            if usages is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
                raise OCSPDError(
                    "its responder certificate does not have the extended key usage OCSP signing"
                )
        return certificate.public_key()
    except (InvalidSignature, UnsupportedAlgorithm, ConfigError, ValueError, TypeError) as err:
        raise OCSPDError("its responder certificate was not authorized by the issuer") from err
