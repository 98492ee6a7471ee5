"""Signing OCSP responses for one issuer, by the CA itself or by a responder certificate it issued.

`OCSPSigner` checks the responder certificate before it signs anything (RFC 6960 §4.2.2.2), decides
the times of a response and hands the encoding to `ocsp_template.ResponseBatch`. What it signs has one
SingleResponse, no extensions, and the responder certificate only when it is not the issuer's own, which
`embed_ca` adds.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

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
from ocspd.pki.certid import HASHES, certid_prefix, check_hash_name, key_identifier, parts_of
from ocspd.pki.certs import load_certificate, ski_hex
from ocspd.pki.ocsp_check import Named, Remark, check_responder, iso
from ocspd.pki.ocsp_template import ResponseBatch

try:
    from cryptography.hazmat.primitives.asymmetric import mldsa
except ImportError:  # before cryptography 47
    mldsa = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509

    from ocspd.clock import Clock
    from ocspd.pki.keys import PrivateKey

DEFAULT_VALIDITY = timedelta(hours=96)
"""CFSSL's `-interval`."""
DEFAULT_HASHES = ("sha1", "sha256")
"""A client accepts only the CertID it asked for, and both kinds ask."""
MAX_AHEAD = timedelta(minutes=1)
"""How far in the future a thisUpdate may lie where it must (`change_time`); clients allow for minutes."""

_SECOND = timedelta(seconds=1)
_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)
_SHORT = timedelta(hours=16)
_MARGIN = timedelta(hours=8)
_MAX_AGE = timedelta(days=4)
_MIN_VALIDITY = timedelta(hours=8)
_MAX_VALIDITY = timedelta(days=10)

_ECDSA: dict[str, tuple[str, hashes.HashAlgorithm, Callable[[bytes], hashlib._Hash]]] = {
    "secp256r1": ("1.2.840.10045.4.3.2", hashes.SHA256(), hashlib.sha256),
    "secp384r1": ("1.2.840.10045.4.3.3", hashes.SHA384(), hashlib.sha384),
    "secp521r1": ("1.2.840.10045.4.3.4", hashes.SHA512(), hashlib.sha512),
}
_SHA256_RSA = "1.2.840.113549.1.1.11"
_ED25519 = "1.3.101.112"
_ML_DSA_44 = "2.16.840.1.101.3.4.3.17"
_ML_DSA_65 = "2.16.840.1.101.3.4.3.18"


def refresh_at(this_update: datetime, next_update: datetime, *, life: float = 0.5) -> datetime:
    """Return when a response is due to be replaced: after the share `life` of its validity.

    Never later than the Baseline Requirements allow (§4.9.9; the interval counts its last second):
    under 16 h of validity before half of it is left, else 8 h before nextUpdate and no more than
    4 days after thisUpdate.
    """
    interval = next_update - this_update + _SECOND
    due = this_update + interval * life
    if interval < _SHORT:
        return min(due, this_update + interval / 2)
    return min(due, next_update - _MARGIN, this_update + _MAX_AGE)


def change_time(now: datetime, replaced_s: int = 0) -> datetime:
    """Return the thisUpdate of a response that is signed because of a change: the rule for every path.

    The second of `now`, so that it is not before the revocation it tells of (`ResponseBatch` writes no later
    revocationTime), and later than `replaced_s`, the thisUpdate of the response it replaces (0: none), so
    that no two responses that differ have the same times. For that it may lie up to MAX_AHEAD in the future,
    where several changes meet in one second or the clock was set back a little; a response from further
    ahead is not believed by clients either, and nothing from that far in the future is signed.
    """
    moment = now.replace(microsecond=0)
    after_s = replaced_s + 1
    ahead = after_s - moment.timestamp()
    return datetime.fromtimestamp(after_s, UTC) if 0 < ahead <= MAX_AHEAD.total_seconds() else moment


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerSpec:
    """All a worker process needs to sign as another process would; holds the private key in memory."""

    issuer: bytes
    responder: bytes
    key: bytes
    validity: timedelta
    certid_hashes: tuple[str, ...]
    responder_id: str
    this_update_step: timedelta
    refresh_after: float
    embed_ca: bool

    def __repr__(self) -> str:
        return f"SignerSpec(<{len(self.key)} bytes of private key>)"

    def open(self, now: datetime) -> OCSPSigner:
        """Make the signer again; warnings were given where the spec was made."""
        return OCSPSigner(
            read_certificate(self.issuer),
            read_certificate(self.responder),
            cast("PrivateKey", serialization.load_pem_private_key(self.key, None)),
            clock=ManualClock(now),
            validity=self.validity,
            certid_hashes=self.certid_hashes,
            responder_id=self.responder_id,
            this_update_step=self.this_update_step,
            refresh_after=self.refresh_after,
            embed_ca=self.embed_ca,
            warn=False,
        )


