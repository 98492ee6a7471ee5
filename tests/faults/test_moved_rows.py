"""D6 and D9: rows that are moved, swapped, or written twice in one transaction, by whatever means there are.

A row is moved when its serial number, its key identifier or what tells its issuer changes, so that the
certificate it was about has no row any more, or another one.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.certdb.feed import CursorLostError
from ocspd.clock import SystemClock
from tests import mysql
from tests.certdb.raw import execute, in_mysql
from tests.faults.cluster import clusters
from tests.faults.daemon import SETTINGS, Rows, signing
from tests.faults.oracle import Oracle
from tests.pki.chain import make_chain, pem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ocspd.certdb.base import CertDB

CHAINS = make_chain(), make_chain(name="Other CA", number=1)
SIGNERS = [chain.signer(clock=SystemClock()) for chain in CHAINS]
AKI, OTHER_AKI = (signer.aki for signer in SIGNERS)
PEM, OTHER_PEM = (pem(chain.issue(7)).decode() for chain in CHAINS)
FREE_TEXT = "the CA of the first floor"
GOOD = 0
SETTINGS_BLIND = replace(SETTINGS, blind_interval_s=0.05)


async def commit(config: DBConfig, statements: list[str]) -> None:
    """Run statements in one transaction."""
    if config.driver == "sqlite3":
        with contextlib.closing(sqlite3.connect(config.data_source, isolation_level=None)) as session:
            for statement in ("BEGIN IMMEDIATE", *statements, "COMMIT"):
                session.execute(statement)
        return
    if config.driver == "mysql":
        with (
            contextlib.closing(mysql.connect(config.data_source, autocommit=False)) as connection,
            connection.cursor() as cursor,
        ):
            for statement in (*map(in_mysql, statements), "COMMIT"):
                cursor.execute(statement)
        return
    session = await asyncpg.connect(config.data_source)
    try:
        async with session.transaction():
            for statement in statements:
                await session.execute(statement)
    finally:
        await session.close()


class SQL:
    """Statements about rows, in the words of either database."""

    def __init__(self, rows: Rows, driver: str) -> None:
        self.text = rows.text
        self.driver = driver

    def where(self, serial: str, aki: str = AKI) -> str:
        return f"serial_number = {self.text(serial)} AND authority_key_identifier = {self.text(aki)}"

    def update(self, what: str, serial: str, aki: str = AKI) -> str:
        return f"UPDATE certificates SET {what} WHERE {self.where(serial, aki)}"

    def serial(self, new: str, old: str) -> str:
        return self.update(f"serial_number = {self.text(new)}", old)

    def says(self, status: str, serial: str, aki: str = AKI) -> str:
        return self.update(f"status = {self.text(status)}", serial, aki)

    def delete(self, serial: str, aki: str = AKI) -> str:
        return f"DELETE FROM certificates WHERE {self.where(serial, aki)}"

    def insert(self, serial: str, status: str, aki: str = AKI, *, more: str = "") -> str:
        return (
            "INSERT INTO certificates (serial_number, authority_key_identifier, status, reason, expiry, "
            f"revoked_at, pem) VALUES ({self.text(serial)}, {self.text(aki)}, {self.text(status)}, "
            "1, '2099-01-01 00:00:00+00:00', '2026-01-02 03:04:05+00:00', "
            f"{self.text('-')}){more}"
        )

    def upsert(self, serial: str, status: str) -> str:
        if self.driver == "mysql":
            more = " ON DUPLICATE KEY UPDATE status = VALUES(status)"
            return self.insert(serial, status, more=more)
        return self.insert(
            serial,
            status,
            more=" ON CONFLICT (serial_number, authority_key_identifier) "
            "DO UPDATE SET status = excluded.status",
        )


Cases = dict[str, tuple["Callable[[SQL], list[str]]", dict[tuple[int, int], list[str]]]]
# At first: 5 and 6 good, 7 and 8 revoked, of the first issuer; 5 of the other one good; 9 by its
# certificate only, without key identifier, good; 10 the same with free text, revoked.
CASES: Cases = {
    "a good row gets another serial number": (
        lambda q: [q.serial("50", "5")],
        {(0, 5): [], (0, 50): ["good"]},
    ),
    "a good row gets the serial number of a revoked one, spelled otherwise": (
        lambda q: [q.serial("007", "5")],
        {(0, 5): [], (0, 7): ["revoked", "good"]},
    ),
    "a revoked row gets the serial number of a good one, spelled otherwise": (
        lambda q: [q.serial("05", "7")],
        {(0, 7): [], (0, 5): ["revoked", "good"]},
    ),
    "a good row goes to the other issuer": (
        lambda q: [q.update(f"authority_key_identifier = {q.text(OTHER_AKI)}", "6")],
        {(0, 6): [], (1, 6): ["good"]},
    ),
    "a revoked row goes to the other issuer, which has that serial number": (
        lambda q: [
            q.serial("5", "7").replace(
                " WHERE", f", authority_key_identifier = {q.text(OTHER_AKI.upper())} WHERE"
            )
        ],
        {(0, 7): [], (1, 5): ["revoked", "good"]},
    ),
    "a good row goes to an issuer that is not ours": (
        lambda q: [q.update(f"authority_key_identifier = {q.text('abcd')}", "6")],
        {(0, 6): []},
    ),
    "the certificate of a row without key identifier becomes the other issuer's": (
        lambda q: [q.update(f"pem = {q.text(OTHER_PEM)}", "9", "")],
        {(0, 9): [], (1, 9): ["good"]},
    ),
    "the certificate of a revoked row with free text becomes the other issuer's": (
        lambda q: [q.update(f"pem = {q.text(OTHER_PEM)}", "10", FREE_TEXT)],
        {(0, 10): [], (1, 10): ["revoked"]},
    ),
    "a row without key identifier gets one that is not its certificate's": (
        lambda q: [q.update(f"authority_key_identifier = {q.text(OTHER_AKI)}", "9", "")],
        {(0, 9): [], (1, 9): ["good"]},
    ),
    "a good row is deleted and comes back revoked": (
        lambda q: [q.delete("5"), q.insert("5", "revoked")],
        {(0, 5): ["revoked"]},
    ),
    "a good row is deleted and comes back revoked in another spelling": (
        lambda q: [q.delete("5"), q.insert("0005", "revoked", AKI.upper())],
        {(0, 5): ["revoked"]},
    ),
    "a revoked row is deleted and comes back good": (
        lambda q: [q.delete("7"), q.insert("7", "good")],
        {(0, 7): ["good"]},
    ),
    "a row is revoked and good again": (
        lambda q: [q.says("revoked", "5"), q.says("good", "5")],
        {(0, 5): ["good"]},
    ),
    "a row is good and revoked again": (
        lambda q: [q.says("good", "7"), q.says("revoked", "7")],
        {(0, 7): ["revoked"]},
    ),
    "a row is revoked, moved away and comes back": (
        lambda q: [q.says("revoked", "5"), q.serial("55", "5"), q.serial("5", "55")],
        {(0, 5): ["revoked"], (0, 55): []},
    ),
    "the keys of a good and a revoked row are swapped": (
        lambda q: [q.serial("x", "5"), q.serial("5", "7"), q.serial("7", "x")],
        {(0, 5): ["revoked"], (0, 7): ["good"]},
    ),
    "the key identifiers of two rows are swapped": (
        lambda q: [
            q.says("revoked", "5", OTHER_AKI),
            q.update(f"authority_key_identifier = {q.text('-')}", "5"),
            q.update(f"authority_key_identifier = {q.text(AKI)}", "5", OTHER_AKI),
            q.update(f"authority_key_identifier = {q.text(OTHER_AKI)}", "5", "-"),
        ],
        {(0, 5): ["revoked"], (1, 5): ["good"]},
    ),
    "rows move on by one": (
        lambda q: [q.serial("9", "8"), q.serial("8", "7"), q.serial("7", "6"), q.serial("6", "5")],
        {(0, 5): [], (0, 6): ["good"], (0, 7): ["good"], (0, 8): ["revoked"], (0, 9): ["revoked", "good"]},
    ),
    "rows are inserted or updated by one statement": (
        lambda q: [q.upsert("5", "revoked"), q.upsert("12", "revoked"), q.upsert("13", "good")],
        {(0, 5): ["revoked"], (0, 12): ["revoked"], (0, 13): ["good"]},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("db_config", ["sqlite3", "postgres", "mysql"], indirect=True)
async def test_D6_D9_rows_that_are_moved_are_answered_where_they_were_and_where_they_are(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path, case: str
) -> None:
    change, says = CASES[case]
    rows = Rows(migrated_db_config)
    oracle = Oracle([chain.ca for chain in CHAINS], 10.0, hash_names=("sha1", "sha256"))
    for serial, status in (("5", "good"), ("6", "good"), ("7", "revoked"), ("8", "revoked")):
        await rows.insert(serial, AKI, status)
        oracle.committed(0, int(serial), [status])
    await rows.insert("5", OTHER_AKI)
    await rows.insert("9", "", pem=PEM)
    await rows.insert("10", FREE_TEXT, "revoked", pem=PEM)
    for certid, status in {(1, 5): "good", (0, 9): "good", (0, 10): "revoked"}.items():
        oracle.committed(*certid, [status])
    async with signing(certdb, tmp_path / "index", *SIGNERS, oracle=oracle) as signer:
        begun = oracle.clock()
        await commit(migrated_db_config, change(SQL(rows, migrated_db_config.driver)))
        for certid, words in says.items():
            oracle.committed(*certid, words, begun=begun)
        await signer.until(lambda: not oracle.unanswered(), "every answer")
        await signer.another_pass()
        assert oracle.unanswered() == []


MERGE = f"""
MERGE INTO certificates AS c USING (VALUES ('5'::bytea), ('12'::bytea)) AS v (serial)
ON c.serial_number = v.serial
WHEN MATCHED THEN UPDATE SET status = 'revoked'
WHEN NOT MATCHED THEN INSERT (serial_number, authority_key_identifier, status, expiry, pem)
    VALUES (v.serial, '{AKI}', 'revoked', '2099-01-01', '-')
