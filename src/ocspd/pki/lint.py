"""Linting a certificate before it is signed (`lint_error_level`), with pkilint where CFSSL has zlint.

As in CFSSL, what is linted is the certificate signed with a throw-away key, and a finding above the level of
the profile refuses it; nothing has been signed with the key of the CA then. The levels are zlint's statuses,
to which pkilint's severities are mapped. `ignored_lints` names findings by pkilint's codes; a zlint name is
taken if pkilint has the same rule (`zlint_names`), and otherwise refused, since a lint that is not ignored
after all would refuse certificates.

pkilint is optional (`pip install 'ocspd[lint]'`) and takes half a second to load: only what lints loads it.
"""
# ruff: noqa: PLC0415  (see above)

from __future__ import annotations

import difflib
import importlib.util
import logging
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.pki.zlint_names import PREFIXES, SOURCES, ZLINT_NAMES
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pkilint.pkix.certificate import RFC5280Certificate

MISSING = "pkilint is not installed: install it with pip install 'ocspd[lint]', or remove lint_error_level"

MAX_BYTES = 64 * 1024
"""The largest certificate that is linted; one with more is refused, as linting it would take seconds."""

_NAMES = {7: "fatal", 6: "error", 5: "warn", 4: "info", 3: "pass"}
_MAX_SHOWN = 10
_MAX_TEXT = 160

_SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
_EMAIL = "1.3.6.1.5.5.7.3.4"
_ANY = "2.5.29.37.0"


class LintError(OCSPDError):
    """A certificate that is not signed because of what linting it found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LintPolicy:
    """What a profile says about linting: a level of 1 to 7, codes of pkilint, and sources to leave out."""

    level: int
    ignored: frozenset[str] = frozenset()
    ignored_sources: frozenset[str] = frozenset()

    def ignores(self, code: str) -> bool:
        """Return whether findings with this code do not count."""
        return code in self.ignored or any(_is_of(code, source) for source in self.ignored_sources)


def parse_policy(level: int, ignored: Sequence[str], sources: Sequence[str]) -> LintPolicy | None:
    """Return the policy of a profile, None without linting; CodedError 5200 for unknown names.

    Names are checked even if nothing is linted, as in CFSSL.
    """
    if not level and not ignored and not sources:
        return None
    if importlib.util.find_spec("pkilint") is None:
        raise CodedError(Code.POLICY_INVALID, MISSING)
    codes: set[str] = set()
    for name in ignored:
        codes |= _codes_of(name)
    policy = LintPolicy(
        level=level,
        ignored=frozenset(codes),
        ignored_sources=frozenset(_source(name) for name in sources),
    )
    return policy if level else None


def _codes_of(name: str) -> frozenset[str]:
    if name in ZLINT_NAMES:
        return frozenset(ZLINT_NAMES[name])
    if any(name in codes for codes in _codes()):
        return frozenset((name,))
    near = difflib.get_close_matches(name[:100], (*known_codes(), *ZLINT_NAMES), 1, 0.5)
    hint = f": the nearest one is {near[0]}" if near else ""
    if name[:2] in {"e_", "w_", "n_"}:
        raise _wrong(f"ignored_lints: pkilint has no rule that is zlint's {shown(name, 100)}{hint}")
    raise _wrong(f"ignored_lints: {shown(name, 100)!r} is not a finding of pkilint{hint}")


def _source(name: str) -> str:
    source = name.strip()
    if source not in SOURCES and source not in PREFIXES:
        near = difflib.get_close_matches(source[:100], (*SOURCES, *PREFIXES), 1)
        hint = f": did you mean {near[0]}?" if near else f": use one of {', '.join(SOURCES)}"
        raise _wrong(f"ignored_lint_sources: unknown source {shown(name, 100)!r}{hint}")
    return source


def _is_of(code: str, source: str) -> bool:
    """Return whether a finding belongs to a source: one of zlint's, or what pkilint's codes begin with."""
    found = SOURCES.get(source)
    if found is None:
        return code.startswith(f"{source}.")
    return code.startswith(found.prefixes) and not code.startswith(found.but)


def _wrong(text: str) -> CodedError:
    return CodedError(Code.POLICY_INVALID, text)


def known_codes() -> frozenset[str]:
    """Return the codes of all findings about certificates that the installed pkilint can report.

    This takes seconds: pkilint reads the list of public suffixes for each of its linters.
    """
    return frozenset().union(*_codes())


def _codes() -> Iterator[frozenset[str]]:
    """Yield the codes of one linter after the other, those used most first."""
    _silence()
    from pkilint.cabf.serverauth.serverauth_constants import CertificateType
    from pkilint.cabf.smime.smime_constants import Generation, ValidationLevel

    yield _codes_in(_pkix())
    first = (CertificateType.DV_FINAL_CERTIFICATE, CertificateType.DV_PRE_CERTIFICATE)
    for kind in (*first, *(kind for kind in CertificateType if kind not in first)):
        yield _codes_in(_server(kind)[0])
    for level in ValidationLevel:
        for generation in Generation:
            yield _codes_in(_mail(level, generation))


def _codes_in(container: Any) -> frozenset[str]:
    return frozenset(finding.code for finding in container.validations)


def check(certificate: bytes, policy: LintPolicy) -> None:
    """Lint a certificate (DER); LintError when it has findings above the level of the policy.

    It may take half a second, and for the first certificate several.
    """
    if len(certificate) > MAX_BYTES:
        raise LintError(
            f"pre-issuance linting: the certificate has {len(certificate)} bytes, more than can be linted "
            f"({MAX_BYTES})"
        )
    found: dict[str, tuple[int, str]] = {}
    for status, code, message in _findings(certificate, policy):
        if status > policy.level and not policy.ignores(code):
            found.setdefault(code, (status, message))
    if found:
        texts = [_text(code, *finding) for code, finding in found.items()]
        more = f"; and {len(texts) - _MAX_SHOWN} more" if len(texts) > _MAX_SHOWN else ""
        shown_texts = "; ".join(texts[:_MAX_SHOWN])
        raise LintError(f"pre-issuance linting found {len(found)} error results: {shown_texts}{more}")


def _text(code: str, status: int, message: str) -> str:
    detail = " ".join(message.split())
    if len(detail) > _MAX_TEXT:
        detail = f"{detail[:_MAX_TEXT]}..."
    return f"{code} ({_NAMES[status]}){f': {shown(detail)}' if detail else ''}"


def _findings(certificate: bytes, policy: LintPolicy) -> list[tuple[int, str, str]]:
    """Return zlint's status, code and message of every finding."""
    _silence()
    from pkilint.finding_filter import filter_results
    from pkilint.loader import RFC5280CertificateDocumentLoader

    try:
        document = RFC5280CertificateDocumentLoader().load_der_document(certificate, "certificate")
        linters = _linters(document, policy)
    except Exception as err:  # whatever pyasn1 does not like of it
        raise LintError(f"pre-issuance linting: pkilint cannot read the certificate: {err}") from err
    found = []
    for container, filters in linters:
        with _one_at_a_time:  # its validators keep state
            results, _ = filter_results(filters, container.validate(document.root))
        for result in results:
            for description in result.finding_descriptions:
                status = max(7 - int(description.finding.severity), 3)
                found.append((status, description.finding.code, description.message or ""))
    return found


