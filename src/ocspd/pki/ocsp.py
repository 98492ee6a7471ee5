"""Signing OCSP responses for one issuer, by the CA itself or by a responder certificate it issued.

`OCSPSigner` checks the responder certificate before it signs anything (RFC 6960 §4.2.2.2), decides the times
of a response and hands the encoding to `ocsp_template.ResponseBatch`. A response has one SingleResponse, no
extensions, and contains the responder certificate only if it is not the issuer's own, which `embed_ca` adds.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from ocspd.clock import ManualClock
from ocspd.errors import Code, CodedError, ConfigError
from ocspd.logs import logger
from ocspd.model import CertStatus
from ocspd.pki import der
from ocspd.pki.cert_reader import check_issued_by, read_certificate
from ocspd.pki.certid import HASHES, certid_prefix, key_identifier, parts_of
from ocspd.pki.certs import load_certificate, ski_hex
from ocspd.pki.ocsp_check import Named, Remark, check_responder, iso
from ocspd.pki.ocsp_template import ResponseBatch
from ocspd.pki.public_keys import ED25519
from ocspd.pki.signing_policy import SECOND, change_time, truncate

try:
    from cryptography.hazmat.primitives.asymmetric import mldsa
except ImportError:  # before cryptography 47
    mldsa = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    from ocspd.clock import Clock
    from ocspd.pki.keys import PrivateKey
    from ocspd.pki.signing_policy import SigningPolicy

_MINUTE = timedelta(minutes=1)
_MIN_VALIDITY = timedelta(hours=8)
_MAX_VALIDITY = timedelta(days=10)

_ECDSA: dict[str, tuple[str, hashes.HashAlgorithm, Callable[[bytes], hashlib._Hash]]] = {
    "secp256r1": ("1.2.840.10045.4.3.2", hashes.SHA256(), hashlib.sha256),
    "secp384r1": ("1.2.840.10045.4.3.3", hashes.SHA384(), hashlib.sha384),
    "secp521r1": ("1.2.840.10045.4.3.4", hashes.SHA512(), hashlib.sha512),
}
_SHA256_RSA = "1.2.840.113549.1.1.11"
_ML_DSA_44 = "2.16.840.1.101.3.4.3.17"
_ML_DSA_65 = "2.16.840.1.101.3.4.3.18"


class SignerNames(NamedTuple):
    """How messages name the three files of a signer: by their paths."""

    issuer: str = "CA certificate"
    responder: str = "responder certificate"
    key: str = "responder key"


DEFAULT_NAMES = SignerNames()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerSpec:
    """Everything a worker process needs to sign like another process; holds the private key in memory."""

    issuer: bytes
    responder: bytes
    key: bytes
    policy: SigningPolicy

    def __repr__(self) -> str:
        return f"SignerSpec(<{len(self.key)} bytes of private key>)"

    def open(self, now: datetime) -> OCSPSigner:
        """Make the signer again."""
        return OCSPSigner(
            read_certificate(self.issuer),
            read_certificate(self.responder),
            cast("PrivateKey", serialization.load_pem_private_key(self.key, None)),
            self.policy,
            ManualClock(now),
        )


class OCSPSigner:
    """Signs the status of certificates issued by `issuer_cert`, with `key` of `responder_cert`."""

    def __init__(  # noqa: PLR0913  (what signs, how, when, and what it is called)
        self,
        issuer_cert: x509.Certificate,
        responder_cert: x509.Certificate,
        key: PrivateKey,
        policy: SigningPolicy,
        clock: Clock,
        *,
        names: SignerNames = DEFAULT_NAMES,
    ) -> None:
        """Check certificates and key, see `check`; messages use `names` for them."""
        self.issuer = issuer_cert
        self.responder = responder_cert
        self.key = key
        self.policy = policy
        self.clock = clock
        self._names = names
        self._issuer_parts = parts_of(issuer_cert)
        self._responder_parts = parts_of(responder_cert)
        self.direct = issuer_cert == responder_cert
        """Whether the CA signs its own responses, so that `embed_ca` decides about embedding."""
        self.responder_id = policy.responder_id or ("name" if self.direct else "key")
        self._sign_bytes, self._signature_algorithm = _signing(key, names.key)
        self.warnings = self.check()
        """Findings that are not errors but that some client or root programme objects to."""
        self._certid_prefixes = {name: certid_prefix(issuer_cert, name) for name in HASHES}

    @property
    def aki(self) -> str:
        """The key identifier in certdb's rows of this issuer: in hex, "" if it has none."""
        return ski_hex(self.issuer)

    @property
    def subject(self) -> str:
        """Subject of the issuer, for messages."""
        return self.issuer.subject.rfc4514_string()

    def spec(self) -> SignerSpec:
        """Return what another process needs to make this signer again."""
        return SignerSpec(
            issuer=self.issuer.public_bytes(serialization.Encoding.DER),
            responder=self.responder.public_bytes(serialization.Encoding.DER),
            key=self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            policy=self.policy,
        )

    # -- checks --------------------------------------------------------------------------------

    def log_warnings(self) -> None:
        """Log what some clients may reject."""
        for warning in self.warnings:
            logger.log(logging.DEBUG if isinstance(warning, Remark) else logging.WARNING, "%s", warning)

    def check(self) -> tuple[str, ...]:
        """Check that clients will accept what this signer signs now; return warnings.

        See `ocsp_check.check_responder`, whose ConfigErrors this raises. Call it again when time passes.
        """
        now = self.clock.now()
        subject = self.responder.subject.rfc4514_string()
        responder = Named(self.responder, self._responder_parts, f"{self._names.responder} ({subject})")
        issuer = Named(self.issuer, self._issuer_parts, f"{self._names.issuer} ({self.subject})")
        warnings = check_responder(issuer, responder, key=self.key, key_name=self._names.key, now=now)
        end = self.responder.not_valid_after_utc
        if self._untrimmed_next_update(now) > end:
            warnings.append(
                f"{responder.name}: expires on {iso(end)}, and so do its responses: issue a new one"
            )
        if not _MIN_VALIDITY <= self.policy.validity <= _MAX_VALIDITY:
            warnings.append(
                f"validity {self.policy.validity} is outside of what the CA/Browser Forum allows publicly "
                "trusted CAs: 8 hours to 10 days"
            )
        return tuple(warnings)

    def check_certificate(self, certificate: x509.Certificate) -> None:
        """Check that this signer's issuer issued the certificate.

        CodedError 8100 when the names differ, 8200 when the signature does not verify.
        """
        if parts_of(certificate).issuer != self._issuer_parts.subject:
            raise CodedError(Code.OCSP_ISSUER_MISMATCH, "Certificate not issued by this issuer")
        try:
            check_issued_by(certificate, self.issuer)
        except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as err:
            raise CodedError(
                Code.OCSP_INVALID_STATUS,
                f"signature of certificate {certificate.serial_number} does not verify with {self.subject}",
            ) from err

    def issued(self, certificate_pem: bytes) -> bool:
        """Return whether this signer's issuer issued the certificate; False for bytes that are not one."""
        try:
            self.check_certificate(load_certificate(certificate_pem))
        except (ValueError, CodedError):
            return False
        return True

    # -- signing -------------------------------------------------------------------------------

    def _untrimmed_next_update(self, now: datetime) -> datetime:
        return truncate(now, self.policy.this_update_step) + self.policy.validity - SECOND

    def batch(
        self,
        now: datetime | None = None,
        *,
        until: datetime | None = None,
        changed: bool = False,
        replaced_s: int = 0,
    ) -> ResponseBatch:
        """Encode what all responses signed at one instant (the clock's, if not given) share.

        thisUpdate is truncated to the signer's step, or for a changed status it is that of `change_time`,
        later than `replaced_s`. producedAt is truncated to the minute, but not before thisUpdate of a
        change; nextUpdate is not later than the notAfter of the signing certificate (Mozilla root store
        policy §6), nor than `until`, when the statuses expire. Raises ConfigError when either lies in the
        past.
        """
        now = self.clock.now() if now is None else now.astimezone(UTC)
        end = self.responder.not_valid_after_utc
        if now >= end:
            raise ConfigError(
                f"{self._names.responder} ({self.responder.subject.rfc4514_string()}): "
                f"expired on {iso(end)}: issue a new one"
            )
        if until is not None and until <= now:
            raise ConfigError(f"the CRL of {self.subject} expired on {iso(until)}: give a current one")
        if self.responder_id == "key":
            responder_id = der.tlv(
                der.context(2, constructed=True), der.tlv(der.OCTET_STRING, key_identifier(self.responder))
            )
        else:
            responder_id = der.tlv(der.context(1, constructed=True), self._responder_parts.subject)
        this_update = change_time(now, replaced_s) if changed else truncate(now, self.policy.this_update_step)
        embedded = [] if self.direct else [self.responder]
        if self.policy.embed_ca:
            embedded.append(self.issuer)
        certificates = b""
        if embedded:
            certificates = der.tlv(
                der.context(0, constructed=True),
                der.sequence(*(each.public_bytes(serialization.Encoding.DER) for each in embedded)),
            )
        return ResponseBatch(
            sign=self._sign_bytes,
            signature_algorithm=self._signature_algorithm,
            responder_id=responder_id,
            certid_prefixes=self._certid_prefixes,
            certificates=certificates,
            produced_at=max(truncate(now, _MINUTE), this_update) if changed else truncate(now, _MINUTE),
            this_update=this_update,
            next_update=max(min(this_update + self.policy.validity - SECOND, end, until or end), this_update),
        )

    def sign(
        self,
        *,
        serial: int,
        status: CertStatus = CertStatus.GOOD,
        reason: int = 0,
        revoked_at: datetime | None = None,
        certid_hash: str = "sha1",
    ) -> bytes:
        """Sign one response now and return its DER; see `ResponseBatch.sign` for the arguments and errors."""
        batch = self.batch()
        if status == CertStatus.REVOKED and revoked_at is not None and revoked_at > batch.this_update:
            batch = self.batch(changed=True)
        return batch.sign(serial, status, reason, revoked_at, certid_hash)


