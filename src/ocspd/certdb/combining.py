"""One status from all rows about a certificate: for responses and for CRLs alike.

Rows that are spelled differently (`spelling`) may be about one certificate and contradict each other.
*Revoked wins* over any number of other rows. A row that cannot be read is unknown, and unknown beats good:
nothing is good that may be something else. The result does not depend on the order of rows, so that no two
passes differ.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ocspd.model import CertStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocspd.model import StatusRow

_FIRST = datetime.min.replace(tzinfo=UTC)


def combined(rows: Iterable[StatusRow], now: datetime) -> StatusRow | None:
    """Return the row that decides about a certificate; None if all have expired and none is revoked.

    Of several revocations the first counts; one without a time is the first.
    """
    rows = list(rows)
    revoked = [row for row in rows if row.status == CertStatus.REVOKED]
    if revoked:
        first = min(revoked, key=lambda row: (row.revoked_at or _FIRST, row.reason, row.aki))
        return first._replace(expiry=max(row.expiry for row in rows))
    live = [row for row in rows if row.expiry > now]
    return max(live, key=lambda row: (row.status == CertStatus.UNKNOWN, row.expiry), default=None)
