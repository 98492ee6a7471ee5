"""What a CA has revoked, as its CRL lists it: read from the certdb.

Whose certificate a row is about is shown by its key identifier or, where that is empty (as Debian's CFSSL
stores it) or free text, by the certificate itself. Rows of other issuers are left out and counted: CFSSL puts
them on every CRL. Of several rows about one certificate a revoked one wins (`certdb.combining`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from ocspd.certdb.combining import combined
from ocspd.certdb.spelling import is_canonical_aki
from ocspd.errors import CodedError
from ocspd.model import CertStatus, normalize_aki
from ocspd.pki.certid import parts_of
from ocspd.pki.certs import is_signed_by, load_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from datetime import datetime

    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
    from ocspd.model import StatusRow
    from ocspd.pki.certs import Certificate

CHUNK_ROWS = 1000
"""Reading this many rows holds up other tasks for about 10 ms."""
_FIND_SERIALS = 500


class Revocation(NamedTuple):
    """One revoked certificate of the CA."""

    serial: int
    revoked_s: int
    """When, in seconds since the epoch; 0 if unknown."""
    reason: int
    expiry_s: int
    """When the certificate expires, in seconds since the epoch."""


class Revocations:
    """The revoked certificates of one CA in a database."""

    def __init__(self, db: CertDB, certificate: Certificate, aki: str, clock: Clock) -> None:
        """`aki` is the key identifier in rows of certificates that `certificate` issued, "" if none."""
        self._db = db
        self._certificate = certificate
        self._aki = aki
        self._clock = clock
        self.foreign = 0
        """Revoked rows of other issuers that the last `read` left out."""
        self.unreadable = 0
        """Rows that the last `read` left out because their serial number cannot be read."""

    async def read(self, after: datetime) -> AsyncIterator[list[Revocation]]:
        """Yield the revoked certificates that expire after a time, some of them more than once.

        Of those that come again the last counts. CodedError 11000 if the database fails.
        """
        self.foreign = self.unreadable = 0
        async for rows in self._db.stream_revoked(after, chunk_rows=CHUNK_ROWS):
            own = [row for row in rows if await self._is_own(row)]
            self.foreign += len(rows) - len(own)
            now = self._clock.now()
            yield [_revocation(row, now) for row in own]
            await asyncio.sleep(0)
        serials: set[int] = set()
        async for odd in self._db.stream_odd():
            self.unreadable += len(odd.unreadable)
            serials.update(row.serial for row in odd.rows)
            self.foreign += sum(
                [row.status is CertStatus.REVOKED and not await self._is_own(row) for row in odd.rows]
            )
        wanted = sorted(serials)
        for start in range(0, len(wanted), _FIND_SERIALS):
            found = await self.find(wanted[start : start + _FIND_SERIALS])
            yield [each for each in found.values() if each is not None and each.expiry_s > after.timestamp()]

    async def find(self, serials: Iterable[int]) -> dict[int, Revocation | None]:
        """Return each certificate's revocation; None for one that is not revoked or not this CA's."""
        found: dict[int, list[StatusRow]] = {serial: [] for serial in serials}
        for row in await self._db.find_statuses(list(found)):
            if await self._is_own(row):
                found[row.serial].append(row)
        decided: dict[int, Revocation | None] = {}
        now = self._clock.now()
        for serial, rows in found.items():
            all_in_all = combined(rows, now)
            is_revoked = all_in_all is not None and all_in_all.status is CertStatus.REVOKED
            decided[serial] = _revocation(all_in_all, now) if all_in_all is not None and is_revoked else None
        return decided

    def may_be_own(self, aki: str) -> bool:
        """Return whether a row with this key identifier may be about a certificate of this CA."""
        return self._by_aki(aki) is not False

    def _by_aki(self, aki: str) -> bool | None:
        """Return whether a key identifier, in any spelling, is this CA's; None if it does not show that."""
        spelled = aki if is_canonical_aki(aki) else normalize_aki(aki)
        if not is_canonical_aki(spelled):
            return None
        return spelled == self._aki

    async def _is_own(self, row: StatusRow) -> bool:
        shown = self._by_aki(row.aki)
        if shown is not None:
            return shown
        pem = await self._db.get_pem(row)
        if not pem:
            return False
        try:
            certificate = load_certificate(pem)
        except CodedError:
            return False
        same_name = parts_of(certificate).issuer == parts_of(self._certificate).subject
        return same_name and is_signed_by(certificate, self._certificate)


def _revocation(row: StatusRow, now: datetime) -> Revocation:
    # a time in the future, by the clock of the database, must not be taken for a revocation yet to come
    revoked_s = 0 if row.revoked_at is None else int(min(row.revoked_at, now).timestamp())
    return Revocation(row.serial, revoked_s, row.reason, int(row.expiry.timestamp()))
