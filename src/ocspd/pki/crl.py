"""Certificate revocation lists (RFC 5280 §5): read, checked, and sorted into complete and delta CRLs.

A list is held as its DER and read entry by entry, so its memory is the size of the file (twice that while
the signature is checked), not a multiple of its entries.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from ocspd.errors import ConfigError, DERError
from ocspd.model import REMOVE_FROM_CRL, known_reason
from ocspd.pki import der_reader as reader
from ocspd.pki import extensions, names, pem, signatures
from ocspd.pki.certid import parts_of
from ocspd.pki.der_reader import span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

    from ocspd.pki.extensions import Extension

_LABELS = ("X509 CRL", "CRL")
_ENUMERATED = 0x0A
_CRL_EXTENSIONS = 0xA0
_CRL_NUMBER = "2.5.29.20"
_REASON_CODE = "2.5.29.21"
_INVALIDITY_DATE = "2.5.29.24"
_DELTA_INDICATOR = "2.5.29.27"
_DISTRIBUTION_POINT = "2.5.29.28"
_CERTIFICATE_ISSUER = "2.5.29.29"
_MAX_NUMBER_BYTES = 256
"""RFC 5280 allows 20 for CRL numbers and serials; longer ones are not converted to decimal."""
_KNOWN = {
    _CRL_NUMBER,
    _DELTA_INDICATOR,
    _DISTRIBUTION_POINT,
    "2.5.29.18",  # issuerAltName
    "2.5.29.35",  # authorityKeyIdentifier
    "2.5.29.46",  # freshestCRL
    "1.3.6.1.5.5.7.1.1",  # authorityInfoAccess
}


class Listed(Enum):
    """The status an entry gives its certificate."""

    REVOKED = 0
    REMOVED = 1
    """reasonCode removeFromCRL: no longer revoked; allowed in delta CRLs only (RFC 5280 §5.3.1)."""


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
class CRLInfo:
    """What identifies a CRL, without its entries."""

    where: str
    """The file, and which of its CRLs if it has several."""
    issuer: int
    """Index of the CA that signed it, in the list given."""
    scope: bytes
    """issuingDistributionPoint: lists of one issuer with different scopes complement each other."""
    number: int | None
    """cRLNumber."""
    base: int | None
    """BaseCRLNumber of a delta CRL, None for a complete one."""
    this_update: datetime
    next_update: datetime | None
    signature: bytes
    entries: int
    partial: bool
    """Whether the CRL states that it covers only part of the issuer's certificates."""

    @property
    def is_delta(self) -> bool:
        """Whether this is a delta CRL (RFC 5280 §5.2.4)."""
        return self.base is not None

    def check_time(self, now: datetime, *, allow_expired: bool) -> None:
        """Raise ConfigError when the list is not in force at this time."""
        if self.this_update > now:
            raise ConfigError(
                f"{self.where}: its thisUpdate {self.this_update:%Y-%m-%d %H:%M:%S} UTC is in the future: "
                "check the clock"
            )
        if not allow_expired and self.next_update is not None and self.next_update < now:
            raise ConfigError(
                f"{self.where}: this CRL expired on {self.next_update:%Y-%m-%d %H:%M:%S} UTC: "
                "get the current one, or use -allow-expired"
            )


