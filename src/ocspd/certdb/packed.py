"""Status rows as PostgreSQL sends them, fetched in one process and read in another.

Fetching costs a tenth of what reading does, so a pass fetches in one process and reads where it signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ocspd.certdb import _copyrows, rows
from ocspd.certdb.rows import RowError
from ocspd.certdb.spelling import is_canonical, is_canonical_aki

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocspd.model import Row, StatusRow

PACKED_BYTES = 1 << 16
"""Bytes of rows that travel together: five hundred rows, 8 ms of P-256 signatures.

Fewer at a time would cost more, and more would keep a CPU busy for longer while they change hands
(docs/decisions/0010).
"""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Whole rows in binary COPY format (`_copyrows`), and their count."""

    data: bytes
    count: int


@runtime_checkable
class PackedSource(Protocol):
    """A certdb that can hand out rows as they are."""

    def stream_packed(self) -> AsyncIterator[PackedRows]:
        """Stream the status of the unexpired certificates, one snapshot; see `CertDB.stream_status`.

        Rows of `stream_odd` may be among them; `unpack` knows them.
        """
        ...


def unpack(data: bytes) -> tuple[dict[str, list[Row]], list[StatusRow], list[str]]:
    """Read the rows of a `PackedRows`, except those that `CertDB.stream_odd` also has.

    Returns the ordinary ones by key identifier; those with times far from now, or with a value that cannot be
    read; and why others were left out: their serial numbers are longer than 64 bytes. ValueError
    when data is not in its format.
    """
    packed, others = _copyrows.unpack(data)
    unusual: list[StatusRow] = []
    unreadable: list[str] = []
    for fields in others:
        if is_canonical(fields[0], fields[1]):
            try:
                unusual.append(rows.status_row_from_binary(*fields))
            except RowError as err:
                unreadable.append(err.message)
    spelled = ((rows.read_text(aki), group) for aki, group in packed.items())
    return {aki: group for aki, group in spelled if is_canonical_aki(aki)}, unusual, unreadable
