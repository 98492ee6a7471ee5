"""Issuing: what CFSSL's local signer decides between a request and a certificate.

In order: profile, CSR and its signature, its whitelist, CA request against policy, names, serial, request
extensions, validity, constraints, extensions, then linting. The request decides who; the profile decides the
rest. A profile with logs of certificate transparency needs two signatures (`authority.issuing`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ocspd.errors import Code, CodedError, DERError, OCSPDError
from ocspd.logs import logger
from ocspd.pki import certs, der, extensions, keys, sans
from ocspd.pki import der_reader as reader
from ocspd.pki.cert_reader import read_certificate
from ocspd.pki.csr_reader import ReceivedCSR, load_csr
from ocspd.pki.extensions import BasicConstraints, Extension
from ocspd.pki.names import Name
from ocspd.pki.profiles import DEFAULT_BACKDATE, CSRWhitelist
from ocspd.pki.template import CertificateTemplate, IssuerParts, SigningKey, random_serial
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography import x509

    from ocspd.clock import Clock
    from ocspd.pki.csr import Subject
    from ocspd.pki.keys import PrivateKey
    from ocspd.pki.profiles import Profile, SigningConfig
    from ocspd.pki.template import Issued

_MINUTE = timedelta(minutes=1)

_TLS_FEATURE = "1.3.6.1.5.5.7.1.24"  # RFC 7633: binds only the subject itself
_ALWAYS_COPIED = frozenset({extensions.DELEGATION_USAGE})
_COPIED = frozenset({_TLS_FEATURE})
"""The extensions that copy_extensions copies from a request; a profile's allowed_extensions add to them."""

