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


@dataclass(frozen=True, slots=True)
class UnpackedRows:
    """The content of packed rows."""

    groups: dict[str, list[Row]]
    """The ordinary rows by key identifier."""
    unusual: list[StatusRow]
    """Rows with times far from now, or with a value that cannot be read."""
    odd: int
    """How many others were sent that `CertDB.stream_odd` has as well."""
    unreadable: list[str]
    """Why others were left out: their serial numbers are longer than 64 bytes."""


def unpack(data: bytes) -> UnpackedRows:
    """Read the rows of a `PackedRows`. ValueError when data is not in its format."""
    packed, others = _copyrows.unpack(data)
    groups: dict[str, list[Row]] = {}
    unusual: list[StatusRow] = []
    unreadable: list[str] = []
    odd = 0
    for fields in others:
        if is_canonical(fields[0], fields[1]):
            try:
                unusual.append(rows.status_row_from_binary(*fields))
            except RowError as err:
                unreadable.append(err.message)
        else:
            odd += 1
    for spelled, group in packed.items():
        aki = rows.read_text(spelled)
        if is_canonical_aki(aki):
            groups[aki] = group
        else:
            odd += len(group)
    return UnpackedRows(groups, unusual, odd, unreadable)
