"""Answering what changed: from entries of the change feed to signed responses.

Invariants 1 and 2: what is signed is what all rows of the certificate say at that moment (`resolving`), not
what the entry or its row says. A certificate that has no row any more is answered as unknown where the index
still calls it good; so is one that has expired where its row says anything but good.

Invariant 3: a signer that cannot sign leaves out the certificates of its issuer. They are owed: answered as
soon as it can sign again (`Owed`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocspd.errors import SignerError
from ocspd.model import CertStatus
from ocspd.pki.certid import issuer_hashes
from ocspd.signer.resolving import combined, find_together, gone
from ocspd.signer.signing import BATCH_ROWS, to_chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from ocspd._index import Index
    from ocspd.certdb.feed import StatusRowChange
    from ocspd.model import StatusRow
    from ocspd.signer.issuers import Issuers
    from ocspd.signer.resolving import AllRows
    from ocspd.signer.signing import CertKey, RowSigner
    from ocspd.signer.signing_pool import Pool, Pools
    from ocspd.signer.staleness import StaleRows

OWED = 200_000
"""How many certificates of failing signers are remembered; beyond them the next pass answers."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What is to be signed, and where it comes from."""

    row: StatusRow
    rows: tuple[StatusRow, ...]
    """The unexpired rows of the certificate, none when it has gone."""


def certificates_of(changes: Iterable[StatusRowChange], issuers: Issuers) -> dict[CertKey, list[float]]:
    """Return the certificates of ours that changes are about, and when they were committed.

    Where a key identifier does not tell the issuer it may be any.
    """
    found: dict[CertKey, list[float]] = {}
    for change in changes:
        numbers = issuers.numbers_of(change.aki)
        for number in range(len(issuers.signers)) if numbers is None else numbers:
            found.setdefault((number, change.serial), []).append(change.changed_at.timestamp())
    return found


async def decide(
    db: AllRows,
    issuers: Issuers,
    certificates: Iterable[CertKey],
    now: datetime,
    open_index: Callable[[], Index],
) -> dict[CertKey, Decided]:
    """Return what is to be signed about certificates; nothing where all is well as it is."""
    keys = list(certificates)
    found, _ = await find_together(db, issuers, sorted({serial for _, serial in keys}))
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
        index = await asyncio.to_thread(open_index)
        for key, row in idle.items():
            answered = _answered(index, issuers, key, int(now.timestamp()))
            if row is None and CertStatus.GOOD in answered:
                decided[key] = Decided(gone(key[1], issuers.signers[key[0]].aki), ())
            elif row is not None and answered - {CertStatus.REVOKED}:
                decided[key] = Decided(row, ())
    return decided


def _answered(index: Index, issuers: Issuers, key: CertKey, now_s: int) -> set[int]:
    """Return what unexpired answers say about a certificate."""
    number, serial = key
    signer = issuers.signers[number]
    found = [
        index.lookup(name, *issuer_hashes(signer.issuer, name), serial)
        for name in signer.policy.certid_hashes
    ]
    return {answer.status for answer in found if answer is not None and answer.next_update > now_s}


@dataclass(slots=True)
class SignedChanges:
    """The answers to changes."""

    answers: list[tuple[bytes, int]] = field(default_factory=list)
    """DER and when it is due to be replaced."""
    done: dict[CertKey, tuple[Decided, list[bytes], datetime]] = field(default_factory=dict)
    """What was signed, in the order of CertID hashes, and until when it counts."""
    skipped: list[tuple[StatusRow, str]] = field(default_factory=list)
    """Rows that cannot be signed, and why."""
    failed: dict[int, str] = field(default_factory=dict)
    """Signers that cannot sign, by number, and why."""


async def sign_decided(
    signing: RowSigner,
    issuers: Issuers,
    decided: Mapping[CertKey, Decided],
    now: datetime,
    known: StaleRows | None,
) -> SignedChanges:
    """Sign, whatever single rows and signers do."""
    result = SignedChanges()
    waiting: dict[int, list[Decided]] = {}
    for (number, _), each in decided.items():
        waiting.setdefault(number, []).append(each)

    async def sign(number: int, some: Sequence[Decided]) -> None:
        signer = issuers.signers[number]
        try:
            signed = await signing.sign(to_chunk(number, now, [each.row for each in some], known))
        except SignerError as err:
            result.failed[number] = str(err)
            return
        due = signer.policy.due_s(signed.this_update, signed.next_update)
        for each, answers in zip(some, signed.answers, strict=True):
            if isinstance(answers, str):
                result.skipped.append((each.row, answers))
            else:
                result.answers += [(der, due) for der in answers]
                result.done[number, each.row.serial] = each, answers, signed.next_update

    await asyncio.gather(
        *(
            sign(number, every[start : start + BATCH_ROWS])
            for number, every in waiting.items()
            for start in range(0, len(every), BATCH_ROWS)
        )
    )
    return result


class Owed:
    """Certificates whose change is unanswered because their signer fails; an issuer by its CertID hashes."""

    def __init__(self) -> None:
        self._serials: dict[tuple[bytes, bytes], set[int]] = {}

    def add(self, issuers: Issuers, keys: Iterable[CertKey]) -> None:
        """Remember certificates; there may be no room for more than OWED."""
        for number, serial in keys:
            if sum(map(len, self._serials.values())) >= OWED:
                return
            self._serials.setdefault(_prefix(issuers, number), set()).add(serial)

    def take(self, issuers: Issuers) -> list[CertKey]:
        """Hand out, and forget, what can be tried with these signers."""
        found: list[CertKey] = []
        for number in range(len(issuers.signers)):
            found += [(number, serial) for serial in self._serials.pop(_prefix(issuers, number), ())]
        return found

    def __bool__(self) -> bool:
        return bool(self._serials)


def _prefix(issuers: Issuers, number: int) -> tuple[bytes, bytes]:
    return issuer_hashes(issuers.signers[number].issuer, "sha256")


class Crew:
    """Who signs changes: this process, and every CPU once many have waited for a while.

    Processes take a second to start, in which changes are signed here: nobody waits for them.
    """

    def __init__(self, processes: int, pools: Pools) -> None:
        self._processes = processes
        self._pools = pools
        self._issuers: Issuers | None = None
        self._starting: asyncio.Task[Pool] | None = None

    def for_changes(self, count: int, issuers: Issuers, local: RowSigner) -> RowSigner:
        """Return who signs so many changes."""
        if self._issuers is not issuers:
            self.dismiss()
        if count <= self._pools.local_rows:
            return local
        if self._starting is None:
            self._issuers = issuers
            self._starting = asyncio.create_task(self._start(issuers))
        task = self._starting
        if task.done() and not task.cancelled() and task.exception() is None:
            return task.result()
        return local

    async def _start(self, issuers: Issuers) -> Pool:
        pool = self._pools.make(issuers.signers, processes=self._processes)
        return await pool.__aenter__()

    def dismiss(self) -> None:
        """End the processes; nobody may be using them."""
        task, self._starting, self._issuers = self._starting, None, None
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
    """How many changes to take at a time, so that each time takes a fraction of a second.

    What is urgent comes first in the feed (`certdb.feed`), but what has been taken is finished first.
    """

    LEAST, MOST, SECONDS = 50, 5_000, 0.25

    def __init__(self) -> None:
        self.limit = 500

    def took(self, count: int, seconds: float) -> None:
        """Learn from what so many changes took."""
        if count < self.LEAST:
            return
        can = int(count * self.SECONDS / max(seconds, 1e-3))
        self.limit = max(self.LEAST, min(can, 2 * self.limit, self.MOST))
