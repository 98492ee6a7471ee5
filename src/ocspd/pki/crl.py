"""Certificate revocation lists (RFC 5280 §5): read, checked, and told apart into complete and delta.

A list is held as its DER and read entry by entry, so its memory is the size of the file (twice that while
the signature is checked), not a multiple of its entries.
"""

from __future__ import annotations

import binascii
import warnings
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import CRLEntryExtensionOID

from ocspd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

_BEGIN = (b"-----BEGIN X509 CRL-----", b"-----BEGIN CRL-----")
_END = (b"-----END X509 CRL-----", b"-----END CRL-----")
_REASONS = {
    x509.ReasonFlags.unspecified: 0,
    x509.ReasonFlags.key_compromise: 1,
    x509.ReasonFlags.ca_compromise: 2,
    x509.ReasonFlags.affiliation_changed: 3,
    x509.ReasonFlags.superseded: 4,
    x509.ReasonFlags.cessation_of_operation: 5,
    x509.ReasonFlags.certificate_hold: 6,
    x509.ReasonFlags.remove_from_crl: 8,
    x509.ReasonFlags.privilege_withdrawn: 9,
    x509.ReasonFlags.aa_compromise: 10,
}
_UNREADABLE = (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm)
_REASON_OID = CRLEntryExtensionOID.CRL_REASON
_INVALIDITY_OID = CRLEntryExtensionOID.INVALIDITY_DATE
_ISSUER_OID = CRLEntryExtensionOID.CERTIFICATE_ISSUER


class Listed(Enum):
    """What an entry says of its certificate."""

    REVOKED = 0
    REMOVED = 1
    """reasonCode removeFromCRL: no longer revoked; only a delta CRL may say so (RFC 5280 §5.3.1)."""


class Entry(NamedTuple):
    """One revokedCertificates entry."""

    serial: int
    listed: Listed
    reason: int
    """CRLReason; 0 when there is none."""
    revoked_s: int
    """revocationDate, seconds since the epoch."""
    invalidity: bool
    """Whether the entry has an invalidityDate."""
    unreadable: bool
    """Whether its extensions cannot be read: the entry counts as revoked, without a reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What identifies a CRL, without its entries."""

    where: str
    """File, and which CRL of it when it has several."""
    issuer: int
    """Number of the CA that signed it, in the list given."""
    scope: bytes
    """issuingDistributionPoint: lists of one issuer with different scopes add up."""
    number: int | None
    """cRLNumber."""
    base: int | None
    """BaseCRLNumber of a delta CRL, None for a complete one."""
    this_update: datetime
    next_update: datetime | None
    signature: bytes
    entries: int
    partial: bool
    """Whether the CRL says that it covers a part of the issuer's certificates only."""

    @property
    def is_delta(self) -> bool:
        """Whether this is a delta CRL (RFC 5280 §5.2.4)."""
        return self.base is not None

    def check_time(self, now: datetime, *, allow_expired: bool) -> None:
        """ConfigError when the list is not in force at this instant."""
        if self.this_update > now:
            raise ConfigError(
                f"{self.where}: its thisUpdate {self.this_update:%Y-%m-%d %H:%M:%S} UTC is in the future: "
                "check the clock"
            )
        if not allow_expired and self.next_update is not None and self.next_update < now:
            raise ConfigError(
                f"{self.where}: this CRL has expired on {self.next_update:%Y-%m-%d %H:%M:%S} UTC: "
                "get the current one, or give -allow-expired"
            )


