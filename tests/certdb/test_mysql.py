"""What is particular to MySQL and MariaDB: order of commits, rights, room in columns, servers in trouble."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.certdb.feed import CursorLostError, OtherDatabaseError
from ocspd.certdb.mysql_connection import POOL_SIZE, Database
from ocspd.certdb.mysql_dsn import parse_mysql_source
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError, SetupError
from ocspd.model import AnsweredRequest, CertStatus
from tests import mysql
from tests.certdb import raw
from tests.certdb.goose import goose_up
from tests.certdb.samples import AKI, certificate
from tests.faults.daemon import Rows, signing
from tests.faults.oracle import Oracle
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from ocspd.certdb.base import CertDB
    from ocspd.certdb.feed import ChangeFeed, Cursor

INSERT = "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem, expiry) VALUES "
LATER = "2100-01-01"
CHAIN = make_chain()
SIGNER = CHAIN.signer(clock=SystemClock())


@pytest.fixture
async def config(mysql_source: str) -> DBConfig:
    return DBConfig("mysql", mysql_source)


@pytest.fixture
async def db(config: DBConfig) -> AsyncIterator[CertDB]:
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        yield db


@pytest.fixture
async def feed(db: CertDB) -> AsyncIterator[ChangeFeed]:
    feed = db.change_feed()
    yield feed
    await feed.close()


@contextlib.contextmanager
def transaction(config: DBConfig) -> Iterator[Any]:
    """A session of somebody else with a transaction open; rolled back unless it commits."""
    with (
        contextlib.closing(mysql.connect(config.data_source, autocommit=False)) as session,
        session.cursor() as cursor,
    ):
        cursor.execute("BEGIN")
        yield cursor


async def words(feed: ChangeFeed, cursor: Cursor, limit: int = 100) -> tuple[dict[int, str], Cursor]:
    changes, cursor = await feed.read(cursor, limit)
    cursor = json.loads(json.dumps(cursor))  # a signer keeps it in a file
    return {change.serial: change.row.status.word if change.row else "gone" for change in changes}, cursor


def row(serial: int, status: str = "good") -> str:
    return f"{INSERT} ('{serial}', 'aa', '{status}', '', '{LATER}')"


async def test_transactions_are_reported_when_they_commit_in_whatever_order(
    config: DBConfig, feed: ChangeFeed
) -> None:
    cursor = await feed.current_cursor()
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(transaction(config)) for _ in range(6)]
        for number, session in enumerate(sessions):
            session.execute(row(number))
            session.execute(row(100 + number, "revoked"))
        assert (await words(feed, cursor))[0] == {}
        for number in (3, 0, 5, 1):
            sessions[number].execute("COMMIT")
            found, cursor = await words(feed, cursor)
            assert found == {number: "good", 100 + number: "revoked"}
            assert (await words(feed, cursor))[0] == {}
        sessions[2].execute("ROLLBACK")
        await raw.execute(config, row(7))
        found, cursor = await words(feed, cursor)
        assert found == {7: "good"}
        sessions[4].execute("COMMIT")
        found, cursor = await words(feed, cursor)
        assert found == {4: "good", 104: "revoked"}
        sessions[2].execute(row(8))
        sessions[2].execute("COMMIT")
        assert (await words(feed, cursor))[0] == {8: "good"}


async def test_a_cursor_made_while_others_write_misses_nothing_they_commit_later(
    config: DBConfig, feed: ChangeFeed
) -> None:
    with transaction(config) as early:
        early.execute(row(1))
        await raw.execute(config, row(2))
        cursor = await feed.current_cursor()
        await raw.execute(config, row(3))
        found, cursor = await words(feed, cursor, 1)
        assert found == {3: "good"}
        early.execute("COMMIT")
        assert (await words(feed, cursor))[0] == {1: "good"}


async def test_a_transaction_that_stays_open_makes_no_other_writer_wait(
    config: DBConfig, feed: ChangeFeed
) -> None:
    cursor = await feed.current_cursor()
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(transaction(config)) for _ in range(80)]
        for number, session in enumerate(sessions):
            session.execute("SET SESSION innodb_lock_wait_timeout = 1")
            session.execute("SET SESSION pseudo_thread_id = 7")  # as if their numbers met in one slot
            session.execute(row(number))
        for number in range(1000, 1010):
            await raw.execute(config, row(number))
        found, cursor = await words(feed, cursor)
        assert sorted(found) == list(range(1000, 1010))
        for session in reversed(sessions):
            session.execute("COMMIT")
        found, cursor = await words(feed, cursor, 1000)
        assert sorted(found) == list(range(80))


async def test_many_writers_at_once_lose_nothing(config: DBConfig, feed: ChangeFeed) -> None:
    cursor = await feed.current_cursor()
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with (
                contextlib.closing(mysql.connect(config.data_source)) as session,
                session.cursor() as statements,
            ):
                for turn in range(20):
                    serial = number * 1000 + turn
                    statements.execute("BEGIN")
                    statements.execute(row(serial))
                    if turn % 3 == 0:
                        statements.execute("ROLLBACK")
                        continue
                    statements.execute("COMMIT")
                    if turn % 2:
                        statements.execute(
                            f"UPDATE certificates SET status = 'revoked' WHERE serial_number = '{serial}'"
                        )
        except BaseException as err:  # noqa: BLE001
            failures.append(err)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    found: dict[int, str] = {}
    while any(thread.is_alive() for thread in threads):
        some, cursor = await words(feed, cursor, 7)
        found |= some
        await asyncio.sleep(0)
    while True:
        some, cursor = await words(feed, cursor, 7)
        if not some:
            break
        found |= some
    assert failures == []
    assert found == {
        number * 1000 + turn: "revoked" if turn % 2 else "good"
        for number in range(8)
        for turn in range(20)
        if turn % 3
    }


@pytest.mark.parametrize(
    "lost",
    [
        "DELETE FROM ocspd_changes WHERE serial_number = '1'",
        "DELETE FROM ocspd_changes",
        "TRUNCATE ocspd_changes",
        "DROP TRIGGER ocspd_update",
    ],
)
async def test_changes_that_were_lost_unread_lose_the_cursor(
    config: DBConfig, db: CertDB, feed: ChangeFeed, lost: str
) -> None:
    cursor = await feed.current_cursor()
    await raw.execute(config, row(1, "revoked"), row(2, "revoked"), lost)
    await migrate.up(db)
    with pytest.raises(CursorLostError):
        await feed.read(cursor, 10)
    assert feed.blind == ""
    assert (await words(feed, await feed.current_cursor()))[0] == {}


async def test_a_truncated_table_loses_the_cursor(config: DBConfig, feed: ChangeFeed) -> None:
    await raw.execute(config, row(1))
    cursor = await feed.current_cursor()
    await raw.execute(config, "TRUNCATE certificates")
    with pytest.raises(CursorLostError):
        await feed.read(cursor, 10)
    waiting = asyncio.create_task(feed.wait(30))
    await raw.execute(config, row(2))
    await waiting
    assert (await words(feed, await feed.current_cursor()))[0] == {}


async def test_a_missing_trigger_is_told_and_mended(config: DBConfig, db: CertDB, feed: ChangeFeed) -> None:
    await raw.execute(config, "DROP TRIGGER ocspd_reissued")
    await feed.current_cursor()
    assert "ocspd_reissued" in feed.blind
    assert await migrate.up(db) == ["ocspd_reissued"]
    await feed.current_cursor()
    assert feed.blind == ""


async def test_what_was_written_without_a_trigger_loses_the_cursor_of_whoever_may_not_see_triggers(
    config: DBConfig, db: CertDB
) -> None:
    name = parse_mysql_source(config.data_source).database
    readable = ("certificates", "ocspd_changes", "ocspd_slots", "ocspd_feed")
    await raw.execute(
        config,
        row(1),
        f"CREATE USER {name}_r@localhost",
        *(f"GRANT SELECT ON {name}.{table} TO {name}_r@localhost" for table in readable),
    )
    reading = DBConfig("mysql", config.data_source.replace("root@", f"{name}_r@"))
    async with await open_certdb(reading, SystemClock()) as reader:
        feed = reader.change_feed()
        await raw.execute(config, "DROP TRIGGER ocspd_update")
        cursor = await feed.current_cursor()
        assert "ocspd_update" in feed.blind
        assert (await feed.read(cursor, 10))[0] == []
        await raw.execute(config, "UPDATE certificates SET status = 'revoked'")
        assert await migrate.up(db) == ["ocspd_update"]
        with pytest.raises(CursorLostError, match="may not have recorded every change"):
            await feed.read(cursor, 10)
        assert feed.blind == ""
        await feed.close()
    await raw.execute(config, f"DROP USER {name}_r@localhost")


async def test_a_restored_database_is_another_one_even_after_it_was_written_to(
    config: DBConfig, feed: ChangeFeed
) -> None:
    await raw.execute(config, row(1))
    cursor = await feed.current_cursor()
    await raw.execute(config, row(2, "revoked"))
    _, later = await words(feed, cursor)
    before = "UPDATE ocspd_slots SET urgent_n = 0"  # as it was in the backup
    await raw.execute(
        config,
        before,
        "DELETE FROM ocspd_changes WHERE urgent = 1",
        "UPDATE certificates SET status = 'good'",
    )
    with pytest.raises(OtherDatabaseError):
        await feed.read(later, 10)
    slot = next(iter(later["urgent"]["read"]))
    await raw.execute(
        config,
        f"UPDATE ocspd_slots SET urgent_n = 1 WHERE slot = {slot}",
        f"INSERT INTO ocspd_changes VALUES (1, {slot}, 1, '9', 'aa', UTC_TIMESTAMP(6), NULL)",
    )
    with pytest.raises(OtherDatabaseError):
        await feed.read(later, 10)
    await raw.execute(config, "UPDATE ocspd_feed SET source = 'another'")
    with pytest.raises(OtherDatabaseError):
        await feed.read(await feed.current_cursor() | {"source": later["source"]}, 10)


async def test_neither_a_writer_nor_a_reader_needs_more_rights_than_its_tables(
    config: DBConfig, db: CertDB
) -> None:
    name = parse_mysql_source(config.data_source).database
    await raw.execute(
        config,
        f"CREATE USER {name}_w@localhost",
        f"GRANT SELECT, INSERT, UPDATE ON {name}.certificates TO {name}_w@localhost",
        f"CREATE USER {name}_r@localhost",
        *(
            f"GRANT SELECT ON {name}.{table} TO {name}_r@localhost"
            for table in (
                "certificates",
                "ocsp_responses",
                "ocspd_changes",
                "ocspd_slots",
                "ocspd_feed",
                "goose_db_version",
            )
        ),
    )
    reading = DBConfig("mysql", config.data_source.replace("root@", f"{name}_r@"))
    writing = DBConfig("mysql", config.data_source.replace("root@", f"{name}_w@"))
    async with (
        await open_certdb(reading, SystemClock()) as reader,
        await open_certdb(writing, SystemClock()) as writer,
    ):
        await reader.check()
        feed = reader.change_feed()
        cursor = await feed.current_cursor()
        await writer.insert_certificate(certificate(1))
        await writer.revoke_certificate(1, AKI, 1)
        await feed.wait(5)
        assert (await words(feed, cursor))[0] == {1: "revoked"}
        assert feed.blind == ""
        with pytest.raises(SetupError, match="grant this user the privilege"):
            await feed.trim(cursor | {"urgent": {"read": {"0": 1}, "at": {}, "later": []}}, timedelta())
        with pytest.raises(SetupError, match="grant this user the privilege"):
            await reader.insert_certificate(certificate(2))
        await feed.close()
    await raw.execute(config, f"DROP USER {name}_w@localhost", f"DROP USER {name}_r@localhost")


async def test_what_cfssls_driver_writes_is_read_zero_dates_included(config: DBConfig, db: CertDB) -> None:
    await raw.execute(
        config,
        "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason, "
        "expiry, revoked_at, pem, issued_at, not_before, metadata, sans, common_name) "
        "VALUES ('5', 'aa', '', 'good', 0, "
        "'2031-02-03 04:05:06', '0000-00-00', 'PEM', '0000-00-00', '0000-00-00', 'null', '[\"a\"]', 'c')",
    )
    found = await db.get_certificate(5, "aa")
    assert found is not None
    assert (found.expiry, found.revoked_at, found.issued_at, found.not_before) == (
        datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC),
        None,
        None,
        None,
    )
    assert (found.sans, found.metadata, found.common_name) == (["a"], None, "c")


async def test_a_certificate_may_outlive_2038_and_be_large_once_migrated(
    config: DBConfig, db: CertDB
) -> None:
    large = certificate(2**511 - 1, expiry=datetime(2126, 1, 1, tzinfo=UTC), pem="x" * 100_000)
    await db.insert_certificate(large)
    assert await db.get_certificate(large.serial, large.aki) == large
    assert [found.serial async for some in db.stream_odd() for found in some.rows] == [large.serial]


async def test_before_the_migration_what_has_no_room_is_refused_with_the_remedy(config: DBConfig) -> None:
    await goose_up(config)
    async with await open_certdb(config, SystemClock()) as db:
        await db.insert_certificate(certificate(1))
        with pytest.raises(CodedError, match="ocspd db up"):
            await db.insert_certificate(certificate(2, expiry=datetime(2200, 1, 1, tzinfo=UTC)))
        assert [
            found.serial
            async for chunk in db.stream_revoked(datetime(2000, 1, 1, tzinfo=UTC))
            for found in chunk
        ] == []
        await db.revoke_certificate(1, AKI, 1)
        (found,) = [
            found async for chunk in db.stream_revoked(datetime(2000, 1, 1, tzinfo=UTC)) for found in chunk
        ]
        assert found.status is CertStatus.REVOKED


async def test_the_sessions_time_zone_is_that_of_cfssl(config: DBConfig, db: CertDB) -> None:
    elsewhere = DBConfig("mysql", config.data_source + "&time_zone=%27%2B05%3A00%27")
    await db.insert_certificate(certificate(1))
    async with await open_certdb(elsewhere, SystemClock()) as other:
        assert await other.get_certificate(1, AKI) == certificate(1)


async def test_a_signer_follows_it_and_answers_transactions_in_the_order_they_commit(
    config: DBConfig, db: CertDB, tmp_path: Path
) -> None:
    rows = Rows(config)
    oracle = Oracle([CHAIN.ca], 10.0)
    for serial in (5, 6, 7, 8):
        await rows.insert(str(serial), SIGNER.aki)
        oracle.committed(0, serial, ["good"])
    revoke = (
        f"UPDATE certificates SET status = 'revoked' WHERE authority_key_identifier = '{SIGNER.aki}' AND "
    )
    async with signing(db, tmp_path / "index", SIGNER, oracle=oracle) as signer:
        with transaction(config) as early, transaction(config) as late:
            early.execute(f"{revoke} serial_number = '5'")
            late.execute(f"{revoke} serial_number = '6'")
            for session, serial in ((late, 6), (early, 5)):
                with oracle.committing(0, serial, ["revoked"]):
                    session.execute("COMMIT")
                await signer.until(lambda: not oracle.unanswered(), "a revocation")
        with oracle.committing(0, 7, []):
            await rows.delete("7", SIGNER.aki)
        with oracle.committing(0, 9, ["good"]):
            await rows.insert("9", SIGNER.aki)
        await signer.until(lambda: not oracle.unanswered(), "a deletion and a new certificate")
        assert signer.refresher.stats.passes == 1
        await signer.another_pass()


async def test_what_cannot_be_inserted_fails_alone(config: DBConfig, db: CertDB) -> None:
    await raw.execute(
        config,
        "CREATE TRIGGER refuse BEFORE INSERT ON certificates FOR EACH ROW BEGIN IF NEW.serial_number = '2' "
        "THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF; END",
    )
    later = datetime.now(UTC) + timedelta(days=1)
    wanted = [
        certificate(1),
        certificate(2),
        certificate(3, common_name="\ud800"),
        certificate(4, ca_label="x" * 129),
        certificate(1),
        certificate(5),
    ]
    answers = [
        AnsweredRequest(
            key=bytes([at]) * 32, digest=b"d" * 32, expires_at=later, serial=row.serial, aki=row.aki
        )
        if row.serial != 5
        else None
        for at, row in enumerate(wanted)
    ]
    outcomes = await db.insert_certificates(wanted, answers)
    assert [error is None for error in outcomes] == [True, False, False, False, False, True], outcomes
    assert "not this one" in str(outcomes[1])
    assert "already exists" in str(outcomes[4])
    assert [answer.serial for answer in await db.find_answers([bytes([at]) * 32 for at in range(6)])] == [1]
    assert sorted([len(await db.find_certificates(serial)) for serial in range(1, 6)]) == [0, 0, 0, 1, 1]
    assert db.connected


async def test_a_database_that_does_not_exist_or_a_login_that_is_refused_is_said(config: DBConfig) -> None:
    source = parse_mysql_source(config.data_source)
    for text, complaint in (
        (f"root@unix({source.socket})/no_such_db", "does not exist.*CREATE DATABASE"),
        (f"nobody:s3cret@unix({source.socket})/{source.database}", "rejects the login"),
    ):
        async with await open_certdb(DBConfig("mysql", text), SystemClock()) as db:
            with pytest.raises(SetupError, match=complaint) as caught:
                await db.check()
            assert "s3cret" not in caught.value.message


def test_a_missing_driver_is_named_with_the_remedy() -> None:
    program = (
        "import asyncio, sys; sys.modules['pymysql'] = None; from ocspd.certdb import DBConfig, open_certdb; "
        "from ocspd.clock import SystemClock; "
        "asyncio.run(open_certdb(DBConfig('mysql', 'a@/b'), SystemClock()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "driver mysql needs the Python package pymysql: pip install pymysql" in done.stderr


async def test_a_server_that_is_away_is_said_and_waiting_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    for text in ("ca:s3cret@tcp(127.0.0.1:1)/certs", "ca:s3cret@unix(/no/such/socket)/certs"):
        async with await open_certdb(DBConfig("mysql", text), SystemClock()) as db:
            with pytest.raises(CodedError, match="cannot be reached") as caught:
                await db.check()
            assert caught.value.code is Code.STORE_FAILED
            feed = db.change_feed()
            await feed.wait(0.01)
            await feed.close()
    assert "cannot be reached" in caplog.text
    assert "s3cret" not in caplog.text


async def test_no_password_is_sent_to_a_server_without_tls_where_tls_is_wanted() -> None:
    received = b""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        # a server of protocol 10 that offers everything but TLS
        body = b"\x0a8.0.0\0" + b"\1\0\0\0" + b"s" * 8 + b"\0" + b"\xff\xf7\x21\2\0\xff\x01"
        body += b"\x15" + b"\0" * 10 + b"t" * 12 + b"\0" + b"mysql_native_password\0"
        writer.write(len(body).to_bytes(3, "little") + b"\0" + body)
        await writer.drain()
        received += await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        for mode in ("true", "skip-verify"):
            config = DBConfig("mysql", f"ca:s3cret@tcp(127.0.0.1:{port})/certs?tls={mode}")
            async with await open_certdb(config, SystemClock()) as db:
                with pytest.raises(CodedError, match="does not offer TLS"):
                    await db.check()
    assert received == b""


async def test_a_silent_server_is_left_at_the_time_limit() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        port = listener.getsockname()[1]
        text = f"ca@tcp(127.0.0.1:{port})/certs?timeout=100ms"
        async with await open_certdb(DBConfig("mysql", text), SystemClock()) as db:
            work = asyncio.create_task(db.find_certificates(1))
            await asyncio.sleep(0.05)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work


@pytest.mark.parametrize("tls", ["false", "skip-verify"])
async def test_no_thread_waits_for_a_server_that_falls_silent_while_it_is_connected_to(tls: str) -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a server of protocol 10 that offers TLS, and says no more
        body = b"\x0a8.0.0\0" + b"\1\0\0\0" + b"s" * 8 + b"\0" + b"\xff\xff\x21\2\0\xff\x01"
        body += b"\x15" + b"\0" * 10 + b"t" * 12 + b"\0" + b"mysql_native_password\0"
        writer.write(len(body).to_bytes(3, "little") + b"\0" + body)
        await ended.wait()
        writer.close()

    ended = asyncio.Event()
    before = set(threading.enumerate())
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        text = f"ca@tcp(127.0.0.1:{port})/certs?timeout=200ms&tls={tls}"
        async with await open_certdb(DBConfig("mysql", text), SystemClock()) as db:
            with pytest.raises(CodedError, match="does not respond"):
                await db.find_certificates(1)
            given_up = asyncio.create_task(db.find_certificates(1))
            await asyncio.sleep(0.05)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
        left = [each for each in set(threading.enumerate()) - before if each.name.startswith("certdb")]
        for thread in left:  # a server that comes back would end them as well
            await asyncio.to_thread(thread.join, 30)
        assert not any(thread.is_alive() for thread in left)
        ended.set()


async def test_waiting_for_a_free_connection_ends_at_the_time_limit() -> None:
    database = Database.of("ca@tcp(127.0.0.1:1)/certs?timeout=100ms")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(POOL_SIZE):
            await stack.enter_async_context(database.session())
        work = asyncio.create_task(database.run(lambda _: None, 0.1))
        await asyncio.wait({work}, timeout=20)
        work.cancel()
        (outcome,) = await asyncio.gather(work, return_exceptions=True)
        assert isinstance(outcome, CodedError)
        assert "does not respond" in outcome.message
    async with database.session(0.1) as session:
        assert session.usable
    await database.close()


async def test_a_connection_that_the_server_ended_is_made_again(config: DBConfig, db: CertDB) -> None:
    await db.insert_certificate(certificate(1))
    for (number,) in await raw.fetch(
        config,
        "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND ID <> CONNECTION_ID()",
    ):
        await raw.execute(config, f"KILL {number}")
    await asyncio.sleep(1.1)  # as long as a connection is trusted without a look
    assert len(await db.find_certificates(1)) == 1
