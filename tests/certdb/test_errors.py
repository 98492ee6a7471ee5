from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.certdb.rows import RowError, format_time, parse_time, read_expiry, read_revoked_at, read_serial
from ocspd.certdb.sqlite import SQLiteCertDB
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError
from tests.certdb.samples import NOW, certificate
from tests.postgres import with_database

if TYPE_CHECKING:
    from pathlib import Path


async def message_of(config: DBConfig) -> str:
    """The message of the first operation on a database that cannot be used."""
    async with await open_certdb(config, SystemClock()) as db:
        with pytest.raises(CodedError) as caught:
            await db.check()
        assert caught.value.code is Code.STORE_FAILED
        with pytest.raises(CodedError) as again:
            await db.find_certificates(1)
        assert again.value.code is Code.STORE_FAILED
        assert "\n" not in caught.value.message
        return caught.value.message


async def test_a_missing_sqlite_file_is_not_made_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "no.db"
    message = await message_of(DBConfig("sqlite3", str(path)))
    assert str(path) in message
    assert "ocspd db up -db-config FILE" in message
    assert not path.exists()


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database, " * 100)
    assert "not an SQLite database" in await message_of(DBConfig("sqlite3", str(path)))


async def test_a_directory_that_is_missing_is_said(tmp_path: Path) -> None:
    async with await open_certdb(DBConfig("sqlite3", str(tmp_path / "no" / "x.db")), SystemClock()) as db:
        with pytest.raises(CodedError, match="directory exists"):
            await migrate.up(db)


async def test_a_new_sqlite_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with await open_certdb(DBConfig("sqlite3", str(path)), SystemClock()) as db:
        await migrate.up(db)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("form", ["{}", "file:{}", "file:{}?_busy_timeout=5000&cache=private", "{}?_fk=1"])
async def test_data_sources_of_go_mean_the_same_file(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a b%20ä.db" if not form.startswith("file:") else tmp_path / "x.db"
    async with await open_certdb(DBConfig("sqlite3", form.format(path)), SystemClock()) as db:
        await migrate.up(db)
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208  (names are what is compared)


async def test_a_database_of_an_old_cfssl_with_rounded_serials_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE certificates (serial_number bytea, status bytea, pem bytea)")
        connection.execute(
            "INSERT INTO certificates VALUES ('22626262626262626262626262626262', 'good', 'P')"
        )
        connection.commit()
        assert connection.execute("SELECT typeof(serial_number) FROM certificates").fetchone() == ("real",)
    message = await message_of(DBConfig("sqlite3", str(path)))
    assert "declared bytea" in message
    assert "column pem" in message


async def test_a_database_locked_by_another_process_is_said(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "x.db")
    async with SQLiteCertDB(path, SystemClock(), busy_timeout_s=0.05) as db:
        await migrate.up(db)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(CodedError, match="locked"):
                await db.insert_certificate(certificate())


async def test_a_missing_postgres_database_is_named_with_the_remedy(postgres_server: str) -> None:
    message = await message_of(DBConfig("postgres", with_database(postgres_server, "no_such_db")))
    assert "'no_such_db'" in message
    assert "createdb" in message
    assert "ocspd db up -db-config FILE" in message


async def test_a_server_that_does_not_answer_is_named_without_the_password() -> None:
    config = DBConfig("postgres", "postgres://ca:s3cret@127.0.0.1:1/certs?sslmode=disable")
    message = await message_of(config)
    assert "'certs' at 127.0.0.1:1 (user ca) cannot be reached" in message
    assert "s3cret" not in message


async def test_a_server_without_tls_is_said_because_tls_is_the_default() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # SSLRequest
        writer.write(b"N")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        message = await message_of(DBConfig("postgres", f"postgres://ca@127.0.0.1:{port}/certs"))
    assert "does not offer TLS: add sslmode=disable" in message


async def test_a_host_that_does_not_exist_is_named() -> None:
    config = DBConfig("postgres", "host=no-such-host.invalid dbname=certs sslmode=disable")
    assert "no-such-host.invalid:5432" in await message_of(config)


async def test_a_refused_login_is_said(postgres_url: str) -> None:
    message = await message_of(DBConfig("postgres", postgres_url.replace("postgres:@", "nobody_here:@")))
    assert "rejects the login" in message


async def test_a_closed_database_stays_closed(certdb_config: DBConfig) -> None:
    db = await open_certdb(certdb_config, SystemClock())
    await db.close()
    with pytest.raises(CodedError, match="closed"):
        await db.check()


@pytest.fixture
def certdb_config(migrated_db_config: DBConfig) -> DBConfig:
    return migrated_db_config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-04 05:06:07", "2026-03-04 05:06:07+00:00"),
        ("2026-03-04 05:06:07+00:00", "2026-03-04 05:06:07+00:00"),
        ("2026-03-04T05:06:07Z", "2026-03-04 05:06:07+00:00"),
        ("2026-03-04 05:06:07.123456789+00:00", "2026-03-04 05:06:07.123456+00:00"),
        ("2026-03-04 05:06:07.5+02:00", "2026-03-04 03:06:07.5+00:00"),
        ("2026-03-04 05:06:07.000000001-01:30", "2026-03-04 06:36:07+00:00"),
        ("0001-01-01 00:00:00+00:00", "0001-01-01 00:00:00+00:00"),
    ],
)
def test_times_in_sqlite_are_read_in_every_form_and_written_in_gos(text: str, expected: str) -> None:
    moment = parse_time("expiry", text.encode())
    assert moment is not None
    assert format_time(moment) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-13-01 00:00:00",
        "2026-03-04",
        "12",
        "2026-03-04 05:06:07\0",
        "2026-03-04" + " " * 10**6,
    ],
)
def test_what_is_no_time_names_the_column(text: str) -> None:
    with pytest.raises(RowError, match="expiry"):
        parse_time("expiry", text)


