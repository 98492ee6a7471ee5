from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.certdb.migrate import load_migrations, parse_migration
from ocspd.clock import SystemClock
from ocspd.errors import CodedError
from ocspd.model import CertStatus
from tests.certdb import raw
from tests.certdb.samples import AKI, certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocspd.certdb.base import CertDB

ALL = [
    "001_CreateCertificates.sql",
    "002_AddMetadataToCertificates.sql",
    "003_OCSPDChangeFeed.sql",
    "004_OCSPDUrgency.sql",
    "005_OCSPDEveryWriter.sql",
    "006_OCSPDAnswers.sql",
]

GOOSE_MADE = {
    # goose's own statements, and CFSSL's first migration only
    "postgres": (
        """CREATE TABLE goose_db_version (id serial NOT NULL, version_id bigint NOT NULL,
           is_applied boolean NOT NULL, tstamp timestamp NULL default now(), PRIMARY KEY(id))""",
        "INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, true), (1, true)",
        """CREATE TABLE certificates (
           serial_number bytea NOT NULL, authority_key_identifier bytea NOT NULL, ca_label bytea,
           status bytea NOT NULL, reason int, expiry timestamptz, revoked_at timestamptz,
           pem bytea NOT NULL, PRIMARY KEY(serial_number, authority_key_identifier))""",
        """CREATE TABLE ocsp_responses (
           serial_number bytea NOT NULL, authority_key_identifier bytea NOT NULL, body bytea NOT NULL,
           expiry timestamptz, PRIMARY KEY(serial_number, authority_key_identifier),
           FOREIGN KEY(serial_number, authority_key_identifier)
           REFERENCES certificates(serial_number, authority_key_identifier))""",
    ),
    "mysql": (
        """CREATE TABLE goose_db_version (id serial NOT NULL, version_id bigint NOT NULL,
           is_applied boolean NOT NULL, tstamp timestamp NULL default now(), PRIMARY KEY(id))""",
        "INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, true), (1, true)",
        """CREATE TABLE certificates (
           serial_number varbinary(128) NOT NULL, authority_key_identifier varbinary(128) NOT NULL,
           ca_label varbinary(128), status varbinary(128) NOT NULL, reason int,
           expiry timestamp DEFAULT '0000-00-00 00:00:00', revoked_at timestamp DEFAULT '0000-00-00 00:00:00',
           pem varbinary(4096) NOT NULL, PRIMARY KEY(serial_number, authority_key_identifier))""",
        """CREATE TABLE ocsp_responses (
           serial_number varbinary(128) NOT NULL, authority_key_identifier varbinary(128) NOT NULL,
           body varbinary(4096) NOT NULL, expiry timestamp DEFAULT '0000-00-00 00:00:00',
           PRIMARY KEY(serial_number, authority_key_identifier))""",
    ),
    "sqlite3": (
        """CREATE TABLE goose_db_version (id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER NOT NULL,
           is_applied INTEGER NOT NULL, tstamp TIMESTAMP DEFAULT (datetime('now')))""",
        "INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, 1), (1, 1)",
        """CREATE TABLE certificates (
           serial_number blob NOT NULL, authority_key_identifier blob NOT NULL, ca_label blob,
           status blob NOT NULL, reason int, expiry timestamp, revoked_at timestamp, pem blob NOT NULL,
           PRIMARY KEY(serial_number, authority_key_identifier))""",
        """CREATE TABLE ocsp_responses (
           serial_number blob NOT NULL, authority_key_identifier blob NOT NULL, body blob NOT NULL,
           expiry timestamp, PRIMARY KEY(serial_number, authority_key_identifier),
           FOREIGN KEY(serial_number, authority_key_identifier)
           REFERENCES certificates(serial_number, authority_key_identifier))""",
    ),
}

GOOSE_STATE = "SELECT version_id, is_applied FROM goose_db_version ORDER BY id"


@pytest.fixture
async def empty(db_config: DBConfig) -> AsyncIterator[CertDB]:
    async with await open_certdb(db_config, SystemClock()) as db:
        yield db


async def test_up_applies_everything_once(empty: CertDB, db_config: DBConfig) -> None:
    assert await migrate.up(empty) == ALL
    assert await migrate.up(empty) == []
    assert await raw.fetch(db_config, GOOSE_STATE) == [
        (version, True) for version in range(migrate.LATEST + 1)
    ]


async def test_a_database_made_by_goose_is_taken_over_with_its_rows(
    empty: CertDB, db_config: DBConfig
) -> None:
    await raw.execute(
        db_config,
        *GOOSE_MADE[db_config.driver],
        "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem, expiry) "
        "VALUES ('12', 'aa', 'good', 'PEM', '2100-01-01 00:00:00+00:00')",
    )
    with pytest.raises(CodedError, match="version 1"):
        await empty.check()
    assert await migrate.up(empty) == ALL[1:]
    await empty.check()
    assert await empty.get_certificate(12, "aa") is not None
    assert await raw.fetch(db_config, GOOSE_STATE) == [
        (version, True) for version in range(migrate.LATEST + 1)
    ]


async def test_a_migration_goose_undid_is_applied_again(empty: CertDB, db_config: DBConfig) -> None:
    await raw.execute(
        db_config,
        *GOOSE_MADE[db_config.driver],
        "INSERT INTO goose_db_version (version_id, is_applied) VALUES (1, false)",
        "DROP TABLE ocsp_responses",
        "DROP TABLE certificates",
    )
    assert await migrate.up(empty) == ALL


