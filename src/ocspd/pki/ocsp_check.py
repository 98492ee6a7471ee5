"""Whether clients will accept what a responder certificate signs (RFC 6960 §4.2.2.2, BR §7.1.2.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from ocspd.errors import CodedError, ConfigError
from ocspd.pki.cert_reader import check_issued_by
from ocspd.pki.keys import check_key_matches

if TYPE_CHECKING:
    from datetime import datetime

    from ocspd.pki.certid import CertificateParts
    from ocspd.pki.keys import PrivateKey

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class Remark(str):
    """A warning that is no reason to worry: logged at a lower level."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Named:
    """A certificate, its encoded parts, and its name in messages: file and subject."""

    certificate: x509.Certificate
    parts: CertificateParts
    name: str


def check_responder(
    issuer: Named, responder: Named, *, key: PrivateKey, key_name: str, now: datetime
) -> list[str]:
    """Check that `responder` may sign for `issuer` with `key` at this time; return warnings.

    The key belongs to the responder certificate, which is the issuer's own or was issued directly by
    it, for OCSP signing, and is valid now. Raises ConfigError naming file, subject and remedy.
    """
    try:
        check_key_matches(key, responder.certificate)
    except CodedError:
        raise ConfigError(
            f"{key_name}: is not the private key of {responder.name}: give the key that belongs to it"
        ) from None
    direct = issuer.certificate == responder.certificate
    if not direct:
        _check_delegation(issuer, responder)
    start, end = responder.certificate.not_valid_before_utc, responder.certificate.not_valid_after_utc
    if now < start:
        raise ConfigError(f"{responder.name}: is not valid before {iso(start)}: check the clock, or wait")
    if now >= end:
        raise ConfigError(f"{responder.name}: expired on {iso(end)}: issue a new one and give it here")
    return _direct_warnings(responder) if direct else _delegated_warnings(responder)


def _check_delegation(issuer: Named, responder: Named) -> None:
    who = responder.name
    if responder.parts.issuer != issuer.parts.subject:
        raise ConfigError(
            f"{who}: was issued by {responder.certificate.issuer.rfc4514_string()!r}, not by {issuer.name}: "
            "clients accept the CA itself or a responder certificate the CA issued directly"
        )
    try:
        check_issued_by(responder.certificate, issuer.certificate)
    except (InvalidSignature, ValueError, TypeError):
        raise ConfigError(
            f"{who}: its signature was not made by the key of {issuer.name}: use the CA certificate that "
            "issued it"
        ) from None
    except UnsupportedAlgorithm:
        raise ConfigError(
            f"{who}: is signed with an algorithm that is not supported: issue it with another"
        ) from None
    usages = extension_of(responder.certificate, x509.ExtendedKeyUsage)
    if usages is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        raise ConfigError(
            f"{who}: does not have the extended key usage OCSPSigning: issue it with a profile that has "
            'the usage "ocsp signing"'
        )


def _delegated_warnings(responder: Named) -> list[str]:
    warnings = []
    if extension_of(responder.certificate, x509.OCSPNoCheck) is None:
        warnings.append(
            f"{responder.name}: has no id-pkix-ocsp-nocheck, so clients may check its own status: set "
            '"ocsp_no_check" in the profile that issues it'
        )
    usage = extension_of(responder.certificate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        warnings.append(
            f"{responder.name}: its key usage does not include digitalSignature, so clients may reject its "
            'responses: add "digital signature" to the usages of the profile that issues it'
        )
    return warnings


def _direct_warnings(responder: Named) -> list[str]:
    usage = extension_of(responder.certificate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        text = (
            f"{responder.name}: signs responses, but its key usage does not include digitalSignature, which "
            "BR 7.1.2.10.7 requires: sign with a responder certificate instead (gencert -profile ocsp, with "
            'the profile of print-defaults config), or issue the CA with the usage "digital signature"'
        )
        # What gencert -initca makes, as CFSSL does: clients accept it, and the rule is for public CAs.
        own = responder.parts.issuer == responder.parts.subject
        return [Remark(text) if own else text]
    return []


def extension_of(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Return an extension's value, None without one; ConfigError when the extensions cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension) as err:
        raise ConfigError(
            f"certificate {certificate.subject.rfc4514_string()}: its extensions cannot be read ({err}): "
            "issue it again"
        ) from err


def iso(instant: datetime) -> str:
    """Write an instant as messages show it: RFC 3339, whole seconds, Z."""
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