class RevocationList:
    """One CRL, from `load_crls`. Read entry by entry, with the tolerance of `der_reader`."""

    def __init__(self, data: bytes, where: str) -> None:
        """Find the parts of a CRL; ConfigError with its name when it is not one."""
        self._data = data
        self.where = where
        """The file, and which of its CRLs if it has several, for messages."""
        try:
            self._find_parts()
        except DERError as err:
            raise ConfigError(f"{where}: not a CRL, or damaged: {err}") from err

    def _find_parts(self) -> None:
        data = self._data
        tag, position, end = span(data, 0, len(data))
        if tag != reader.SEQUENCE:
            raise DERError("it is not a SEQUENCE")
        if end != len(data):
            raise DERError("trailing bytes")
        parts = _Parts(data, position, end)
        self._signed, body, body_end = parts.take(reader.SEQUENCE, "its content")
        _, start, stop = parts.take(reader.SEQUENCE, "its signature algorithm")
        self._algorithm = data[start:stop]
        _, start, stop = parts.take(reader.BIT_STRING, "its signature")
        self.signature = reader.bits(data[start:stop])
        """The signature, which identifies a list."""
        inner = _Parts(data, body, body_end)
        inner.skip(reader.INTEGER)  # version
        _, start, stop = inner.take(reader.SEQUENCE, "its signature algorithm")
        if data[start:stop] != self._algorithm:
            raise DERError("its two signature algorithms differ")
        whole, _, _ = inner.take(reader.SEQUENCE, "its issuer")
        self._issuer = data[whole[0] : whole[1]]
        self._issuer_text = names.to_text(self._issuer)
        self._comparable = names.comparable(self._issuer)
        times = [inner.time()]
        if inner.tag() in {reader.UTC_TIME, reader.GENERALIZED_TIME}:
            times.append(inner.time())
        self._this_update = times[0]
        self._next_update = times[1] if len(times) > 1 else None
        self._entries = (0, 0)
        if inner.tag() == reader.SEQUENCE:
            _, start, stop = inner.take(reader.SEQUENCE, "its entries")
            self._entries = (start, stop)
        self._extensions = b""
        if inner.tag() == _CRL_EXTENSIONS:
            _, start, stop = inner.take(_CRL_EXTENSIONS, "its extensions")
            self._extensions = data[start:stop]

    def heading(self, issuers: Sequence[x509.Certificate]) -> CRLInfo:
        """Check the list's signature and that its content is supported; return what identifies it.

        ConfigError when it was issued by none of `issuers`, is not signed by its issuer, is an indirect
        CRL, covers only some reasons or attribute certificates, or has an unknown critical extension
        (RFC 5280 §5.2: it must not be used then).
        """
        issuer_index = self._issuer_index(issuers)
        try:
            found = _unique(self._extensions)
            by_oid = {extension.oid: extension for extension in found}
            crl_number, base = (_number(by_oid.get(oid)) for oid in (_CRL_NUMBER, _DELTA_INDICATOR))
            point = by_oid.get(_DISTRIBUTION_POINT)
            if point is not None:
                self._check_scope(point.value)
        except DERError as err:
            raise ConfigError(f"{self.where}: cannot read the CRL's extensions: {err}") from err
        for extension in found:
            if extension.critical and extension.oid not in _KNOWN:
                raise ConfigError(
                    f"{self.where}: has the unknown critical extension {extension.oid}, "
                    "so it cannot be used (RFC 5280 §5.2)"
                )
        return CRLInfo(
            where=self.where,
            issuer=issuer_index,
            scope=b"" if point is None else point.value,
            number=crl_number,
            base=base,
            this_update=self._this_update,
            next_update=self._next_update,
            signature=self.signature,
            entries=self._count(),
            partial=point is not None,
        )

    def _count(self) -> int:
        position, stop = self._entries
        count = 0
        while position < stop:
            _, _, position = self._span(position, stop, "an entry")
            count += 1
        return count

    def _span(self, position: int, stop: int, what: str) -> tuple[int, int, int]:
        try:
            return span(self._data, position, stop)
        except DERError as err:
            raise ConfigError(f"{self.where}: {what} cannot be read: {err}") from err

    def _check_scope(self, point: bytes) -> None:
        fields = {part.tag: part for part in reader.each(reader.single(point, reader.SEQUENCE, "the scope"))}

        def is_set(tag: int) -> bool:
            return tag in fields and reader.boolean(fields[tag].content, lenient=True)

        if is_set(0x84):
            raise ConfigError(
                f"{self.where}: is an indirect CRL (for several CAs), which cannot be used: "
                "get the CRL that the CA itself signs"
            )
        if 0x83 in fields:
            raise ConfigError(
                f"{self.where}: covers only some revocation reasons, so it cannot show that a certificate is "
                "good: get the CRL for all reasons"
            )
        if is_set(0x85):
            raise ConfigError(f"{self.where}: covers only attribute certificates")

    def _issuer_index(self, issuers: Sequence[x509.Certificate]) -> int:
        # RFC 5280 §7.1: case, spacing and the type of a string do not make another name
        named = [
            position
            for position, issuer in enumerate(issuers)
            if names.comparable(parts_of(issuer).subject) == self._comparable
        ]
        if not named:
            raise ConfigError(
                f"{self.where}: issued by {self._issuer_text!r}, which is none of the given CA certificates"
            )
        for position in named:
            if self._signed_by(issuers[position]):
                _check_usage(issuers[position], self.where)
                return position
        raise ConfigError(
            f"{self.where}: its signature is not that of {self._issuer_text!r} as given: "
            "the list is damaged, forged, or signed with another key of this CA"
        )

    def _signed_by(self, issuer: x509.Certificate) -> bool:
        try:
            key: CertificateIssuerPublicKeyTypes = issuer.public_key()  # type: ignore[assignment]
            start, end = self._signed
            signed = self._data[start:end]
            try:
                signatures.verify(key, self._algorithm, self.signature, signed, allow_sha1=True)
            except signatures.UnsupportedSignatureError:
                # what Go does not know and cryptography does, such as SHA-224
                return x509.load_der_x509_crl(self._data).is_signature_valid(key)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
            return False
        return True

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, in the list's order.

        ConfigError for an entry of another issuer, with an unknown critical extension, or without a serial
        and a date. An extension that cannot be read does not hide the others.
        """
        data = self._data
        position, stop = self._entries
        while position < stop:
            tag, at, position = self._span(position, stop, "an entry")
            try:
                serial, revoked_s, end = _serial_and_date(data, tag, at, position)
            except DERError as err:
                raise ConfigError(f"{self.where}: an entry cannot be read: {err}") from err
            if end == position:
                yield Entry(serial, Listed.REVOKED, 0, revoked_s, invalidity=False, unreadable=False)
            else:
                yield self._with_extensions(serial, revoked_s, data[end:position])

    def _with_extensions(self, serial: int, revoked_s: int, encoded: bytes) -> Entry:
        found, unreadable, critical = _readable(encoded)
        if critical:
            raise ConfigError(
                f"{self.where}: entry {_shown(serial)} has a critical extension that cannot be read, so the "
                "CRL cannot be used (RFC 5280 §5.3)"
            )
        reasons: set[int] = set()
        for extension in found:
            if extension.oid == _REASON_CODE:
                try:
                    reasons.add(_reason(extension.value))
                except DERError:
                    unreadable = True
            elif extension.oid == _CERTIFICATE_ISSUER:
                raise ConfigError(
                    f"{self.where}: entry {_shown(serial)} is of another issuer: indirect CRLs cannot be used"
                )
            elif extension.critical and extension.oid != _INVALIDITY_DATE:
                raise ConfigError(
                    f"{self.where}: entry {_shown(serial)} has the unknown critical extension "
                    f"{extension.oid}, so the CRL cannot be used (RFC 5280 §5.3)"
                )
        reason = reasons.pop() if len(reasons) == 1 else 0
        removed = reason == REMOVE_FROM_CRL
        return Entry(
            serial,
            Listed.REMOVED if removed else Listed.REVOKED,
            0 if removed else reason,
            revoked_s,
            invalidity=any(extension.oid == _INVALIDITY_DATE for extension in found),
            unreadable=unreadable or bool(reasons),
        )


@lru_cache(maxsize=1024)
def _readable(encoded: bytes) -> tuple[tuple[Extension, ...], bool, bool]:
    """Return an entry's readable extensions, whether there are others, and whether any of those is critical.

    Cached, because the entries of a list have only a few combinations of reasons.
    """
    found, others, critical = [], False, False
    try:
        for part in reader.each(reader.single(encoded, reader.SEQUENCE, "the entry's extensions")):
            try:
                found.append(extensions.parse_extension(part.content, lenient=True))
            except DERError:
                others = True
                critical = critical or _is_marked_critical(part.content)
    except DERError:
        others = True
    return tuple(found), others, critical


def _is_marked_critical(content: bytes) -> bool:
    """Return whether an extension that cannot be read is marked critical."""
    try:
        return any(part.tag == reader.BOOLEAN and part.content != b"\0" for part in reader.each(content))
    except DERError:
        return False


def _shown(serial: int) -> str:
    size = serial.bit_length() // 8 + 1
    return str(serial) if size <= _MAX_NUMBER_BYTES else f"with a serial number of {size} bytes"


class _Parts:
    """A cursor over the elements of a SEQUENCE, by positions in the whole: nothing large is copied."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self._data = data
        self._position = position
        self._end = end

    def tag(self) -> int:
        """Return the identifier octet of the next element, 0 at the end."""
        return self._data[self._position] if self._position < self._end else 0

    def take(self, tag: int, what: str) -> tuple[tuple[int, int], int, int]:
        """Return the position of the next element, and start and end of its content."""
        begin = self._position
        if begin >= self._end:
            raise DERError(f"{what} is missing")
        found, start, end = span(self._data, begin, self._end)
        if found != tag:
            raise DERError(f"{what} is missing or of another type")
        self._position = end
        return (begin, end), start, end

    def skip(self, tag: int) -> None:
        """Skip the next element if it has this tag."""
        if self.tag() == tag:
            self.take(tag, "")

    def time(self) -> datetime:
        """Read the next element, a time."""
        tag = self.tag()
        _, start, end = self.take(tag, "its thisUpdate")
        return reader.moment(tag, self._data[start:end])


