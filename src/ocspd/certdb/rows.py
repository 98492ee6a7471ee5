"""Values of certdb columns, from what a driver returns to the model and back; no SQL, no connection.

Text columns arrive as the bytes CFSSL wrote. Anything CFSSL would not have written is a RowError that
names table, column and the beginning of the value.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ocspd.certdb.base import OddRows
from ocspd.certdb.spelling import is_canonical
from ocspd.errors import Code, CodedError
from ocspd.logs import logger
from ocspd.model import CertificateRow, CertStatus, StatusRow, normalize_aki

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_STATUSES = {b"good": CertStatus.GOOD, b"revoked": CertStatus.REVOKED, b"unknown": CertStatus.UNKNOWN}
_GO_TIME = re.compile(
    r"(\d{4,9}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?\s*(?:(Z)|([+-])(\d{2}):?(\d{2}))?",
    re.ASCII,
)
_LOGGED_ROWS = 10
_FOREVER = datetime.max.replace(tzinfo=UTC)
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS_FROM = 10**12
"""Integers as large as this are milliseconds to CFSSL's SQLite driver, smaller ones seconds."""
_LAST_TIME = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""The last time GeneralizedTime can express; a later time of revocation counts as unset."""
_TOO_EARLY, _TOO_LATE = datetime.min, datetime.max  # noqa: DTZ901  (without a zone, as asyncpg has infinity)

SHOWN_CHARS = 64
"""How much of a stored value is shown in messages and lists."""
READ_BYTES = 200
"""How much of a text column a status is read from: no serial number and no key identifier is longer."""
_TIMESTAMP_BYTES = 8
MAX_SERIAL_BITS = 511
"""Serial numbers of at most 64 bytes as DER, sign included: the most an index takes (RFC 5280: 20)."""


class RowError(CodedError):
    """A stored value that is not in certdb's format (11000)."""

    def __init__(self, column: str, value: object) -> None:
        super().__init__(
            Code.STORE_FAILED,
            f"certdb column {column} holds {_shown(value)}, not CFSSL's format: correct or delete the row",
        )


def _shown(value: object) -> str:
    return repr(_printable(value))


def _printable(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        value = value[: 4 * SHOWN_CHARS].decode("utf-8", "backslashreplace")
    text = value if isinstance(value, str) else f"{value:.17g}" if isinstance(value, float) else str(value)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:SHOWN_CHARS])


def read_serial(value: object) -> int:
    """Read a serial number: decimal digits, or what SQLite holds as an integer; at most 64 bytes as DER."""
    serial = -1
    if isinstance(value, int):
        serial = value
    # int() alone would also take spaces, signs and underscores, and quadratic time for a megabyte
    elif isinstance(value, bytes) and len(value) <= READ_BYTES and value.isdigit():
        serial = int(value)
    if serial < 0 or serial.bit_length() > MAX_SERIAL_BITS:
        raise RowError("serial_number", value)
    return serial


def read_status(value: object) -> CertStatus:
    """Read good, revoked or unknown."""
    status = _STATUSES.get(value) if isinstance(value, bytes) else None
    if status is None:
        raise RowError("status", value)
    return status


def read_text(value: object) -> str:
    """Read a text column; NULL becomes the empty string, a number its digits."""
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_json(value: object) -> Any:
    """Read a JSON column; NULL and JSON null are None, and what is not JSON is its text."""
    if value is None or value in (b"", ""):
        return None
    try:
        return json.loads(value) if isinstance(value, (bytes, str)) else value
    except (ValueError, RecursionError):
        return read_text(value)


def read_sans(value: object) -> list[str] | None:
    """Read the JSON column of names; None unless it is a list of strings."""
    names = read_json(value)
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def read_reason(value: object) -> int:
    """Read a reason: an integer of 32 bits; NULL is 0."""
    if value is None:
        return 0
    if isinstance(value, int) and -(2**31) <= value < 2**31:
        return value
    raise RowError("reason", value)


def read_revoked_at(value: datetime | None) -> datetime | None:
    """Read a time of revocation.

    Go's zero time means none, and so do infinity, which has no zone, and times outside the years 1 to 9999.
    """
    if value is None or value.year == 1 or value.tzinfo is None or value > _LAST_TIME:
        return None
    return value


def read_expiry(value: datetime | None) -> datetime:
    """Read a time of expiry, which CFSSL always writes."""
    if value is None:
        raise RowError("expiry", None)
    return value if value.tzinfo else value.replace(tzinfo=UTC)  # asyncpg: infinity has no zone


