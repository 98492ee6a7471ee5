"""D1, D7 and P1 at the start: a signer whose database or store is away waits for it, and says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
from typing import TYPE_CHECKING

import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import SystemClock
from tests.binary import ocspd
from tests.faults.cluster import clusters
from tests.faults.daemon import Rows
from tests.faults.signer_binary import Place
from tests.index.buckets import bucket, proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.fill(20)
    return place


@contextlib.contextmanager
def locked(place: Place) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(place.database, isolation_level=None)) as session:
        session.execute("PRAGMA locking_mode = EXCLUSIVE")
        session.execute("BEGIN EXCLUSIVE")
        yield


@pytest.mark.parametrize("content", [None, b"not a database" * 1000], ids=["none", "no database"])
def test_D7_a_signer_without_an_sqlite_file_is_refused_with_the_remedy(
    place: Place, content: bytes | None
) -> None:
    place.run_once()
    place.database.unlink()
    if content is not None:
        place.database.write_bytes(content)
    done = ocspd(*place.words, cwd=place.path)
    assert done.returncode == 1
    assert ("db up" if content is None else "not an SQLite database") in done.stderr
    assert place.answer(1) is not None  # what was published stays


def test_D7_a_signer_started_while_sqlite_is_locked_waits_says_so_and_goes_on(place: Place) -> None:
    place.run_once()
    place.revoke(3)  # while no signer runs
    with contextlib.ExitStack() as until_mended:
        until_mended.enter_context(locked(place))
        with place.signer(ready=False) as signer:
            signer.until(lambda: signer.gauge("ocspd_signer_database_up") == 0, "the gauge")
            status, text = signer.probe()
            assert (status, "the database does not respond" in text) == (503, True)
            assert signer.gauge("ocspd_signer_index_up") == signer.gauge("ocspd_signer_keys_up") == 1
            assert place.answer(1) is not None
            until_mended.close()
            signer.until(lambda: signer.probe()[0] == 200, "readiness")
            assert signer.gauge("ocspd_signer_database_up") == 1
            place.revoke(1)
            signer.until(lambda: place.revoked(1) and place.revoked(3), "both revocations")
            assert signer.log.count("[ERROR]") <= 2, signer.log  # not one for each attempt


def test_D1_a_signer_started_before_postgresql_waits_for_it(tmp_path: Path, postgres_server: str) -> None:
    assert postgres_server  # sees to the rights of the programs
    place = Place(tmp_path)
    with clusters(1) as (server,):
        server.make()
        config = DBConfig("postgres", f"postgres://postgres@/postgres?host={server.path}&sslmode=disable")
        (tmp_path / "db.json").write_text(
            json.dumps({"driver": "postgres", "data_source": config.data_source})
        )
        rows = Rows(config)
        with place.signer(ready=False) as signer:
            signer.until(lambda: signer.gauge("ocspd_signer_database_up") == 0, "the gauge")
            server.start()
            # the server is there, its tables are not
            signer.until(lambda: "not migrated" in signer.log, "a word about the tables")
            assert signer.probe()[0] == 503
            asyncio.run(_migrated(config, rows, place.chain.signer().aki))
            signer.until(lambda: signer.probe()[0] == 200, "readiness")
            asyncio.run(rows.says("1", place.chain.signer().aki, "revoked"))
            signer.until(lambda: place.revoked(1), "a revocation")


async def _migrated(config: DBConfig, rows: Rows, aki: str) -> None:
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
    await rows.insert("1", aki)


def test_P1_a_signer_started_without_its_store_publishes_when_it_is_there(place: Place) -> None:
    with bucket() as store, proxy(store.address) as line:
        line.stop()
        place.environment = os.environ | store.environment(line.address)
        up = f'ocspd_signer_publish_up{{url="{store.url}"}}'
        with place.signer("-publish", store.url, ready=False) as signer:
            signer.until(lambda: signer.gauge(up) == 0, "the gauge")
            signer.until(lambda: place.index.manifest() is not None, "the index that is here")
            place.revoke(1)
            signer.until(lambda: place.revoked(1), "a revocation, where it can be published")
            line.start()
            signer.until(lambda: "manifest.json" in store.names(), "the store")
            signer.until(lambda: signer.gauge(up) == 1, "the gauge again")
