from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.certdb.feed import CursorLostError
from ocspd.certdb.feed_postgres import PostgresFeed
from ocspd.certdb.feed_sqlite import SQLiteFeed
from ocspd.certdb.postgres_connection import Database
from ocspd.certdb.sqlite_connection import Location, Worker
from ocspd.clock import SystemClock
from ocspd.errors import CodedError
from ocspd.model import CertStatus
from tests.certdb import raw
from tests.certdb.samples import AKI, certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocspd.certdb.base import CertDB
    from ocspd.certdb.feed import ChangeFeed, Cursor

FOREVER = timedelta(days=365)


@pytest.fixture
async def feed(certdb: CertDB) -> AsyncIterator[ChangeFeed]:
    feed = certdb.change_feed()
    yield feed
    await feed.close()


async def words(feed: ChangeFeed, cursor: Cursor, limit: int = 100) -> tuple[dict[int, str], Cursor]:
    """Read one page: serial to status word, "gone" for deleted certificates."""
    changes, cursor = await feed.read(cursor, limit)
    assert len({(change.serial, change.aki) for change in changes}) == len(changes)
    cursor = json.loads(json.dumps(cursor))  # a signer keeps it in a file
    return {change.serial: change.row.status.word if change.row else "gone" for change in changes}, cursor


async def test_nothing_has_changed_at_first(certdb: CertDB, feed: ChangeFeed) -> None:
    await certdb.insert_certificate(certificate(1))
    cursor = await feed.current_cursor()
    assert (await words(feed, cursor))[0] == {}


async def test_inserts_revocations_and_deletions_are_reported_once_in_their_present_state(
    certdb: CertDB, feed: ChangeFeed, migrated_db_config: DBConfig
) -> None:
    await certdb.insert_certificate(certificate(1))
    cursor = await feed.current_cursor()
    for serial in (2, 3, 4):
        await certdb.insert_certificate(certificate(serial))
    await certdb.revoke_certificate(1, AKI, 5)
    await certdb.revoke_certificate(2, AKI, 1)
    await raw.execute(migrated_db_config, "DELETE FROM certificates WHERE serial_number = '3'")
    found, cursor = await words(feed, cursor)
    assert found == {1: "revoked", 2: "revoked", 3: "gone", 4: "good"}
    assert (await words(feed, cursor))[0] == {}
    await certdb.revoke_certificate(1, AKI, 0)
    assert (await words(feed, cursor))[0] == {1: "revoked"}


async def test_a_change_carries_the_whole_status_and_its_time(certdb: CertDB, feed: ChangeFeed) -> None:
    row = certificate(2**159 - 1)
    await certdb.insert_certificate(row)
    cursor = await feed.current_cursor()
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    await certdb.revoke_certificate(row.serial, AKI, 4)
    after = datetime.now(UTC) + timedelta(milliseconds=1)
    (change,), _ = await feed.read(cursor, 10)
    assert (change.serial, change.aki) == (row.serial, AKI)
    assert before <= change.changed_at <= after
    assert change.row is not None
    assert (change.row.serial, change.row.aki, change.row.expiry) == (row.serial, AKI, row.expiry)
    assert (change.row.status, change.row.reason) == (CertStatus.REVOKED, 4)
    assert change.row.revoked_at is not None
    assert before - timedelta(seconds=1) <= change.row.revoked_at <= after


async def test_other_columns_do_not_matter_and_a_new_key_is_both_gone_and_there(
    certdb: CertDB, feed: ChangeFeed, migrated_db_config: DBConfig
) -> None:
    await certdb.insert_certificate(certificate(1))
    cursor = await feed.current_cursor()
    await raw.execute(migrated_db_config, "UPDATE certificates SET common_name = 'x', ca_label = 'y'")
    assert (await words(feed, cursor))[0] == {}
    await raw.execute(migrated_db_config, "UPDATE certificates SET serial_number = '2'")
    assert (await words(feed, cursor))[0] == {1: "gone", 2: "good"}


async def test_a_change_that_is_rolled_back_is_not_reported(
    certdb: CertDB, feed: ChangeFeed, migrated_db_config: DBConfig
) -> None:
    await certdb.insert_certificate(certificate(1))
    cursor = await feed.current_cursor()
    with pytest.raises(CodedError):
        await certdb.insert_certificate(certificate(1))
    assert (await words(feed, cursor))[0] == {}


