"""D2, D4, D5, D7 and D12 for the change feed, on SQLite and PostgreSQL."""
# ruff: noqa: ASYNC221, ASYNC240  (files of a test are small)

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from ocspd.authority.api.api_response import HTTPStatusError
from ocspd.authority.api.status import StatusEndpoints
from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.certdb.feed import CursorLostError
from ocspd.certdb.feed_postgres import PostgresFeed
from ocspd.certdb.postgres_connection import Database
from ocspd.clock import SystemClock
from ocspd.errors import CodedError
from ocspd.model import CertStatus
from tests.certdb import raw
from tests.certdb.samples import AKI, certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocspd.certdb.base import CertDB
    from ocspd.certdb.feed import ChangeFeed, Cursor

MANY = 20_000
INSERT = (
    "INSERT INTO certificates "
    "(serial_number, authority_key_identifier, status, reason, revoked_at, expiry, pem) "
)


_REVOKE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("UPDATE certificates SET status = 'revoked' WHERE serial_number = '1'")
"""


@pytest.fixture
async def feed(certdb: CertDB) -> AsyncIterator[ChangeFeed]:
    feed = certdb.change_feed()
    yield feed
    await feed.close()


@pytest.fixture
async def sqlite_config(tmp_path: Path) -> DBConfig:
    config = DBConfig("sqlite3", str(tmp_path / "certs.db"))
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        await db.insert_certificate(certificate(1))
    return config


async def fill(config: DBConfig, status: str) -> None:
    series = "generate_series(1000, {})" if config.driver == "postgres" else None
    if series:
        await raw.execute(
            config,
            INSERT + f"SELECT convert_to(n::text, 'UTF8'), '{AKI}', '{status}', 0, now(), '2100-01-01', '' "
            f"FROM {series.format(999 + MANY)} AS n",
        )
        return
    with closing(sqlite3.connect(config.data_source)) as connection, connection:
        connection.executemany(
            INSERT + f"VALUES (?, '{AKI}', '{status}', 0, NULL, '2100-01-01 00:00:00+00:00', '')",
            [(str(n),) for n in range(1000, 1000 + MANY)],
        )


async def everything(feed: ChangeFeed, cursor: Cursor, limit: int = 5000) -> tuple[dict[int, int], Cursor]:
    """Read to the end: how often each serial was reported."""
    seen: dict[int, int] = {}
    while True:
        changes, cursor = await feed.read(json.loads(json.dumps(cursor)), limit)
        if not changes:
            return seen, cursor
        for change in changes:
            seen[change.serial] = seen.get(change.serial, 0) + 1


@pytest.mark.parametrize("backlog", ["good", "revoked"])
async def test_D4_a_new_revocation_comes_with_the_next_page_whatever_waits(
    certdb: CertDB, feed: ChangeFeed, migrated_db_config: DBConfig, backlog: str
) -> None:
    await certdb.insert_certificate(certificate(1))
    cursor = await feed.current_cursor()
    await fill(migrated_db_config, backlog)
    changes, cursor = await feed.read(cursor, 100)
    assert len(changes) == 100
    await certdb.revoke_certificate(1, AKI, 1)
    changes, cursor = await feed.read(cursor, 100)
    assert changes[0].serial == 1
    assert changes[0].row is not None
    assert changes[0].row.status is CertStatus.REVOKED
    seen, _ = await everything(feed, cursor)
    assert len(seen.keys() - {1}) >= MANY - 200  # and nothing of the backlog is skipped


async def test_D4_a_revocation_inside_the_backlog_comes_before_it(
    certdb: CertDB, feed: ChangeFeed, migrated_db_config: DBConfig
) -> None:
    await certdb.insert_certificate(certificate(1))
    cursor = await feed.current_cursor()
    await fill(migrated_db_config, "good")
    await certdb.revoke_certificate(1, AKI, 1)
    await raw.execute(migrated_db_config, "DELETE FROM certificates WHERE serial_number = '1500'")
    changes, cursor = await feed.read(cursor, 10)
    assert [(change.serial, change.row is None) for change in changes[:2]] == [(1, False), (1500, True)]
    assert changes[1].expiry is not None
    seen, _ = await everything(feed, cursor)
    assert len(seen) >= MANY - 10


async def test_D4_more_windows_than_a_cursor_keeps_lose_nothing(
    certdb: CertDB, feed: ChangeFeed, migrated_db_config: DBConfig
) -> None:
    cursor = await feed.current_cursor()
    expected, seen = set(), set()
    for round_ in range(40):
        for serial in range(10 * round_, 10 * round_ + 10):
            await certdb.insert_certificate(certificate(serial))
            expected.add(serial)
        changes, cursor = await feed.read(cursor, 3)
        seen |= {change.serial for change in changes}
    assert len(json.dumps(cursor)) < 10_000
    rest, _ = await everything(feed, cursor, 7)
    assert seen | rest.keys() == expected


@pytest.mark.parametrize(
    ("column", "value", "status"),
    [
        ("status", "'GOOD'", CertStatus.UNKNOWN),
        ("status", "'unknown'", CertStatus.UNKNOWN),
        ("expiry", "NULL", CertStatus.UNKNOWN),
        ("expiry", "'20000-01-01 00:00:00+00:00'", CertStatus.GOOD),
        ("revoked_at", "'0001-01-01 00:00:00+08:00'", CertStatus.GOOD),
        ("revoked_at", "'9999-12-31 23:59:59.999999+00:00'", CertStatus.GOOD),
        ("reason", "-2147483648", CertStatus.GOOD),
    ],
)
async def test_D5_a_row_with_any_value_is_reported_and_stops_nothing(  # noqa: PLR0917
    certdb: CertDB,
    feed: ChangeFeed,
    migrated_db_config: DBConfig,
    column: str,
    value: str,
    status: CertStatus,
) -> None:
    for serial in (1, 2, 3):
        await certdb.insert_certificate(certificate(serial))
    cursor = await feed.current_cursor()
    await raw.execute(
        migrated_db_config,
        f"UPDATE certificates SET {column} = {value} WHERE serial_number = '1'",
        "UPDATE certificates SET status = 'revoked', reason = 1 WHERE serial_number = '2'",
        "UPDATE certificates SET serial_number = 'three' WHERE serial_number = '3'",
    )
    if column != "status":
        changes, _ = await feed.read(cursor, 100)
        assert {c.serial: c.row and c.row.status for c in changes}.get(1, status) == status
        await raw.execute(
            migrated_db_config, "UPDATE certificates SET status = 'revoked' WHERE serial_number = '1'"
        )
        status = CertStatus.REVOKED
    changes, cursor = await feed.read(cursor, 100)
    assert {c.serial: c.row and c.row.status for c in changes} == {1: status, 2: CertStatus.REVOKED, 3: None}
    assert (await feed.read(cursor, 100))[0] == []


async def test_D5_pages_of_nothing_readable_do_not_look_like_the_end(
    certdb: CertDB, feed: ChangeFeed, migrated_db_config: DBConfig, caplog: pytest.LogCaptureFixture
) -> None:
    cursor = await feed.current_cursor()
    for number in range(30):
        await raw.execute(
            migrated_db_config,
            INSERT + f"VALUES ('no {number}', 'aa', 'good', 0, NULL, '2100-01-01 00:00:00+00:00', '')",
        )
    await certdb.insert_certificate(certificate(1))
    changes, _ = await feed.read(cursor, 4)
    assert [change.serial for change in changes] == [1]
    assert "'no 7'" in caplog.text


@pytest.mark.parametrize("value", ["7", "7.5", "x'37'", "'7' || char(0)", "zeroblob(100000)", "''", "-7"])
@pytest.mark.parametrize(
    "column",
    ["serial_number", "authority_key_identifier", "status", "reason", "revoked_at", "expiry", "metadata"],
)
async def test_D5_no_type_in_any_column_of_sqlite_stops_the_feed(
    sqlite_config: DBConfig, column: str, value: str
) -> None:
    async with await open_certdb(sqlite_config, SystemClock()) as db:
        await db.insert_certificate(certificate(2))
        feed = db.change_feed()
        cursor = await feed.current_cursor()
        await raw.execute(
            sqlite_config, f"UPDATE certificates SET {column} = {value} WHERE serial_number = '1'"
        )
        await db.revoke_certificate(2, AKI, 1)
        changes, cursor = await feed.read(cursor, 100)
        assert 2 in {change.serial for change in changes}
        assert (await feed.read(cursor, 100))[0] == []
        async for _ in db.stream_status():
            pass
        async for _ in db.stream_odd():
            pass
        assert [row.serial for row in await db.find_statuses([2])] == [2]
        await feed.close()


async def test_D7_a_file_put_in_its_place_loses_the_cursor_and_is_followed_then(
    sqlite_config: DBConfig, tmp_path: Path
) -> None:
    path, copy = Path(sqlite_config.data_source), tmp_path / "backup.db"
    async with await open_certdb(sqlite_config, SystemClock()) as db:
        feed = db.change_feed()
        await feed.wait(1)
        cursor = await feed.current_cursor()
        shutil.copy(path, copy)
        waiting = asyncio.create_task(feed.wait(30))
        await asyncio.sleep(0)
        copy.replace(path)
        await waiting  # noticed, not after 30 s
        with pytest.raises(CursorLostError):
            await feed.read(cursor, 10)
        cursor = await feed.current_cursor()
        await raw.execute(sqlite_config, "UPDATE certificates SET status = 'revoked'")
        (change,), _ = await feed.read(cursor, 10)
        assert change.row is not None
        assert change.row.status is CertStatus.REVOKED
        await feed.close()


async def test_D7_an_older_copy_written_over_the_file_loses_the_cursor(
    sqlite_config: DBConfig, tmp_path: Path
) -> None:
    path, copy = Path(sqlite_config.data_source), tmp_path / "backup.db"
    async with await open_certdb(sqlite_config, SystemClock()) as db:
        feed = db.change_feed()
        shutil.copy(path, copy)
        await db.insert_certificate(certificate(2))
        cursor = await feed.current_cursor()
        await feed.close()
    path.write_bytes(copy.read_bytes())  # the same inode
    async with await open_certdb(sqlite_config, SystemClock()) as db:
        feed = db.change_feed()
        await asyncio.sleep(0.01)
        await db.insert_certificate(certificate(3))  # the id of the entry that is gone
        with pytest.raises(CursorLostError, match="restored"):
            await feed.read(cursor, 10)
        await feed.close()


async def test_D7_a_removed_file_is_an_error_until_it_is_there_again(sqlite_config: DBConfig) -> None:
    path = Path(sqlite_config.data_source)
    async with await open_certdb(sqlite_config, SystemClock()) as db:
        feed = db.change_feed()
        cursor = await feed.current_cursor()
        await feed.wait(1)
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(CodedError, match="does not exist"):
            await feed.wait(5)
        with pytest.raises(CodedError, match="does not exist"):
            await feed.read(cursor, 10)
        path.write_bytes(content)
        await feed.wait(5)
        assert (await feed.read(await feed.current_cursor(), 10))[0] == []
        await feed.close()


async def test_D7_a_removed_write_ahead_log_is_noticed_and_later_changes_are_seen(
    sqlite_config: DBConfig,
) -> None:
    path = Path(sqlite_config.data_source)
    await raw.execute(sqlite_config, "PRAGMA journal_mode = WAL")
    async with await open_certdb(sqlite_config, SystemClock()) as db:
        feed = db.change_feed()
        cursor = await feed.current_cursor()
        await feed.wait(1)
        await db.insert_certificate(certificate(2))
        _, cursor = await everything(feed, cursor)
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink()
        # another process, as connections of one share what SQLite knows of the file
        subprocess.run(
            [sys.executable, "-c", _REVOKE, str(path)], check=True, capture_output=True, timeout=60
        )
        try:
            changes, _ = await feed.read(cursor, 10)
        except CursorLostError:
            changes = []
            assert [row.status for row in await db.find_statuses([1])] == [CertStatus.REVOKED]
        else:
            assert 1 in {change.serial for change in changes}
        await feed.close()
    assert await raw.fetch(sqlite_config, "SELECT status FROM certificates WHERE serial_number = '1'") in (
        [("revoked",)],
        [(b"revoked",)],
    )


async def test_D12_writers_wait_for_a_batch_only_while_a_long_feed_is_trimmed(
    sqlite_config: DBConfig,
) -> None:
    with closing(sqlite3.connect(sqlite_config.data_source)) as connection, connection:
        connection.executemany(
            "INSERT INTO ocspd_changes (serial_number, authority_key_identifier, changed_at) "
            "VALUES (?, 'a', ?)",
            [(str(n), "2020-01-01 00:00:00.000") for n in range(100_000)],
        )
    async with await open_certdb(sqlite_config, SystemClock()) as db:
        feed = db.change_feed()
        cursor = await feed.current_cursor()
        trimming = asyncio.create_task(feed.trim(cursor, timedelta(days=1)))
        writes = 0
        while not trimming.done():
            await raw.execute(sqlite_config, "UPDATE certificates SET status = 'revoked'")
            writes += 1
            await asyncio.sleep(0.02)  # SQLite's lock is not handed out in turn
        assert await trimming == 100_000
        assert writes > 5  # in one transaction there would be one or two
        await feed.close()


# --- PostgreSQL -----------------------------------------------------------------------------------


@pytest.fixture
async def postgres_db(postgres_url: str) -> AsyncIterator[CertDB]:
    async with await open_certdb(DBConfig("postgres", postgres_url), SystemClock()) as db:
        await migrate.up(db)
        await db.insert_certificate(certificate(1))
        yield db


async def test_D2_a_locked_table_is_an_error_in_time_and_read_when_it_is_free(
    postgres_db: CertDB, postgres_url: str
) -> None:
    feed = postgres_db.change_feed()
    cursor = await feed.current_cursor()
    _, cursor = await feed.read(cursor, 10)  # nothing has changed since: it is noticed all the same
    locker = await asyncpg.connect(postgres_url)
    transaction = locker.transaction()
    await transaction.start()
    await locker.execute("LOCK TABLE certificates IN ACCESS EXCLUSIVE MODE")
    begun = time.monotonic()
    with pytest.raises(CodedError, match="does not respond"):
        await feed.read(cursor, 10)
    assert time.monotonic() - begun < 30  # 8 s on an idle machine
    await transaction.rollback()
    await locker.close()
    await postgres_db.revoke_certificate(1, AKI, 1)
    (change,), _ = await feed.read(cursor, 10)
    assert change.serial == 1
    await feed.close()


async def test_D2_a_server_that_says_nothing_is_an_error_in_time(postgres_url: str) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    source = f"host=127.0.0.1 port={port} user=x dbname=x sslmode=disable connect_timeout=1"
    feed = PostgresFeed(Database.of(source))
    with pytest.raises(CodedError, match="does not respond"):
        await feed.current_cursor()
    await feed.close()
    server.close()


async def test_D11_any_exception_of_a_driver_is_an_error_of_the_database(postgres_url: str) -> None:
    database = Database.of(postgres_url)
    for error in (
        asyncpg.InternalClientError("got result for unknown protocol state"),
        ValueError("x"),
        EOFError(),
    ):
        with pytest.raises(CodedError), database.errors():
            raise error
    await database.close()


async def test_D12_truncate_beside_an_open_transaction_loses_a_cursor_once(
    postgres_db: CertDB, postgres_url: str
) -> None:
    feed = postgres_db.change_feed()
    old = await feed.current_cursor()
    slow = await asyncpg.connect(postgres_url)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute("CREATE TABLE something (a int)")  # has a number, and keeps every snapshot's xmin back
    await raw.execute(DBConfig("postgres", postgres_url), "TRUNCATE certificates CASCADE")
    with pytest.raises(CursorLostError):
        await feed.read(old, 10)
    cursor = await feed.current_cursor()
    for _ in range(3):
        changes, cursor = await feed.read(cursor, 10)
        assert changes == []
    await transaction.rollback()
    await slow.close()
    await feed.close()


async def test_D12_changes_of_a_replication_session_are_noted(postgres_db: CertDB, postgres_url: str) -> None:
    feed = postgres_db.change_feed()
    cursor = await feed.current_cursor()
    session = await asyncpg.connect(postgres_url)
    await session.execute("SET session_replication_role = replica")
    await session.execute("UPDATE certificates SET status = 'revoked'")
    await session.close()
    (change,), _ = await feed.read(cursor, 10)
    assert change.serial == 1
    await feed.close()


async def test_a_dump_restored_on_another_server_does_not_lose_every_cursor(
    postgres_db: CertDB, postgres_url: str
) -> None:
    config = DBConfig("postgres", postgres_url)
    await raw.execute(
        config,
        "UPDATE ocspd_feed SET trimmed = '900000000000', truncated = '900000000000'",
        "INSERT INTO ocspd_changes (xid, serial_number, authority_key_identifier, changed_at) "
        "VALUES ('900000000001', '1', 'a', '2020-01-01')",
    )
    feed = postgres_db.change_feed()
    cursor = await feed.current_cursor()
    assert (await feed.read(cursor, 10))[0] == []
    assert await feed.trim(cursor, timedelta(days=1)) == 1
    await feed.close()


async def test_a_cursor_from_before_migration_4_goes_on(postgres_db: CertDB) -> None:
    feed = postgres_db.change_feed()
    new = await feed.current_cursor()
    old: Cursor = {"source": new["source"], "seen": new["rest"]["seen"]}
    await postgres_db.revoke_certificate(1, AKI, 1)
    changes, cursor = await feed.read(old, 10)
    assert [change.serial for change in changes] == [1]
    paged = old | {"upto": cursor["rest"]["seen"], "xid": "0", "id": 0}
    assert [change.serial for change in (await feed.read(paged, 10))[0]] == [1]
    await feed.close()


async def test_D12_what_happens_while_triggers_are_off_is_found_when_they_are_on_again(
    postgres_db: CertDB, postgres_url: str
) -> None:
    feed = postgres_db.change_feed()
    config = DBConfig("postgres", postgres_url)
    try:
        cursor = await feed.current_cursor()
        # as pg_restore --data-only --disable-triggers has it, beside one that nobody enables again
        await raw.execute(config, "ALTER TABLE certificates DISABLE TRIGGER ALL")
        with pytest.raises(CursorLostError, match="triggers were off"):
            await feed.read(cursor, 10)
        off = await feed.current_cursor()
        assert await feed.read(off, 10) == ([], off)
        assert "ocspd_delete, ocspd_insert, ocspd_truncate, ocspd_update" in feed.blind
        await raw.execute(config, "ALTER TABLE certificates ENABLE TRIGGER ALL")
        with pytest.raises(CursorLostError, match="triggers were off"):
            await feed.read(off, 10)
        on = await feed.current_cursor()
        await raw.execute(
            config,
            "BEGIN; ALTER TABLE certificates DISABLE TRIGGER ocspd_update; "
            "UPDATE certificates SET status = 'revoked'; "
            "ALTER TABLE certificates ENABLE ALWAYS TRIGGER ocspd_update; COMMIT",
        )
        with pytest.raises(CursorLostError, match="triggers were off"):
            await feed.read(on, 10)
        assert feed.blind == ""
    finally:
        await feed.close()


async def test_health_of_the_authority_says_that_its_database_is_away(
    sqlite_config: DBConfig, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(sqlite_config.data_source)
    async with await open_certdb(sqlite_config, SystemClock()) as db:
        endpoints = StatusEndpoints(SystemClock(), db=db)
        assert (await endpoints.health(b"")).result == {"healthy": True}
        away = path.rename(path.with_suffix(".away"))
        for _ in range(2):
            with pytest.raises(HTTPStatusError, match="is unavailable") as caught:
                await endpoints.health(b"")
            assert caught.value.status == HTTPStatus.SERVICE_UNAVAILABLE
        assert caplog.text.count("/health fails until it works again") == 1
        away.rename(path)
        assert (await endpoints.health(b"")).result == {"healthy": True}