async def test_goose_can_read_and_write_the_state_table(empty: CertDB, db_config: DBConfig) -> None:
    await migrate.up(empty)
    # what goose does for a migration of its own
    await raw.execute(db_config, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9, true)")
    assert await migrate.current_version(empty) == 9
    assert await migrate.up(empty) == []
    with pytest.raises(CodedError, match="migration 9, unknown to this ocspd"):
        await migrate.down(empty)


async def test_down_goes_back_step_by_step_and_up_again(empty: CertDB, db_config: DBConfig) -> None:
    await migrate.up(empty)
    await empty.insert_certificate(certificate(1))
    assert [await migrate.down(empty) for _ in range(7)] == [*reversed(ALL), None]
    query = "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
    if db_config.driver == "mysql":
        query = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
    if db_config.driver == "postgres":
        query = (
            "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE nspname = 'public' AND relname NOT LIKE 'goose_db_version_%'"
        )
    assert await raw.fetch(db_config, query) == [("goose_db_version",)]
    assert await migrate.up(empty) == ALL
    assert await empty.find_certificates(1) == []


async def test_status_says_what_is_applied_and_changes_nothing(empty: CertDB, db_config: DBConfig) -> None:
    await raw.execute(db_config, *GOOSE_MADE[db_config.driver])
    states = await migrate.status(empty)
    assert [(state.version, state.name, state.applied) for state in states] == [
        (1, ALL[0], True),
        (2, ALL[1], False),
        (3, ALL[2], False),
        (4, ALL[3], False),
        (5, ALL[4], False),
        (6, ALL[5], False),
    ]
    assert states[0].applied_at
    assert await raw.fetch(db_config, GOOSE_STATE) == [(0, True), (1, True)]


async def test_tables_without_a_state_table_are_not_guessed_at(empty: CertDB, db_config: DBConfig) -> None:
    await raw.execute(db_config, *GOOSE_MADE[db_config.driver][2:])
    with pytest.raises(CodedError, match="no goose_db_version"):
        await migrate.up(empty)


async def test_a_failing_migration_leaves_the_database_as_it_was(empty: CertDB, db_config: DBConfig) -> None:
    await raw.execute(db_config, "CREATE TABLE ocspd_changes (a int)")
    with pytest.raises(CodedError, match="ocspd_changes"):
        await migrate.up(empty)
    # MySQL commits as it goes: there a migration is undone, and those before it are done
    before = 2 if db_config.driver == "mysql" else 0
    assert await migrate.current_version(empty) == before
    await raw.execute(db_config, "DROP TABLE ocspd_changes")
    assert await migrate.up(empty) == ALL[before:]


async def test_two_programs_migrating_at_once_do_it_once(db_config: DBConfig) -> None:
    first, second = [await open_certdb(db_config, SystemClock()) for _ in range(2)]
    async with first, second:
        done = await asyncio.gather(migrate.up(first), migrate.up(second))
    assert sorted(done) == [[], ALL]


async def test_cfssl_columns_survive_the_change_feed_being_undone(empty: CertDB) -> None:
    await migrate.up(empty)
    await empty.insert_certificate(certificate(1, expiry=datetime(2037, 1, 1, tzinfo=UTC)))
    assert await migrate.down(empty) == ALL[5]
    assert await migrate.down(empty) == ALL[4]
    assert await migrate.down(empty) == ALL[3]
    assert await migrate.down(empty) == ALL[2]
    await empty.revoke_certificate(1, AKI, 1)
    row = await empty.get_certificate(1, AKI)
    assert row is not None
    assert row.status is CertStatus.REVOKED


@pytest.mark.parametrize("dialect", ["postgres", "mysql", "sqlite"])
def test_every_dialect_has_the_same_migrations(dialect: str) -> None:
    migrations = load_migrations(dialect)
    assert [migration.name for migration in migrations] == ALL
    assert migrations[-1].version == migrate.LATEST
    assert all(migration.up and migration.down for migration in migrations)


def test_on_mysql_every_statement_has_one_that_undoes_it() -> None:
    for migration in load_migrations("mysql"):
        assert len(migration.up) == len(migration.down)
        for done, undone in zip(migration.up, reversed(migration.down), strict=True):
            what = done.replace("INSERT INTO", "DELETE FROM").replace("CREATE", "DROP").split()[:3]
            assert undone.rstrip(";").split()[:3] == what


def test_statements_end_at_a_semicolon_or_at_the_marker() -> None:
    text = (
        "-- a comment\n-- +goose Up\n-- why\nCREATE TABLE a (\n  b int\n);\nDROP x;\n"
        "-- +goose StatementBegin\nBEGIN;\nEND;\n-- +goose StatementEnd\n\n-- +goose Down\nDROP TABLE a;\n"
    )
    migration = parse_migration("012_Name.sql", text)
    assert migration.version == 12
    assert migration.up == ("CREATE TABLE a (\n  b int\n);", "DROP x;", "BEGIN;\nEND;")
    assert migration.down == ("DROP TABLE a;",)


@pytest.mark.parametrize(
    "text", ["SELECT 1;\n", "", "-- +goose Up\nSELECT 1\n", "-- +goose Sideways\n-- +goose Up\nSELECT 1;\n"]
)
def test_a_broken_migration_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"001_A\.sql"):
        parse_migration("001_A.sql", text)
