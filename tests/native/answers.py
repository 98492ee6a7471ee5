"""Signed OCSP answers made by `cryptography`, for tests of the native modules."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@cache
def make_key(kind: str) -> Key:
    """Make one key a kind and process: making RSA keys is slow."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


@dataclass
class Authority:
    """A CA that answers for itself."""

    kind: str = "p256"
    name: str = "test authority"
    embed: bool = True
    key: Key = field(init=False)
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.key = make_key(self.kind)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(NOW - dt.timedelta(days=1))
            .not_valid_after(NOW + dt.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, self._hash())
        )

    def _hash(self) -> hashes.SHA256 | None:
        return None if self.kind == "ed25519" else hashes.SHA256()

    def hashes(self, hash_name: str) -> tuple[bytes, bytes]:
        """Return issuerNameHash and issuerKeyHash."""
        request = self.request_builder(1, hash_name).build()
        return request.issuer_name_hash, request.issuer_key_hash

    def request_builder(self, serial: int, hash_name: str = "sha1") -> ocsp.OCSPRequestBuilder:
        """Start a request about a serial."""
        spki = self.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        del spki
        name = hashes.Hash(HASHES[hash_name])
        name.update(self.certificate.subject.public_bytes())
        ski = x509.SubjectKeyIdentifier.from_public_key(self.certificate.public_key())
        key_hash = ski.digest
        if hash_name != "sha1":
            bits = _public_key_bits(self.certificate)
            digest = hashes.Hash(HASHES[hash_name])
            digest.update(bits)
            key_hash = digest.finalize()
        return ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            name.finalize(), key_hash, serial, HASHES[hash_name]
        )

    def request(self, serial: int, hash_name: str = "sha1") -> bytes:
        """Return the DER of a request about a serial."""
        return self.request_builder(serial, hash_name).build().public_bytes(serialization.Encoding.DER)

    def answer(
        self,
        serial: int,
        *,
        hash_name: str = "sha1",
        revoked_at: dt.datetime | None = None,
        reason: x509.ReasonFlags | None = None,
        this_update: dt.datetime = NOW,
        next_update: dt.datetime | None = NOW + dt.timedelta(hours=96),
    ) -> bytes:
        """Return the DER of a signed answer about a serial."""
        name_hash, key_hash = self.hashes(hash_name)
        builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
            name_hash,
            key_hash,
            serial,
            HASHES[hash_name],
            ocsp.OCSPCertStatus.REVOKED if revoked_at else ocsp.OCSPCertStatus.GOOD,
            this_update,
            next_update,
            revoked_at,
            reason,
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, self.certificate)
        if self.embed:
            builder = builder.certificates([self.certificate])
        return builder.sign(self.key, self._hash()).public_bytes(serialization.Encoding.DER)


def _public_key_bits(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key.public_bytes_raw()
    assert isinstance(key, rsa.RSAPublicKey)
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
