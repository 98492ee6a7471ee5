"""Certificate transparency (RFC 6962): precertificates, and the timestamps that logs sign for them.

A precertificate is the certificate to be issued with a critical extension that no client understands, the
poison. A log that accepts it returns a signed certificate timestamp (SCT): a promise to publish it. What the
log signs is the TBSCertificate without the poison, so nothing but the list of SCTs may tell the certificate
apart (`check_certificate`).
"""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ocspd import wire
from ocspd.errors import Code, CodedError, DERError, OCSPDError
from ocspd.pki import der, pem
from ocspd.pki.certid import parts_of
from ocspd.pki.certs import certificate_to_der
from ocspd.pki.extensions import CT_POISON, CT_SCT_LIST, Extension
from ocspd.pki.public_keys import read_public_key
from ocspd.pki.signatures import SignatureError, verify
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from cryptography import x509

_VERSION = 0
_CERTIFICATE_TIMESTAMP = 0
_PRECERT_ENTRY = 1
_ID_BYTES = 32
_MAX_VECTOR = (1 << 16) - 1
_MAX_TEXT = 2 * _MAX_VECTOR

_SHA256 = 4
_ALGORITHMS = {
    1: der.oid("1.2.840.113549.1.1.11") + der.NULL,
    3: der.oid("1.2.840.10045.4.3.2"),
}
"""SignatureAlgorithm of RFC 5246 §7.4.1.4.1 (1 RSA, 3 ECDSA): the content of the AlgorithmIdentifier."""

MAX_LOGS = 16
"""The most logs of a profile."""

MAX_AHEAD = timedelta(minutes=10)
"""How far in the future an SCT may lie: clients refuse a certificate with one from the future."""


class SCTError(OCSPDError):
    """What a log returned is not an SCT for the precertificate; the message is the reason."""


@dataclass(frozen=True, slots=True)
class CTLog:
    """A log: its URL without a slash at the end, and the DER of its SubjectPublicKeyInfo, b"" if unknown."""

    url: str
    key_info: bytes = b""


def parse_log_key(text: str) -> bytes:
    """Read a log's public key: base64 of its DER, as in the lists of browsers, or PEM; return the DER.

    DERError when it is not a key of a kind that RFC 6962 §2.1.4 allows: P-256, or RSA from 2048 bits.
    """
    if "-----BEGIN" in text:
        data = next((block.content for block in pem.blocks(text.encode("utf-8", "replace"))), b"")
    else:
        try:
            data = base64.b64decode("".join(text.split()).encode("ascii", "replace"), validate=True)
        except binascii.Error:
            raise DERError("it is not base64") from None
    match read_public_key(data):
        case rsa.RSAPublicKey():
            return data
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return data
        case _:
            raise DERError("it is neither a P-256 key nor an RSA key")


def parse_logs(servers: Sequence[str], keys: Mapping[str, str]) -> tuple[CTLog, ...]:
    """Return the logs of a profile, in order and each once; DERError names what cannot be used.

    `keys` maps the URLs of logs to their public keys.
    """
    urls = list(dict.fromkeys(_log_url(server) for server in servers))
    if len(urls) > MAX_LOGS:
        raise DERError(f"ct_log_servers has {len(urls)} logs, more than {MAX_LOGS}")
    known = {}
    for name, text in keys.items():
        url = name.strip().rstrip("/")
        if url not in urls:
            near = difflib.get_close_matches(url, urls, 1)
            hint = f": did you mean {shown(near[0])}?" if near else ""
            raise DERError(f"ct_log_keys: {shown(name)} is not in ct_log_servers{hint}")
        try:
            known[url] = parse_log_key(text)
        except DERError as err:
            raise DERError(
                f"ct_log_keys: {shown(name)}: not the public key of a log (base64 of DER): {err}"
            ) from None
    return tuple(CTLog(url, known.get(url, b"")) for url in urls)


def _log_url(text: str) -> str:
    url = text.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username is not None or not url.isprintable():
        raise DERError(
            f"ct_log_servers: {shown(text)!r} is not the URL of a log, such as https://log.example/2026h2"
        )
    return url


@dataclass(frozen=True, slots=True)
class Precertificate:
    """A signed precertificate, and the parts of it that logs sign."""

    der: bytes
    issuer_der: bytes
    issuer_key_hash: bytes
    """SHA-256 of the issuer's SubjectPublicKeyInfo."""
    tbs: bytes
    """The TBSCertificate without the poison."""

    @classmethod
    def of(cls, certificate: x509.Certificate, issuer: x509.Certificate) -> Precertificate:
        """Take a precertificate apart; CodedError 10300 without a poison, 10400 with a wrong one."""
        tbs = certificate.tbs_certificate_bytes
        found = [each for each in _extensions(tbs) if _oid_of(each) == der.oid(CT_POISON)]
        if not found:
            raise CodedError(Code.CT_POISON_MISSING, "the precertificate has no poison extension")
        if found != [poison().encode()]:
            raise CodedError(
                Code.CT_POISON_INVALID, "the poison extension of the precertificate is not valid"
            )
        return cls(
            der=certificate_to_der(certificate),
            issuer_der=certificate_to_der(issuer),
            issuer_key_hash=hashlib.sha256(parts_of(issuer).key_info).digest(),
            tbs=without_extension(tbs, CT_POISON),
        )

    def check_certificate(self, certificate: x509.Certificate) -> None:
        """Raise CodedError 10000 unless, but for the list of SCTs, the certificate is what logs signed."""
        if without_extension(certificate.tbs_certificate_bytes, CT_SCT_LIST) != self.tbs:
            raise CodedError(
                Code.CT_UNKNOWN, "the certificate differs from the precertificate that the logs have"
            )


