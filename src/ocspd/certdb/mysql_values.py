"""Values of certdb columns in MySQL: times are text there, UTC without a zone, and zero means none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ocspd.certdb import rows

if TYPE_CHECKING:
    from ocspd.model import StatusRow

ZERO = "0000-00-00 00:00:00"
"""What CFSSL's driver writes for Go's zero time, and reads as such. It cannot read NULL."""


def parse_time(column: str, value: Any) -> datetime | None:
    """Read a time; None for NULL and for the zero date, RowError when it is not one."""
    text = rows.read_text(value)
    if value is None or text.startswith("0000-00-00"):
        return None
    return rows.parse_time(column, text)


def format_time(moment: datetime | None) -> str:
    """Write a time as CFSSL's columns hold it: whole seconds, UTC; MySQL would round a fraction up."""
    if moment is None:
        return ZERO
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0).isoformat(" ")


def status_row(  # noqa: PLR0913, PLR0917  (the columns in the order of the query)
    serial: object, aki: object, status: object, reason: object, revoked_at: object, expiry: object
) -> StatusRow:
    """Read the six columns of a status; see `rows.status_row`."""
    return rows.status_row(serial, aki, status, reason, revoked_at, expiry, parse=parse_time)