def _signing(key: PrivateKey, key_name: str) -> tuple[Callable[[bytes], bytes], bytes]:
    """Return the signing function and the DER of its AlgorithmIdentifier (BR §7.1.3.2)."""
    match key:
        case ec.EllipticCurvePrivateKey() if key.curve.name in _ECDSA:
            dotted, algorithm, digest = _ECDSA[key.curve.name]
            # hashing here is 0.4 us faster than in `sign`, which sets a context up for each hash
            scheme = ec.ECDSA(Prehashed(algorithm))
            return lambda data: key.sign(digest(data).digest(), scheme), der.sequence(der.oid(dotted))
        case rsa.RSAPrivateKey():
            pkcs1, sha256 = padding.PKCS1v15(), hashes.SHA256()
            return lambda data: key.sign(data, pkcs1, sha256), der.sequence(der.oid(_SHA256_RSA), der.NULL)
        case ed25519.Ed25519PrivateKey():
            return key.sign, der.sequence(der.oid(ED25519))
        case _:
            pass
    if mldsa is not None:
        if isinstance(key, mldsa.MLDSA44PrivateKey):
            return key.sign, der.sequence(der.oid(_ML_DSA_44))
        if isinstance(key, mldsa.MLDSA65PrivateKey):
            return key.sign, der.sequence(der.oid(_ML_DSA_65))
    raise ConfigError(
        f"{key_name}: keys of this kind cannot sign OCSP responses: use RSA, ECDSA P-256, P-384 or P-521, "
        "Ed25519, or ML-DSA-44 or -65"
    )
