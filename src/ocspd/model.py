"""Values that every layer uses: serial numbers, key identifiers, statuses, reasons, database rows.

Serial numbers are `int` everywhere inside; `serial_to_text` and `parse_serial` are the only
conversions. Times are aware UTC datetimes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, NamedTuple

from ocspd.errors import Code, CodedError, OCSPDError

ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)
"""Go's zero time: what CFSSL writes as `revoked_at` of a certificate that is not revoked."""

_HEX_SERIAL = re.compile(r"(?:[0-9a-fA-F]{1,2}:){1,100}[0-9a-fA-F]{1,2}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_PREFIXED_SERIAL = re.compile(r"0[xX][0-9a-fA-F]{1,100}")


def parse_serial(text: str) -> int:
    """Read a serial number written in decimal, as `0x…`, or as hex pairs joined by colons.

    Raises CodedError 1300 naming the text when it is none of these.
    """
    text = text.strip()
    if _HEX_SERIAL.fullmatch(text):
        return int("".join(pair.zfill(2) for pair in text.split(":")), 16)
    if _PREFIXED_SERIAL.fullmatch(text):
        return int(text, 16)
    if text.isascii() and text.isdigit() and len(text) <= 100:
        return int(text)
    raise CodedError(
        Code.CERT_BAD_REQUEST,
        f"serial {text[:64]!r} is not a number: write it in decimal, as 0x… (0x before what `openssl x509 "
        "-serial` prints) or as hex pairs with colons",
    )


def hex_hint(text: str) -> str:
    """Return a hint for a serial that was not found: it was read as decimal but may be meant as hex."""
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) == 1:
        return ""
    return f" (it was read as decimal; if it is hex, as openssl prints it, write 0x{text[:64]})"


def serial_to_text(serial: int) -> str:
    """Write a serial number as CFSSL's certdb does: decimal, without padding."""
    return str(serial)


def normalize_aki(text: str) -> str:
    """Convert a key identifier to certdb's form: lower-case hex without colons or spaces."""
    return text.replace(":", "").replace(" ", "").lower()


class CertStatus(IntEnum):
    """Status of a certificate; the values are the context tags of CertStatus, RFC 6960 §4.2.1."""

    GOOD = 0
    REVOKED = 1
    UNKNOWN = 2

    @property
    def word(self) -> str:
        """The name in certdb and in CFSSL's JSON."""
        return self.name.lower()


def parse_status(word: str) -> CertStatus:
    """Read good, revoked or unknown; CodedError 8200 otherwise."""
    try:
        return {"good": CertStatus.GOOD, "revoked": CertStatus.REVOKED, "unknown": CertStatus.UNKNOWN}[word]
    except KeyError:
        raise CodedError(Code.OCSP_INVALID_STATUS, "Invalid revocation status") from None


REASONS: dict[str, int] = {
    "unspecified": 0,
    "keycompromise": 1,
    "cacompromise": 2,
    "affiliationchanged": 3,
    "superseded": 4,
    "cessationofoperation": 5,
    "certificatehold": 6,
    "removefromcrl": 8,
    "privilegewithdrawn": 9,
    "aacompromise": 10,
}
"""CRLReason (RFC 5280 §5.3.1) by CFSSL's name; 7 is not used."""
REMOVE_FROM_CRL = REASONS["removefromcrl"]
_REASON_NUMBERS = frozenset(REASONS.values())


def known_reason(reason: int) -> bool:
    """Return whether reason is a CRLReason (RFC 5280 §5.3.1: 0-6, 8-10)."""
    return reason in _REASON_NUMBERS


def parse_reason(text: str) -> int:
    """Read a revocation reason: empty (0), a name in any case, or its number.

    Unlike CFSSL, which rejects the numbers 0 and 10 and accepts 7. A number that is no reason is CodedError
    8200, and anything else an OCSPDError without a number, as in CFSSL.
    """
    word = text.strip().lower()
    if not word:
        return 0
    if word in REASONS:
        return REASONS[word]
    if word.isascii() and word.isdigit() and len(word) <= 3 and known_reason(int(word)):
        return int(word)
    wrong = (
        f"Invalid revocation reason {text[:64]!r}: use a number 0-6 or 8-10, or one of {', '.join(REASONS)}"
    )
    if _NUMBER.fullmatch(word):
        raise CodedError(Code.OCSP_INVALID_STATUS, wrong)
    raise OCSPDError(wrong)


def parse_date(text: str) -> datetime:
    """Read a date in the form YYYY-MM-DD, which means 00:00 UTC; ValueError otherwise."""
    if len(text) != len("2006-01-02"):
        raise ValueError(text)  # strptime takes months and days of one digit as well
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)


def reason_name(code: int) -> str:
    """Write a reason as CFSSL names it; its number if it has no name."""
    return next((word for word, reason in REASONS.items() if reason == code), str(code))


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRow:
    """One row of certdb's `certificates` table, in CFSSL's meaning.

    `serial` is decimal text there and an int here; `aki` is lower-case hex, "" when the certificate
    has no authority key identifier; `sans` and `metadata` are JSON values.
    """

    serial: int
    aki: str
    pem: str
    expiry: datetime
    ca_label: str = ""
    status: CertStatus = CertStatus.GOOD
    reason: int = 0
    revoked_at: datetime | None = None
    issued_at: datetime | None = None
    not_before: datetime | None = None
    metadata: Any = None
    sans: list[str] | None = None
    common_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRequest:
    """A request that must not be acted on twice, and the certificate that was issued for it."""

    key: bytes
    """SHA-256 of the key by which its client names it."""
    digest: bytes
    """SHA-256 of the request: another one must have another key."""
    expires_at: datetime
    """Until when it is remembered."""
    serial: int = 0
    aki: str = ""


StoredKey = tuple[Any, Any]
"""Serial number and key identifier of a row exactly as the database's driver returns and accepts them."""


class StatusRow(NamedTuple):
    """What presigning needs to know about a certificate: never the PEM.

    A tuple, because a pass makes one for every certificate: 0.3 us instead of the 1.8 us of a frozen
    dataclass, beside 16 us for a P-256 signature (2026-11-25, 2 CPUs of a virtual machine).
    """

    serial: int
    aki: str
    status: CertStatus
    reason: int
    revoked_at: datetime | None
    expiry: datetime
    until: datetime | None = None
    """When the status ends, if its source says so (a CRL's nextUpdate): no response outlasts it."""
    key: StoredKey | None = None
    """How the row is spelled in its table, if not in CFSSL's way; None: as in `serial` and `aki`."""
    problem: str = ""
    """What could not be read of the row. Its status is then unknown, unless the row says revoked."""


Row = tuple[int, int, int, float | None]
"""The part of a row in a response: serial, status, reason, revocation time in seconds since the epoch.

Cheap to pickle: rows travel to the processes that sign.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OCSPRow:
    """One row of certdb's `ocsp_responses` table; `body` is the DER of the OCSPResponse."""

    serial: int
    aki: str
    body: bytes
    expiry: datetime
    key: StoredKey | None = None
    """The spelling of the certificate's row, if it is not CFSSL's; see `StatusRow`."""