def _unique(encoded: bytes) -> tuple[Extension, ...]:
    found = extensions.parse_extensions(encoded, lenient=True) if encoded else ()
    if len({extension.oid for extension in found}) < len(found):
        raise DERError("one of them is a duplicate")
    return found


def _serial_and_date(data: bytes, tag: int, at: int, end: int) -> tuple[int, int, int]:
    """Return serial, revocationDate in seconds, and where the extensions of an entry begin."""
    if tag != reader.SEQUENCE:
        raise DERError("it is not a SEQUENCE")
    tag, start, stop = span(data, at, end)
    if tag != reader.INTEGER or start == stop:
        raise DERError("it does not begin with a serial number")
    serial = int.from_bytes(data[start:stop], "big", signed=True)
    tag, start, stop = span(data, stop, end)
    return serial, _seconds(tag, data[start:stop]), stop


def _number(extension: Extension | None) -> int | None:
    if extension is None:
        return None
    content = reader.single(extension.value, reader.INTEGER, "a CRL number")
    if len(content) > _MAX_NUMBER_BYTES:
        raise DERError(f"a CRL number of {len(content)} bytes, more than the limit of {_MAX_NUMBER_BYTES}")
    return reader.integer(content, lenient=True)


def _reason(value: bytes) -> int:
    """Read a CRLReason; DERError for an undefined one."""
    content = reader.single(value, _ENUMERATED, "a reasonCode")
    if len(content) != 1 or not known_reason(content[0]):
        raise DERError("an undefined reasonCode")
    return content[0]


