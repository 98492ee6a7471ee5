"""Chains of certificates from one to a trusted root, as Go's `Certificate.Verify` finds them for CFSSL.

Every chain is found, not only the first, because a bundle is the best of them. The rules, and their order,
are Go's, since a CFSSL user sees which of several errors is reported:

 1. A candidate issuer has the subject that the certificate names, byte by byte; those with the right key
    identifier come first, those with another one last.
 2. It must be a CA that may sign certificates, and its key must verify the signature. SHA-1 is refused.
 3. It must be valid now, within its pathLenConstraint and name constraints, and without unknown critical
    extensions. Extended key usages are not looked at.
 4. Nothing is in a chain twice, compared by subject, key and alternative names.
 5. At most MAX_CHECKS signatures are verified; a web of cross-certificates ends there. Comparisons of names
    with name constraints are limited too, for a whole search.

An error is that of the last candidate that was excluded by rule 3, otherwise 1220 with the first cause.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.errors import Code, CodedError, DERError
from ocspd.pki import extensions, name_constraints
from ocspd.pki.chain_link import Link
from ocspd.pki.signatures import SignatureError, verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from cryptography import x509

    from ocspd.pki.extensions import Extension

MAX_CHECKS = 100
"""Signatures that are verified for one certificate, as in Go."""

_INSECURE = {
    "1.2.840.113549.1.1.2": "MD2-RSA",
    "1.2.840.113549.1.1.4": "MD5-RSA",
    "1.2.840.113549.1.1.5": "SHA1-RSA",
    "1.2.840.10045.4.1": "ECDSA-SHA1",
}
"""What Go calls the algorithms that it refuses as insecure."""
_FAILED = {
    "1.2.840.113549.1": "crypto/rsa: verification error",
    "1.2.840.10045.4": "x509: ECDSA verification failure",
    "1.3.101.112": "x509: Ed25519 verification failure",
}
_HANDLED = {
    extensions.KEY_USAGE,
    extensions.BASIC_CONSTRAINTS,
    extensions.SUBJECT_ALT_NAME,
    extensions.NAME_CONSTRAINTS,
    extensions.CRL_DISTRIBUTION_POINTS,
    extensions.AUTHORITY_KEY_ID,
    extensions.EXTENDED_KEY_USAGE,
    extensions.SUBJECT_KEY_ID,
    extensions.CERTIFICATE_POLICIES,
    extensions.AUTHORITY_INFO_ACCESS,
}


class Pool:
    """A set of certificates by subject, in the order in which they were added."""

    def __init__(self, certificates: Iterable[x509.Certificate] = ()) -> None:
        self._by_subject: dict[bytes, dict[Link, None]] = {}
        self.signatures: set[bytes] = set()
        """Of every certificate in it."""
        for certificate in certificates:
            self.add(Link(certificate))

    def __contains__(self, link: object) -> bool:
        return isinstance(link, Link) and link in self._by_subject.get(link.subject, ())

    def __iter__(self) -> Iterator[Link]:
        return (link for links in self._by_subject.values() for link in links)

    def add(self, link: Link) -> None:
        """Add a certificate, unless it is there already."""
        self._by_subject.setdefault(link.subject, {})[link] = None
        self.signatures.add(link.signature)

    def copy(self) -> Pool:
        """Return another pool with the same certificates."""
        other = Pool()
        other._by_subject = {subject: dict(links) for subject, links in self._by_subject.items()}
        other.signatures = set(self.signatures)
        return other

    def issuers_of(self, link: Link) -> list[Link]:
        """Return the certificates that may have issued one, the likeliest first."""

        def rank(candidate: Link) -> int:
            if candidate.key_id == link.issuer_key_id:
                return 0
            return 1 if not candidate.key_id or not link.issuer_key_id else 2

        return sorted(self._by_subject.get(link.issuer, ()), key=rank)


@dataclass(frozen=True, slots=True)
class _Hint:
    """Why the first candidate was not the issuer."""

    cause: str
    candidate: Link


def check_signature(link: Link, issuer: Link) -> None:
    """Check that a certificate may have been, and was, signed by another; SignatureError in Go's words."""
    constraints = issuer.constraints
    if (
        (constraints is None and issuer.version == 3)
        or (constraints is not None and not constraints.ca)
        or not issuer.may_sign_certificates
    ):
        raise SignatureError(
            "x509: invalid signature: parent certificate cannot sign this kind of certificate"
        )
    if issuer.public_key is None:
        raise SignatureError("x509: cannot verify signature: algorithm unimplemented")
    algorithm = link.algorithm
    if algorithm in _INSECURE:
        name = _INSECURE[algorithm]
        raise SignatureError(f"x509: cannot verify signature: insecure algorithm {name}")
    try:
        verify(issuer.public_key, link.algorithm_identifier, link.signature, link.tbs, allow_sha1=False)
    except SignatureError as err:
        if "does not verify" not in str(err):
            raise SignatureError(f"x509: cannot verify signature: the certificate {err}") from err
        failed = (text for begin, text in _FAILED.items() if algorithm.startswith(begin))
        raise SignatureError(next(failed, "x509: cannot verify signature")) from err


def is_self_signed(link: Link) -> bool:
    """Return whether a certificate is a CA that signed itself."""
    if link.subject != link.issuer:
        return False
    return _is_signed_by(link, link)


def is_chain(links: Sequence[Link]) -> bool:
    """Return whether every certificate is signed by the next one."""
    return all(_is_signed_by(links[at], links[at + 1]) for at in range(len(links) - 1))


