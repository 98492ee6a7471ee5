from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.certdb.packed import PackedSource, unpack
from ocspd.certdb.sqlite import SQLiteCertDB
from ocspd.clock import ManualClock
from ocspd.errors import Code, CodedError
from ocspd.model import CertStatus, StatusRow
from ocspd.signer.signing import reduced
from tests.certdb import raw
from tests.certdb.samples import AKI, BIG_SERIAL, NOW, certificate, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocspd.certdb.base import CertDB
    from ocspd.model import OCSPRow, Row


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def db(migrated_db_config: DBConfig, clock: ManualClock) -> AsyncIterator[CertDB]:
    async with await open_certdb(migrated_db_config, clock) as db:
        yield db


@pytest.fixture
async def postgres_config(postgres_url: str) -> DBConfig:
    """A migrated database in PostgreSQL."""
    config = DBConfig("postgres", postgres_url)
    async with await open_certdb(config, ManualClock(NOW)) as db:
        await migrate.up(db)
    return config


async def statuses(db: CertDB, chunk_rows: int = 100) -> dict[int, CertStatus]:
    return {
        row.serial: row.status async for chunk in db.stream_status(chunk_rows=chunk_rows) for row in chunk
    }


async def responses(db: CertDB) -> list[OCSPRow]:
    return [row async for chunk in db.unexpired_ocsp() for row in chunk]


def status(serial: int) -> StatusRow:
    return StatusRow(serial, AKI, CertStatus.GOOD, 0, None, NOW)


async def test_a_certificate_comes_back_as_it_was_inserted(db: CertDB, migrated_db_config: DBConfig) -> None:
    fraction = timedelta() if migrated_db_config.driver == "mysql" else timedelta(microseconds=1)
    row = certificate(
        ca_label="primary",
        status=CertStatus.REVOKED,
        reason=10,
        revoked_at=NOW - fraction,
        issued_at=NOW,
        not_before=NOW - timedelta(minutes=5),
        metadata={"a": [1, "é"]},
        sans=["a.example", "b.example"],
        common_name="ä <name>",
    )
    await db.insert_certificate(row)
    assert await db.get_certificate(row.serial, row.aki) == row


