"""Log and database compared, on both kinds of database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ocspd.authority.audit import chain
from ocspd.authority.audit.reconcile import reconcile
from ocspd.model import CertificateRow
from tests.authority.audit.logs import entries, entry, opened

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.certdb.base import CertDB

NOW = datetime.now(UTC).replace(microsecond=0)
AKI = "ab12"


def row(serial: int, *, aki: str = AKI, issued_at: datetime | None = NOW) -> CertificateRow:
    return CertificateRow(
        serial=serial, aki=aki, pem="", expiry=NOW + timedelta(days=90), issued_at=issued_at
    )


def logged(path: Path, *encoded: bytes) -> list[chain.Entry]:
    file = opened(path)
    started = {"time": chain.timestamp(NOW - timedelta(minutes=1)), "event": "start"}
    file.append([chain.encode(started), *encoded], seal=True)
    file.close()
    return entries(path)


async def compared(log: list[chain.Entry], db: CertDB) -> list[str]:
    result = await reconcile(log, db, NOW)
    return [f"{each.serial}/{each.aki}: {each.text}" for each in result.differences]


async def test_equal_sides_have_no_difference(certdb: CertDB, tmp_path: Path) -> None:
    for serial in (1, 2, 3):
        await certdb.insert_certificate(row(serial))
    await certdb.revoke_certificate(2, AKI, 1)
    log = logged(tmp_path / "a", *(entry(serial) for serial in (1, 2, 3)), entry(2, "revoke"))
    assert await compared(log, certdb) == []


async def test_what_is_on_one_side_only_is_listed(certdb: CertDB, tmp_path: Path) -> None:
    for serial in (1, 2):
        await certdb.insert_certificate(row(serial))
    log = logged(tmp_path / "a", entry(1), entry(3))
    assert await compared(log, certdb) == [
        f"2/{AKI}: is in the database, but not in the log",
        f"3/{AKI}: is in the log, but not in the database",
    ]


async def test_a_certificate_that_could_not_be_stored_is_no_difference_unless_it_is_there(
    certdb: CertDB, tmp_path: Path
) -> None:
    log = logged(tmp_path / "a", entry(1), entry(1, "not-stored"))
    assert await compared(log, certdb) == []
    await certdb.insert_certificate(row(1))
    assert await compared(log, certdb) == [f"1/{AKI}: is in the database, but the log says it was not stored"]


async def test_revocations_are_compared(certdb: CertDB, tmp_path: Path) -> None:
    for serial in (1, 2, 3, 4):
        await certdb.insert_certificate(row(serial))
    await certdb.revoke_certificate(1, AKI, 1)
    await certdb.revoke_certificate(4, AKI, 1)
    encoded = [entry(serial) for serial in (1, 2, 3, 4)]
    encoded += [entry(2, "revoke"), entry(3, "revoke"), entry(3, "not-revoked"), entry(4, "revoke")]
    assert await compared(logged(tmp_path / "a", *encoded), certdb) == [
        f"1/{AKI}: is revoked in the database, but not in the log",
        f"2/{AKI}: is revoked in the log, but not in the database",
    ]


async def test_a_release_from_hold_is_compared(certdb: CertDB, tmp_path: Path) -> None:
    await certdb.insert_certificate(row(1))
    log = logged(tmp_path / "a", entry(1), entry(1, "revoke"), entry(1, "release"))
    assert await compared(log, certdb) == []


async def test_certificates_from_before_the_log_are_counted_apart(certdb: CertDB, tmp_path: Path) -> None:
    await certdb.insert_certificate(row(1, issued_at=NOW - timedelta(days=1)))
    await certdb.insert_certificate(row(2, issued_at=None))
    result = await reconcile(logged(tmp_path / "a"), certdb, NOW)
    assert (result.older, [each.serial for each in result.differences]) == (1, [2])


async def test_the_spelling_of_key_identifiers_is_no_difference(certdb: CertDB, tmp_path: Path) -> None:
    await certdb.insert_certificate(row(1, aki="AB:12"))
    assert await compared(logged(tmp_path / "a", entry(1)), certdb) == []


async def test_an_expired_certificate_may_be_gone_from_the_database(certdb: CertDB, tmp_path: Path) -> None:
    gone = chain.timestamp(NOW - timedelta(days=1))
    log = logged(tmp_path / "a", entry(1, not_after=gone), entry(2, not_after=chain.timestamp(NOW)))
    assert await compared(log, certdb) == [f"2/{AKI}: is in the log, but not in the database"]


async def test_the_same_serial_of_two_issuers_are_two_certificates(certdb: CertDB, tmp_path: Path) -> None:
    for aki in ("aa", "bb"):
        await certdb.insert_certificate(row(1, aki=aki))
    one = chain.encode({"time": chain.timestamp(NOW), "event": "issue", "serial": "1", "aki": "aa"})
    assert await compared(logged(tmp_path / "a", one), certdb) == [
        "1/bb: is in the database, but not in the log"
    ]
