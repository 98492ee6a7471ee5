"""The family PKI: the certificates that a host serves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from ocspd.authority.bundling_revocation import RevocationChecker
from ocspd.authority.certinfo import signature_of, time_text
from ocspd.authority.scanning.target import Found, Grade, read_chain
from ocspd.errors import FetchError, OCSPDError
from ocspd.pki import certs

if TYPE_CHECKING:
    from ocspd.authority.scanning.target import Target
    from ocspd.pki.certs import Certificate

_SOON = timedelta(days=30)
_APRIL_2015 = datetime(2015, 4, 1, tzinfo=UTC)
_JULY_2012 = datetime(2012, 7, 1, tzinfo=UTC)
_WEAK = {"ECDSAWithSHA1": "ECDSAWithSHA1", "SHA1WithRSA": "RSAWithSHA1"}


def chain_expiration(target: Target) -> Found:
    """Report when the first certificate of the chain expires: Bad if it has, Warning within 30 days."""
    expiry = min(certificate.not_valid_after_utc for certificate in read_chain(target))
    now = target.clock.now()
    grade = Grade.BAD if now > expiry else Grade.WARNING if now + _SOON > expiry else Grade.GOOD
    return Found(grade, time_text(expiry))


def chain_validation(target: Target) -> Found:
    """Check that each certificate was issued by the next one; the last one is not looked at, as in CFSSL."""
    chain = read_chain(target)
    warnings = []
    checker = RevocationChecker(chain, target.outbound, target.clock)
    for certificate, parent in pairwise(chain):
        name, issuer = (certs.subject_name(each).common_name for each in (certificate, parent))
        if _months(certificate) > _allowed_months(certificate):
            warnings.append(f"Certificate for {name} is valid for too long")
        if not certificate.not_valid_before_utc < target.clock.now() < certificate.not_valid_after_utc:
            return Found(Grade.BAD, error=f"{name} has expired or is not yet valid")
        try:
            if not checker.is_usable(certificate, target.deadline):
                return Found(Grade.BAD, error=f"{name} is revoked")
        except OCSPDError:
            warnings.append(f"couldn't check if {name} is revoked")
        if not certs.basic_constraints(parent).ca:
            return Found(Grade.BAD, error=f"{issuer} is not a CA")
        if certs.aki_hex(certificate) != certs.ski_hex(parent):
            text = f"{name} AuthorityKeyId differs from {issuer} SubjectKeyId"
            return Found(Grade.BAD, error=text)
        if not certs.is_signed_by(certificate, parent):
            return Found(Grade.BAD, error=f"{name} is not signed by {issuer}")
        weak = _WEAK.get(signature_of(certificate))
        if weak:
            warnings.append(f"{name} is signed by {weak}")
    return Found(Grade.WARNING, warnings) if warnings else Found(Grade.GOOD)


def multiple_certs(target: Target) -> Found:
    """Compare the certificate at every address of the host with that of the first connection."""
    first = read_chain(target)[0]
    for address in target.addresses(target.where):
        try:
            other = read_chain(target, address)[0]
        except FetchError:
            continue  # whether it can be reached is the question of other scanners
        if other != first:
            names = [certs.subject_name(each).common_name for each in (other, first)]
            return Found(Grade.BAD, error=f"{names[0]} not equal to {names[1]}")
    return Found(Grade.GOOD)


def _months(certificate: Certificate) -> int:
    """Return for how many months a certificate is valid, as CFSSL counts."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (end.year - start.year) * 12 + end.month - start.month + (end.day > start.day)


def _allowed_months(certificate: Certificate) -> int:
    """Return for how many months a certificate of that age may be valid (CA/Browser Forum, in CFSSL)."""
    start = certificate.not_valid_before_utc
    return 39 if start >= _APRIL_2015 else 60 if start >= _JULY_2012 else 120
