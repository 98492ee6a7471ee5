"""PgBouncer in transaction mode between us and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.certdb.packed import PackedSource
from ocspd.certdb.postgres_connection import Database
from ocspd.clock import ManualClock, SystemClock
from ocspd.errors import CodedError
from ocspd.model import CertStatus
from tests.certdb.samples import AKI, NOW, certificate, response
from tests.faults.daemon import SETTINGS, Rows, signing
from tests.faults.oracle import Oracle
from tests.pki.chain import make_chain
from tests.ports import free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAIN = make_chain()
SIGNER = CHAIN.signer(clock=SystemClock())
CONNECTIONS = 3
"""Of the server, fewer than we use: transactions of one client go to different ones."""


class Pooled(NamedTuple):
    direct: str
    url: str


@pytest.fixture
def pooled(postgres_url: str) -> Iterator[Pooled]:
    """A database reached directly, and through PgBouncer."""
    port = free_port()
    parts = urlsplit(postgres_url)
    database = parts.path.lstrip("/")
    host = parse_qs(parts.query).get("host", [parts.hostname or ""])[0]
    owner: tuple[int, int] | None = None
    if os.geteuid() == 0:  # it refuses to run as root, so it runs as the server it connects to
        found = Path(host).stat()
        owner = (found.st_uid, found.st_gid) if found.st_uid else (65534, 65534)
    with tempfile.TemporaryDirectory(prefix="ocspd-pb-") as directory:
        folder = Path(directory)
        (folder / "users").write_text('"postgres" ""\n')
        (folder / "ini").write_text(
            f"[databases]\n{database} = host={host} user=postgres\n"
            f"[pgbouncer]\npool_mode = transaction\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"auth_type = any\nauth_file = {folder / 'users'}\nunix_socket_dir =\n"
            f"default_pool_size = {CONNECTIONS}\n"
        )
        if owner:
            os.chown(folder, *owner)
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [need("pgbouncer"), str(folder / "ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=owner and owner[0],
                group=owner and owner[1],
            )
        try:
            _wait_for(port, server, folder / "log")
            yield Pooled(postgres_url, f"postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable")
        finally:
            server.terminate()
            server.wait(60)


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


@pytest.fixture(params=["", "&statement_cache_size=0"])
def config(request: pytest.FixtureRequest, pooled: Pooled) -> DBConfig:
    return DBConfig("postgres", pooled.url + request.param)


async def test_everything_works_through_a_pooler_that_lends_transactions(
    config: DBConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with (
        await open_certdb(config, ManualClock(NOW)) as db,
        await open_certdb(config, ManualClock(NOW)) as other,
    ):
        await migrate.up(db)
        await other.check()
        feed = db.change_feed()
        cursor = await feed.current_cursor()

        async def work(serial: int) -> None:
            at = (db, other)[serial % 2]
            await at.insert_certificate(certificate(serial))
            await at.revoke_certificate(serial, AKI, 1)
            await at.upsert_ocsp([response(serial)])
            assert (await at.find_certificates(serial))[0].status is CertStatus.REVOKED
            assert [row async for rows in at.stream_status(chunk_rows=3) for row in rows]
            assert isinstance(at, PackedSource)
            assert sum([rows.count async for rows in at.stream_packed()])
            assert [row async for rows in at.unexpired_ocsp(chunk_rows=3) for row in rows]
            assert [some async for some in at.stream_odd()] == []

        await asyncio.gather(*(work(serial) for serial in range(24)))
        found = set()
        while changes := (await feed.read(cursor, 10)):
            found |= {change.serial for change in changes[0]}
            cursor = changes[1]
            if not changes[0]:
                break
        assert found == set(range(24))
        assert await db.estimate_unexpired() == 24
        for _ in range(3):
            await feed.wait(5)
        await feed.trim(cursor, timedelta())
        await feed.close()
    assert caplog.text.count("behind a pooler") == 2  # one for each certdb


async def test_a_pooler_whose_server_is_away_is_left_at_the_time_limit_by_whoever_connects() -> None:
    async def log_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack(">I", await reader.readexactly(4))
        await reader.readexactly(size - 4)
        for kind, body in (
            (b"R", bytes(4)),
            (b"S", b"server_version\x0015.1\0"),
            (b"S", b"client_encoding\0UTF8\0"),
            (b"K", struct.pack(">II", 1, 2)),
            (b"Z", b"I"),
        ):
            writer.write(kind + struct.pack(">I", len(body) + 4) + body)
        await ended.wait()  # it queues what is asked
        writer.close()

    ended = asyncio.Event()
    server = await asyncio.start_server(log_in, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"host=127.0.0.1 port={port} user=ca password=x dbname=certs sslmode=disable connect_timeout=1"
    database = Database.of(url)

    async def use(lent: contextlib.AbstractAsyncContextManager[object]) -> None:
        async with lent:
            pass

    async with server:
        work = [
            asyncio.ensure_future(each)
            for each in (use(database.inserter()), use(database.connection()), database.connect())
        ]
        _, hanging = await asyncio.wait(work, timeout=40)
        for task in hanging:
            task.cancel()
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            assert isinstance(outcome, CodedError)
            assert "does not respond" in outcome.message
        ended.set()
        await database.close()


async def test_a_signer_follows_changes_through_a_pooler(
    config: DBConfig, pooled: Pooled, tmp_path: Path
) -> None:
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        rows = Rows(DBConfig("postgres", pooled.direct))
        oracle = Oracle([CHAIN.ca], 10.0)
        for serial in (5, 6):
            await rows.insert(str(serial), SIGNER.aki)
            oracle.committed(0, serial, ["good"])
        async with signing(db, tmp_path / "index", SIGNER, oracle=oracle, settings=SETTINGS) as signer:
            for serial, word in ((5, "revoked"), (6, "revoked")):
                with oracle.committing(0, serial, [word]):
                    await rows.says(str(serial), SIGNER.aki, word)
                await signer.until(lambda: not oracle.unanswered(), "a revocation")
            assert signer.refresher.stats.passes == 1