async def test_many_changes_come_in_pages_without_gaps(certdb: CertDB, feed: ChangeFeed) -> None:
    cursor = await feed.current_cursor()
    for serial in range(10):
        await certdb.insert_certificate(certificate(serial))
    seen: list[int] = []
    sizes = []
    while True:
        found, cursor = await words(feed, cursor, 4)
        if not found:
            break
        sizes.append(len(found))
        seen += found
        if len(sizes) == 1:  # a change between two pages is not lost either
            await certdb.revoke_certificate(0, AKI, 1)
    assert sizes[:2] == [4, 4]
    assert set(seen) == set(range(10))
    assert seen.count(0) == 2
    assert seen.index(0, 4) < 8  # and comes before what was waiting


async def test_trimming_keeps_what_no_cursor_has_read_and_what_is_young(
    certdb: CertDB, feed: ChangeFeed
) -> None:
    start = await feed.current_cursor()
    await certdb.insert_certificate(certificate(1))
    _, middle = await words(feed, start)
    await certdb.insert_certificate(certificate(2))
    assert await feed.trim(middle, timedelta(days=1)) == 0
    assert await feed.trim(start, timedelta()) == 0
    assert await feed.trim(middle, timedelta()) == 1
    assert (await words(feed, middle))[0] == {2: "good"}


async def test_a_cursor_older_than_what_was_trimmed_is_lost(certdb: CertDB, feed: ChangeFeed) -> None:
    start = await feed.current_cursor()
    await certdb.insert_certificate(certificate(1))
    _, cursor = await words(feed, start)
    await feed.trim(cursor, timedelta())
    with pytest.raises(CursorLostError):
        await feed.read(start, 10)
    assert (await words(feed, await feed.current_cursor()))[0] == {}


@pytest.mark.parametrize(
    "change",
    [
        {"source": "another"},
        {"rest": [10**9]},
        {"urgent": [0, [10**9]]},
        {"rest": {"seen": "1000000000:1000000000:", "later": []}},
        {"rest": {"seen": "1:1:"}},
        {"urgent": "nonsense", "seen": "nonsense"},
        {"urgent": None},
    ],
)
async def test_a_cursor_of_another_database_is_lost(feed: ChangeFeed, change: Cursor) -> None:
    cursor = await feed.current_cursor() | change
    with pytest.raises(CursorLostError):
        await feed.read(cursor, 10)


async def test_waiting_ends_at_a_change_by_somebody_else(certdb: CertDB, feed: ChangeFeed) -> None:
    await feed.wait(1)
    await feed.wait(0.2)
    cursor = await feed.current_cursor()
    started = time.monotonic()
    waiting = asyncio.create_task(feed.wait(30))
    await asyncio.sleep(0)
    await certdb.insert_certificate(certificate(1))
    await waiting
    assert time.monotonic() - started < 25  # woken, not timed out
    assert (await words(feed, cursor))[0] == {1: "good"}


async def test_waiting_ends_at_the_timeout(feed: ChangeFeed) -> None:
    await feed.wait(1)
    await feed.wait(0.01)
    await feed.wait(0.01)


# --- SQLite ---------------------------------------------------------------------------------------


async def test_sqlite_is_looked_at_in_the_interval_given_and_no_longer_than_asked(
    tmp_path_config: DBConfig,
) -> None:
    now = 0.0
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        naps.append(seconds)
        now += seconds

    location = Location(tmp_path_config.data_source)
    reader = Worker(location)
    feed = SQLiteFeed(
        reader, Worker(location), Worker(location), poll_s=0.4, sleep=sleep, monotonic=lambda: now
    )
    await feed.wait(1)  # the first call returns at once
    assert naps == []
    await feed.wait(1)
    assert naps == pytest.approx([0.4, 0.4, 0.2])
    await feed.close()
    await reader.close()


async def test_a_database_in_memory_has_a_feed_too() -> None:
    async with await open_certdb(DBConfig("sqlite3", ":memory:"), SystemClock()) as db:
        await migrate.up(db)
        feed = db.change_feed()
        cursor = await feed.current_cursor()
        await feed.wait(1)
        await db.insert_certificate(certificate(1))
        await feed.wait(30)
        assert (await words(feed, cursor))[0] == {1: "good"}
        await feed.close()
        assert len(await db.find_certificates(1)) == 1


