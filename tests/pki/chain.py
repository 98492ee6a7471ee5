"""Certificate chains for OCSP tests, made with cryptography's own builder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ocspd.clock import ManualClock
from ocspd.pki.ocsp import OCSPSigner
from ocspd.pki.signing_policy import SigningPolicy

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.clock import Clock

NOW = datetime.now(UTC)
KEY_KINDS = (
    "rsa-2048",
    "rsa-3072",
    "rsa-4096",
    "ecdsa-256",
    "ecdsa-384",
    "ecdsa-521",
    "ed25519",
    "ml-dsa-44",
    "ml-dsa-65",
)
OPENSSL_KINDS = KEY_KINDS[:-2]
"""Debian's OpenSSL 3.0 does not know ML-DSA."""


@cache
def make_key(kind: str, number: int = 0) -> Any:
    """Return a key; the same one for the same arguments."""
    match kind.split("-"):
        case "rsa", size:
            return rsa.generate_private_key(65537, int(size))
        case "ecdsa", size:
            curves: dict[str, ec.EllipticCurve] = {
                "224": ec.SECP224R1(),
                "256": ec.SECP256R1(),
                "384": ec.SECP384R1(),
                "521": ec.SECP521R1(),
            }
            return ec.generate_private_key(curves[size])
        case ("ed25519",):
            return ed25519.Ed25519PrivateKey.generate()
        case "ml", "dsa", "44":
            return mldsa.MLDSA44PrivateKey.generate()
        case "ml", "dsa", "65":
            return mldsa.MLDSA65PrivateKey.generate()
        case _:
            raise AssertionError((kind, number))


def digest_for(key: Any) -> Any:
    return hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) else None


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make_certificate(
    subject: x509.Name,
    key: Any,
    issuer: x509.Name,
    issuer_key: Any,
    *,
    serial: int,
    ca: bool = False,
    ocsp: bool = False,
    nocheck: bool = True,
    days: float = 365,
    start: datetime | None = None,
    digital_signature: bool = True,
    with_ski: bool = True,
) -> x509.Certificate:
    start = NOW - timedelta(days=2) if start is None else start
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=digital_signature,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=ca,
                crl_sign=ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if with_ski:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    if not ca:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    if ocsp:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False
        )
        if nocheck:
            builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
    return builder.sign(issuer_key, digest_for(issuer_key))


@dataclass(frozen=True)
class Chain:
    """A CA, its responder, and one certificate of it."""

    ca: x509.Certificate
    ca_key: Any
    responder: x509.Certificate
    responder_key: Any
    leaf: x509.Certificate

    def signer(self, *, clock: Clock | None = None, direct: bool = False, **options: Any) -> OCSPSigner:
        return OCSPSigner(
            self.ca,
            self.ca if direct else self.responder,
            self.ca_key if direct else self.responder_key,
            SigningPolicy(**options),
            clock or ManualClock(NOW),
        )

    def issue(self, serial: int, **options: Any) -> x509.Certificate:
        return make_certificate(
            common_name("leaf.example"),
            make_key("ecdsa-256", 9),
            self.ca.subject,
            self.ca_key,
            serial=serial,
            **options,
        )

    def write(self, folder: Path) -> None:
        """Write ca.pem, responder.pem, leaf.pem and the two keys, for programs that read files."""
        for name, certificate in (("ca", self.ca), ("responder", self.responder), ("leaf", self.leaf)):
            (folder / f"{name}.pem").write_bytes(pem(certificate))
        (folder / "ca-key.pem").write_bytes(key_pem(self.ca_key))
        (folder / "responder-key.pem").write_bytes(key_pem(self.responder_key))


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Any) -> bytes:
    return cast(
        "bytes",
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


@cache
def make_chain(kind: str = "ecdsa-256", name: str = "Example CA", number: int = 0) -> Chain:
    """Return a chain whose keys are all of one kind; the same one for the same arguments."""
    ca_key, responder_key = make_key(kind, 2 * number), make_key(kind, 2 * number + 1)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "FR"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ACME"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    ca = make_certificate(subject, ca_key, subject, ca_key, serial=1, ca=True)
    responder = make_certificate(
        common_name(f"OCSP of {name}"), responder_key, subject, ca_key, serial=2, ocsp=True, days=90
    )
    leaf = make_certificate(
        common_name("leaf.example"), make_key("ecdsa-256", 9), subject, ca_key, serial=0x7F3A << 130, days=60
    )
    return Chain(ca, ca_key, responder, responder_key, leaf)
