"""Rows about one certificate in other spellings are found, whatever else the table holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ocspd.model import CertStatus, OCSPRow
from tests.certdb.raw import execute, fetch

if TYPE_CHECKING:
    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB

AKI = "ab" * 20
COLON = ":".join(["AB"] * 20)
SPELLINGS = [
    ("7", AKI.upper()),
    ("7", COLON),
    ("7", ""),
    ("7", "the root"),
    ("07", AKI),
    ("0007", AKI.upper()),
    ("0", AKI),
    ("00", AKI),
    ("seven", AKI),
    ("-7", AKI),
    (" 7", AKI),
    ("", AKI),
    ("9" * 154, AKI),
    ("9" * 5000, AKI),
]


async def insert(config: DBConfig, serial: str, aki: str, status: str = "good") -> None:
    def text(value: str) -> str:
        return f"convert_to('{value}', 'UTF8')" if config.driver == "postgres" else f"'{value}'"

    later = datetime.now(UTC) + timedelta(days=5)
    await execute(
        config,
        "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason, expiry,"
        f" revoked_at, pem) VALUES ({text(serial)}, {text(aki)}, {text('')}, {text(status)}, 0,"
        f" '{later:%Y-%m-%d %H:%M:%S}+00:00', '0001-01-01 00:00:00+00:00', {text('pem of ' + aki)})",
    )


async def test_D9_every_spelling_of_a_serial_number_is_found(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    await insert(migrated_db_config, "7", AKI)
    await insert(migrated_db_config, "70", AKI)
    for serial, aki in SPELLINGS:
        await insert(migrated_db_config, serial, aki)
    found = await certdb.find_statuses([7, 0, 10**155])
    assert sorted((row.serial, row.aki) for row in found) == sorted(
        [(7, AKI), (7, AKI.upper()), (7, COLON), (7, ""), (7, "the root"), (7, AKI), (7, AKI.upper())]
        + [(0, AKI)] * 2
    )
    assert sum(row.key is None for row in found) == 2
    assert [await certdb.get_pem(row) for row in found if row.aki == COLON] == [b"pem of " + COLON.encode()]


async def test_D9_rows_of_odd_spelling_are_found_among_others(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    for serial in ("7", "8", "9" * 153):
        await insert(migrated_db_config, serial, AKI)
    for serial, aki in SPELLINGS:
        await insert(migrated_db_config, serial, aki)
    odd = [some async for some in certdb.stream_odd(chunk_rows=3)]
    assert sum(len(some.rows) + len(some.unreadable) for some in odd) == len(SPELLINGS) - 1
    assert all(row.key for some in odd for row in some.rows)
    unreadable = [message for some in odd for message in some.unreadable]
    assert all("serial_number holds" in message for message in unreadable)
    assert len(unreadable) in {5, 6}


async def test_D5_what_cannot_be_read_is_never_good(certdb: CertDB, migrated_db_config: DBConfig) -> None:
    config = migrated_db_config
    for number in range(1, 5):
        await insert(config, str(number), AKI, "revoked" if number == 3 else "good")
    mark = "convert_to('{}', 'UTF8')" if config.driver == "postgres" else "'{}'"
    garbage = "'infinity'" if config.driver == "postgres" else "'tomorrow'"
    for number, what in (
        (1, f"status = {mark.format('GOOD')}"),
        (2, "expiry = NULL" if config.driver == "postgres" else "expiry = 'never'"),
        (3, f"revoked_at = {garbage}"),
    ):
        await execute(config, f"UPDATE certificates SET {what} WHERE serial_number = {mark.format(number)}")
    rows = {row.serial: row for row in await certdb.find_statuses([1, 2, 3, 4])}
    assert [rows[number].status for number in (1, 2, 3, 4)] == [
        CertStatus.UNKNOWN,
        CertStatus.UNKNOWN,
        CertStatus.REVOKED,
        CertStatus.GOOD,
    ]
    assert "'GOOD'" in rows[1].problem
    assert rows[2].problem
    assert not rows[4].problem


@pytest.mark.parametrize("db_config", ["sqlite3"], indirect=True)  # PostgreSQL's columns hold times only
async def test_a_number_in_a_column_of_time_is_a_unix_time(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    await insert(migrated_db_config, "7", AKI, "revoked")
    await execute(migrated_db_config, "UPDATE certificates SET revoked_at = 1700000000, expiry = 4000000000")
    (row,) = [row async for some in certdb.stream_odd() for row in some.rows]
    assert row.revoked_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert row.expiry.year == 2096


async def test_an_answer_is_stored_beside_the_row_it_was_made_for(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    await insert(migrated_db_config, "07", COLON)
    (row,) = await certdb.find_statuses([7])
    answer = OCSPRow(serial=7, aki=COLON, body=b"\x30", expiry=row.expiry, key=row.key)
    await certdb.upsert_ocsp([answer])
    await certdb.upsert_ocsp([answer])
    stored = await fetch(
        migrated_db_config, "SELECT serial_number, authority_key_identifier FROM ocsp_responses"
    )
    assert [tuple(v.decode() if isinstance(v, bytes) else v for v in pair) for pair in stored] == [
        ("07", COLON)
    ]