@pytest.fixture
async def tmp_path_config(tmp_path_factory: pytest.TempPathFactory) -> DBConfig:
    config = DBConfig("sqlite3", str(tmp_path_factory.mktemp("db") / "certs.db"))
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
    return config


# --- PostgreSQL -----------------------------------------------------------------------------------

INSERT = "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem, expiry) VALUES "


@pytest.fixture
async def postgres_db(postgres_url: str) -> AsyncIterator[CertDB]:
    async with await open_certdb(DBConfig("postgres", postgres_url), SystemClock()) as db:
        await migrate.up(db)
        yield db


async def test_a_transaction_that_commits_after_a_later_one_is_not_missed(
    postgres_db: CertDB, postgres_url: str
) -> None:
    feed = postgres_db.change_feed()
    cursor = await feed.current_cursor()
    slow = await asyncpg.connect(postgres_url)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute(f"{INSERT} ('1', 'aa', 'good', '', '2100-01-01')")  # lower xid and lower id
    await postgres_db.insert_certificate(certificate(2))
    # the later one is reported at once, the earlier one when it commits, neither twice
    found, cursor = await words(feed, cursor)
    assert found == {2: "good"}
    found, cursor = await words(feed, cursor)
    assert found == {}
    await transaction.commit()
    await slow.close()
    found, cursor = await words(feed, cursor)
    assert found == {1: "good"}
    assert (await words(feed, cursor))[0] == {}
    await feed.close()


async def test_overlapping_transactions_are_not_missed_between_pages_either(
    postgres_db: CertDB, postgres_url: str
) -> None:
    feed = postgres_db.change_feed()
    cursor = await feed.current_cursor()
    slow = await asyncpg.connect(postgres_url)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute(f"{INSERT} ('1', 'aa', 'good', '', '2100-01-01')")
    for serial in (2, 3, 4):
        await postgres_db.insert_certificate(certificate(serial))
    first, cursor = await words(feed, cursor, 2)
    await transaction.commit()
    await slow.close()
    rest: list[int] = []
    while True:
        found, cursor = await words(feed, cursor, 2)
        if not found:
            break
        rest += found
    assert (list(first), sorted(rest)) == ([2, 3], [1, 4])
    await feed.close()


async def test_a_page_of_a_large_transaction_reads_no_more_than_its_own_entries(
    postgres_db: CertDB, postgres_url: str
) -> None:
    """The planner has no statistics of rows that one import has just brought."""
    outside = await asyncpg.connect(postgres_url)
    await outside.execute("ALTER TABLE ocspd_changes SET (autovacuum_enabled = off)")
    feed = postgres_db.change_feed()
    cursor = await feed.current_cursor()
    await outside.execute(
        "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem, expiry) "
        "SELECT convert_to(n::text, 'UTF8'), 'aa', 'good', '', '2100-01-01' FROM generate_series(1, 50000) n"
    )
    for _ in range(3):
        changes, cursor = await feed.read(cursor, 100)
        assert len(changes) == 100
    await feed.close()
    read = 0
    while not read:  # PostgreSQL publishes the counts of a connection when it ends, or later
        read = await outside.fetchval(
            "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables WHERE relname = 'ocspd_changes'"
        )
    assert read <= 1000
    await outside.close()


async def test_an_open_writer_keeps_trimming_from_what_it_overlaps(
    postgres_db: CertDB, postgres_url: str
) -> None:
    feed = postgres_db.change_feed()
    slow = await asyncpg.connect(postgres_url)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute(f"{INSERT} ('1', 'aa', 'good', '', '2100-01-01')")
    await postgres_db.insert_certificate(certificate(2))
    cursor = await feed.current_cursor()
    assert await feed.trim(cursor, timedelta()) == 0
    await transaction.commit()
    await slow.close()
    assert (await words(feed, cursor))[0] == {1: "good"}
    await feed.close()


async def test_a_truncated_table_loses_every_cursor(postgres_db: CertDB, postgres_url: str) -> None:
    feed = postgres_db.change_feed()
    cursor = await feed.current_cursor()
    await raw.execute(DBConfig("postgres", postgres_url), "TRUNCATE certificates CASCADE")
    with pytest.raises(CursorLostError):
        await feed.read(cursor, 10)
    assert (await words(feed, await feed.current_cursor()))[0] == {}
    await feed.close()


