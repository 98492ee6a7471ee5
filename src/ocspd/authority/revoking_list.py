"""Revoke all certificates of a list: one outcome for each entry, and a transaction for each batch.

What holds for one certificate (`revoking`) holds for each: the first revocation stays, a hold may be given
another reason or be released, and a row without key identifier is found by its certificate. An entry that
fails keeps no other from being done. A list can be used again after an error: what is done stays as it is.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from ocspd.errors import CodedError
from ocspd.model import REASONS, REMOVE_FROM_CRL, CertStatus, normalize_aki, reason_name
from ocspd.pki.certs import aki_hex, load_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from ocspd.authority.revoking_entries import Entry
    from ocspd.certdb.base import CertDB
    from ocspd.model import StatusRow

BATCH_ENTRIES = 500
"""Entries per transaction."""
_ON_HOLD = REASONS["certificatehold"]


class Result(enum.Enum):
    """What became, or in a dry run would become, of an entry."""

    REVOKED = "revoked"
    RELEASED = "released from hold"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """An entry, what became of it, and a text that says so."""

    entry: Entry
    result: Result
    text: str


class ListError(CodedError):
    """The database failed in the middle of a list (its code); `failed` are the outcomes of the batch."""

    def __init__(self, cause: CodedError, failed: list[Outcome]) -> None:
        super().__init__(cause.code, cause.message)
        self.failed = failed


@dataclass(slots=True)
class _Plan:
    """What is to be done about one entry: rows that change, or why none does."""

    entry: Entry
    aki: str
    rows: list[StatusRow]
    change: list[StatusRow] = field(default_factory=list)


class _EntryError(Exception):
    """Why an entry fails; the others go on."""


async def revoke_all(
    db: CertDB, entries: Iterable[Entry], *, dry_run: bool = False
) -> AsyncIterator[list[Outcome]]:
    """Revoke the certificates of a list; yield the outcomes of each batch, in its order, once committed.

    With `dry_run` nothing is written. Raises ListError when the database cannot be used any longer: the
    batches before are done, the rest is not.
    """
    rest = iter(entries)
    seen: dict[tuple[int, str], Entry] = {}
    while batch := list(islice(rest, BATCH_ENTRIES)):
        try:
            yield await _batch(db, batch, seen, dry_run=dry_run)
        except CodedError as err:
            raise ListError(err, [Outcome(entry, Result.FAILED, err.message) for entry in batch]) from err


async def _batch(
    db: CertDB, batch: list[Entry], seen: dict[tuple[int, str], Entry], *, dry_run: bool
) -> list[Outcome]:
    stored: dict[int, list[StatusRow]] = defaultdict(list)
    for row in await db.find_statuses(sorted({entry.serial for entry in batch if not entry.problem})):
        stored[row.serial].append(row)
    plans: list[_Plan | Outcome] = []
    for entry in batch:
        try:
            plan = await _planned(db, entry, stored)
            before = seen.setdefault((entry.serial, plan.aki), entry)
            plans.append(plan if before is entry else _again(entry, before))
        except _EntryError as err:
            plans.append(Outcome(entry, Result.FAILED, str(err)))
    errors = {} if dry_run else await _carried_out(db, [plan for plan in plans if isinstance(plan, _Plan)])
    return [
        each if isinstance(each, Outcome) else _outcome(each, errors.get(id(each.entry), ""), dry_run=dry_run)
        for each in plans
    ]


async def _planned(db: CertDB, entry: Entry, stored: Mapping[int, list[StatusRow]]) -> _Plan:
    if entry.problem:
        raise _EntryError(entry.problem)
    rows = stored.get(entry.serial, [])
    if not rows:
        raise _EntryError(f"no certificate has this serial number{entry.hint}")
    by_aki: dict[str, list[StatusRow]] = defaultdict(list)
    for row in rows:
        by_aki[normalize_aki(row.aki)].append(row)
    aki = entry.aki
    if aki is None:
        if len(by_aki) > 1:
            choices = ", ".join(each or '""' for each in sorted(by_aki))
            raise _EntryError(
                f"{len(by_aki)} certificates have this serial number: add a key identifier: {choices}"
            )
        (aki,) = by_aki
    elif aki not in by_aki and "" in by_aki and await _names_issuer(db, by_aki[""][0], aki):
        aki = ""
    if aki not in by_aki:
        raise _EntryError(f"no certificate has this serial number and key identifier{entry.hint}")
    plan = _Plan(entry, aki, by_aki[aki])
    held = [row for row in plan.rows if row.status is CertStatus.REVOKED and row.reason == _ON_HOLD]
    if entry.reason == REMOVE_FROM_CRL:
        if not held:
            raise _EntryError("not on hold: removeFromCRL only releases from certificateHold")
        plan.change = held
    else:
        plan.change = [row for row in plan.rows if row.status is not CertStatus.REVOKED]
        plan.change += held if entry.reason != _ON_HOLD else []
    return plan


async def _names_issuer(db: CertDB, row: StatusRow, aki: str) -> bool:
    """Return whether a certificate stored without key identifier, as Debian's CFSSL does, has this one."""
    try:
        return aki_hex(load_certificate(await db.get_pem(row))) == aki
    except CodedError:
        return False


