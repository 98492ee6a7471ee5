"""Values of certdb columns, from what a driver returns to the model and back; no SQL, no connection.

Text columns arrive as the bytes CFSSL wrote. Anything CFSSL would not have written is a RowError that
names table, column and the beginning of the value.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ocspd.certdb.base import OddRows
from ocspd.certdb.spelling import is_canonical
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
_FOREVER = datetime.max.replace(tzinfo=UTC)
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


def read_serial(value: object) -> int:
    """Read a serial number: decimal digits."""
    # int() alone would also take spaces, signs and underscores
    if isinstance(value, bytes) and value.isdigit():
        try:
            return int(value)
        except ValueError:
            pass  # longer than Python's limit of digits
    raise RowError("serial_number", value)


def read_status(value: object) -> CertStatus:
    """Read good, revoked or unknown."""
    try:
        return _STATUSES[value]  # type: ignore[index]
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


def parse_time(column: str, text: bytes | str | float | None) -> datetime | None:
    """Read a time in SQLite: Go's form with up to nine digits of fraction, or CURRENT_TIMESTAMP's (UTC).

    A number is a Unix time in seconds.
    """
    if text is None:
        return None
    if isinstance(text, int | float):
        try:
            return datetime.fromtimestamp(text, UTC)
        except (ValueError, OverflowError, OSError):
            raise RowError(column, text) from None
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
    serial: object,
    aki: object,
    status: object,
    reason: object,
    revoked_at: object,
    expiry: object,
) -> StatusRow:
    """Read the six columns of a status; RowError when the serial number is none.

    What cannot be read of the rest must not leave an older answer in force: the status is unknown then,
    or revoked when that much is clear, and `problem` says why.
    """
    return _status_row(serial, aki, status, reason, (revoked_at, _read_time), (expiry, _read_time))


def status_row_from_text(  # noqa: PLR0913, PLR0917  (as above)
    serial: object,
    aki: object,
    status: object,
    reason: object,
    revoked_at: object,
    expiry: object,
) -> StatusRow:
    """Read the six columns of a status in SQLite, where times are text, or Unix times."""
    return _status_row(serial, aki, status, reason, (revoked_at, parse_time), (expiry, parse_time))


def status_row_from_binary(  # noqa: PLR0913, PLR0917  (as above)
    serial: bytes | None,
    aki: bytes | None,
    status: bytes | None,
    reason: bytes | None,
    revoked_at: bytes | None,
    expiry: bytes | None,
) -> StatusRow:
    """Read the six columns of a status in PostgreSQL's binary format."""
    return _status_row(
        serial,
        aki,
        status,
        None if reason is None else int.from_bytes(reason, "big", signed=True),
        (_read_timestamp(revoked_at), _read_time),
        (_read_timestamp(expiry), _read_time),
    )


def _status_row(  # noqa: PLR0913, PLR0917  (as above)
    serial: object,
    aki: object,
    status: object,
    reason: object,
    revoked_at: tuple[Any, Callable[[str, Any], datetime | None]],
    expiry: tuple[Any, Callable[[str, Any], datetime | None]],
) -> StatusRow:
    """Read six columns; times come with how to read them."""
    if isinstance(serial, int) and not isinstance(serial, bool) and serial >= 0:
        number = serial
    else:
        number = read_serial(serial)
    spelled = aki if isinstance(aki, bytes | str) or aki is None else str(aki)
    problems: list[str] = []

    def time_of(column: str, given: tuple[Any, Callable[[str, Any], datetime | None]]) -> datetime | None:
        value, read = given
        try:
            return read(column, value)
        except RowError as err:
            problems.append(err.message)
            return None

    try:
        says = read_status(status)
    except RowError as err:
        problems.append(err.message)
        says = CertStatus.UNKNOWN
    revoked = time_of("revoked_at", revoked_at) if says == CertStatus.REVOKED else None
    try:
        ends = read_expiry(time_of("expiry", expiry))
    except RowError as err:
        problems.append(err.message)
        ends = _FOREVER
    if reason is not None and not isinstance(reason, int):
        problems.append(RowError("reason", reason).message)
    if problems and says != CertStatus.REVOKED:
        says = CertStatus.UNKNOWN
    return StatusRow(
        number,
        read_text(spelled),
        says,
        reason if isinstance(reason, int) else 0,
        read_revoked_at(revoked),
        ends,
        key=None if is_canonical(serial, aki) else (serial, aki),
        problem=problems[0] if problems else "",
    )


def _read_time(_: str, value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None


def _read_timestamp(value: bytes | None) -> datetime | None:
    """Read microseconds since 2000; infinity, and what datetime has no room for, is as asyncpg's infinity."""
    if value is None:
        return None
    microseconds = int.from_bytes(value, "big", signed=True)
    try:
        return _POSTGRES_EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return datetime.min if microseconds < 0 else datetime.max  # noqa: DTZ901  (without a zone)


def odd_rows(records: Iterable[Sequence[Any]], read: Callable[..., StatusRow]) -> OddRows:
    """Read rows of any spelling."""
    found = OddRows([], [])
    for record in records:
        try:
            found.rows.append(read(*record))
        except RowError as err:
            found.unreadable.append(err.message)
    return found


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