def _linters(document: RFC5280Certificate, policy: LintPolicy) -> list[tuple[Any, list[Any]]]:
    """Choose the linters by what a certificate is for, as zlint's lints do; each with its filters.

    Those of the CA/Browser Forum contain the one for RFC 5280.
    """
    from pkilint.cabf import serverauth, smime

    usages = {str(usage) for usage in document.extended_key_usages}
    chosen = []
    if "CABF_BR" not in policy.ignored_sources and (not usages or usages & {_SERVER_AUTH, _ANY}):
        chosen.append(_server(serverauth.determine_certificate_type(document)))
    if "CABF_SMIME" not in policy.ignored_sources and _EMAIL in usages:
        kind = smime.determine_validation_level_and_generation(document)
        if kind is not None:
            chosen.append((_mail(*kind), []))
    return chosen or [(_pkix(), [])]


@cache
def _pkix() -> Any:
    from pkilint.pkix import certificate, extension, name

    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


@cache
def _server(kind: Any) -> tuple[Any, list[Any]]:
    from pkilint.cabf import serverauth
    from pkilint.pkix import certificate

    container = certificate.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(), serverauth.create_validators(kind)
    )
    return container, list(serverauth.create_serverauth_finding_filters(kind))


@cache
def _mail(level: Any, generation: Any) -> Any:
    from pkilint.cabf import smime
    from pkilint.pkix import certificate

    return certificate.create_pkix_certificate_validator_container(
        smime.create_decoding_validators(), smime.create_subscriber_validators(level, generation)
    )


_one_at_a_time = threading.Lock()


def _silence() -> None:
    """Keep pkilint from writing tracebacks about certificates to stderr: it reports them as findings."""
    library = logging.getLogger("pkilint")
    library.handlers[:] = [logging.NullHandler()]
    library.propagate = False
