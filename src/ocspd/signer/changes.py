"""Responses for what changed: from entries of the change feed to signed responses.

Invariants 1 and 2: signed is the status from all present rows of the certificate (`resolving`), not that of
the entry or its row. A certificate without any row is signed as unknown if it is still good in the index; so
is an expired one whose row has any status but good.

Invariant 3: a signer that cannot sign leaves out the certificates of its issuer. They are kept and signed
as soon as it can sign again (`Postponed`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocspd.certdb.combining import combined
from ocspd.errors import SignerError
from ocspd.model import CertStatus
from ocspd.pki.certid import issuer_hashes
from ocspd.signer.resolving import find_together, gone
from ocspd.signer.signing import BATCH_ROWS, to_chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from ocspd._index import Index
    from ocspd.certdb.feed import StatusRowChange
    from ocspd.model import StatusRow
    from ocspd.signer.resolving import AllRows
    from ocspd.signer.signers import CertKey, Signers
    from ocspd.signer.signing import RowSigner
    from ocspd.signer.signing_pool import Pool, Pools
    from ocspd.signer.staleness import StaleRows

POSTPONED = 200_000
"""How many certificates of failing signers are kept; the rest are left to the next pass."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What to sign, and the rows it comes from."""

    row: StatusRow
    rows: tuple[StatusRow, ...]
    """The unexpired rows of the certificate; none if it was deleted."""


def certificates_of(changes: Iterable[StatusRowChange], signers: Signers) -> dict[CertKey, list[float]]:
    """Return the certificates of our issuers that changes are about, and when they were committed.

    If the key identifier does not identify the issuer, it may be any.
    """
    found: dict[CertKey, list[float]] = {}
    for change in changes:
        signer_indexes = signers.of_aki(change.aki)
        for signer_index in range(len(signers)) if signer_indexes is None else signer_indexes:
            found.setdefault((signer_index, change.serial), []).append(change.changed_at.timestamp())
    return found


async def decide(
    db: AllRows,
    signers: Signers,
    certificates: Iterable[CertKey],
    now: datetime,
    open_index: Callable[[], Index] | None,
) -> dict[CertKey, Decided]:
    """Return what to sign for certificates; nothing for those whose responses are already right.

    Without an index no response counts as right: while a pass is running, which may have read rows that
    are deleted meanwhile, and publishes its responses later.
    """
    keys = list(certificates)
    found, _ = await find_together(db, signers, sorted({serial for _, serial in keys}))
    decided: dict[CertKey, Decided] = {}
    idle: dict[CertKey, StatusRow | None] = {}
    for key in keys:
        rows = found.get(key, [])
        row = combined(rows, now)
        if row is not None and row.expiry > now:
            decided[key] = Decided(row, tuple(each for each in rows if each.expiry > now))
        elif row is not None or any(each.status != CertStatus.GOOD for each in rows) or not rows:
            idle[key] = row
    if idle:
        index = None if open_index is None else await asyncio.to_thread(open_index)
        for key, row in idle.items():
            published: set[int] = set(CertStatus)
            if index is not None:
                published = _published(index, signers, key, int(now.timestamp()))
            if row is None and CertStatus.GOOD in published:
                decided[key] = Decided(gone(key[1], signers[key[0]].aki), ())
            elif row is not None and published - {CertStatus.REVOKED}:
                decided[key] = Decided(row, ())
    return decided


def _published(index: Index, signers: Signers, key: CertKey, now_s: int) -> set[int]:
    """Return the statuses of a certificate in unexpired responses."""
    signer_index, serial = key
    signer = signers[signer_index]
    found = [
        index.lookup(name, *issuer_hashes(signer.issuer, name), serial)
        for name in signer.policy.certid_hashes
    ]
    return {each.status for each in found if each is not None and each.next_update > now_s}


@dataclass(slots=True)
class SignedChanges:
    """The responses for changes."""

    responses: list[tuple[bytes, int]] = field(default_factory=list)
    """DER and when it is due for renewal."""
    done: dict[CertKey, tuple[Decided, list[bytes], datetime]] = field(default_factory=dict)
    """What was signed, in the order of CertID hashes, and how long it is valid."""
    skipped: list[tuple[StatusRow, str]] = field(default_factory=list)
    """Rows that cannot be signed, and why."""
    failed: dict[int, str] = field(default_factory=dict)
    """Signers that cannot sign, by index, and why."""


