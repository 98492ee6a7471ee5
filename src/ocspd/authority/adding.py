"""Certificates issued elsewhere, added to the certdb so that they can be revoked and answered for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.authority.audit.ledger import Ledger
from ocspd.errors import Code, CodedError, OCSPDError

if TYPE_CHECKING:
    from ocspd.certdb.base import CertDB
    from ocspd.model import CertificateRow


class AlreadyStoredError(OCSPDError):
    """The database has the certificate already."""


async def add(db: CertDB, row: CertificateRow, ledger: Ledger | None = None) -> None:
    """Insert a certificate; AlreadyStoredError if it is there, CodedError 11000 if the database fails.

    CodedError 12000 when it cannot be logged; then nothing is inserted.
    """
    already = AlreadyStoredError(
        f"certificate {row.serial} of {row.aki or 'no key identifier'} is already in the database"
    )
    if await db.get_certificate(row.serial, row.aki) is not None:
        raise already
    try:
        async with (ledger or Ledger()).adding(row):
            await db.insert_certificate(row)
    except CodedError as err:
        if err.code is Code.STORE_FAILED and await db.get_certificate(row.serial, row.aki) is not None:
            raise already from err  # somebody else was faster
        raise
