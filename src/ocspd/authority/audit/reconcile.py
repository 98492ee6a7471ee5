"""Compare an audit log with the certificate database: what is in one and not in the other.

The log is the whole of it from entry `begin` on; the database may be older, and then what it issued before
is counted apart. What other programs issue into the same database (CFSSL, `ocspd sign -db-config`) is in no
log, and is listed: that is the purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocspd.authority.audit import reading
from ocspd.model import CertStatus, normalize_aki

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from ocspd.authority.audit.chain import Entry
    from ocspd.certdb.base import CertDB
    from ocspd.model import StatusRow

_BATCH = 500

Key = tuple[int, str]
"""Serial number and key identifier of a certificate."""


@dataclass(slots=True)
class _Logged:
    """What the log says of one certificate."""

    entry: int
    stored: bool = True
    revoked: bool = False
    revoked_before: bool = False
    expiry: datetime | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """A certificate about which log and database disagree, and how; `entry` is 0 without one."""

    serial: int
    aki: str
    entry: int
    text: str


@dataclass(slots=True)
class Comparison:
    """The result; `older` certificates were issued before the log began."""

    logged: int = 0
    stored: int = 0
    older: int = 0
    differences: list[Difference] = field(default_factory=list)


async def reconcile(entries: Iterable[Entry], db: CertDB, now: datetime) -> Comparison:
    """Compare; CodedError 11000 when the database cannot be read. Holds one small record per certificate.

    A certificate that has expired may be missing from the database, which may have been cleared of it.
    """
    logged, began = _read(entries)
    result = Comparison(logged=sum(each.stored for each in logged.values()))
    await _missing_rows(logged, db, now, result)
    await _missing_entries(logged, began, db, result)
    result.differences.sort(key=lambda each: (each.entry, each.serial, each.aki))
    return result


def _read(entries: Iterable[Entry]) -> tuple[dict[Key, _Logged], datetime | None]:
    logged: dict[Key, _Logged] = {}
    began = None
    for entry in entries:
        began = began or reading.time_of(entry)
        if entry.event not in {"issue", "add", "not-stored", "revoke", "release", "not-revoked"}:
            continue
        key = _key(entry)
        if key is None:
            continue
        if entry.event in {"issue", "add"}:
            revoked = entry.fields.get("status") == "revoked"
            logged[key] = _Logged(entry.number, revoked=revoked, expiry=_expiry(entry))
        elif entry.event == "not-stored":
            logged.setdefault(key, _Logged(entry.number)).stored = False
        else:
            record = logged.get(key)
            if record is None:  # issued before the log, or by another program
                record = logged[key] = _Logged(0)
            if entry.event == "not-revoked":
                record.revoked = record.revoked_before
            else:
                record.revoked_before, record.revoked = record.revoked, entry.event == "revoke"
    return logged, began


def _key(entry: Entry) -> Key | None:
    serial, aki = entry.fields.get("serial"), entry.fields.get("aki")
    if not isinstance(serial, str) or not (serial.isascii() and serial.isdigit()) or len(serial) > 100:
        return None
    return int(serial), normalize_aki(aki) if isinstance(aki, str) else ""


def _expiry(entry: Entry) -> datetime | None:
    return reading.moment(entry.fields.get("not_after"))


async def _missing_rows(logged: dict[Key, _Logged], db: CertDB, now: datetime, result: Comparison) -> None:
    for batch in _batches([(key, each) for key, each in logged.items() if each.entry]):
        rows = await db.find_statuses(sorted({serial for (serial, _), _ in batch}))
        found = {(row.serial, normalize_aki(row.aki)) for row in rows}
        for key, each in batch:
            expired = each.expiry is not None and each.expiry < now
            if each.stored and not expired and not _is_in(key, found):
                result.differences.append(
                    Difference(*key, each.entry, "is in the log, but not in the database")
                )
            if not each.stored and _is_in(key, found):
                result.differences.append(
                    Difference(*key, each.entry, "is in the database, but the log says it was not stored")
                )


def _is_in(key: Key, found: set[Key]) -> bool:
    return key in found or (key[0], "") in found  # CFSSL 1.2.0 stores no key identifier


async def _missing_entries(
    logged: dict[Key, _Logged], began: datetime | None, db: CertDB, result: Comparison
) -> None:
    async for rows in db.stream_status():
        await _compare_rows(rows, logged, began, db, result)
    async for odd in db.stream_odd():
        await _compare_rows(odd.rows, logged, began, db, result)


async def _compare_rows(
    rows: list[StatusRow],
    logged: dict[Key, _Logged],
    began: datetime | None,
    db: CertDB,
    result: Comparison,
) -> None:
    for row in rows:
        result.stored += 1
        aki = normalize_aki(row.aki)
        record = logged.get((row.serial, aki))
        is_revoked = row.status is CertStatus.REVOKED
        if record is None or not record.entry:
            if began is not None and await _is_older(row, began, db):
                result.older += 1
                continue
            text = "is in the database, but not in the log"
            result.differences.append(Difference(row.serial, aki, 0, text))
        elif is_revoked != record.revoked:
            text = (
                "is revoked in the database, but not in the log"
                if is_revoked
                else "is revoked in the log, but not in the database"
            )
            result.differences.append(Difference(row.serial, aki, record.entry, text))


async def _is_older(row: StatusRow, began: datetime, db: CertDB) -> bool:
    """Return whether the row says that the certificate was issued before the log began."""
    for found in await db.find_certificates(row.serial):
        if normalize_aki(found.aki) == normalize_aki(row.aki):
            return found.issued_at is not None and found.issued_at < began.replace(microsecond=0)
    return False


def _batches(items: list[tuple[Key, _Logged]]) -> Iterator[list[tuple[Key, _Logged]]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
