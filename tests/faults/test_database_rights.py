"""D8: a role that may connect and make temporary tables gains nothing and changes nothing (PostgreSQL)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import asyncpg
import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import SystemClock
from ocspd.model import CertStatus
from tests.certdb import raw
from tests.certdb.samples import AKI, certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocspd.certdb.base import CertDB

OURS = ("certificates", "ocsp_responses", "ocspd_changes", "ocspd_feed", "goose_db_version")
STATE = (
    "SELECT (SELECT array_agg(c::text ORDER BY c::text) FROM certificates c)::text, "
    "(SELECT array_agg(c::text ORDER BY c::text) FROM ocspd_changes c)::text, "
    "(SELECT array_agg(f::text) FROM ocspd_feed f)::text"
)
INSERT = "INSERT INTO {} (serial_number, authority_key_identifier, status, pem, expiry) VALUES "


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[CertDB]:
    async with await open_certdb(DBConfig("postgres", postgres_url), SystemClock()) as db:
        await migrate.up(db)
        await db.insert_certificate(certificate(1))
        yield db


@pytest.fixture
async def stranger(db: CertDB, postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of a role with CONNECT and TEMP only."""
    config = DBConfig("postgres", postgres_url)
    role = "stranger_" + postgres_url.partition("?")[0].rsplit("_", 1)[-1]
    await raw.execute(config, f"CREATE ROLE {role}", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    session = await asyncpg.connect(postgres_url)
    await session.execute(f"SET ROLE {role}")
    yield session
    await session.close()
    await raw.execute(config, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_D8_nobody_else_makes_a_trigger_of_our_function(
    db: CertDB, stranger: asyncpg.Connection, postgres_url: str
) -> None:
    before = await raw.fetch(DBConfig("postgres", postgres_url), STATE)
    for event, tables in (
        ("INSERT", "REFERENCING NEW TABLE AS new_rows"),
        ("UPDATE", "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"),
        ("DELETE", "REFERENCING OLD TABLE AS old_rows"),
        ("TRUNCATE", ""),
    ):
        name = f"certificates_{event}"
        await stranger.execute(
            f"CREATE TEMP TABLE {name} (serial_number bytea, authority_key_identifier bytea, status bytea, "
            "reason int, revoked_at timestamptz, expiry timestamptz, pem bytea)"
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await stranger.execute(
                f"CREATE TRIGGER mine AFTER {event} ON {name} {tables} FOR EACH STATEMENT "
                "EXECUTE FUNCTION public.ocspd_note_change()"
            )
    assert await raw.fetch(DBConfig("postgres", postgres_url), STATE) == before


async def test_D8_even_one_who_may_execute_it_is_refused_on_another_table(
    db: CertDB, stranger: asyncpg.Connection, postgres_url: str
) -> None:
    config = DBConfig("postgres", postgres_url)
    role = await stranger.fetchval("SELECT current_user")
    await raw.execute(config, f"GRANT EXECUTE ON FUNCTION ocspd_note_change() TO {role}")
    before = await raw.fetch(config, STATE)
    # a type whose assignment to bytea is a function of the stranger's, which would run as the owner
    await stranger.execute("CREATE TYPE pg_temp.trap AS (x int)")
    await stranger.execute(
        "CREATE FUNCTION pg_temp.spring(pg_temp.trap) RETURNS bytea LANGUAGE plpgsql AS $f$ BEGIN "
        "UPDATE public.certificates SET status = 'good', pem = 'taken'; RETURN 'x'::bytea; END $f$"
    )
    await stranger.execute(
        "CREATE CAST (pg_temp.trap AS bytea) WITH FUNCTION pg_temp.spring(pg_temp.trap) AS IMPLICIT"
    )
    for name in ("certificates", "pg_temp_certificates"):
        await stranger.execute(
            f"CREATE TEMP TABLE {name} (serial_number pg_temp.trap, authority_key_identifier pg_temp.trap, "
            "status pg_temp.trap, reason int, revoked_at timestamptz, expiry timestamptz, pem bytea)"
        )
        for event, tables in (
            ("INSERT", "REFERENCING NEW TABLE AS new_rows"),
            ("DELETE", "REFERENCING OLD TABLE AS old_rows"),
            ("TRUNCATE", ""),
        ):
            await stranger.execute(
                f"CREATE TRIGGER mine_{event} AFTER {event} ON pg_temp.{name} {tables} FOR EACH STATEMENT "
                "EXECUTE FUNCTION public.ocspd_note_change()"
            )
        for statement in (
            f"INSERT INTO pg_temp.{name} (serial_number) VALUES (ROW(1)::pg_temp.trap)",
            f"DELETE FROM pg_temp.{name}",
            f"TRUNCATE pg_temp.{name}",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only"):
                await stranger.execute(statement)
    assert await raw.fetch(config, STATE) == before


async def test_D8_a_stranger_reads_and_writes_none_of_our_tables(
    db: CertDB, stranger: asyncpg.Connection
) -> None:
    for table in OURS:
        for statement in (
            f"SELECT * FROM public.{table}",
            f"DELETE FROM public.{table}",
            f"TRUNCATE public.{table} CASCADE",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await stranger.execute(statement)
    for statement in (
        "SELECT nextval('public.ocspd_changes_id_seq')",
        "SELECT setval('public.ocspd_changes_id_seq', 1)",
        "UPDATE public.ocspd_feed SET trimmed = '99999999'",
        "INSERT INTO public.ocspd_changes (serial_number, authority_key_identifier) VALUES ('1', 'a')",
        "CREATE FUNCTION public.ocspd_note_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await stranger.execute(statement)


async def test_D8_every_right_in_the_schema_is_the_owners(db: CertDB, postgres_url: str) -> None:
    granted = await raw.fetch(
        DBConfig("postgres", postgres_url),
        "SELECT relname::text FROM pg_class, aclexplode(relacl) a "
        "WHERE relnamespace = 'public'::regnamespace AND a.grantee = 0 "
        "UNION ALL SELECT proname::text FROM pg_proc, "
        "aclexplode(coalesce(proacl, acldefault('f', proowner))) a "
        "WHERE pronamespace = 'public'::regnamespace AND a.grantee = 0",
    )
    assert granted == []


async def test_D8_a_writer_of_certificates_cannot_shadow_our_tables(
    db: CertDB, stranger: asyncpg.Connection, postgres_url: str
) -> None:
    config = DBConfig("postgres", postgres_url)
    role = await stranger.fetchval("SELECT current_user")
    await raw.execute(config, f"GRANT SELECT, INSERT, UPDATE, DELETE ON certificates TO {role}")
    feed = db.change_feed()
    cursor = await feed.current_cursor()
    for table in OURS[2:4]:
        await stranger.execute(f"CREATE TEMP TABLE {table} (LIKE public.{OURS[0]})")
    await stranger.execute("CREATE TEMP TABLE new_rows (a int); CREATE TEMP TABLE old_rows (a int)")
    await stranger.execute("SET search_path = pg_temp, public")
    await stranger.execute(INSERT.format("public.certificates") + "('2', 'aa', 'good', '', '2100-01-01')")
    await stranger.execute("UPDATE public.certificates SET status = 'revoked' WHERE serial_number = '1'")
    changes, _ = await feed.read(cursor, 10)
    assert {(change.serial, change.row and change.row.status) for change in changes} == {
        (2, CertStatus.GOOD),
        (1, CertStatus.REVOKED),
    }
    await feed.close()


async def test_D8_a_superuser_who_migrates_lends_the_owner_of_the_table_nothing(postgres_url: str) -> None:
    config = DBConfig("postgres", postgres_url)
    role = "owner_" + postgres_url.partition("?")[0].rsplit("_", 1)[-1]
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        while await migrate.current_version(db) > 3:
            await migrate.down(db)
        await raw.execute(config, f"CREATE ROLE {role}", f"ALTER TABLE certificates OWNER TO {role}")
        try:
            await migrate.up(db)
            owners = await raw.fetch(
                config,
                "SELECT pg_get_userbyid(proowner)::text FROM pg_proc WHERE proname = 'ocspd_note_change' "
                "UNION SELECT pg_get_userbyid(relowner)::text FROM pg_class "
                "WHERE relname LIKE 'ocspd_changes%' OR relname = 'ocspd_feed'",
            )
            assert owners == [(role,)]
            await db.insert_certificate(certificate(5))
            await db.revoke_certificate(5, AKI, 1)
        finally:
            await raw.execute(config, "REASSIGN OWNED BY " + role + " TO CURRENT_USER")
            with contextlib.suppress(asyncpg.PostgresError):
                await raw.execute(config, f"DROP OWNED BY {role}")
            await raw.execute(config, f"DROP ROLE {role}")


async def test_our_sessions_look_nowhere_but_in_the_schema_of_certificates(postgres_url: str) -> None:
    config = DBConfig("postgres", postgres_url)
    await raw.execute(config, "CREATE SCHEMA pki")
    source = DBConfig("postgres", postgres_url + "&search_path=pki,public")
    async with await open_certdb(source, SystemClock()) as db:
        await migrate.up(db)
        await db.insert_certificate(certificate(1))
        # functions and tables of other schemas in the path count for nothing
        await raw.execute(config, "CREATE TABLE public.certificates (LIKE pki.certificates)")
        feed = db.change_feed()
        cursor = await feed.current_cursor()
        await db.revoke_certificate(1, AKI, 1)
        (change,), _ = await feed.read(cursor, 10)
        assert change.row is not None
        assert change.row.status is CertStatus.REVOKED
        await feed.close()
    assert await raw.fetch(config, "SELECT count(*) FROM public.certificates") == [(0,)]
    assert await raw.fetch(config, "SELECT count(*) FROM pki.certificates") == [(1,)]