def write_json(value: Any) -> str:
    """Write a JSON column; None is JSON null, not NULL."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def parse_time(column: str, value: object) -> datetime | None:
    """Read a time in SQLite; RowError when it is not one.

    It is in Go's format with up to nine digits of fraction, in CURRENT_TIMESTAMP's (UTC), or a Unix time
    in seconds or, from 10^12 on, in milliseconds. Times before year 1 and after year 9999 come back
    without a zone, as asyncpg returns infinity.
    """
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return _from_unix(column, value)
    text = value if isinstance(value, str) else read_text(value) if isinstance(value, bytes) else ""
    match = _GO_TIME.fullmatch(text) if len(text) <= SHOWN_CHARS else None
    if match is None:
        raise RowError(column, value)
    day, clock, fraction, _, sign, hours, minutes = match.groups()
    if day.index("-") > 4:
        return _TOO_LATE
    if day.startswith("0000"):
        return _TOO_EARLY
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '')[:6].ljust(6, '0')}+00:00")
    except ValueError:
        raise RowError(column, value) from None
    if sign is None:
        return moment
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    try:
        return moment - offset if sign == "+" else moment + offset
    except OverflowError:
        return _TOO_EARLY if sign == "+" else _TOO_LATE


def _from_unix(column: str, value: float) -> datetime:
    if value != value:  # noqa: PLR0124  (not a number)
        raise RowError(column, value)
    seconds = value / 1000 if isinstance(value, int) and abs(value) > _MILLISECONDS_FROM else value
    try:
        return _UNIX_EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return _TOO_EARLY if value < 0 else _TOO_LATE


def format_time(moment: datetime) -> str:
    """Write a time as Go's SQLite driver does: UTC, no trailing zeros in the fraction."""
    moment = moment.astimezone(UTC)
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return f"{moment.replace(tzinfo=None, microsecond=0).isoformat(' ')}{fraction}+00:00"


T = TypeVar("T")
TimeParser = Callable[[str, Any], "datetime | None"]
"""Reads a time, given the column's name for the RowError, and what the driver returned."""