@dataclass(frozen=True, slots=True)
class SCT:
    """A signed certificate timestamp of version 1 (RFC 6962 §3.2); the time is in ms since the epoch."""

    log_id: bytes
    timestamp_ms: int
    extensions: bytes
    signature: bytes
    """The DigitallySigned: hash, algorithm, length and bytes of the signature."""

    def encode(self) -> bytes:
        """Return the SerializedSCT of RFC 6962 §3.3."""
        return b"".join(
            (
                bytes((_VERSION,)),
                self.log_id,
                self.timestamp_ms.to_bytes(8, "big"),
                _vector(self.extensions, 2),
                self.signature,
            )
        )

    def check(self, log: CTLog, precertificate: Precertificate, now: datetime) -> None:
        """Raise SCTError when it is from the future or, if the log's key is known, not signed by that key."""
        if self.timestamp_ms > (now + MAX_AHEAD).timestamp() * 1000:
            raise SCTError("its SCT is from the future")
        if not log.key_info:
            return
        if self.log_id != hashlib.sha256(log.key_info).digest():
            raise SCTError("its SCT is of another log than the key in ct_log_keys")
        signed = b"".join(
            (
                bytes((_VERSION, _CERTIFICATE_TIMESTAMP)),
                self.timestamp_ms.to_bytes(8, "big"),
                _PRECERT_ENTRY.to_bytes(2, "big"),
                precertificate.issuer_key_hash,
                _vector(precertificate.tbs, 3),
                _vector(self.extensions, 2),
            )
        )
        try:
            verify(
                read_public_key(log.key_info),
                _ALGORITHMS[self.signature[1]],
                self.signature[4:],
                signed,
                allow_sha1=False,
            )
        except SignatureError:
            raise SCTError("the signature of its SCT does not verify with the key in ct_log_keys") from None


def read_sct(reply: bytes) -> SCT:
    """Read a log's reply to add-pre-chain (RFC 6962 §4.1); SCTError with the reason when it is not one."""
    try:
        fields = wire.Fields(wire.loads(reply), "AddChainResponse")
        version, timestamp = fields.get("sct_version"), fields.get("timestamp")
        log_id = _base64(fields, "id")
        extensions = _base64(fields, "extensions")
        signature = _base64(fields, "signature")
    except wire.JSONError as err:
        raise SCTError(f"its reply is not the JSON of an SCT: {err}") from None
    if not _is_integer(version) or version != _VERSION:
        raise SCTError("its SCT is not of version 1")
    if not _is_integer(timestamp) or not 0 <= timestamp < 1 << 63:
        raise SCTError("its SCT has no valid timestamp")
    if len(log_id) != _ID_BYTES:
        raise SCTError(f"the log id of its SCT has {len(log_id)} bytes instead of {_ID_BYTES}")
    if len(extensions) > _MAX_VECTOR:
        raise SCTError("the extensions of its SCT are too long")
    if len(signature) < 4 or int.from_bytes(signature[2:4], "big") != len(signature) - 4:
        raise SCTError("the signature of its SCT is malformed")
    if signature[0] != _SHA256 or signature[1] not in _ALGORITHMS:
        raise SCTError("the signature of its SCT is neither ECDSA nor RSA with SHA-256")
    return SCT(log_id, timestamp, extensions, signature)


def poison() -> Extension:
    """Return the critical extension of a precertificate (RFC 6962 §3.1)."""
    return Extension(CT_POISON, critical=True, value=der.NULL)


def sct_list(scts: Sequence[SCT]) -> Extension:
    """Return the extension with a SignedCertificateTimestampList; CodedError 10000 when it is too long."""
    encoded = b"".join(_vector(sct.encode(), 2) for sct in scts)
    if len(encoded) > _MAX_VECTOR:
        raise CodedError(Code.CT_UNKNOWN, f"the list of SCTs would have {len(encoded)} bytes")
    return Extension(CT_SCT_LIST, critical=False, value=der.tlv(der.OCTET_STRING, _vector(encoded, 2)))


def without_extension(tbs: bytes, oid: str) -> bytes:
    """Return a TBSCertificate without one of its extensions."""
    *fields, tagged = der.children(tbs)
    kept = [each for each in _extensions(tbs) if _oid_of(each) != der.oid(oid)]
    return der.sequence(*fields, der.tlv(tagged[0], der.sequence(*kept)))


def _extensions(tbs: bytes) -> list[bytes]:
    return der.children(der.children(der.children(tbs)[-1])[0])


def _oid_of(extension: bytes) -> bytes:
    return der.children(extension)[0]


def _vector(data: bytes, length_bytes: int) -> bytes:
    return len(data).to_bytes(length_bytes, "big") + data


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _base64(fields: wire.Fields, key: str) -> bytes:
    text = fields.string(key)
    if len(text) > _MAX_TEXT:
        raise wire.JSONError(f"{key} is too long")
    try:
        return base64.b64decode(text.encode("ascii", "replace"), validate=True)
    except binascii.Error:
        raise wire.JSONError(f"{key} is not base64") from None
