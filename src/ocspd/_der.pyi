"""Tolerant DER reading of OCSP requests and stored OCSP responses (RFC 6960 §4.1.1, §4.2.1).

Bytes in, offsets out: nothing is verified cryptographically and nothing is copied. Tolerances are
CFSSL's (explicitly encoded default versions, any extension, optionalSignature and requestorName
ignored); lengths must be definite, minimal and inside their container.
"""

from typing import final

@final
class OCSPRequest:
    """The first CertID of an OCSPRequest and what else matters to answer it."""

    @property
    def hash_name(self) -> str:
        """CertID hash algorithm: `sha1`, `sha256`, `sha384` or `sha512`."""
    @property
    def issuer_name_hash(self) -> bytes:
        """Hash of the issuer's DER name."""
    @property
    def issuer_key_hash(self) -> bytes:
        """Hash of the issuer's subjectPublicKey bits."""
    @property
    def serial(self) -> int:
        """Serial number asked for; may be zero or negative."""
    @property
    def count(self) -> int:
        """How many certificates the request asks about."""
    @property
    def nonce(self) -> bytes | None:
        """Content of the nonce extension's extnValue, None without one (RFC 9654 §2.1)."""

def parse_request(der: bytes) -> OCSPRequest:
    """Read an OCSPRequest; DERError (malformedRequest) when it is none."""

@final
class OCSPResponse:
    """Where the parts of a successful OCSPResponse lie, and the values an index needs."""

    @property
    def hash_name(self) -> str:
        """CertID hash algorithm of the first SingleResponse."""
    @property
    def issuer_name_hash(self) -> bytes:
        """CertID.issuerNameHash of the first SingleResponse."""
    @property
    def issuer_key_hash(self) -> bytes:
        """CertID.issuerKeyHash of the first SingleResponse."""
    @property
    def serial(self) -> int:
        """CertID.serialNumber of the first SingleResponse."""
    @property
    def count(self) -> int:
        """Number of SingleResponses."""
    @property
    def status(self) -> int:
        """CertStatus tag: 0 good, 1 revoked, 2 unknown (model.CertStatus)."""
    @property
    def produced_at(self) -> int:
        """producedAt, seconds since the epoch."""
    @property
    def this_update(self) -> int:
        """thisUpdate, seconds since the epoch."""
    @property
    def next_update(self) -> int | None:
        """nextUpdate, seconds since the epoch; None when absent."""
    @property
    def revoked_at(self) -> int | None:
        """revocationTime, seconds since the epoch; None unless revoked."""
    @property
    def reason(self) -> int | None:
        """revocationReason; None when absent."""
    @property
    def tbs(self) -> bytes:
        """DER of ResponseData, the signed bytes."""
    @property
    def signature(self) -> bytes:
        """Signature bits."""
    @property
    def signature_algorithm(self) -> bytes:
        """DER of the signature's AlgorithmIdentifier."""
    @property
    def responder_id(self) -> bytes:
        """DER of the ResponderID: tag [1] byName or [2] byKey (RFC 6960 §4.2.1)."""
    @property
    def certificates(self) -> list[bytes]:
        """DER of each embedded certificate."""
    @property
    def singles(self) -> list[tuple[str, bytes, bytes, int, int, int, int | None, int | None]]:
        """Each SingleResponse: hash name, issuer name and key hash, serial, status and times, as above."""

def parse_response(der: bytes) -> OCSPResponse:
    """Read a successful OCSPResponse with a basic response.

    Raises DERError when the bytes are anything else (an error status included).
    """