@lru_cache(maxsize=4096)
def _seconds(tag: int, content: bytes) -> int:
    """Read a time as seconds since the epoch; many entries of a list share one."""
    return int(reader.moment(tag, content).timestamp())


def _check_usage(issuer: x509.Certificate, where: str) -> None:
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError, UnsupportedAlgorithm):
        return
    if not usage.crl_sign:
        raise ConfigError(
            f"{where}: {names.to_text(parts_of(issuer).subject)!r} may not sign CRLs: its keyUsage does "
            "not include cRLSign"
        )


def load_crls(data: bytes, name: str) -> Iterator[RevocationList]:
    """Read the CRLs of a file one after the other: DER, or PEM blocks with text around them.

    ConfigError naming the file (and which CRL) if there is none or one cannot be read.
    """
    if data[:1] == b"\x30":
        yield RevocationList(pem.without_newline(data), name)
        return
    found = [block for block in pem.spans(data) if block.label in _LABELS]
    if len(found) < sum(pem.count(data, label) for label in _LABELS):
        # not skipped, as other readers of PEM do: what it revokes would be called good
        raise ConfigError(f"{name}: a PEM block of a CRL is not whole: the file was cut off or changed")
    if not found:
        hint = "" if b"-----BEGIN" in data else pem.hint(data)
        raise ConfigError(f"{name}: not a CRL: neither DER nor a PEM block 'X509 CRL'{hint}")
    for position, block in enumerate(found, 1):
        where = name if len(found) == 1 else f"{name}: CRL {position}"
        try:
            content = binascii.a2b_base64(memoryview(data)[block.body : block.end])
        except binascii.Error as err:
            raise ConfigError(f"{where}: its base64 is broken: {err}") from err
        yield RevocationList(content, where)