def _is_signed_by(link: Link, issuer: Link) -> bool:
    try:
        check_signature(link, issuer)
    except DERError:
        return False
    return True


def find_chains(link: Link, roots: Pool, intermediates: Pool, now: datetime) -> list[list[Link]]:
    """Return every chain from a certificate to a root, both included; never an empty list.

    CodedError 1200 to 1220 in Go's words when there is none.
    """
    search = _Search(roots, intermediates, now)
    search.check(link, (), is_root=False)
    if link in roots:
        return [[link]]
    found, error = search.extend((link,))
    if error is not None:
        raise error
    return found


class _Search:
    """One search, which counts the signatures it verifies and the names it compares."""

    def __init__(self, roots: Pool, intermediates: Pool, now: datetime) -> None:
        self._pools = ((True, roots), (False, intermediates))
        self._now = now
        self._checks = 0
        self._comparisons = name_constraints.Comparisons()

    def extend(self, chain: tuple[Link, ...]) -> tuple[list[list[Link]], CodedError | None]:
        """Return the complete chains that begin with this one, or the error."""
        found: list[list[Link]] = []
        error: CodedError | None = None
        hint: _Hint | None = None
        candidates = ((root, each) for root, pool in self._pools for each in pool.issuers_of(chain[-1]))
        for is_root, candidate in candidates:
            if candidate.public_key is None or _is_in(candidate, chain):
                continue
            self._checks += 1
            if self._checks > MAX_CHECKS:
                error = CodedError(
                    Code.CERT_VERIFY_FAILED,
                    "x509: signature check attempts limit reached while verifying certificate chain",
                )
                break
            try:
                check_signature(chain[-1], candidate)
                error = None
                self.check(candidate, chain, is_root=is_root)
            except (CodedError, DERError) as err:
                error = err if isinstance(err, CodedError) else error
                cause = err.message if isinstance(err, CodedError) else str(err)
                hint = hint or _Hint(cause, candidate)
                continue
            if is_root:
                found.append([*chain, candidate])
            else:
                more, error = self.extend((*chain, candidate))
                found += more
        if found:
            return found, None
        return [], error or _unknown_authority(hint)

    def check(self, link: Link, chain: Sequence[Link], *, is_root: bool) -> None:
        """Check rule 3 for a certificate that would follow a chain; the first one has no chain before it.

        CodedError in Go's words.
        """
        if any(each.critical and not _is_handled(each) for each in link.extensions):
            raise CodedError(Code.CERT_VERIFY_FAILED, "x509: unhandled critical extension")
        _check_time(link, self._now)
        _check_names(link, chain, self._comparisons)
        if chain and not is_root and not link.is_ca:
            raise CodedError(
                Code.CERT_NOT_AUTHORIZED_TO_SIGN,
                "x509: certificate is not authorized to sign other certificates",
            )
        longest = None if link.constraints is None else link.constraints.path_len
        if longest is not None and len(chain) - 1 > longest:
            raise CodedError(
                Code.CERT_TOO_MANY_INTERMEDIATES, "x509: too many intermediates for path length constraint"
            )


def _is_in(candidate: Link, chain: Sequence[Link]) -> bool:
    def same(link: Link) -> bool:
        if candidate.subject != link.subject or candidate.public_key != link.public_key:
            return False
        ours, theirs = candidate.alternative_names, link.alternative_names
        return ours == theirs or (ours is not None and theirs is not None and ours.value == theirs.value)

    return any(map(same, chain))


def _unknown_authority(hint: _Hint | None) -> CodedError:
    text = "x509: certificate signed by unknown authority"
    if hint is not None:
        cause, name = (part.replace('"', '\\"') for part in (hint.cause, hint.candidate.label()))
        text += f' (possibly because of "{cause}" while trying to verify candidate authority certificate'
        text += f' "{name}")'
    return CodedError(Code.CERT_UNKNOWN_AUTHORITY, text)


def _check_names(link: Link, chain: Sequence[Link], comparisons: name_constraints.Comparisons) -> None:
    constraints = extensions.find(link.extensions, extensions.NAME_CONSTRAINTS)
    if constraints is None:
        return
    try:
        for each in chain:
            if each.alternative_names is not None:
                name_constraints.check(constraints.value, each.alternative_names.value, comparisons)
    except name_constraints.NameNotAllowedError as err:
        raise CodedError(
            Code.CERT_NAME_NOT_ALLOWED,
            f"x509: a root or intermediate certificate is not authorized to sign for this name: {err}",
        ) from err
    except DERError as err:
        raise CodedError(Code.CERT_VERIFY_FAILED, f"x509: {err}") from err


def _is_handled(extension: Extension) -> bool:
    if extension.oid == extensions.NAME_CONSTRAINTS:
        return name_constraints.is_understood(extension.value)
    return extension.oid in _HANDLED


def _check_time(link: Link, now: datetime) -> None:
    moment = None
    if now < link.not_before:
        moment = f"before {go_time(link.not_before)}"
    elif now > link.not_after:
        moment = f"after {go_time(link.not_after)}"
    if moment is not None:
        raise CodedError(
            Code.CERT_EXPIRED,
            f"x509: certificate has expired or is not yet valid: current time {go_time(now)} is {moment}",
        )


def go_time(moment: datetime) -> str:
    """Write a time in UTC as Go's RFC 3339 does, to the second."""
    return f"{moment.replace(tzinfo=None).isoformat(timespec='seconds')}Z"
