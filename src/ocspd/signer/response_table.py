"""The table `ocsp_responses`, which CFSSL's tools read: how passes, changes and `ocspdump` use it.

It has one response for each row of a certificate, with a SHA-1 CertID if that is signed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ocspd.errors import CodedError
from ocspd.model import OCSPRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ocspd.certdb.base import CertDB
    from ocspd.model import StatusRow
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.changes import Decided
    from ocspd.signer.pass_parts import StatusSource
    from ocspd.signer.signers import CertKey, Signers
    from ocspd.signer.staleness import StaleRows


@runtime_checkable
class ResponseTable(Protocol):
    """A source with a table of responses, whatever wrote them."""

    async def find_ocsp(self, rows: Sequence[StatusRow]) -> list[bytes | None]:
        """Return the stored response of each row, None if there is none."""
        ...

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:
        """Store responses."""
        ...

    async def update_ocsp(self, row: OCSPRow) -> None:
        """Replace an existing response; CodedError 11200 when there is none."""
        ...


class TableTurns:
    """Coordinates a pass and changes that write to the table of responses at the same time.

    The index orders them by itself, but the table has what was written last. So the follower of changes
    records here which certificates it is about to sign, *before* reading them from the database, and the
    pass, which may have read them earlier, leaves them out: what the change writes stays.
    """

    def __init__(self) -> None:
        self.writing = asyncio.Lock()
        """Held while the table is written to."""
        self.changed: set[int] = set()
        """The serial numbers of what has changed since the pass began."""
        self._noted = False

    def begin_pass(self, *, table: bool) -> None:
        """Start again; without `table` nothing is recorded."""
        self._noted = table
        self.changed.clear()

    def will_sign(self, certificates: Iterable[CertKey]) -> None:
        """Record the certificates that are about to be signed because of a change."""
        if self._noted:
            self.changed.update(serial for _, serial in certificates)


@dataclass(frozen=True, slots=True)
class PassTable:
    """The table as a pass writes it."""

    db: StatusSource
    signers: Signers
    turns: TableTurns
    spellings: Mapping[CertKey, list[StatusRow]]
    """Every row of the certificates that are being signed together."""

    def _rows(self, signer_index: int, row: StatusRow) -> list[StatusRow]:
        return self.spellings.get((signer_index, row.serial), [row])

    async def write(
        self,
        signer_index: int,
        signed: Sequence[tuple[StatusRow, list[bytes]]],
        expiry: datetime | None,
    ) -> None:
        """Store responses of rows of one signer, in the order of its CertID hashes; they expire together."""
        if not signed or expiry is None or not _in_table(self.signers, signer_index, signed[0][0].aki):
            return
        chosen = _table_hash(self.signers[signer_index])
        await self._upsert(
            [
                _ocsp_row(each, responses[chosen], expiry)
                for row, responses in signed
                for each in self._rows(signer_index, row)
            ]
        )

    async def repair(self, signer_index: int, rows: Sequence[StatusRow], stale: StaleRows) -> None:
        """See that the table has the responses the index has, of rows that need no new one."""
        if (
            not rows
            or not isinstance(self.db, ResponseTable)
            or not _in_table(self.signers, signer_index, rows[0].aki)
        ):
            return
        spelled = [each for row in rows for each in self._rows(signer_index, row)]
        chosen = _table_hash(self.signers[signer_index])
        wrong: list[OCSPRow] = []
        for row, body in zip(spelled, await self.db.find_ocsp(spelled), strict=True):
            response = stale.find(signer_index, chosen, row.serial)
            if response is not None and response.der != body:
                expiry = datetime.fromtimestamp(response.next_update, UTC)
                wrong.append(_ocsp_row(row, response.der, expiry))
        if wrong:
            await self._upsert(wrong)

    async def _upsert(self, rows: list[OCSPRow]) -> None:
        """Write what no change has written since the pass began."""
        async with self.turns.writing:
            if rows := [row for row in rows if row.serial not in self.turns.changed]:
                await self.db.upsert_ocsp(rows)


async def write_changes(
    db: StatusSource, signers: Signers, done: Mapping[CertKey, tuple[Decided, list[bytes], datetime]]
) -> None:
    """Store responses for changes, for every row of their certificates, each with its expiry."""
    rows = [
        _ocsp_row(row, responses[_table_hash(signers[signer_index])], expiry)
        for (signer_index, _), (decided, responses, expiry) in done.items()
        for row in decided.rows
        if _in_table(signers, signer_index, row.aki)
    ]
    if rows:
        await db.upsert_ocsp(rows)
    if not isinstance(db, ResponseTable):
        return
    for (signer_index, serial), (decided, responses, expiry) in done.items():
        if not decided.rows:  # its row has gone, or has expired: the response may still be there
            signer = signers[signer_index]
            body = responses[_table_hash(signer)]
            with contextlib.suppress(CodedError):
                await db.update_ocsp(
                    OCSPRow(serial=serial, aki=decided.row.aki or signer.aki, body=body, expiry=expiry)
                )


def _ocsp_row(row: StatusRow, body: bytes, expiry: datetime) -> OCSPRow:
    return OCSPRow(serial=row.serial, aki=row.aki, body=body, expiry=expiry, key=row.key)


def _in_table(signers: Signers, signer_index: int, aki: str) -> bool:
    """Return whether the table takes the responses of a signer: of two names of one key, only the first."""
    found = signers.of_aki(aki)
    return not found or found[0] == signer_index


def _table_hash(signer: OCSPSigner) -> int:
    """Return which of the signer's CertID hashes the table's responses have."""
    hashes = signer.policy.certid_hashes
    return hashes.index("sha1") if "sha1" in hashes else 0


async def dump_table(db: CertDB, write: Callable[[bytes], None]) -> int:
    """Write the unexpired responses of the table like CFSSL's ocspdump: one base64 line each.

    Returns their count.
    """
    count = 0
    async for rows in db.unexpired_ocsp():
        write(b"".join(base64.b64encode(row.body) + b"\n" for row in rows))
        count += len(rows)
    return count
