"""The status of a certificate from all rows about it.

Invariant 2: for one CertID (issuer, serial as a number) *revoked wins* over any number of other rows. It is
enforced here, and everything that signs in this package keeps to one of two rules:

 - a row in CFSSL's spelling, of which there is at most one for a CertID, may be signed as it is, unless
   the certificate is revoked in the index or has a row in another spelling;
 - everything else is signed by `certdb.combining.combined`, from every row the database has at that moment.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ocspd.model import CertStatus, StatusRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ocspd.certdb.base import OddRows
    from ocspd.signer.signers import CertKey, Signers

_FOREVER = datetime.max.replace(tzinfo=UTC)


@runtime_checkable
class AllRows(Protocol):
    """A source in which one certificate may have several rows: any `certdb.base.CertDB`."""

    def stream_odd(self) -> AsyncIterator[OddRows]:
        """Stream the rows that are not in CFSSL's spelling."""
        ...

    async def find_statuses(self, serials: Sequence[int]) -> list[StatusRow]:
        """Return every row of the serial numbers."""
        ...

    async def get_pem(self, row: StatusRow) -> bytes:
        """Return the certificate of a row."""
        ...


async def find_together(
    db: AllRows, signers: Signers, serials: Sequence[int]
) -> tuple[dict[CertKey, list[StatusRow]], list[StatusRow]]:
    """Return every row of the serial numbers by certificate, and separately those of other issuers."""
    found: dict[CertKey, list[StatusRow]] = {}
    foreign: list[StatusRow] = []
    for row in await db.find_statuses(serials):
        signer_indexes = await signers.of_row(row, db.get_pem)
        if not signer_indexes:
            foreign.append(row)
        for signer_index in signer_indexes:
            found.setdefault((signer_index, row.serial), []).append(row)
    return found, foreign


def id_of(row: StatusRow) -> object:
    """Return what identifies a row."""
    return row.key or (row.serial, row.aki)


def gone(serial: int, aki: str) -> StatusRow:
    """Return a row with status unknown for a certificate that no longer has one.

    A signed unknown rather than no response: being newer, it replaces the good one in caches and in every
    segment behind it, and needs no second kind of entry in an index.
    """
    return StatusRow(serial, aki, CertStatus.UNKNOWN, 0, None, _FOREVER)