def in_force(headings: Sequence[CRLInfo]) -> tuple[list[CRLInfo], list[tuple[CRLInfo, str]]]:
    """Choose the lists that together give all revocations, in the order to apply them.

    For each issuer and scope: the newest complete CRL, then the delta CRLs that continue it (RFC 5280
    §5.2.4: BaseCRLNumber not above, CRL number above the newest so far), as few as possible. Returns
    these, and the others with the reason each is left out. ConfigError for a delta CRL without a
    complete CRL it can be applied to.
    """
    groups: dict[tuple[int, bytes], list[CRLInfo]] = {}
    for heading in headings:
        groups.setdefault((heading.issuer, heading.scope), []).append(heading)
    chosen: list[CRLInfo] = []
    left: list[tuple[CRLInfo, str]] = []
    for group in groups.values():
        complete = [heading for heading in group if not heading.is_delta]
        deltas = [heading for heading in group if heading.is_delta]
        if not complete:
            raise ConfigError(f"{deltas[0].where}: a delta CRL without its complete CRL: give that as well")
        newest = max(complete, key=lambda heading: (heading.this_update, heading.number or 0))
        chosen.append(newest)
        left += [(heading, "replaced by a newer CRL") for heading in complete if heading is not newest]
        chain, unused = _chain(newest, deltas)
        chosen += chain
        left += unused
    return chosen, left


def _chain(complete: CRLInfo, deltas: list[CRLInfo]) -> tuple[list[CRLInfo], list[tuple[CRLInfo, str]]]:
    if deltas and complete.number is None:
        raise ConfigError(f"{complete.where}: has no CRL number, so delta CRLs cannot be applied to it")
    newest_so_far = complete.number or 0
    chain: list[CRLInfo] = []
    for delta in deltas:
        if delta.number is None:
            raise ConfigError(f"{delta.where}: a delta CRL without a CRL number (RFC 5280 §5.2.3)")
    while True:
        fitting = [d for d in deltas if (d.base or 0) <= newest_so_far < (d.number or 0)]
        if not fitting:
            break
        best = max(fitting, key=lambda delta: delta.number or 0)
        chain.append(best)
        newest_so_far = best.number or 0
    unused = [delta for delta in deltas if delta not in chain]
    for delta in unused:
        if (delta.number or 0) > newest_so_far:
            raise ConfigError(
                f"{delta.where}: a delta CRL to CRL number {delta.base}, but the newest given is "
                f"{newest_so_far}: give the newer complete CRL"
            )
    return chain, [(delta, "replaced by a newer CRL") for delta in unused]