def status_row(  # noqa: PLR0913, PLR0917  (the columns in the order of the query)
    serial: object,
    aki: object,
    status: object,
    reason: object,
    revoked_at: object,
    expiry: object,
    *,
    parse: TimeParser,
) -> StatusRow:
    """Read the six columns of a status; RowError when the serial number cannot be read.

    If another column cannot be read, an older response must not stay in force: the status is then
    unknown, or revoked if the status column says so, and `problem` gives the reason. Reason and time of
    revocation are read for revoked certificates only.
    """
    serial_number = read_serial(serial)
    key = None if is_canonical(serial, aki) else (serial, aki)
    with contextlib.suppress(RowError):
        word = read_status(status)
        end = read_expiry(parse("expiry", expiry))
        if word is not CertStatus.REVOKED:
            return StatusRow(serial_number, read_text(aki), word, 0, None, end, key=key)
        moment = read_revoked_at(parse("revoked_at", revoked_at))
        return StatusRow(serial_number, read_text(aki), word, read_reason(reason), moment, end, key=key)
    problems: list[str] = []

    def attempt(read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except RowError as err:
            problems.append(err.message)
            return otherwise

    code, moment = 0, None
    word = attempt(lambda: read_status(status), CertStatus.UNKNOWN)
    if word is CertStatus.REVOKED:
        code = attempt(lambda: read_reason(reason), 0)
        moment = attempt(lambda: read_revoked_at(parse("revoked_at", revoked_at)), None)
    end = attempt(lambda: read_expiry(parse("expiry", expiry)), _FOREVER)
    if word is not CertStatus.REVOKED:
        word = CertStatus.UNKNOWN
    return StatusRow(
        serial_number,
        read_text(aki),
        word,
        code,
        moment,
        end,
        key=key,
        problem=problems[0],
    )


def status_row_from_text(  # noqa: PLR0913, PLR0917  (as above)
    serial: object, aki: object, status: object, reason: object, revoked_at: object, expiry: object
) -> StatusRow:
    """Read the six columns of a status in SQLite, where times are text, or Unix times."""
    return status_row(serial, aki, status, reason, revoked_at, expiry, parse=parse_time)


def status_row_from_times(  # noqa: PLR0913, PLR0917  (as above)
    serial: object, aki: object, status: object, reason: object, revoked_at: object, expiry: object
) -> StatusRow:
    """Read the six columns of a status in PostgreSQL, where times are in binary format."""
    return status_row(serial, aki, status, reason, revoked_at, expiry, parse=parse_binary_time)


def status_row_from_binary(  # noqa: PLR0913, PLR0917  (as above)
    serial: bytes | None,
    aki: bytes | None,
    status: bytes | None,
    reason: bytes | None,
    revoked_at: bytes | None,
    expiry: bytes | None,
) -> StatusRow:
    """Read the six columns of a status in PostgreSQL's binary format."""
    code = None if reason is None else int.from_bytes(reason, "big", signed=True)
    return status_row(serial, aki, status, code, revoked_at, expiry, parse=parse_binary_time)


def parse_binary_time(column: str, value: bytes | None) -> datetime | None:
    """Read a timestamptz in PostgreSQL's binary format: microseconds since 2000.

    Infinity, and times datetime cannot hold, come back without a zone, as asyncpg returns infinity.
    """
    if value is None:
        return None
    if len(value) != _TIMESTAMP_BYTES:
        raise RowError(column, value)
    microseconds = int.from_bytes(value, "big", signed=True)
    try:
        return _POSTGRES_EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return _TOO_EARLY if microseconds < 0 else _TOO_LATE


def certificate_row(record: Sequence[Any], *, parse: TimeParser) -> CertificateRow:
    """Read all columns of a certificate, the status as `status_row` does, RowError included."""
    serial, aki, label, status, reason, expiry, revoked, pem, issued, before, metadata, sans, name = record
    row = status_row(serial, aki, status, reason, revoked, expiry, parse=parse)
    return CertificateRow(
        serial=row.serial,
        aki=row.aki,
        ca_label=read_text(label),
        status=row.status,
        reason=row.reason,
        expiry=row.expiry,
        revoked_at=row.revoked_at,
        pem=read_text(pem),
        issued_at=_read_optional(parse, "issued_at", issued),
        not_before=_read_optional(parse, "not_before", before),
        metadata=read_json(metadata),
        sans=read_sans(sans),
        common_name=read_text(name),
    )


def _read_optional(parse: TimeParser, column: str, value: object) -> datetime | None:
    """Read a time that nothing depends on: None if it cannot be read."""
    try:
        moment = parse(column, value)
    except RowError:
        return None
    return None if moment is None else read_expiry(moment)


def same_key(found: Iterable[Sequence[Any]], serial: int, aki: str) -> list[Sequence[Any]]:
    """Return the records whose first two columns, serial number and key identifier, spell this key.

    The one in CFSSL's spelling comes first.
    """
    wanted = normalize_aki(aki)
    same = []
    for record in found:
        try:
            serial_number = read_serial(record[0])
        except RowError:
            continue
        if serial_number == serial and normalize_aki(read_text(record[1])) == wanted:
            same.append(record)
    return sorted(same, key=lambda record: not is_canonical(record[0], record[1]))


def readable_certificates(records: Iterable[Sequence[Any]], *, parse: TimeParser) -> list[CertificateRow]:
    """Read certificates, leaving out those without a readable serial number with a warning each."""
    found, unreadable = [], []
    for record in records:
        try:
            found.append(certificate_row(record, parse=parse))
        except RowError as err:
            unreadable.append(err.message)
    warn_of_unreadable(unreadable)
    return found


def odd_rows(records: Iterable[Sequence[Any]], read: Callable[..., StatusRow]) -> OddRows:
    """Read rows of any spelling."""
    found = OddRows([], [])
    for record in records:
        try:
            found.rows.append(read(*record))
        except RowError as err:
            found.unreadable.append(err.message)
    return found


def readable_rows(records: Iterable[Sequence[Any]], read: Callable[..., T]) -> list[T]:
    """Read rows, leaving out unreadable ones with a warning each: one bad row must not stop a pass."""
    rows, unreadable = [], []
    for record in records:
        try:
            rows.append(read(*record))
        except RowError as err:
            unreadable.append(err.message)
    warn_of_unreadable(unreadable)
    return rows


def warn_of_unreadable(messages: Sequence[str]) -> None:
    """Log why rows are left out: the first ten, and how many more there are."""
    for message in messages[:_LOGGED_ROWS]:
        logger.warning("skipping a certificate: %s", message)
    if len(messages) > _LOGGED_ROWS:
        logger.warning("skipping %d more certificates", len(messages) - _LOGGED_ROWS)


def preferred(found: Sequence[CertificateRow]) -> CertificateRow | None:
    """Return the first revoked one of the rows about a certificate, or the first if none is revoked."""
    return next((row for row in found if row.status is CertStatus.REVOKED), found[0] if found else None)
