"""Many rows are revoked in one transaction, in whatever spelling they are stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ocspd.errors import CodedError
from ocspd.model import CertificateRow, CertStatus
from tests.certdb.raw import execute

if TYPE_CHECKING:
    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB

AKI = "ab" * 20
BEFORE = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)


def certificate(serial: int) -> CertificateRow:
    return CertificateRow(serial=serial, aki=AKI, pem="PEM", expiry=datetime.now(UTC) + timedelta(days=5))


def text(config: DBConfig, value: str) -> str:
    return f"convert_to('{value}', 'UTF8')" if config.driver == "postgres" else f"'{value}'"


async def test_rows_are_revoked_each_for_its_reason(certdb: CertDB, migrated_db_config: DBConfig) -> None:
    for serial in range(1, 6):
        await certdb.insert_certificate(certificate(serial))
    config = migrated_db_config
    await execute(
        config,
        f"UPDATE certificates SET serial_number = {text(config, '005')}, "
        f"authority_key_identifier = {text(config, AKI.upper())} WHERE serial_number = {text(config, '5')}",
    )
    found = {row.serial: row for row in await certdb.find_statuses([1, 2, 4, 5])}
    changes = [(found[5], 4), (found[1], 1), (found[4], 6)]
    assert await certdb.revoke_rows(changes) == [True, True, True]
    after = {row.serial: row for row in await certdb.find_statuses([1, 2, 3, 4, 5])}
    assert [(after[serial].status, after[serial].reason) for serial in range(1, 6)] == [
        (CertStatus.REVOKED, 1),
        (CertStatus.GOOD, 0),
        (CertStatus.GOOD, 0),
        (CertStatus.REVOKED, 6),
        (CertStatus.REVOKED, 4),
    ]
    moments = [after[serial].revoked_at for serial in (1, 4, 5)]
    assert all(moment and abs(moment - datetime.now(UTC)) < timedelta(minutes=1) for moment in moments)


async def test_no_rows_are_no_transaction(certdb: CertDB) -> None:
    assert await certdb.revoke_rows([]) == []


@pytest.mark.parametrize(
    ("first", "then", "changed"), [(1, 4, False), (6, 6, False), (6, 1, True), (0, 6, False)]
)
async def test_the_first_revocation_of_a_row_stays_unless_it_is_a_hold(
    certdb: CertDB, first: int, then: int, *, changed: bool
) -> None:
    row = replace(certificate(7), status=CertStatus.REVOKED, reason=first, revoked_at=BEFORE)
    await certdb.insert_certificate(row)
    (found,) = await certdb.find_statuses([7])
    gone = found._replace(serial=8)
    assert await certdb.revoke_rows([(gone, then), (found, then)]) == [False, changed]
    (after,) = await certdb.find_statuses([7])
    assert (after.reason, after.revoked_at == BEFORE) == (then if changed else first, not changed)


async def test_one_rejected_row_keeps_all_from_being_revoked(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    for serial in (1, 2):
        await certdb.insert_certificate(certificate(serial))
    await reject(migrated_db_config, "2")
    found = sorted(await certdb.find_statuses([1, 2]))
    with pytest.raises(CodedError):
        await certdb.revoke_rows([(row, 1) for row in found])
    assert {row.status for row in await certdb.find_statuses([1, 2])} == {CertStatus.GOOD}
    assert await certdb.revoke_rows([(found[0], 1)]) == [True]


async def reject(config: DBConfig, serial: str) -> None:
    """Have the database reject every change of a certificate."""
    if config.driver == "sqlite3":
        await execute(
            config,
            f"CREATE TRIGGER no BEFORE UPDATE ON certificates WHEN old.serial_number = '{serial}' "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        )
    elif config.driver == "mysql":
        await execute(
            config,
            "CREATE TRIGGER no BEFORE UPDATE ON certificates FOR EACH ROW IF old.serial_number = "
            f"'{serial}' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF",
        )
    else:
        await execute(
            config,
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$BEGIN IF old.serial_number = '{serial}' THEN RAISE 'not this one'; END IF; RETURN new; END$$",
            "CREATE TRIGGER no BEFORE UPDATE ON certificates FOR EACH ROW EXECUTE FUNCTION no()",
        )