def test_times_far_away_in_sqlite_are_read_as_before_or_after_all_others() -> None:
    for text in ("0001-01-01 00:00:00+01:00", "0000-01-01 00:00:00+00:00", -(10**30), float("-inf")):
        moment = parse_time("revoked_at", text)
        assert moment is not None
        assert read_revoked_at(moment) is None
        assert read_expiry(moment).year == 1
    for text in ("9999-12-31 23:59:59-01:00", "20000-01-01 00:00:00+00:00", 10**30, 1e300, float("inf")):
        moment = parse_time("expiry", text)
        assert moment is not None
        assert read_revoked_at(moment) is None
        assert read_expiry(moment).year == 9999


def test_a_number_in_sqlite_is_a_unix_time_in_milliseconds_from_a_million_millions_on() -> None:
    expected = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    for value in (1_700_000_000, 1_700_000_000.0, 1_700_000_000_000):
        assert parse_time("expiry", value) == expected
    with pytest.raises(RowError):
        parse_time("expiry", float("nan"))


def test_a_revocation_after_the_last_time_there_is_has_no_time() -> None:
    assert read_revoked_at(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)) is not None
    assert read_revoked_at(datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)) is None


@pytest.mark.parametrize("value", [-1, 2**511, 7.0, "7", str(2**511).encode(), b"1" * 10**7, None, b"7\0"])
def test_what_is_no_serial_in_sqlite_is_refused_and_shown_short(value: object) -> None:
    with pytest.raises(RowError) as caught:
        read_serial(value)
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()


def test_a_serial_of_64_bytes_is_read() -> None:
    assert read_serial(str(2**511 - 1).encode()) == 2**511 - 1
    assert read_serial(0) == 0


@pytest.mark.parametrize("value", [b"", b" 1", b"-1", b"0x1", b"1_0", b"1.5", "²".encode(), b"9" * 5000])
def test_what_is_no_serial_is_refused(value: bytes) -> None:
    with pytest.raises(RowError):
        read_serial(value)


def test_a_time_comes_back_from_its_text() -> None:
    assert parse_time("x", format_time(NOW)) == NOW
