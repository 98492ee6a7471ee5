"""Values of certdb columns, from what a driver returns to the model and back; no SQL, no connection.

Text columns arrive as the bytes CFSSL wrote. Anything CFSSL would not have written is a RowError that
names table, column and the beginning of the value.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ocspd.errors import Code, CodedError
from ocspd.logs import logger
from ocspd.model import CertStatus, StatusRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_STATUSES = {b"good": CertStatus.GOOD, b"revoked": CertStatus.REVOKED, b"unknown": CertStatus.UNKNOWN}
_GO_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?\s*(?:(Z)|([+-])(\d{2}):?(\d{2}))?", re.ASCII
)
_LOGGED_ROWS = 10
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class RowError(CodedError):
    """A stored value that is not in certdb's format (11000)."""

    def __init__(self, column: str, value: object) -> None:
        super().__init__(
            Code.STORE_FAILED,
            f"certdb column {column} holds {_shown(value)}, not CFSSL's form: correct or delete the row",
        )


def _shown(value: object) -> str:
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return repr(text[:64])


def read_serial(value: bytes) -> int:
    """Read a serial number: decimal digits."""
    # int() alone would also take spaces, signs and underscores
    if isinstance(value, bytes) and value.isdigit():
        try:
            return int(value)
        except ValueError:
            pass  # longer than Python's limit of digits
    raise RowError("serial_number", value)


def read_status(value: bytes) -> CertStatus:
    """Read good, revoked or unknown."""
    try:
        return _STATUSES[value]
    except (KeyError, TypeError):
        raise RowError("status", value) from None


def read_text(value: bytes | str | None) -> str:
    """Read a text column; NULL is the empty string."""
    if value is None:
        return ""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def read_json(column: str, value: bytes | str | None) -> Any:
    """Read a JSON column; NULL and JSON null are None."""
    if not value:
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(column, value) from None


def read_revoked_at(value: datetime | None) -> datetime | None:
    """Read a time of revocation: Go's zero time means none, and infinity, which has no zone, tells none."""
    return None if value is None or value.year == 1 or value.tzinfo is None else value


def read_expiry(value: datetime | None) -> datetime:
    """Read a time of expiry, which CFSSL always writes."""
    if value is None:
        raise RowError("expiry", None)
    return value if value.tzinfo else value.replace(tzinfo=UTC)  # asyncpg: infinity has no zone


def write_json(value: Any) -> str:
    """Write a JSON column; None is JSON null, not NULL."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def parse_time(column: str, text: bytes | str | None) -> datetime | None:
    """Read a time in SQLite: Go's form with up to nine digits of fraction, or CURRENT_TIMESTAMP's (UTC)."""
    if text is None:
        return None
    match = _GO_TIME.fullmatch(text if isinstance(text, str) else text.decode("ascii", "replace"))
    if match is None:
        raise RowError(column, text)
    day, clock, fraction, _, sign, hours, minutes = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '')[:6].ljust(6, '0')}+00:00")
        if sign is None:
            return moment
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        return moment - offset if sign == "+" else moment + offset
    except (ValueError, OverflowError):
        raise RowError(column, text) from None


def format_time(moment: datetime) -> str:
    """Write a time as Go's SQLite driver does: UTC, no trailing zeros in the fraction."""
    moment = moment.astimezone(UTC)
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return f"{moment.replace(tzinfo=None, microsecond=0).isoformat(' ')}{fraction}+00:00"


def status_row(  # noqa: PLR0913, PLR0917  (the columns in the order of the query)
    serial: bytes,
    aki: bytes,
    status: bytes,
    reason: int | None,
    revoked_at: datetime | None,
    expiry: datetime | None,
) -> StatusRow:
    """Read the six columns of a status; RowError for what CFSSL does not write."""
    return StatusRow(
        read_serial(serial),
        read_text(aki),
        read_status(status),
        reason or 0,
        read_revoked_at(revoked_at),
        read_expiry(expiry),
    )


def status_row_from_text(  # noqa: PLR0913, PLR0917  (as above)
    serial: bytes,
    aki: bytes,
    status: bytes,
    reason: int | None,
    revoked_at: bytes | None,
    expiry: bytes | None,
) -> StatusRow:
    """Read the six columns of a status in SQLite, where times are text."""
    return status_row(
        serial, aki, status, reason, parse_time("revoked_at", revoked_at), parse_time("expiry", expiry)
    )


def status_row_from_binary(  # noqa: PLR0913, PLR0917  (as above)
    serial: bytes | None,
    aki: bytes | None,
    status: bytes | None,
    reason: bytes | None,
    revoked_at: bytes | None,
    expiry: bytes | None,
) -> StatusRow:
    """Read the six columns of a status in PostgreSQL's binary format."""
    return status_row(
        serial or b"",
        aki or b"",
        status or b"",
        None if reason is None else int.from_bytes(reason, "big", signed=True),
        _read_timestamp(revoked_at),
        _read_timestamp(expiry),
    )


def _read_timestamp(value: bytes | None) -> datetime | None:
    """Read microseconds since 2000; infinity, and what datetime has no room for, is as asyncpg's infinity."""
    if value is None:
        return None
    microseconds = int.from_bytes(value, "big", signed=True)
    try:
        return _POSTGRES_EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return datetime.min if microseconds < 0 else datetime.max  # noqa: DTZ901  (without a zone)


def readable_rows(records: Iterable[Sequence[Any]], read: Callable[..., StatusRow]) -> list[StatusRow]:
    """Read status rows, leaving out unreadable ones with a warning each: one bad row must not stop a pass."""
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
        logger.warning("certificate left out: %s", message)
    if len(messages) > _LOGGED_ROWS:
        logger.warning("%d more certificates left out", len(messages) - _LOGGED_ROWS)