NEVER_COPIED = frozenset(
    {
        extensions.KEY_USAGE,
        extensions.EXTENDED_KEY_USAGE,
        extensions.BASIC_CONSTRAINTS,
        extensions.SUBJECT_KEY_ID,
        extensions.AUTHORITY_KEY_ID,
        extensions.SUBJECT_ALT_NAME,
        extensions.ISSUER_ALT_NAME,
        extensions.NAME_CONSTRAINTS,
        extensions.CRL_DISTRIBUTION_POINTS,
        extensions.AUTHORITY_INFO_ACCESS,
        extensions.CERTIFICATE_POLICIES,
        "2.5.29.33",  # policyMappings
        "2.5.29.36",  # policyConstraints
        "2.5.29.54",  # inhibitAnyPolicy
        "2.5.29.46",  # freshestCRL
        "1.3.6.1.5.5.7.1.11",  # subjectInfoAccess
        extensions.CT_POISON,
        extensions.CT_SCT_LIST,
    }
)
"""The extensions that copy_extensions never copies, even if allowed_extensions (for requests of trusted
clients) has them: a CSR does not choose its own usages, names or policies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignRequest:
    """A request to sign.

    `hosts` None keeps the CSR's names; a list, even an empty one, replaces them. `subject` overrides
    parts of the CSR's. `serial` counts only if the profile lets clients choose it. `extensions` must
    be allowed by the profile. Times override the profile's.
    """

    csr_pem: str
    hosts: Sequence[str] | None = None
    subject: Subject | None = None
    profile: str = ""
    label: str = ""
    serial: int | None = None
    crl_url: str = ""
    extensions: tuple[Extension, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None
    metadata: Mapping[str, Any] | None = None
    """Goes into the database as it is."""
    return_precert: bool = False
    """Whether the precertificate is wanted instead of a certificate; it is not stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A certificate that is decided on, but not signed."""

    profile: Profile
    template: CertificateTemplate
    asked_for: str = ""
    """The name of the profile in the request."""

    def with_extension(self, extension: Extension) -> CertificateTemplate:
        """Return the template with one more extension, at its end; one with the same OID is replaced."""
        others = (each for each in self.template.extra if each.oid != extension.oid)
        return replace(self.template, extra=(*others, extension))


class Issuer:
    """A CA: its certificate, its key, and its policy. Without a certificate it signs only itself."""

    def __init__(
        self,
        certificate: x509.Certificate | None,
        key: PrivateKey,
        config: SigningConfig,
        clock: Clock,
        *,
        allow_weak_rsa: bool = False,
    ) -> None:
        """Combine CA and policy; CodedError 1000 when the key does not belong to the certificate.

        CFSSL finds that only in the signature, hence the number. `allow_weak_rsa` accepts RSA keys from 1024
        bits instead of 2048.
        """
        if certificate is not None:
            try:
                keys.check_key_matches(key, certificate)
            except CodedError as err:
                raise CodedError(Code.CERT_UNKNOWN, err.message) from err
            if not certs.basic_constraints(certificate).ca:
                logger.warning(
                    "the CA certificate has no basicConstraints with cA: verifiers reject what it signs"
                )
        self.certificate = certificate
        self.config = config
        self.key = key
        self._clock = clock
        self.allow_weak_rsa = allow_weak_rsa
        self._signing_key = SigningKey.of(key)
        self._parts = None if certificate is None else IssuerParts.of(certificate)
        self._constraints = None if certificate is None else certs.basic_constraints(certificate)

    @property
    def aki(self) -> str:
        """The key identifier of the certificates it issues, in certdb's form; "" if they have none."""
        return "" if self._parts is None or self._parts.key_id is None else self._parts.key_id.hex()

    def info(self, profile: str = "") -> dict[str, Any]:
        """Return CFSSL's info object: the CA certificate, the profile's usages and its expiry."""
        found = self.config.profile(profile)
        certificate = "" if self.certificate is None else certs.certificate_to_pem(self.certificate).strip()
        usages = None if found.usages is None else list(found.usages)
        return {"certificate": certificate, "usages": usages, "expiry": found.expiry_text}

    def sign(self, request: SignRequest) -> x509.Certificate:
        """Issue as `issue` does, and read the certificate."""
        return read_certificate(self.issue(request).der)

    def issue(self, request: SignRequest, now: datetime | None = None) -> Issued:
        """Issue a certificate, or raise a CodedError with the reason (5xxx policy, 9xxx request).

        LintError when linting refuses it, CodedError 10000 when the profile requires timestamps of logs
        (`draft`). `now` is the time to count from, by default the clock's.
        """
        draft = self.draft(request, now)
        if draft.profile.ct_logs:
            raise CodedError(Code.CT_UNKNOWN, "the profile requires timestamps of certificate logs")
        return self.certify(draft, draft.template)

    def draft(self, request: SignRequest, now: datetime | None = None) -> Draft:
        """Decide on a certificate, without signing anything."""
        profile = self.config.profile(request.profile)
        if profile.is_remote:
            raise CodedError(
                Code.POLICY_INVALID, "this profile is for a remote signer and cannot be used here"
            )
        csr = load_csr(request.csr_pem.encode("utf-8", "replace"), allow_weak_rsa=self.allow_weak_rsa)
        csr = _whitelisted(csr, profile.csr_whitelist)
        _check_ca_request(csr, profile, self._constraints)
        alternative = csr.alternative_names if request.hosts is None else sans.classify(request.hosts)
        subject = csr.subject if request.subject is None else request.subject.over(csr.subject)
        _check_names(profile, subject, alternative)
        if "\0" in request.label:
            raise CodedError(
                Code.CERT_BAD_REQUEST, "the label contains a NUL character, which databases cannot store"
            )
        serial = _serial(profile, request)
        usages = profile.parsed_usages()
        if not usages:
            raise CodedError(Code.POLICY_NO_KEY_USAGES, "Invalid policy: no key usage available")
        not_before, not_after = _validity(profile, request, now or self._clock.now())
        constraints = BasicConstraints()
        if profile.ca_constraint.is_ca:
            constraints = BasicConstraints(ca=True, path_len=profile.ca_constraint.path_len())
            alternative = alternative.only_ips()
        crl_url = request.crl_url or profile.crl_url
        template = CertificateTemplate(
            serial=serial,
            subject=subject,
            key_info=csr.key_info,
            not_before=not_before,
            not_after=not_after,
            usages=usages,
            alternative_names=alternative,
            constraints=constraints,
            ocsp_urls=(profile.ocsp_url,) if profile.ocsp_url else (),
            issuer_urls=profile.issuer_urls or (),
            crl_urls=(crl_url,) if crl_url else (),
            extra=_extra_extensions(csr, profile, request),
        )
        return Draft(profile=profile, template=template, asked_for=request.profile)

    def certify(self, draft: Draft, template: CertificateTemplate, *, quiet: bool = False) -> Issued:
        """Lint, if the profile says so, and sign a form of the draft. Nothing is signed that is refused.

        Warnings about the certificate are left out with `quiet`.
        """
        if draft.profile.lint is not None:
            from ocspd.pki import lint  # noqa: PLC0415  (few profiles have it)

            lint.check(template.issue(self._throw_away_key, self._parts).der, draft.profile.lint)
        issued = template.issue(self._signing_key, self._parts)
        logger.info("signed certificate with serial number %d", template.serial)
        if quiet:
            return issued
        self._warn(issued, ca=template.constraints.ca)
        if draft.asked_for and draft.asked_for not in self.config.profiles:
            available = ", ".join(sorted(self.config.profiles)) or "none"
            logger.warning(
                "there is no profile %s (available: %s): using the default one",
                shown(draft.asked_for, 100),
                shown(available),
            )
        return issued

    @cached_property
    def _throw_away_key(self) -> SigningKey:
        """A key for certificates that are linted: of the CA's kind, so that they name the CA's algorithm."""
        return SigningKey.of(keys.generate_like(self.key))

    def _warn(self, issued: Issued, *, ca: bool) -> None:
        """Warn of certificates that CFSSL signs silently but verifiers reject."""
        issuer = self.certificate
        if issuer is None or self._constraints is None:
            return
        if issued.not_after > issuer.not_valid_after_utc:
            logger.warning(
                "the certificate is valid until %s UTC, but its issuer only until %s UTC",
                f"{issued.not_after:%Y-%m-%d %H:%M:%S}",
                f"{issuer.not_valid_after_utc:%Y-%m-%d %H:%M:%S}",
            )
        if ca and self._constraints.path_len == 0:
            logger.warning("the issuer's pathLenConstraint is 0: no chain through this CA will verify")