class OCSPSigner:
    """Signs the status of certificates issued by `issuer_cert`, with `key` of `responder_cert`."""

    def __init__(  # noqa: PLR0913  (one value for each decision an operator makes)
        self,
        issuer_cert: x509.Certificate,
        responder_cert: x509.Certificate,
        key: PrivateKey,
        *,
        clock: Clock,
        validity: timedelta = DEFAULT_VALIDITY,
        certid_hashes: Sequence[str] = DEFAULT_HASHES,
        responder_id: str = "",
        this_update_step: timedelta = _HOUR,
        refresh_after: float = 0.5,
        embed_ca: bool = False,
        issuer_name: str = "CA certificate",
        responder_name: str = "responder certificate",
        key_name: str = "responder key",
        warn: bool = True,
    ) -> None:
        """Check the three (see `check`) and log what clients may dislike, unless `warn` is off.

        `validity` is nextUpdate - thisUpdate with its last second counted; `certid_hashes` are those
        presigned (`sign` knows them all); `responder_id` is "key" or "name"; "" is key (RFC 9919 §3.2.2), but
        name for a CA that signs for itself: GnuTLS and dirmngr find it by nothing else, as no certificate is
        embedded. `embed_ca` embeds the CA certificate as well, for clients that have no other way to it;
        thisUpdate is truncated to `this_update_step`, CFSSL's hour; `refresh_after` is the share of
        its validity after which an answer is due to be replaced. The names stand for the three in
        messages: the paths they were read from.
        """
        self.issuer = issuer_cert
        self.responder = responder_cert
        self.key = key
        self.clock = clock
        self.validity = validity
        self.certid_hashes = tuple(dict.fromkeys(certid_hashes))
        self.this_update_step = this_update_step
        self.refresh_after = refresh_after
        self.embed_ca = embed_ca
        self._names = (issuer_name, responder_name, key_name)
        self._issuer_parts = parts_of(issuer_cert)
        self._responder_parts = parts_of(responder_cert)
        self.direct = issuer_cert == responder_cert
        """Whether the CA signs itself, so that its certificate is only embedded where `embed_ca` says so."""
        self.responder_id = responder_id or ("name" if self.direct else "key")
        self._check_settings()
        self._sign_bytes, self._signature_algorithm = _signing(key, key_name)
        self.warnings = self.check()
        """What was found that is no error but some client or root programme objects to."""
        if warn:
            for warning in self.warnings:
                logger.log(logging.DEBUG if isinstance(warning, Remark) else logging.WARNING, "%s", warning)
        self._certid_prefixes = {name: certid_prefix(issuer_cert, name) for name in HASHES}

    @property
    def aki(self) -> str:
        """What certdb's rows of this issuer carry: hex of its key identifier, "" when it has none."""
        return ski_hex(self.issuer)

    def due_s(self, this_update: datetime, next_update: datetime) -> int:
        """Return when an answer with these times is due to be replaced, in seconds since the epoch."""
        return int(refresh_at(this_update, next_update, life=self.refresh_after).timestamp())

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
            validity=self.validity,
            certid_hashes=self.certid_hashes,
            responder_id=self.responder_id,
            this_update_step=self.this_update_step,
            refresh_after=self.refresh_after,
            embed_ca=self.embed_ca,
        )

    # -- checks --------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        if self.responder_id not in {"key", "name"}:
            raise ConfigError(f"responder id {self.responder_id!r} is not known: use key or name")
        if not self.certid_hashes:
            raise ConfigError(f"no CertID hash given: use one or more of {', '.join(HASHES)}")
        for name in self.certid_hashes:
            check_hash_name(name)
        if self.validity <= self.this_update_step:
            raise ConfigError(
                f"a validity of {self.validity} is over before it starts, as thisUpdate is truncated to "
                f"{self.this_update_step}: use a longer interval, such as 96h"
            )

    def check(self) -> tuple[str, ...]:
        """Check that clients will accept what this signer signs now; return warnings.

        See `ocsp_check.check_responder`, whose ConfigErrors this raises. Call it again when time passes.
        """
        now = self.clock.now()
        subject = self.responder.subject.rfc4514_string()
        issuer_name, responder_name, key_name = self._names
        responder = Named(self.responder, self._responder_parts, f"{responder_name} ({subject})")
        issuer = Named(self.issuer, self._issuer_parts, f"{issuer_name} ({self.subject})")
        warnings = check_responder(issuer, responder, key=self.key, key_name=key_name, now=now)
        end = self.responder.not_valid_after_utc
        if self._untrimmed_next_update(now) > end:
            warnings.append(
                f"{responder.name}: expires on {iso(end)}, so responses end then too: issue a new one"
            )
        if not _MIN_VALIDITY <= self.validity <= _MAX_VALIDITY:
            warnings.append(
                f"validity {self.validity} is outside of what the CA/Browser Forum allows publicly "
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
        """Tell whether this signer's issuer issued the certificate; False for bytes that are none."""
        try:
            self.check_certificate(load_certificate(certificate_pem))
        except (ValueError, CodedError):
            return False
        return True

    # -- signing -------------------------------------------------------------------------------

    def _untrimmed_next_update(self, now: datetime) -> datetime:
        return _truncate(now, self.this_update_step) + self.validity - _SECOND

    def batch(
        self,
        now: datetime | None = None,
        *,
        until: datetime | None = None,
        changed: bool = False,
        replaced_s: int = 0,
    ) -> ResponseBatch:
        """Encode what all responses signed at one instant (the clock's, if not given) share.

        thisUpdate is truncated to the signer's step, or where the status has changed that of `change_time`,
        later than `replaced_s`. producedAt is truncated to the minute, but not before thisUpdate of a
        change; nextUpdate is not later than the notAfter of the certificate that signed (Mozilla root store
        policy §6), nor than `until`, when what is known of the certificates ends. Raises ConfigError when
        either lies in the past.
        """
        now = self.clock.now() if now is None else now.astimezone(UTC)
        end = self.responder.not_valid_after_utc
        if now >= end:
            _, responder_name, _ = self._names
            raise ConfigError(
                f"{responder_name} ({self.responder.subject.rfc4514_string()}): expired on {iso(end)}: "
                "issue a new one"
            )
        if until is not None and until <= now:
            raise ConfigError(
                f"what is known of the certificates of {self.subject} ended on {iso(until)}: "
                "give a current CRL"
            )
        if self.responder_id == "key":
            responder_id = der.tlv(
                der.context(2, constructed=True), der.tlv(der.OCTET_STRING, key_identifier(self.responder))
            )
        else:
            responder_id = der.tlv(der.context(1, constructed=True), self._responder_parts.subject)
        this_update = change_time(now, replaced_s) if changed else _truncate(now, self.this_update_step)
        embedded = [] if self.direct else [self.responder]
        if self.embed_ca:
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
            produced_at=max(_truncate(now, _MINUTE), this_update) if changed else _truncate(now, _MINUTE),
            this_update=this_update,
            next_update=max(min(this_update + self.validity - _SECOND, end, until or end), this_update),
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
            return key.sign, der.sequence(der.oid(_ED25519))
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


def _truncate(instant: datetime, step: timedelta) -> datetime:
    """Cut an instant down to a multiple of step since midnight UTC."""
    midnight = instant.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (instant - midnight) // step * step
