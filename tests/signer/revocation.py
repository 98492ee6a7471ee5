"""CRLs for the import tests, made with cryptography's own builder."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.pki.chain import NOW, digest_for, make_chain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tests.pki.chain import Chain

CHAIN = make_chain()
OTHER = make_chain(name="Other CA", number=1)
REVOKED_AT = (NOW - timedelta(days=3)).replace(microsecond=0)
Extensions = tuple[tuple[x509.ExtensionType, bool], ...]


def revoked(
    serial: int,
    reason: x509.ReasonFlags | None = None,
    *,
    at: datetime = REVOKED_AT,
    extensions: Extensions = (),
) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at)
    if reason is not None:
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.build()


def crl(
    entries: Sequence[x509.RevokedCertificate],
    *,
    number: int | None = 1,
    base: int | None = None,
    chain: Chain = CHAIN,
    key: Any = None,
    start: datetime | None = None,
    end: datetime | None = None,
    extensions: Extensions = (),
) -> x509.CertificateRevocationList:
    key = key or chain.ca_key
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(chain.ca.subject)
        .last_update(start or NOW - timedelta(hours=2))
        .next_update(end or NOW + timedelta(days=7))
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    if base is not None:
        builder = builder.add_extension(x509.DeltaCRLIndicator(base), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, digest_for(key))


def der(value: x509.CertificateRevocationList) -> bytes:
    return value.public_bytes(serialization.Encoding.DER)


def pem(value: x509.CertificateRevocationList) -> bytes:
    return value.public_bytes(serialization.Encoding.PEM)


def part(uri: str = "http://ca.example/1.crl", **options: Any) -> tuple[x509.ExtensionType, bool]:
    """Return an issuingDistributionPoint."""
    given = {
        "full_name": [x509.UniformResourceIdentifier(uri)],
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    } | options
    return x509.IssuingDistributionPoint(**given), True