class RevocationList:
    """One CRL; made by `load_crls`."""

    def __init__(self, crl: x509.CertificateRevocationList, where: str) -> None:
        self._crl = crl
        self.where = where
        """File, and which CRL of it when it has several, for messages."""

    @property
    def signature(self) -> bytes:
        """The signature, by which a list is known again."""
        return self._crl.signature

    def heading(self, issuers: Sequence[x509.Certificate]) -> Heading:
        """Check the list's signature and that all it says is understood; return what identifies it.

        ConfigError when it was issued by none of `issuers`, is not signed by its issuer, is an indirect
        CRL, covers some reasons or attribute certificates only, or has a critical extension that is
        not known (RFC 5280 §5.2: it must not be used then).
        """
        number = self._issuer(issuers)
        try:
            extensions = self._crl.extensions
        except _UNREADABLE as err:
            raise ConfigError(f"{self.where}: cannot read the CRL's extensions: {_one_line(err)}") from err
        crl_number = base = None
        scope, partial = b"", False
        for extension in extensions:
            match extension.value:
                case x509.CRLNumber() as value:
                    crl_number = value.crl_number
                case x509.DeltaCRLIndicator() as value:
                    base = value.crl_number
                case x509.IssuingDistributionPoint() as value:
                    self._check_scope(value)
                    scope, partial = value.public_bytes(), True
                case x509.UnrecognizedExtension() if extension.critical:
                    raise ConfigError(
                        f"{self.where}: has the critical extension {extension.oid.dotted_string}, which is "
                        "not known here, so it cannot be used (RFC 5280 §5.2)"
                    )
                case _:
                    pass
        return Heading(
            where=self.where,
            issuer=number,
            scope=scope,
            number=crl_number,
            base=base,
            this_update=self._crl.last_update_utc,
            next_update=self._crl.next_update_utc,
            signature=self._crl.signature,
            entries=len(self._crl),
            partial=partial,
        )

    def _check_scope(self, point: x509.IssuingDistributionPoint) -> None:
        if point.indirect_crl:
            raise ConfigError(
                f"{self.where}: is an indirect CRL (of several CAs' certificates), which cannot be used: "
                "get the CRL that the CA itself signs"
            )
        if point.only_some_reasons:
            raise ConfigError(
                f"{self.where}: covers some revocation reasons only, so no certificate can be called good "
                "by it: get the CRL for all reasons"
            )
        if point.only_contains_attribute_certs:
            raise ConfigError(f"{self.where}: covers attribute certificates only")

    def _issuer(self, issuers: Sequence[x509.Certificate]) -> int:
        named = [number for number, issuer in enumerate(issuers) if issuer.subject == self._crl.issuer]
        if not named:
            raise ConfigError(
                f"{self.where}: issued by {self._crl.issuer.rfc4514_string()!r}, which is none of the CA "
                "certificates given"
            )
        for number in named:
            if self._signed_by(issuers[number]):
                _check_usage(issuers[number], self.where)
                return number
        raise ConfigError(
            f"{self.where}: its signature is not that of {self._crl.issuer.rfc4514_string()!r} as given: "
            "the list is damaged, forged, or signed with another key of this CA"
        )

    def _signed_by(self, issuer: x509.Certificate) -> bool:
        try:
            key: CertificateIssuerPublicKeyTypes = issuer.public_key()  # type: ignore[assignment]
            return self._crl.is_signature_valid(key)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
            return False

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, in the list's order.

        ConfigError for an entry of another issuer, or with a critical extension that is not known.
        """
        for entry in self._crl:
            revoked_s = int(entry.revocation_date_utc.timestamp())
            listed, reason, invalidity = Listed.REVOKED, 0, False
            try:
                extensions = entry.extensions
            except _UNREADABLE:
                yield Entry(entry.serial_number, listed, 0, revoked_s, invalidity=False, unreadable=True)
                continue
            for extension in extensions:
                if extension.oid == _REASON_OID and isinstance(extension.value, x509.CRLReason):
                    reason = _REASONS[extension.value.reason]
                elif extension.oid == _INVALIDITY_OID:
                    invalidity = True
                elif extension.oid == _ISSUER_OID:
                    raise ConfigError(
                        f"{self.where}: entry {entry.serial_number} is of another issuer: "
                        "indirect CRLs cannot be used"
                    )
                elif extension.critical:
                    raise ConfigError(
                        f"{self.where}: entry {entry.serial_number} has the critical extension "
                        f"{extension.oid.dotted_string}, which is not known here, so the CRL cannot be used "
                        "(RFC 5280 §5.3)"
                    )
            if reason == 8:
                listed, reason = Listed.REMOVED, 0
            yield Entry(entry.serial_number, listed, reason, revoked_s, invalidity, unreadable=False)


def _check_usage(issuer: x509.Certificate, where: str) -> None:
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, *_UNREADABLE):
        return
    if not usage.crl_sign:
        raise ConfigError(
            f"{where}: {issuer.subject.rfc4514_string()!r} may not sign CRLs: its keyUsage lacks cRLSign"
        )


def load_crls(data: bytes, name: str) -> Iterator[RevocationList]:
    """Read the CRLs of a file one after the other: DER, or one or more PEM blocks with text around them.

    ConfigError naming the file (and which CRL) when it has none or one cannot be read.
    """
    if data[:1] == b"\x30":
        yield RevocationList(_parse(data, name), name)
        return
    found = 0
    position = 0
    while (span := _block(data, position, name)) is not None:
        start, end, position = span
        found += 1
        where = name if found == 1 and _block(data, position, name) is None else f"{name}: CRL {found}"
        try:
            content = binascii.a2b_base64(memoryview(data)[start:end])
        except binascii.Error as err:
            raise ConfigError(f"{where}: its base64 is broken: {err}") from err
        yield RevocationList(_parse(content, where), where)
    if not found:
        raise ConfigError(f"{name}: not a CRL: neither DER nor a PEM block 'X509 CRL'")


def _block(data: bytes, position: int, name: str) -> tuple[int, int, int] | None:
    """Return start and end of the base64 of the next block, and where to look for more."""
    starts = [(data.find(mark, position), mark) for mark in _BEGIN]
    begin, mark = min(((at, mark) for at, mark in starts if at >= 0), default=(-1, b""))
    if begin < 0:
        return None
    start = begin + len(mark)
    end = data.find(_END[_BEGIN.index(mark)], start)
    if end < 0:
        raise ConfigError(f"{name}: a PEM block does not end: the file is cut off")
    return start, end, end + 5


def _parse(data: bytes, where: str) -> x509.CertificateRevocationList:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return x509.load_der_x509_crl(data)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as err:
        raise ConfigError(f"{where}: not a CRL, or damaged: {_one_line(err)}") from err


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split())[:200]


def in_force(headings: Sequence[Heading]) -> tuple[list[Heading], list[tuple[Heading, str]]]:
    """Choose the lists that together say what is revoked, in the order to apply them.

    For each issuer and scope: the newest complete CRL, then the delta CRLs that carry it on (RFC 5280
    §5.2.4: BaseCRLNumber not above, CRL number above what is known so far), as few as will do. Returns
    these, and the others with the cause why each is left out. ConfigError for a delta CRL without a
    complete CRL it can be applied to.
    """
    groups: dict[tuple[int, bytes], list[Heading]] = {}
    for heading in headings:
        groups.setdefault((heading.issuer, heading.scope), []).append(heading)
    chosen: list[Heading] = []
    left: list[tuple[Heading, str]] = []
    for group in groups.values():
        complete = [heading for heading in group if not heading.is_delta]
        deltas = [heading for heading in group if heading.is_delta]
        if not complete:
            raise ConfigError(
                f"{deltas[0].where}: a delta CRL without the complete CRL it is based on: give that as well"
            )
        newest = max(complete, key=lambda heading: (heading.this_update, heading.number or 0))
        chosen.append(newest)
        left += [(heading, "replaced by a newer CRL") for heading in complete if heading is not newest]
        chain, unused = _chain(newest, deltas)
        chosen += chain
        left += unused
    return chosen, left


def _chain(complete: Heading, deltas: list[Heading]) -> tuple[list[Heading], list[tuple[Heading, str]]]:
    if deltas and complete.number is None:
        raise ConfigError(f"{complete.where}: has no CRL number, so no delta CRL can be applied to it")
    known = complete.number or 0
    chain: list[Heading] = []
    for delta in deltas:
        if delta.number is None:
            raise ConfigError(f"{delta.where}: a delta CRL without a CRL number (RFC 5280 §5.2.3)")
    while True:
        fitting = [d for d in deltas if (d.base or 0) <= known < (d.number or 0)]
        if not fitting:
            break
        best = max(fitting, key=lambda delta: delta.number or 0)
        chain.append(best)
        known = best.number or 0
    unused = [delta for delta in deltas if delta not in chain]
    for delta in unused:
        if (delta.number or 0) > known:
            raise ConfigError(
                f"{delta.where}: a delta CRL to CRL number {delta.base}, but the newest given is {known}: "
                "give the newer complete CRL"
            )
    return chain, [(delta, "replaced by a newer CRL") for delta in unused]
