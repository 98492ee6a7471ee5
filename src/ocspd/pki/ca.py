"""Self-signed certificates: creating a CA, renewing one with its own key, and `selfsign`.

The policy of a CA is CFSSL's: key usages cert sign and crl sign, five years, unless the request's `ca`
section overrides it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.logs import logger
from ocspd.pki import certs, extensions, keys
from ocspd.pki.csr import CAConfig, CertificateRequest, NameEntry, load_csr, make_csr, new_key
from ocspd.pki.extensions import BasicConstraints
from ocspd.pki.issuer import Issuer, SignRequest
from ocspd.pki.profiles import CAConstraint, Profile, SigningConfig
from ocspd.pki.template import CertificateTemplate
from ocspd.wire import MAX_DURATION, DurationError, format_duration, parse_duration

if TYPE_CHECKING:
    from cryptography import x509

    from ocspd.clock import Clock
    from ocspd.pki.keys import PrivateKey

CA_EXPIRY = "43800h"
SELF_SIGNED_EXPIRY = timedelta(hours=2190)
_BACKDATE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitCA:
    """A new self-signed certificate with its request and key, all PEM; `key` is "" if it was given."""

    cert: str
    csr: str
    key: str


def init_ca(request: CertificateRequest, clock: Clock, key: PrivateKey | None = None) -> InitCA:
    """Create a CA from a request, with a new key unless one is given.

    With a given key `ca.backdate` and `crl_url` are ignored, as in CFSSL. CodedError 5300 for a request
    without any subject, 2400 for a key that cannot be generated; OCSPDError for an invalid duration.
    """
    _check_subject(request)
    policy = _ca_policy(request, renewing=key is not None)
    key_pem = ""
    if key is None:
        key, key_pem = new_key(request)
    csr = make_csr(request, key)
    config = SigningConfig(default=policy, profiles={}, auth_keys={}, remotes={})
    certificate = Issuer(None, key, config, clock).sign(SignRequest(csr_pem=csr, hosts=request.hosts))
    return InitCA(cert=certs.certificate_to_pem(certificate), csr=csr, key=key_pem)


def _check_subject(request: CertificateRequest) -> None:
    if not request.common_name and (not request.names or any(name.is_blank() for name in request.names)):
        raise CodedError(
            Code.POLICY_INVALID_REQUEST,
            "missing subject information: a CA needs a CN or non-empty names",
        )


def _ca_policy(request: CertificateRequest, *, renewing: bool) -> Profile:
    ca = request.ca or CAConfig()
    if ca.path_len and ca.path_len_zero:
        logger.info("ignore invalid 'pathlenzero' value")
    profile = Profile(
        usages=("cert sign", "crl sign"),
        expiry=_duration("expiry", ca.expiry or CA_EXPIRY),
        expiry_text=ca.expiry or CA_EXPIRY,
        ca_constraint=CAConstraint(
            is_ca=True, max_path_len=ca.path_len, max_path_len_zero=ca.path_len_zero and not ca.path_len
        ),
    )
    if renewing:
        return profile
    backdate = _duration("backdate", ca.backdate) if ca.backdate else timedelta()
    return replace(profile, backdate=backdate, crl_url=request.crl_url)


def _duration(what: str, text: str) -> timedelta:
    try:
        return parse_duration(text)
    except (DurationError, OverflowError) as err:
        raise OCSPDError(f"ca.{what}: {err}") from err  # CFSSL has no number for it


def renew_ca(certificate: x509.Certificate, key: PrivateKey, clock: Clock) -> str:
    """Issue a new self-signed certificate (PEM) for a CA and its key, with the lifetime of the old one.

    OCSPDError when the certificate is not a CA's, CodedError 2300 when the key does not belong to it. It
    keeps what `request_from_certificate` keeps, except for alternative names that are not IP addresses; the
    rest is CFSSL's policy.
    """
    if not certs.basic_constraints(certificate).ca:
        raise OCSPDError("input certificate is not a CA cert")
    keys.check_key_matches(key, certificate)
    return init_ca(request_from_certificate(certificate), clock, key).cert


def request_from_certificate(certificate: x509.Certificate) -> CertificateRequest:
    """Return a request that could have led to a certificate.

    It has CN, C, ST, L, O, OU, serialNumber and alternative names; for a CA also path length and lifetime.
    """
    subject = certs.subject_name(certificate)
    entries = [
        *(NameEntry(country=value) for value in subject.country),
        *(NameEntry(province=value) for value in subject.province),
        *(NameEntry(locality=value) for value in subject.locality),
        *(NameEntry(organization=value) for value in subject.organization),
        *(NameEntry(unit=value) for value in subject.unit),
    ]
    constraints = certs.basic_constraints(certificate)
    ca = None
    if constraints.ca:
        ca = CAConfig(
            # Go's durations end after 292 years, and so does what CFSSL renews for
            expiry=format_duration(
                min(certificate.not_valid_after_utc - certificate.not_valid_before_utc, MAX_DURATION)
            ),
            path_len=-1 if constraints.path_len is None else constraints.path_len,
            path_len_zero=constraints.path_len == 0,
        )
    return CertificateRequest(
        common_name=subject.common_name,
        names=tuple(entries),
        hosts=tuple(certs.alternative_names(certificate).to_hosts()) or None,
        serial_number=subject.serial_number,
        ca=ca,
    )


def self_sign(
    request: CertificateRequest, key: PrivateKey, profile: Profile, clock: Clock
) -> tuple[str, str]:
    """Issue a self-signed certificate for testing; return it and its request, both PEM.

    Every extension of the request is copied. The validity begins five minutes ago, unrounded.
    """
    csr_pem = make_csr(request, key)
    csr = load_csr(csr_pem.encode())
    usages = profile.parsed_usages()
    if not usages:
        raise CodedError(Code.POLICY_NO_KEY_USAGES, "Invalid policy: no key usage available")
    now = clock.now()
    limit = profile.ca_constraint
    requested = csr.basic_constraints or BasicConstraints()
    certificate = CertificateTemplate(
        serial=secrets.randbelow((1 << 63) - 1) or 1,
        subject=csr.subject,
        key_info=csr.key_info,
        not_before=now - _BACKDATE,
        not_after=now + (profile.expiry or SELF_SIGNED_EXPIRY),
        usages=usages,
        alternative_names=csr.alternative_names,
        constraints=BasicConstraints(ca=True, path_len=limit.path_len()) if limit.is_ca else requested,
        issuer_urls=profile.issuer_urls or (),
        extra=tuple(
            extension
            for extension in csr.extensions
            if extension.oid != extensions.BASIC_CONSTRAINTS or not limit.is_ca
        ),
    ).sign(key)
    return certs.certificate_to_pem(certificate), csr_pem
