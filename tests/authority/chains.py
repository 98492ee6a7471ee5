"""Certificates for tests of chains: made here, in memory, with whatever is to be wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

    Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

NOW = datetime.now(UTC).replace(microsecond=0)
YEAR = timedelta(days=365)


@dataclass(frozen=True)
class Made:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> str:
        traditional = serialization.PrivateFormat.TraditionalOpenSSL
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            traditional = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(
            serialization.Encoding.PEM, traditional, serialization.NoEncryption()
        ).decode()


def rsa_key(bits: int = 2048) -> Key:
    return rsa.generate_private_key(65537, bits)


def ec_key(curve: ec.EllipticCurve | None = None) -> Key:
    return ec.generate_private_key(curve or ec.SECP256R1())


def make(
    name: str,
    issuer: Made | None = None,
    *,
    ca: bool = True,
    key: Key | None = None,
    begin: datetime = NOW - YEAR,
    end: datetime = NOW + 5 * YEAR,
    hosts: Sequence[str] = (),
    path_len: int | None = None,
    key_usage: bool = False,
    aia: Sequence[str] = (),
    ocsp: Sequence[str] = (),
    crls: Sequence[str] = (),
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    subject: x509.Name | None = None,
    digest: hashes.HashAlgorithm | None = None,
    key_ids: bool = True,
    constraints: bool = True,
    signed_by: Key | None = None,
) -> Made:
    """Make a certificate; without an issuer it signs itself. `signed_by` forges it with another key."""
    own = key or ec_key()
    signer = issuer.key if issuer else own
    name_of = subject or x509.Name(
        [x509.NameAttribute(NameOID.COUNTRY_NAME, "FR"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of)
        .issuer_name(issuer.certificate.subject if issuer else name_of)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_len if ca else None), critical=True)
    if key_ids:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False
        )
        if issuer:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
            builder = builder.add_extension(identifier, critical=False)
    if key_usage:  # one that does not include signing certificates
        flags = dict.fromkeys(
            (
                *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
            ),
            False,
        )
        builder = builder.add_extension(x509.KeyUsage(digital_signature=True, **flags), critical=True)
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([general_name(host) for host in hosts]), critical=False
        )
    places = [(AuthorityInformationAccessOID.CA_ISSUERS, url) for url in aia]
    places += [(AuthorityInformationAccessOID.OCSP, url) for url in ocsp]
    if places:
        descriptions = [
            x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for method, url in places
        ]
        builder = builder.add_extension(x509.AuthorityInformationAccess(descriptions), critical=False)
    if crls:
        points = [
            x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None) for url in crls
        ]
        builder = builder.add_extension(x509.CRLDistributionPoints(points), critical=False)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical=critical)
    signing = signed_by or signer
    algorithm = None if isinstance(signing, ed25519.Ed25519PrivateKey) else digest or hashes.SHA256()
    return Made(builder.sign(signing, algorithm), own)  # type: ignore[arg-type]


def general_name(host: str) -> x509.GeneralName:
    import ipaddress

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if "://" in host:
        return x509.UniformResourceIdentifier(host)
    return x509.RFC822Name(host) if "@" in host else x509.DNSName(host)


def crl(
    issuer: Made, serials: Sequence[int], *, end: datetime = NOW + YEAR, signed_by: Key | None = None
) -> bytes:
    """Return a CRL of an issuer that lists some serial numbers."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(NOW - YEAR)
        .next_update(end)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - YEAR).build()
        builder = builder.add_revoked_certificate(revoked)
    made = builder.sign(signed_by or issuer.key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.DER)
