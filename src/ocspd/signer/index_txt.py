"""The database of `openssl ca`, `index.txt`, and lists of issued serial numbers: text, line by line.

A line of index.txt has six fields between tabs: status (V valid, R revoked, E expired), expiry,
revocation date with `,reason` and `,argument`, serial in hex, file name, subject. A tab inside a field has
a backslash before it; `#` in the first column begins a comment (OpenSSL: crypto/txt_db, apps/lib/apps.c).
"""

from __future__ import annotations

import re
from calendar import timegm
from typing import TYPE_CHECKING, NamedTuple

from ocspd.errors import CodedError, ConfigError, OCSPDError
from ocspd.files import UTF8_MARK, UTF16_MARKS
from ocspd.model import REASONS, parse_serial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READ_BYTES = 1 << 20
MAX_SERIAL_BITS = 160
"""RFC 5280 §4.1.2.2: conforming CAs use at most 20 bytes."""
_TAB = re.compile(rb"(?<!\\)\t")
_TIME = re.compile(rb"(\d\d|\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z")
_HEX = re.compile(rb"[0-9a-fA-F]{1,200}")
_PSEUDO_REASONS = {"holdinstruction": 6, "keytime": 1, "cakeytime": 2, "cakeycompromise": 2}
"""What openssl writes for a reason with an argument, and an older spelling."""


class LineError(OCSPDError):
    """A line that cannot be used; the message is the reason. `serial` is set if it could be read."""

    def __init__(self, cause: str, serial: int | None = None) -> None:
        super().__init__(cause)
        self.serial = serial


class Row(NamedTuple):
    """One certificate of index.txt."""

    serial: int
    revoked: bool
    expiry_s: int | None
    """Seconds since the epoch; None for a revoked certificate whose expiry cannot be read."""
    revoked_s: int | None
    """Seconds since the epoch; None when not revoked or when the date cannot be read."""
    reason: int
    flaws: tuple[str, ...]
    """What had to be ignored although the row is used."""


def lines(path: Path, on_bytes: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    """Yield the number (from 1) and content of every line that is neither empty nor a comment.

    `on_bytes` is called with the bytes read. ConfigError naming the file when it is unreadable or not text.
    """
    try:
        with path.open("rb") as file:
            line_number, rest = 0, b""
            while data := file.read(READ_BYTES):
                on_bytes(len(data))
                if line_number == 0 and not rest:
                    if data[:2] in UTF16_MARKS:
                        raise ConfigError(f"{path}: is in UTF-16: save it as ASCII or UTF-8")
                    data = data.removeprefix(UTF8_MARK)
                if b"\0" in data:
                    raise ConfigError(f"{path}: line {line_number + 1}: not a text file")
                block = (rest + data).split(b"\n")
                rest = block.pop()
                if len(rest) > READ_BYTES:
                    raise ConfigError(f"{path}: line {line_number + 1}: longer than {READ_BYTES} bytes")
                for line in block:
                    line_number += 1
                    if line and line[0] != 0x23 and not line.isspace():
                        yield line_number, line
            if rest.strip() and not rest.startswith(b"#"):
                yield line_number + 1, rest
    except OSError as err:
        raise ConfigError(f"{path}: cannot read: {err.strerror}") from err


def parse_row(line: bytes) -> Row:
    """Read one line of index.txt; LineError when it is unusable.

    A revoked row is used even when its date, reason or expiry cannot be read.
    """
    fields = line.split(b"\t") if b"\\" not in line else _TAB.split(line)
    if len(fields) != 6:
        raise LineError(f"{len(fields)} fields instead of 6")
    status, expiry, revocation, serial_text, _, _ = fields
    if not _HEX.fullmatch(serial_text):
        raise LineError("bad serial")
    serial = int(serial_text, 16)
    check_size(serial)
    if status not in {b"V", b"R", b"E"}:
        raise LineError("suspended" if status == b"S" else "unknown status", serial)
    expiry_s = _time(expiry)
    if status == b"E":
        return Row(serial, revoked=bool(revocation), expiry_s=0, revoked_s=None, reason=0, flaws=())
    if status == b"V":
        if expiry_s is None:
            raise LineError("bad expiry date", serial)
        if revocation:
            raise LineError("valid, with a revocation date", serial)
        return Row(serial, revoked=False, expiry_s=expiry_s, revoked_s=None, reason=0, flaws=())
    return _revoked(serial, expiry_s, revocation)


def _revoked(serial: int, expiry_s: int | None, revocation: bytes) -> Row:
    date, _, rest = revocation.partition(b",")
    revoked_s, flaws = _time(date), []
    if revoked_s is None:
        flaws.append("bad revocation date, replaced by 1970-01-01")
    reason = _reason(rest.partition(b",")[0])
    if reason is None:
        flaws.append("unknown reason, ignored")
    if expiry_s is None:
        flaws.append("bad expiry date, treated as not expired")
    return Row(
        serial, revoked=True, expiry_s=expiry_s, revoked_s=revoked_s, reason=reason or 0, flaws=tuple(flaws)
    )


def check_size(serial: int) -> None:
    """LineError for a serial number that no index can hold."""
    if serial.bit_length() > MAX_SERIAL_BITS:
        raise LineError("serial longer than 20 bytes")
    if serial < 0:
        raise LineError("bad serial")


def _reason(text: bytes) -> int | None:
    """Return the CRLReason, 0 without one, None for an unknown name or one that means not revoked."""
    if not text:
        return 0
    name = text.decode("latin-1").strip().lower()
    reason = REASONS.get(name, _PSEUDO_REASONS.get(name))
    return None if reason == REASONS["removefromcrl"] else reason


def _time(text: bytes) -> int | None:
    """Read a UTCTime or GeneralizedTime in the form of RFC 5280 §4.1.2.5; seconds since the epoch."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups())
    if len(match[1]) == 2:
        year += 1900 if year >= 50 else 2000
    if not (year >= 1 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        return None
    return timegm((year, month, day, hour, minute, second))


def parse_serial_line(line: bytes) -> int | None:
    """Read one line of a serial list: decimal, 0x…, or hex pairs with colons, and a `#` comment.

    None for a line with only a comment; LineError otherwise.
    """
    text = line.strip()
    if not (text.isdigit() and len(text) <= 60):
        text = text.partition(b"#")[0].strip()
        if not text:
            return None
    try:
        serial = int(text) if text.isdigit() else parse_serial(text.decode("latin-1"))
    except (CodedError, ValueError):
        if _HEX.fullmatch(text) and not text.isdigit():
            raise LineError("hex without 0x; in such a list even plain digits would be hex") from None
        raise LineError("not a serial in decimal, as 0x… or with colons") from None
    check_size(serial)
    return serial