def _validity(profile: Profile, request: SignRequest, now: datetime) -> tuple[datetime, datetime]:
    backdate = profile.backdate or DEFAULT_BACKDATE
    try:
        start = profile.not_before or request.not_before or rounded_minute(now) - backdate
        end = profile.not_after or request.not_after or start + profile.expiry
    except OverflowError:
        raise CodedError(Code.POLICY_INVALID, "the profile's validity ends after the year 9999") from None
    if end <= start:
        raise CodedError(
            Code.POLICY_INVALID,
            f"the profile's validity is empty: {start.isoformat()} to {end.isoformat()}",
        )
    return start, end


def rounded_minute(instant: datetime) -> datetime:
    """Round to the nearest minute, half a minute upwards (Go's Time.Round)."""
    shifted = instant + _MINUTE / 2
    return shifted.replace(second=0, microsecond=0)


def _check_ca_request(csr: ReceivedCSR, profile: Profile, issuer: BasicConstraints | None) -> None:
    wanted = csr.basic_constraints
    if wanted is None or not wanted.ca:
        return
    if not profile.ca_constraint.is_ca:
        raise _policy("the CSR requests a CA certificate, which the profile's ca_constraint does not allow")
    limit = issuer.path_len if issuer is not None else None
    if limit == 0:
        raise _policy("the issuer's pathLenConstraint is 0: it may not issue CA certificates")
    if limit is not None and wanted.path_len is not None and wanted.path_len >= limit:
        raise _policy(
            f"the CSR requests pathLenConstraint {wanted.path_len}, but the issuer's own is {limit}"
        )