async def test_the_least_a_certificate_can_have_comes_back_too(db: CertDB) -> None:
    row = certificate(0, aki="", expiry=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    await db.insert_certificate(row)
    assert await db.get_certificate(0, "") == row


async def test_a_key_identifier_is_found_in_any_spelling(db: CertDB) -> None:
    await db.insert_certificate(certificate(1, aki="AB:CD:EF"))
    row = await db.get_certificate(1, "ab cd ef")
    assert row is not None
    assert row.aki == "abcdef"


async def test_an_unknown_certificate_is_none(db: CertDB) -> None:
    await db.insert_certificate(certificate(1))
    assert await db.get_certificate(1, "00") is None
    assert await db.get_certificate(2, AKI) is None
    assert await db.find_certificates(2) == []


async def test_the_same_serial_of_two_issuers_is_two_certificates(db: CertDB) -> None:
    for aki in ("bb", "", "aa"):
        await db.insert_certificate(certificate(5, aki=aki))
    assert [row.aki for row in await db.find_certificates(5)] == ["", "aa", "bb"]


async def test_inserting_a_certificate_twice_is_11000(db: CertDB) -> None:
    await db.insert_certificate(certificate())
    with pytest.raises(CodedError) as caught:
        await db.insert_certificate(certificate())
    assert caught.value.code is Code.STORE_FAILED


async def test_a_row_that_is_already_there_fails_alone(db: CertDB) -> None:
    await db.insert_certificate(certificate(2))
    wanted = [certificate(serial, sans=[f"{serial}.example"]) for serial in (1, 2, 3, 3)]
    outcomes = await db.insert_certificates(wanted)
    assert [None if error is None else error.code for error in outcomes] == [
        None,
        Code.STORE_FAILED,
        None,
        Code.STORE_FAILED,
    ]
    assert [await db.get_certificate(serial, AKI) for serial in (1, 3)] == [wanted[0], wanted[2]]
    assert await db.get_certificate(2, AKI) == certificate(2)


async def test_no_rows_are_no_work(db: CertDB) -> None:
    assert await db.insert_certificates([]) == []


@pytest.mark.parametrize(
    "db_config", ["sqlite3", "postgres"], indirect=True
)  # a trigger drops no row in MySQL
async def test_what_a_trigger_refuses_or_drops_fails_alone(db: CertDB, migrated_db_config: DBConfig) -> None:
    if migrated_db_config.driver == "postgres":
        refusals = [
            """
            CREATE FUNCTION choose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.serial_number = '2' THEN RAISE EXCEPTION 'not this one'; END IF;
                IF NEW.serial_number = '3' THEN RETURN NULL; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER choose BEFORE INSERT ON certificates FOR EACH ROW EXECUTE FUNCTION choose()"""
        ]
    else:
        refusals = [
            f"CREATE TRIGGER {name} BEFORE INSERT ON certificates WHEN NEW.serial_number = '{serial}' "
            f"BEGIN SELECT RAISE({action}); END"
            for name, serial, action in (("refuse", 2, "ABORT, 'not this one'"), ("forget", 3, "IGNORE"))
        ]
    await raw.execute(migrated_db_config, *refusals)
    for serials, codes in (
        ((1, 3, 4), [None, Code.STORE_INSERT_FAILED, None]),
        ((5, 2, 3, 6), [None, Code.STORE_FAILED, Code.STORE_INSERT_FAILED, None]),
    ):
        outcomes = await db.insert_certificates([certificate(serial) for serial in serials])
        assert [None if error is None else error.code for error in outcomes] == codes
    assert set(await statuses(db)) == {1, 4, 5, 6}


async def test_a_value_that_cannot_be_stored_fails_alone(
    postgres_config: DBConfig, clock: ManualClock
) -> None:
    async with await open_certdb(postgres_config, clock) as db:
        for name in ("a\0b", "\ud800"):
            wanted = [certificate(1), certificate(2, common_name=name), certificate(3)]
            outcomes = await db.insert_certificates(wanted)
            assert [error is None for error in outcomes] == [True, False, True], name
            await raw.execute(postgres_config, "DELETE FROM certificates")


async def test_many_certificates_are_one_transaction(postgres_config: DBConfig, clock: ManualClock) -> None:
    async with await open_certdb(postgres_config, clock) as db:
        assert set(await db.insert_certificates([certificate(serial) for serial in range(300)])) == {None}
    counted = await raw.fetch(
        postgres_config, "SELECT count(*), count(DISTINCT xmin::text) FROM certificates"
    )
    assert counted == [(300, 1)]


async def test_a_statement_is_not_larger_than_it_has_to_be(
    postgres_config: DBConfig, clock: ManualClock
) -> None:
    async with await open_certdb(postgres_config, clock) as db:
        large = [certificate(serial, pem="x" * 1_500_000) for serial in range(5)]
        assert await db.insert_certificates(large) == [None] * 5
    counted = await raw.fetch(
        postgres_config, "SELECT count(*), count(DISTINCT xmin::text) FROM certificates"
    )
    assert counted == [(5, 3)]


async def test_after_a_commit_that_failed_sqlite_goes_on(tmp_path: Path, clock: ManualClock) -> None:
    file = tmp_path / "certs.db"
    async with await open_certdb(DBConfig("sqlite3", str(file)), clock) as db:
        await migrate.up(db)
    db = SQLiteCertDB(str(file), clock, busy_timeout_s=0.05)
    async with db:
        reader = sqlite3.connect(file)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM certificates").fetchall()  # a reader keeps a commit waiting
        (outcome,) = await db.insert_certificates([certificate(1)])
        assert outcome is not None
        assert outcome.code is Code.STORE_FAILED
        reader.close()
        assert await db.insert_certificates([certificate(1)]) == [None]


async def test_values_are_stored_exactly_as_cfssl_stores_them(
    db: CertDB, migrated_db_config: DBConfig
) -> None:
    await db.insert_certificate(certificate(issued_at=NOW + timedelta(microseconds=120000)))
    await db.insert_certificate(certificate(7, sans=["a.example"]))
    if migrated_db_config.driver == "sqlite3":
        assert await raw.fetch(
            migrated_db_config,
            "SELECT serial_number, typeof(serial_number), authority_key_identifier, status, typeof(status), "
            "reason, expiry, revoked_at, typeof(pem), issued_at, not_before, metadata, typeof(sans), "
            f"common_name FROM certificates WHERE serial_number = '{BIG_SERIAL}'",
        ) == [
            (
                str(BIG_SERIAL),
                "text",
                AKI,
                "good",
                "text",
                0,
                "2026-04-03 05:06:07+00:00",
                "0001-01-01 00:00:00+00:00",
                "text",
                "2026-03-04 05:06:07.12+00:00",
                None,
                b"null",
                "blob",
                "",
            )
        ]
        return
    if migrated_db_config.driver == "mysql":
        assert await raw.fetch(
            migrated_db_config,
            "SELECT serial_number, authority_key_identifier, status, reason, CAST(expiry AS char), "
            "CAST(revoked_at AS char), CAST(issued_at AS char), CAST(not_before AS char), metadata, sans, "
            f"common_name, ca_label FROM certificates WHERE serial_number = '{BIG_SERIAL}'",
        ) == [
            (
                str(BIG_SERIAL).encode(),
                AKI.encode(),
                b"good",
                0,
                "2026-04-03 05:06:07",
                "0000-00-00 00:00:00",
                "2026-03-04 05:06:07",
                "0000-00-00 00:00:00",
                "null",
                "null",
                "",
                b"",
            )
        ]
        return
    assert await raw.fetch(
        migrated_db_config,
        "SELECT serial_number, authority_key_identifier, status, reason, "
        "(revoked_at AT TIME ZONE 'UTC')::text, issued_at, metadata, "
        f"sans, common_name, ca_label FROM certificates WHERE serial_number = '{BIG_SERIAL}'",
    ) == [
        (
            str(BIG_SERIAL).encode(),
            AKI.encode(),
            b"good",
            0,
            "0001-01-01 00:00:00",
            NOW + timedelta(microseconds=120000),
            "null",
            "null",
            "",
            b"",
        )
    ]


async def test_rows_older_than_migration_2_are_read(db: CertDB, migrated_db_config: DBConfig) -> None:
    await raw.execute(
        migrated_db_config,
        "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem, expiry) "
        "VALUES ('12', 'aa', 'good', 'PEM', '2030-01-01 00:00:00+00:00')",
    )
    row = await db.get_certificate(12, "aa")
    assert row is not None
    assert (row.ca_label, row.reason, row.revoked_at, row.issued_at, row.not_before) == (
        "",
        0,
        None,
        None,
        None,
    )
    assert (row.metadata, row.sans, row.common_name) == (None, None, "")
    assert await statuses(db) == {12: CertStatus.GOOD}


async def test_revoking_sets_status_reason_and_the_time(db: CertDB, clock: ManualClock) -> None:
    await db.insert_certificate(certificate())
    await db.revoke_certificate(BIG_SERIAL, AKI.upper(), 1)
    row = await db.get_certificate(BIG_SERIAL, AKI)
    assert row is not None
    assert (row.status, row.reason, row.revoked_at) == (CertStatus.REVOKED, 1, NOW)


async def test_revoking_again_overwrites_reason_and_time(db: CertDB, clock: ManualClock) -> None:
    await db.insert_certificate(certificate())
    await db.revoke_certificate(BIG_SERIAL, AKI, 1)
    clock.advance(timedelta(hours=1))
    await db.revoke_certificate(BIG_SERIAL, AKI, 0)
    row = await db.get_certificate(BIG_SERIAL, AKI)
    assert row is not None
    assert (row.reason, row.revoked_at) == (0, NOW + timedelta(hours=1))


async def test_revoking_an_unknown_certificate_is_11200(db: CertDB) -> None:
    with pytest.raises(CodedError) as caught:
        await db.revoke_certificate(1, AKI, 0)
    assert caught.value.code is Code.STORE_NOT_FOUND


async def test_expired_certificates_are_left_out_of_lists(
    db: CertDB, clock: ManualClock, migrated_db_config: DBConfig
) -> None:
    least = timedelta(seconds=1) if migrated_db_config.driver == "mysql" else timedelta(microseconds=1)
    await db.insert_certificate(certificate(1, expiry=NOW))
    await db.insert_certificate(certificate(2, expiry=NOW + least))
    await db.insert_certificate(certificate(3, expiry=NOW + timedelta(seconds=1)))
    for serial in (1, 2, 3):
        await db.revoke_certificate(serial, AKI, 4)
    assert await statuses(db) == {2: CertStatus.REVOKED, 3: CertStatus.REVOKED}
    assert await db.estimate_unexpired() == 2
    clock.advance(timedelta(seconds=1))
    assert await statuses(db) == {}


@pytest.mark.parametrize(("count", "chunk_rows", "sizes"), [(0, 3, []), (6, 3, [3, 3]), (7, 3, [3, 3, 1])])
async def test_the_status_stream_comes_in_chunks(
    db: CertDB, count: int, chunk_rows: int, sizes: list[int]
) -> None:
    for serial in range(count):
        await db.insert_certificate(certificate(serial))
    await db.revoke_certificate(0, AKI, 9) if count else None
    chunks = [chunk async for chunk in db.stream_status(chunk_rows=chunk_rows)]
    assert [len(chunk) for chunk in chunks] == sizes
    assert await db.estimate_unexpired() == count
    assert {row.serial for chunk in chunks for row in chunk} == set(range(count))
    for chunk in chunks:
        for row in chunk:
            assert row.aki == AKI
            assert row.expiry == NOW + timedelta(days=30)
            assert (row.status, row.reason, row.revoked_at) == (
                (CertStatus.REVOKED, 9, NOW) if row.serial == 0 else (CertStatus.GOOD, 0, None)
            )


async def test_other_work_goes_on_while_a_stream_is_open(db: CertDB) -> None:
    for serial in range(4):
        await db.insert_certificate(certificate(serial))
    async for chunk in db.stream_status(chunk_rows=2):
        await db.upsert_ocsp([response(row.serial) for row in chunk])
        await db.revoke_certificate(chunk[0].serial, AKI, 1)
    assert sum([len(chunk) async for chunk in db.unexpired_ocsp()]) == 4


async def test_a_row_cfssl_cannot_have_written_does_not_stop_a_pass(
    db: CertDB, migrated_db_config: DBConfig
) -> None:
    await db.insert_certificate(certificate(1))
    await raw.execute(
        migrated_db_config,
        "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem, expiry) "
        "VALUES (' 0x7', 'aa', 'good', 'PEM', '2030-01-01 00:00:00+00:00')",
        "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem, expiry) "
        "VALUES ('8', 'aa', 'GOOD', 'PEM', '2030-01-01 00:00:00+00:00')",
    )
    assert await statuses(db) == {1: CertStatus.GOOD, 8: CertStatus.UNKNOWN}
    (odd,) = [some async for some in db.stream_odd()]
    assert "serial_number" in odd.unreadable[0]
    row = await db.get_certificate(8, "aa")
    assert row is not None
    assert row.status is CertStatus.UNKNOWN


async def test_an_ocsp_response_comes_back_byte_for_byte(db: CertDB, migrated_db_config: DBConfig) -> None:
    await db.insert_certificate(certificate())
    await db.upsert_ocsp([response()])
    assert await responses(db) == [response()]
    asked = status(BIG_SERIAL), status(1)
    assert await db.find_ocsp(asked) == [response().body, None]
    if migrated_db_config.driver == "sqlite3":
        query = "SELECT typeof(body), CAST(body AS BLOB), expiry FROM ocsp_responses"
        assert await raw.fetch(migrated_db_config, query) == [
            ("text", response().body, "2026-03-08 05:06:07+00:00")
        ]


async def test_updating_replaces_body_and_expiry_of_a_response(db: CertDB) -> None:
    await db.insert_certificate(certificate())
    await db.upsert_ocsp([response()])
    newer = response(body=b"\x00newer", expiry=NOW + timedelta(days=5))
    await db.update_ocsp(newer)
    assert await responses(db) == [newer]


async def test_updating_a_missing_response_is_11200(db: CertDB) -> None:
    with pytest.raises(CodedError) as caught:
        await db.update_ocsp(response())
    assert caught.value.code is Code.STORE_NOT_FOUND


async def test_upserting_inserts_and_replaces_and_the_last_of_two_wins(db: CertDB) -> None:
    for serial in (1, 2):
        await db.insert_certificate(certificate(serial))
    await db.upsert_ocsp([])
    await db.upsert_ocsp([response(1, body=b"a"), response(2, body=b"b")])
    await db.upsert_ocsp([response(2, body=b"c"), response(2, body=b"\x00d")])
    rows = [row async for chunk in db.unexpired_ocsp(chunk_rows=1) for row in chunk]
    assert {row.serial: row.body for row in rows} == {1: b"a", 2: b"\x00d"}


async def test_expired_responses_are_left_out_of_the_list_only(db: CertDB, clock: ManualClock) -> None:
    await db.insert_certificate(certificate())
    await db.upsert_ocsp([response()])
    clock.advance(timedelta(days=4))
    assert await responses(db) == []
    assert await db.find_ocsp([status(BIG_SERIAL)]) == [response().body]


async def test_a_migrated_database_passes_the_check(db: CertDB) -> None:
    await db.check()
    await db.close()
    await db.close()


async def test_an_unmigrated_database_is_named_with_the_remedy(
    db_config: DBConfig, clock: ManualClock
) -> None:
    await raw.execute(db_config, "CREATE TABLE other (a int)")
    async with await open_certdb(db_config, clock) as db:
        for operation in (db.check(), db.get_certificate(1, ""), db.insert_certificate(certificate())):
            with pytest.raises(CodedError, match=r"is not migrated.*ocspd db up -db-config") as caught:
                await operation
            assert caught.value.code is Code.STORE_FAILED
            assert db.name in caught.value.message


async def unpacked(db: CertDB) -> tuple[list[tuple[dict[str, list[Row]], list[StatusRow], list[str]]], int]:
    assert isinstance(db, PackedSource)
    packed = [rows async for rows in db.stream_packed()]
    return [unpack(rows.data) for rows in packed], sum(rows.count for rows in packed)


async def test_packed_rows_say_what_the_status_stream_says(postgres_config: DBConfig) -> None:
    async with await open_certdb(postgres_config, ManualClock(NOW)) as db:
        assert await unpacked(db) == ([], 0)
        row = (
            "INSERT INTO certificates (serial_number, authority_key_identifier, status, reason, revoked_at, "
        )
        row += "pem, expiry) VALUES ('{}', '{}', '{}', {}, {}, 'PEM', {})"
        times = (
            "NULL",
            "'infinity'",
            "'-infinity'",
            "'0001-01-01 00:00:00+00'",
            "'1969-12-31 23:59:59.25+00'",
            "'2026-01-02 03:04:05.678901+02'",
            "'2250-01-01 00:00:00+00'",
        )
        values: list[tuple[object, ...]] = [
            (n, AKI, "revoked", n % 3, time, "'2099-01-01'") for n, time in enumerate(times)
        ]
        values += [
            (20, AKI, "good", "NULL", "'infinity'", "'infinity'"),
            (21, "", "good", 0, "NULL", "'2099-01-01'"),
            (22, "AA:BB", "unknown", -5, "NULL", "'2099-01-01'"),
            (" 1", AKI, "good", 0, "NULL", "'2099-01-01'"),
            (23, AKI, "fine", 0, "NULL", "'2099-01-01'"),
            (24, AKI, "good", 0, "NULL", "'2001-01-01'"),
            (25, AKI, "good", 0, "NULL", "NULL"),
        ]
        await raw.execute(postgres_config, *(row.format(*value) for value in values))
        found, count = await unpacked(db)
        slow = [each async for chunk in db.stream_status() for each in chunk]
    assert count == len(slow) + 3 == 12
    read = {(aki, *row) for groups, *_ in found for aki, group in groups.items() for row in group}
    read |= {(row.aki, *reduced([row])[0]) for _, unusual, _ in found for row in unusual}
    assert read == {(row.aki, *reduced([row])[0]) for row in slow}


async def test_packed_rows_of_many_pieces_are_all_there_and_leaving_early_is_harmless(
    postgres_config: DBConfig,
) -> None:
    count = 40_000
    async with await open_certdb(postgres_config, ManualClock(NOW)) as db:
        await raw.execute(
            postgres_config,
            "INSERT INTO certificates (serial_number, authority_key_identifier, status, reason, pem, expiry) "
            f"SELECT convert_to(n::text, 'UTF8'), 'aa', 'good', 0, 'PEM', '2099-01-01' "
            f"FROM generate_series(1, {count}) AS n",
        )
        found, total = await unpacked(db)
        assert total == count
        assert {row[0] for groups, *_ in found for row in groups["aa"]} == set(range(1, count + 1))
        assert len(found) > 3
        assert isinstance(db, PackedSource)
        for _ in range(6):  # more often than there are connections
            stream = db.stream_packed()
            assert isinstance(stream, AsyncGenerator)
            assert (await anext(stream)).count
            await stream.aclose()
        assert await db.estimate_unexpired() == count


async def test_how_long_a_pass_will_be_is_estimated_where_the_planner_knows(
    postgres_config: DBConfig,
) -> None:
    async with await open_certdb(postgres_config, ManualClock(NOW)) as db:
        assert await db.estimate_unexpired() == 0
        await raw.execute(
            postgres_config,
            "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem, expiry) "
            "SELECT convert_to(n::text, 'UTF8'), 'aa', 'good', 'PEM', "
            "CASE WHEN n % 4 = 0 THEN '2001-01-01'::timestamptz ELSE '2099-01-01' END "
            "FROM generate_series(1, 20000) AS n",
        )
        assert await db.estimate_unexpired() == 15_000
        await raw.execute(postgres_config, "ANALYZE certificates")
        await raw.execute(
            postgres_config,
            "DELETE FROM certificates WHERE convert_from(serial_number, 'UTF8')::int > 19000",
        )
        assert 14_000 < await db.estimate_unexpired() < 16_000  # not counted: 14 250 are left


async def test_a_table_that_cannot_be_copied_is_told(postgres_config: DBConfig) -> None:
    async with await open_certdb(postgres_config, ManualClock(NOW)) as db:
        await raw.execute(
            postgres_config,
            "ALTER TABLE certificates DISABLE TRIGGER USER",
            "ALTER TABLE certificates RENAME TO elsewhere",
        )
        with pytest.raises(CodedError, match="ocspd db up") as caught:
            await unpacked(db)
        assert caught.value.code is Code.STORE_FAILED
        await raw.execute(
            postgres_config,
            "CREATE VIEW certificates AS SELECT serial_number, authority_key_identifier, status, "
            "1 / (octet_length(serial_number) - 3) AS reason, revoked_at, expiry FROM elsewhere",
            "INSERT INTO elsewhere (serial_number, authority_key_identifier, status, reason, pem, expiry) "
            "SELECT convert_to(n::text, 'UTF8'), 'aa', 'good', 0, 'PEM', '2099-01-01' "
            "FROM generate_series(100000, 120000) AS n",
            "INSERT INTO elsewhere (serial_number, authority_key_identifier, status, reason, pem, expiry) "
            "VALUES ('999', 'aa', 'good', 0, 'PEM', '2099-01-01')",
        )
        with pytest.raises(CodedError, match="division by zero"):
            await unpacked(db)
