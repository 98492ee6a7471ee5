"""A database that only CFSSL's goose migrated, read by a role that may do nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.certdb.feed import CursorLostError, UnrecordedChangesError
from ocspd.certdb.mysql_dsn import parse_mysql_source
from ocspd.clock import SystemClock
from ocspd.errors import SetupError
from tests.certdb import raw
from tests.certdb.goose import VERSION, goose_up
from tests.certdb.samples import AKI, certificate
from tests.faults.daemon import SETTINGS, Rows, signing
from tests.faults.oracle import Oracle
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocspd.certdb.base import CertDB

CHAIN = make_chain()
SIGNER = CHAIN.signer(clock=SystemClock())
GOOD = 0


@dataclass
class AsFound:
    """The database of an owner, and what a reader may open."""

    config: DBConfig
    reading: DBConfig


@pytest.fixture
async def found(db_config: DBConfig) -> AsyncIterator[AsFound]:
    await goose_up(db_config)
    if db_config.driver == "sqlite3":
        yield AsFound(db_config, DBConfig("sqlite3", f"file:{db_config.data_source}?mode=ro"))
        return
    if db_config.driver == "mysql":
        user = parse_mysql_source(db_config.data_source).database
        await raw.execute(
            db_config,
            f"CREATE USER {user}@localhost",
            f"GRANT SELECT ON {user}.certificates TO {user}@localhost",
            f"GRANT SELECT ON {user}.ocsp_responses TO {user}@localhost",
        )
        yield AsFound(db_config, DBConfig("mysql", db_config.data_source.replace("root@", f"{user}@")))
        await raw.execute(db_config, f"DROP USER {user}@localhost")
        return
    role = db_config.data_source.partition("?")[0].rsplit("/", 1)[-1] + "_reader"
    await raw.execute(
        db_config,
        f'CREATE ROLE "{role}" LOGIN',
        f'GRANT SELECT ON certificates, ocsp_responses TO "{role}"',
    )
    yield AsFound(db_config, DBConfig("postgres", db_config.data_source.replace("postgres:@", f"{role}:@")))
    await raw.execute(db_config, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


@pytest.fixture
async def reader(found: AsFound) -> AsyncIterator[CertDB]:
    async with await open_certdb(found.reading, SystemClock()) as db:
        yield db


async def test_it_can_be_served_from_without_a_right_to_write(found: AsFound, reader: CertDB) -> None:
    rows = Rows(found.config)
    await rows.insert("5", SIGNER.aki)
    await rows.insert("007", SIGNER.aki, "revoked")
    await reader.check()
    assert [row.serial async for chunk in reader.stream_status() for row in chunk] == [5]
    assert [row.serial for row in await reader.find_statuses([5, 7])] == [5, 7]
    assert [rows async for rows in reader.unexpired_ocsp()] == []


@pytest.mark.parametrize("db_config", ["sqlite3", "postgres"], indirect=True)  # MySQL shows nobody
async def test_every_kind_of_change_is_noticed_and_nothing_else(
    found: AsFound, reader: CertDB, caplog: pytest.LogCaptureFixture
) -> None:
    feed = reader.change_feed()
    rows = Rows(found.config)
    cursor = await feed.current_cursor()
    for change in (
        rows.insert("5", AKI),
        rows.says("5", AKI, "revoked"),
        rows.delete("5", AKI),
    ):
        assert await feed.read(cursor, 10) == ([], cursor)
        await change
        with pytest.raises(UnrecordedChangesError):
            await feed.read(cursor, 10)
        cursor = await feed.current_cursor()
    assert await feed.read(cursor, 10) == ([], cursor)
    assert feed.blind == ""
    await feed.wait(0.001)
    await feed.close()
    again = reader.change_feed()
    await again.read(await again.current_cursor(), 10)
    await again.close()
    assert caplog.text.count("Migrations 003 to 005 (ocspd db up") == 1


async def test_after_the_migration_the_triggers_report_and_before_it_again_polling(found: AsFound) -> None:
    async with await open_certdb(found.config, SystemClock()) as db:
        feed = db.change_feed()
        cursor = await feed.current_cursor()
        await migrate.up(db)
        with pytest.raises(CursorLostError):
            await feed.read(cursor, 10)
        await feed.close()
        feed = db.change_feed()
        with pytest.raises(CursorLostError):
            await feed.read(cursor, 10)
        recorded = await feed.current_cursor()
        await db.insert_certificate(certificate(1))
        assert [change.serial for change in (await feed.read(recorded, 10))[0]] == [1]
        await feed.close()
        while await migrate.current_version(db) > VERSION:
            await migrate.down(db)
        feed = db.change_feed()
        with pytest.raises(CursorLostError):
            await feed.read(recorded, 10)
        cursor = await feed.current_cursor()
        assert await feed.read(cursor, 10) == ([], cursor)
        await feed.close()


async def test_version_1_is_not_enough(db_config: DBConfig) -> None:
    await goose_up(db_config)
    async with await open_certdb(db_config, SystemClock()) as db:
        await migrate.down(db)
        with pytest.raises(SetupError, match=r"version 1.*ocspd db up"):
            await db.check()


async def test_a_signer_answers_what_others_write_into_it(
    found: AsFound, reader: CertDB, tmp_path: Path
) -> None:
    rows = Rows(found.config)
    oracle = Oracle([CHAIN.ca], 20.0)
    for serial in (5, 6, 7):
        await rows.insert(str(serial), SIGNER.aki)
        oracle.committed(0, serial, ["good"])
    async with signing(reader, tmp_path / "index", SIGNER, oracle=oracle, settings=SETTINGS) as signer:
        assert [signer.status(serial) for serial in (5, 6, 7)] == [GOOD] * 3
        with oracle.committing(0, 5, ["revoked"]):
            await rows.says("5", SIGNER.aki, "revoked")
        await signer.until(lambda: not oracle.unanswered(), "a revocation")
        with oracle.committing(0, 6, []):
            await rows.delete("6", SIGNER.aki)
        with oracle.committing(0, 8, ["good"]):
            await rows.insert("8", SIGNER.aki)
        await signer.until(lambda: not oracle.unanswered(), "a deletion and a new certificate")
        await signer.until(lambda: signer.status(8) == GOOD, "the new certificate")
        assert all(map(signer.refresher.stats.health.up, ("feed", "database")))
    rows_left = Rows(found.config)
    await rows_left.says("7", SIGNER.aki, "revoked")
    oracle.committed(0, 7, ["revoked"])
    async with signing(reader, tmp_path / "index", SIGNER, oracle=oracle, settings=SETTINGS) as signer:
        await signer.until(lambda: signer.status(7) != GOOD, "what happened while it was away")