async def sign_decided(
    row_signer: RowSigner,
    decided: Mapping[CertKey, Decided],
    now: datetime,
    known: StaleRows | None,
) -> SignedChanges:
    """Sign, even if single rows or signers fail."""
    result = SignedChanges()
    waiting: dict[int, list[Decided]] = {}
    for (signer_index, _), each in decided.items():
        waiting.setdefault(signer_index, []).append(each)

    async def sign(signer_index: int, some: Sequence[Decided]) -> None:
        try:
            signed = await row_signer.sign(to_chunk(signer_index, [each.row for each in some], known), now)
        except SignerError as err:
            result.failed[signer_index] = str(err)
            return
        until = signed.tally.next_update
        for each, responses in zip(some, signed.responses, strict=True):
            if isinstance(responses, str) or until is None:
                result.skipped.append((each.row, str(responses)))
            else:
                result.responses += [(der, signed.due_s) for der in responses]
                result.done[signer_index, each.row.serial] = each, responses, until

    await asyncio.gather(
        *(
            sign(signer_index, every[start : start + BATCH_ROWS])
            for signer_index, every in waiting.items()
            for start in range(0, len(every), BATCH_ROWS)
        )
    )
    return result


class Postponed:
    """Certificates whose change is not signed because their signer fails; an issuer by its CertID hashes."""

    def __init__(self) -> None:
        self._serials: dict[tuple[bytes, bytes], set[int]] = {}

    def add(self, signers: Signers, keys: Iterable[CertKey]) -> None:
        """Keep certificates, but no more than POSTPONED."""
        for signer_index, serial in keys:
            if sum(map(len, self._serials.values())) >= POSTPONED:
                return
            self._serials.setdefault(_prefix(signers, signer_index), set()).add(serial)

    def take(self, signers: Signers) -> list[CertKey]:
        """Return and remove the certificates that can be tried with these signers."""
        found: list[CertKey] = []
        for signer_index in range(len(signers)):
            serials = self._serials.pop(_prefix(signers, signer_index), ())
            found += [(signer_index, serial) for serial in serials]
        return found

    def __bool__(self) -> bool:
        return bool(self._serials)


def _prefix(signers: Signers, signer_index: int) -> tuple[bytes, bytes]:
    return issuer_hashes(signers[signer_index].issuer, "sha256")


class Crew:
    """The signers of changes: this process, and every CPU once many changes have waited for a while.

    Processes take a second to start, during which changes are signed here: nothing waits for them.
    """

    def __init__(self, processes: int, pools: Pools) -> None:
        self._processes = processes
        self._pools = pools
        self._signers: Signers | None = None
        self._starting: asyncio.Task[Pool] | None = None

    def for_changes(self, count: int, signers: Signers, local: RowSigner) -> RowSigner:
        """Return the signer for this many changes."""
        if self._signers is not signers:
            self.dismiss()
        if count <= self._pools.local_rows:
            return local
        if self._starting is None:
            self._signers = signers
            self._starting = asyncio.create_task(self._start(signers))
        task = self._starting
        if task.done() and not task.cancelled() and task.exception() is None:
            return task.result()
        return local

    async def _start(self, signers: Signers) -> Pool:
        pool = self._pools.make(signers.every, processes=self._processes)
        return await pool.__aenter__()

    def dismiss(self) -> None:
        """End the processes, which must not be in use."""
        task, self._starting, self._signers = self._starting, None, None
        if task is None:
            return
        if not task.done():
            task.add_done_callback(_close)
            task.cancel()
        else:
            _close(task)


def _close(task: asyncio.Task[Pool]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


class Pace:
    """How many changes to take at a time, so that each batch takes a fraction of a second.

    Urgent changes come first in the feed (`certdb.feed`), but a batch that was taken is finished first.
    """

    LEAST, MOST, SECONDS = 50, 5_000, 0.12

    def __init__(self) -> None:
        self.limit = 500

    def took(self, count: int, seconds: float) -> None:
        """Adjust to the time that a batch of changes took."""
        if count < self.LEAST:
            return
        can = int(count * self.SECONDS / max(seconds, 1e-3))
        self.limit = max(self.LEAST, min(can, 2 * self.limit, self.MOST))