async def test_a_killed_connection_is_replaced_and_nothing_is_missed(
    postgres_db: CertDB, postgres_url: str
) -> None:
    feed = postgres_db.change_feed()
    cursor = await feed.current_cursor()
    await feed.wait(5)
    killer = await asyncpg.connect(postgres_url)
    waiting = asyncio.create_task(feed.wait(30))
    await asyncio.sleep(0)
    killed = await killer.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert len(killed) >= 2  # the listener and the pool's
    await waiting  # returns because the connection is lost, not after 30 s
    await killer.execute(f"{INSERT} ('7', 'aa', 'good', '', '2100-01-01')")
    await feed.wait(30)  # connects again
    found, cursor = await words(feed, cursor)
    assert found == {7: "good"}
    waiting = asyncio.create_task(feed.wait(30))
    await killer.execute("UPDATE certificates SET status = 'revoked', reason = 1, revoked_at = now()")
    await waiting
    assert (await words(feed, cursor))[0] == {7: "revoked"}
    await killer.close()
    await feed.close()


async def test_connecting_may_take_longer_than_one_wait(postgres_url: str) -> None:
    feed = PostgresFeed(Database.of(postgres_url))
    while feed._listener is None:
        await feed.wait(0.0001)
    await feed.close()
    await feed.wait(0.0001)
    await feed.close()


async def test_a_server_that_is_away_makes_waiting_return_without_an_error(
    postgres_db: CertDB, caplog: pytest.LogCaptureFixture
) -> None:
    async with await open_certdb(
        DBConfig("postgres", "host=127.0.0.1 port=1 sslmode=disable"), SystemClock()
    ) as db:
        feed = db.change_feed()
        await feed.wait(0.01)
        await feed.close()
    assert "cannot be reached" in caplog.text


async def test_a_writer_without_rights_on_our_tables_is_noticed(
    postgres_db: CertDB, postgres_url: str
) -> None:
    role = postgres_url.partition("?")[0].rsplit("/", 1)[-1] + "_writer"
    config = DBConfig("postgres", postgres_url)
    await raw.execute(
        config,
        f'CREATE ROLE "{role}"',
        f'GRANT SELECT, INSERT, UPDATE ON certificates, ocsp_responses TO "{role}"',
    )
    feed = postgres_db.change_feed()
    cursor = await feed.current_cursor()
    writer = await asyncpg.connect(postgres_url)
    await writer.execute(f'SET ROLE "{role}"; SET search_path = pg_catalog')
    await writer.execute(
        INSERT.replace("certificates", "public.certificates") + "('1', '', 'good', '', '2100-01-01')"
    )
    await writer.close()
    assert (await words(feed, cursor))[0] == {1: "good"}
    await feed.close()
    await raw.execute(config, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


async def test_a_reader_need_not_be_superuser(postgres_db: CertDB, postgres_url: str) -> None:
    role = postgres_url.partition("?")[0].rsplit("/", 1)[-1] + "_reader"
    config = DBConfig("postgres", postgres_url)
    tables = "certificates, ocsp_responses, ocspd_changes, ocspd_feed"
    await raw.execute(config, f'CREATE ROLE "{role}" LOGIN', f'GRANT SELECT ON {tables} TO "{role}"')
    restricted = DBConfig("postgres", postgres_url + f"&options=-crole%3D{role}")
    async with await open_certdb(restricted, SystemClock()) as db:
        feed = db.change_feed()
        cursor = await feed.current_cursor()
        await postgres_db.insert_certificate(certificate(1))
        await feed.wait(5)
        assert (await words(feed, cursor))[0] == {1: "good"}
        with pytest.raises(CodedError, match="permission denied"):
            await feed.trim(cursor, FOREVER)
        await feed.close()
    await raw.execute(config, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


async def test_copied_rows_are_noticed(postgres_db: CertDB, postgres_url: str) -> None:
    feed = postgres_db.change_feed()
    cursor = await feed.current_cursor()
    writer = await asyncpg.connect(postgres_url)
    await writer.copy_records_to_table(
        "certificates",
        records=[(str(serial).encode(), b"", b"good", b"") for serial in range(3)],
        columns=["serial_number", "authority_key_identifier", "status", "pem"],
    )
    await writer.execute("UPDATE certificates SET expiry = '2100-01-01'")
    await writer.close()
    assert (await words(feed, cursor))[0] == {0: "good", 1: "good", 2: "good"}
    await feed.close()