"""
CASCADE = f"""
CREATE TABLE holders (serial bytea, aki bytea, UNIQUE (serial, aki));
INSERT INTO holders VALUES ('5', '{AKI}');
ALTER TABLE certificates ADD holder_s bytea, ADD holder_a bytea,
    ADD FOREIGN KEY (holder_s, holder_a) REFERENCES holders (serial, aki) ON DELETE CASCADE;
UPDATE certificates SET holder_s = serial_number, holder_a = authority_key_identifier
    WHERE serial_number = '5';
DELETE FROM holders;
"""
RULE = """
CREATE TABLE requests (serial bytea);
CREATE RULE revoking AS ON INSERT TO requests
    DO ALSO UPDATE certificates SET status = 'revoked' WHERE serial_number = NEW.serial;
INSERT INTO requests VALUES ('5');
"""
ELSEWHERE = """
CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.ocspd_changes (a int);
SET search_path = elsewhere, pg_temp; SET row_security = off;
UPDATE public.certificates SET status = 'revoked' WHERE serial_number = '5';
"""
REPLICA = """
SET session_replication_role = replica;
UPDATE certificates SET serial_number = '50', status = 'revoked' WHERE serial_number = '5';
DELETE FROM certificates WHERE serial_number = '6';
"""
REWRITTEN = """
ALTER TABLE certificates ALTER status TYPE bytea
    USING CASE WHEN serial_number = '5' THEN 'revoked'::bytea ELSE status END;