def _policy(text: str) -> CodedError:
    return CodedError(Code.POLICY_INVALID_REQUEST, f"Policy violation request: {text}")


def _whitelisted(csr: ReceivedCSR, allowed: CSRWhitelist | None) -> ReceivedCSR:
    if allowed is None:
        return csr
    if not allowed.public_key:
        # CFSSL fails on the missing key, with an error of Go's that has no number
        raise OCSPDError("the profile's CSRWhitelist must include PublicKey")
    names = csr.alternative_names
    return replace(
        csr,
        subject=csr.subject if allowed.subject else Name(),
        # CFSSL begins with an empty template here, to which it copies the parts below
        basic_constraints=None,
        extensions=(),
        alternative_names=sans.AlternativeNames(
            dns=names.dns if allowed.dns_names else (),
            emails=names.emails if allowed.email_addresses else (),
            ips=names.ips if allowed.ip_addresses else (),
            uris=names.uris if allowed.uris else (),
        ),
    )


def _check_names(profile: Profile, subject: Name, alternative: sans.AlternativeNames) -> None:
    common_name = (subject.common_name,) if subject.common_name else ()
    for name in (*common_name, *alternative.dns, *alternative.emails, *alternative.uris):
        if not profile.allows_name(name):
            raise CodedError(
                Code.POLICY_UNMATCHED_WHITELIST,
                f"Request does not match policy whitelist: {name[:200]!r} does not match name_whitelist",
            )


def _serial(profile: Profile, request: SignRequest) -> int:
    if not profile.client_provides_serial:
        return random_serial()
    if request.serial is None:
        raise CodedError(Code.CERT_MISSING_SERIAL, "Missing serial: the profile requires one from the client")
    if not 0 < request.serial < 1 << 159:
        raise CodedError(Code.CERT_BAD_REQUEST, "serial is not a positive number of at most 20 bytes")
    return request.serial


def _check_copied(extension: Extension) -> None:
    """Check the extensions copied by default: clients reject a certificate in which one is malformed."""
    try:
        if extension.oid == _TLS_FEATURE:
            features = reader.elements(reader.single(extension.value, reader.SEQUENCE, "the TLS feature"))
            feature_ids = [reader.integer(each.content) for each in features if each.tag == reader.INTEGER]
            well_formed = len(feature_ids) == len(features) and all(
                0 <= feature_id < 1 << 16 for feature_id in feature_ids
            )
        else:
            well_formed = extension.oid != extensions.DELEGATION_USAGE or extension.value == der.NULL
    except DERError:
        well_formed = False
    if not well_formed:
        raise CodedError(Code.CSR_PARSE_FAILED, f"the CSR's extension {extension.oid} is malformed")


def _extra_extensions(csr: ReceivedCSR, profile: Profile, request: SignRequest) -> tuple[Extension, ...]:
    extra = []
    copied = _ALWAYS_COPIED
    if profile.copy_extensions:
        copied |= (_COPIED | profile.allowed_extensions) - NEVER_COPIED
    for extension in csr.extensions:
        if extension.oid in copied:
            _check_copied(extension)
            extra.append(extension)
        elif profile.copy_extensions and extension.oid not in NEVER_COPIED:
            logger.info(
                "extension %s of the CSR is not copied: it is not in allowed_extensions", extension.oid
            )
    for extension in request.extensions:
        if extension.oid not in profile.allowed_extensions:
            raise CodedError(
                Code.CERT_BAD_REQUEST, f"extension {extension.oid} is not in the profile's allowed_extensions"
            )
        extra.append(extension)
    if profile.policies:
        extra.append(extensions.certificate_policies(profile.policies))
    if profile.ocsp_no_check:
        extra.append(extensions.ocsp_no_check())
    # RFC 5280 §4.2: never twice the same one; the profile's, which comes last, counts
    unique = {extension.oid: extension for extension in extra}
    return tuple(unique.values())