async def _carried_out(db: CertDB, plans: list[_Plan]) -> dict[int, str]:
    """Write what is planned; return by the id of its entry why one could not be, or was not any more."""
    errors: dict[int, str] = {}
    revoked = [plan for plan in plans if plan.change and plan.entry.reason != REMOVE_FROM_CRL]
    try:
        await _revoked(db, revoked, errors)
    except CodedError:
        await db.check()  # if it is gone, that is the error
        for plan in revoked:  # nothing of the batch is there: each for itself, and one may be rejected
            try:
                await _revoked(db, [plan], errors)
            except CodedError as err:
                errors[id(plan.entry)] = err.message
    for plan in plans:
        if plan.entry.reason == REMOVE_FROM_CRL:
            try:
                if not await db.release_certificate(plan.entry.serial, plan.aki):
                    errors[id(plan.entry)] = "not on hold any more: somebody has changed it meanwhile"
            except CodedError as err:
                errors[id(plan.entry)] = err.message
    return errors


async def _revoked(db: CertDB, plans: list[_Plan], errors: dict[int, str]) -> None:
    changes = [(row, plan.entry.reason) for plan in plans for row in plan.change]
    done = iter(await db.revoke_rows(changes))
    for plan in plans:
        if plan.change and not sum(next(done) for _ in plan.change):
            errors[id(plan.entry)] = "somebody has revoked or deleted it meanwhile: run this again"


def _again(entry: Entry, before: Entry) -> Outcome:
    if entry.reason == before.reason:
        return Outcome(entry, Result.UNCHANGED, f"the same certificate as {before.place}")
    return Outcome(
        entry,
        Result.FAILED,
        f"{before.place} gives this certificate the reason {reason_name(before.reason)}: nothing changed",
    )


def _outcome(plan: _Plan, error: str, *, dry_run: bool) -> Outcome:
    if error:
        return Outcome(plan.entry, Result.FAILED, error)
    would = "would be " if dry_run else ""
    if plan.entry.reason == REMOVE_FROM_CRL:
        return Outcome(plan.entry, Result.RELEASED, f"{would}released from hold")
    if plan.change:
        text = f"{would}revoked, reason {reason_name(plan.entry.reason)}"
        return Outcome(plan.entry, Result.REVOKED, text)
    row = min(plan.rows, key=lambda row: (row.revoked_at is None, row.revoked_at))
    when = "" if row.revoked_at is None else f" on {row.revoked_at:%Y-%m-%d %H:%M:%S} UTC"
    text = f"already revoked{when}, reason {reason_name(row.reason)}: nothing changed"
    return Outcome(plan.entry, Result.UNCHANGED, text)