"""
SWAPPED = """
CREATE TABLE other (LIKE certificates INCLUDING ALL);
INSERT INTO other SELECT * FROM certificates;
UPDATE other SET status = 'revoked' WHERE serial_number = '5';
ALTER TABLE certificates RENAME TO before; ALTER TABLE other RENAME TO certificates;
"""
CHILD = """
CREATE TABLE child () INHERITS (certificates);
WITH moved AS (DELETE FROM certificates WHERE serial_number = '5' RETURNING *)
    INSERT INTO child SELECT * FROM moved;
UPDATE certificates SET status = 'revoked' WHERE serial_number = '5';
"""
EMPTIED = """
UPDATE certificates SET status = 'revoked' WHERE serial_number = '5'; {};
"""
WRITERS: dict[str, tuple[str, dict[int, list[str]]]] = {
    "COPY": ("", {12: ["revoked"]}),
    "MERGE": (MERGE, {5: ["revoked"], 12: ["revoked"]}),
    "a cascade": (CASCADE, {5: []}),
    "a rule": (RULE, {5: ["revoked"]}),
    "a session that looks elsewhere": (ELSEWHERE, {5: ["revoked"]}),
    "a replication session": (REPLICA, {5: [], 50: ["revoked"], 6: []}),
    "a table rewritten in place": (REWRITTEN, {5: ["revoked"]}),
    "another table of the same name": (SWAPPED, {5: ["revoked"]}),
    "a child that inherits": (CHILD, {5: ["revoked"]}),
    "an outbox that is emptied": (EMPTIED.format("TRUNCATE ocspd_changes"), {5: ["revoked"]}),
    "an outbox that is deleted": (EMPTIED.format("DELETE FROM ocspd_changes"), {5: ["revoked"]}),
}


@pytest.mark.parametrize("writer", WRITERS)
async def test_D12_every_writer_of_postgresql_is_followed(
    postgres_url: str, tmp_path: Path, writer: str
) -> None:
    statements, says = WRITERS[writer]
    config = DBConfig("postgres", postgres_url)
    rows = Rows(config)
    oracle = Oracle([CHAINS[0].ca], 10.0)
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        for serial in ("5", "6"):
            await rows.insert(serial, AKI)
            oracle.committed(0, int(serial), ["good"])
        async with signing(
            db, tmp_path / "index", SIGNERS[0], oracle=oracle, settings=SETTINGS_BLIND
        ) as signer:
            session = await asyncpg.connect(postgres_url)
            begun = oracle.clock()
            if not statements:
                later = datetime(2099, 1, 1, tzinfo=UTC)
                await session.copy_records_to_table(
                    "certificates",
                    columns=["serial_number", "authority_key_identifier", "status", "expiry", "pem"],
                    records=[(b"12", AKI.encode(), b"revoked", later, b"-")],
                )
            else:
                await session.execute(statements)  # all of it in one transaction
            for number, words in says.items():
                oracle.committed(0, number, words, begun=begun)
            await session.close()
            await signer.until(lambda: not oracle.unanswered(), "every answer")


async def test_D12_rows_a_subscription_applies_are_followed(postgres_server: str, tmp_path: Path) -> None:
    assert postgres_server  # sees to the rights of the programs
    with clusters(1) as (server,):
        server.make()
        server.set("wal_level = logical\n")
        server.start()
        here, there = (
            DBConfig("postgres", f"postgres://postgres@/{name}?host={server.path}&sslmode=disable")
            for name in ("here", "postgres")
        )
        await execute(there, "CREATE DATABASE here")
        rows = Rows(there)
        oracle = Oracle([CHAINS[0].ca], 10.0)
        async with (
            await open_certdb(here, SystemClock()) as db,
            await open_certdb(there, SystemClock()) as far,
        ):
            await migrate.up(db)
            await migrate.up(far)
            await rows.insert("5", AKI)
            await rows.insert("6", AKI)
            await execute(there, "CREATE PUBLICATION p FOR TABLE certificates")
            await execute(there, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
            await execute(
                here,
                f"CREATE SUBSCRIPTION s CONNECTION 'host={server.path} user=postgres dbname=postgres' "
                "PUBLICATION p WITH (create_slot = false, slot_name = s)",
            )
            async with signing(
                db, tmp_path / "index", SIGNERS[0], oracle=oracle, settings=SETTINGS_BLIND
            ) as signer:
                await signer.until(lambda: signer.status(5) == signer.status(6) == GOOD, "the first copy")
                oracle.committed(0, 5, ["good"])
                oracle.committed(0, 6, ["good"])
                passes = signer.refresher.stats.passes
                with oracle.committing(0, 5, ["revoked"]):
                    await rows.says("5", AKI, "revoked")
                with oracle.committing(0, 6, []):
                    await rows.delete("6", AKI)
                await signer.until(lambda: not oracle.unanswered(), "what the subscription applied")
                assert signer.refresher.stats.passes == passes
                # without the trigger that is meant for it nobody is told that all is well
                health = signer.refresher.stats.health
                await execute(here, "ALTER TABLE certificates DISABLE TRIGGER ocspd_applied")
                await rows.insert("7", AKI, "revoked")
                oracle.committed(0, 7, ["revoked"])
                await signer.until(lambda: not oracle.unanswered(), "what nobody noted")
                await signer.until(lambda: "ocspd_applied" in health.trouble("feed"), "a word about it")
            await execute(here, "ALTER SUBSCRIPTION s DISABLE")
            await execute(here, "ALTER SUBSCRIPTION s SET (slot_name = NONE)")
            await execute(here, "DROP SUBSCRIPTION s")


async def test_D3_transactions_that_stay_open_and_commit_out_of_order_hold_up_nobody(
    postgres_url: str, tmp_path: Path
) -> None:
    config = DBConfig("postgres", postgres_url)
    rows = Rows(config)
    oracle = Oracle([CHAINS[0].ca], 10.0)
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        for serial in range(1, 7):
            await rows.insert(str(serial), AKI)
            oracle.committed(0, serial, ["good"])
        async with signing(db, tmp_path / "index", SIGNERS[0], oracle=oracle) as signer:
            sessions = [await asyncpg.connect(postgres_url) for _ in range(3)]
            for serial, session in enumerate(sessions, 1):
                await session.execute("BEGIN")
                await session.execute(
                    f"UPDATE certificates SET status = 'revoked', reason = 1 WHERE serial_number = '{serial}'"
                )
            for serial in (4, 5):  # others pass, and a pass is made meanwhile
                with oracle.committing(0, serial, ["revoked"]):
                    await rows.says(str(serial), AKI, "revoked")
                await signer.until(lambda: not oracle.unanswered(), "who comes later")
                await signer.another_pass()
            for serial in (3, 1, 2):
                with oracle.committing(0, serial, ["revoked"]):
                    await sessions[serial - 1].execute("COMMIT")
                await signer.until(lambda: not oracle.unanswered(), "who was open for long")
            for session in sessions:
                await session.close()
            assert signer.status(6) == GOOD


LOST = {
    "triggers dropped": ["DROP TRIGGER ocspd_update{on}"],
    "all triggers dropped": [f"DROP TRIGGER ocspd_{name}{{on}}" for name in ("insert", "update", "delete")],
    "table made anew": [
        "CREATE TABLE anew AS SELECT * FROM certificates",
        "ALTER TABLE certificates RENAME TO former",
        "ALTER TABLE anew RENAME TO certificates",
    ],
}


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("db_config", ["sqlite3", "postgres", "mysql"], indirect=True)
async def test_D12_a_database_without_our_triggers_is_named_passed_over_and_mended(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    rows = Rows(migrated_db_config)
    oracle = Oracle([CHAINS[0].ca], 10.0)
    for serial in (5, 6, 7):
        await rows.insert(str(serial), AKI)
        oracle.committed(0, serial, ["good"])
    async with signing(
        certdb, tmp_path / "index", SIGNERS[0], oracle=oracle, settings=SETTINGS_BLIND
    ) as signer:
        health = signer.refresher.stats.health
        on = " ON certificates" if migrated_db_config.driver == "postgres" else ""
        for statement in LOST[lost]:
            await execute(migrated_db_config, statement.format(on=on))
        with oracle.committing(0, 5, ["revoked"]):
            await rows.says("5", AKI, "revoked")
        with oracle.committing(0, 6, []):
            await rows.delete("6", AKI)
        await signer.until(lambda: not oracle.unanswered(), "what nobody noted")
        await signer.until(lambda: not health.up("feed"), "readiness to tell")
        assert "ocspd db up" in health.trouble("feed")
        assert "ocspd_update" in await migrate.up(certdb)
        await signer.until(lambda: health.up("feed"), "the triggers to be seen")
        assert caplog.text.count("does not record every change") == 1
        await signer.until(signer.refresher._following.is_set, "following")
        wanted = signer.refresher._pass_wanted
        await signer.until(lambda: not (signer.refresher._passing or wanted.is_set()), "the pass at work")
        passes = signer.refresher.stats.passes
        with oracle.committing(0, 7, ["revoked"]):
            await rows.says("7", AKI, "revoked")
        await signer.until(lambda: not oracle.unanswered(), "a change that is noted")
        assert signer.refresher.stats.passes - passes <= 1
    assert await migrate.up(certdb) == []


@pytest.mark.parametrize("db_config", ["sqlite3", "postgres", "mysql"], indirect=True)
async def test_D12_triggers_that_were_away_between_two_looks_lose_the_cursor(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    rows = Rows(migrated_db_config)
    await rows.insert("5", AKI)
    feed = certdb.change_feed()
    cursor = await feed.current_cursor()
    on = " ON certificates" if migrated_db_config.driver == "postgres" else ""
    await execute(migrated_db_config, f"DROP TRIGGER ocspd_update{on}")
    await rows.says("5", AKI, "revoked")
    assert await migrate.up(certdb) == ["ocspd_update"]
    with pytest.raises(CursorLostError):
        await feed.read(cursor, 10)
    assert feed.blind == ""
    await feed.close()


@pytest.mark.parametrize("db_config", ["sqlite3", "postgres", "mysql"], indirect=True)
async def test_D12_entries_that_somebody_deletes_unread_lose_the_cursor(
    certdb: CertDB, migrated_db_config: DBConfig
) -> None:
    rows = Rows(migrated_db_config)
    feed = certdb.change_feed()
    cursor = await feed.current_cursor()
    await rows.insert("5", AKI, "revoked")
    await rows.insert("6", AKI)
    await execute(migrated_db_config, f"DELETE FROM ocspd_changes WHERE serial_number = {rows.text('5')}")
    with pytest.raises(CursorLostError):
        await feed.read(cursor, 10)
    cursor = await feed.current_cursor()
    await rows.says("6", AKI, "revoked")
    (change,), cursor = await feed.read(cursor, 10)
    assert change.serial == 6
    assert await feed.trim(cursor, timedelta(0)) > 0
    assert (await feed.read(cursor, 10))[0] == []  # not what the signer has read itself
    await feed.close()
