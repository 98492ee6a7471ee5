"""D1, D2, D11: servers that stop, freeze, lag, are promoted, or come back from the past."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import SystemClock
from tests.certdb.raw import execute, fetch
from tests.faults.cluster import Cluster, clusters, data_source
from tests.faults.daemon import SETTINGS, Rows, Signer, signing
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CHAIN = make_chain()
SIGNER = CHAIN.signer(clock=SystemClock())
AKI = SIGNER.aki
GOOD, REVOKED = 0, 1
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ocspd'"


async def migrated(server: Cluster) -> None:
    async with await open_certdb(url(server), SystemClock()) as db:
        await migrate.up(db)


@pytest.fixture(scope="module")
def pair(postgres_server: str) -> Iterator[tuple[Cluster, Cluster]]:
    """A primary, and a place for its standby. The shared server sees to the rights of the programs."""
    assert postgres_server
    with clusters(2) as (one, other):
        one.make()
        one.start()
        asyncio.run(migrated(one))
        yield one, other


def url(server: Cluster) -> DBConfig:
    """Return the database of one server, for asyncpg too."""
    return DBConfig("postgres", f"postgres://postgres@/postgres?host={server.path}&sslmode=disable")


async def test_D11_neither_a_lagging_standby_nor_an_old_primary_is_ever_believed(
    pair: tuple[Cluster, Cluster], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = pair
    at_old, at_new = Rows(url(old)), Rows(url(new))
    for serial in range(1, 30):
        await at_old.insert(str(serial), AKI)
    new.standby(old)
    new.set("recovery_min_apply_delay = 1h\n")
    new.start()
    source = DBConfig("postgres", data_source(old, new))
    async with (
        await open_certdb(source, SystemClock()) as db,
        signing(db, tmp_path / "index", SIGNER, bound_s=30) as signer,
    ):
        health = signer.refresher.stats.health
        with signer.oracle.committing(0, 7, ["revoked"]):
            await at_old.says("7", AKI, "revoked")
        await signer.until(lambda: signer.status(7) == REVOKED, "a revocation on the primary")
        assert (await fetch(url(new), "SELECT count(*) FROM certificates WHERE status = 'revoked'")) == [(0,)]
        # only the standby is left, which does not know of it
        old.stop()
        signer.refresher._pass_wanted.set()
        # first of all the connection is lost, which is trouble too
        await signer.until(
            lambda: "none of its hosts is a primary" in health.trouble("database"), "the reason"
        )
        assert not health.up("database")
        new.promote()
        await signer.until(lambda: health.up("database"), "the new primary is followed")
        with signer.oracle.committing(0, 8, ["revoked"]):
            await at_new.says("8", AKI, "revoked")
        await signer.until(lambda: signer.status(8) == REVOKED, "a revocation on the new primary")
        # the old one comes back, the first of the hosts, and nobody has told it
        old.start()

        def is_revoked(serial: int) -> bool:
            return signer.status(serial) == REVOKED

        await execute(url(new), CUT)
        for serial in (9, 10):
            with signer.oracle.committing(0, serial, ["revoked"]):
                await at_new.says(str(serial), AKI, "revoked")
            await signer.until(partial(is_revoked, serial), "one after that")
            await signer.another_pass()
        assert [signer.status(serial) for serial in (7, 8, 9, 10, 11)] == [REVOKED] * 4 + [GOOD]
    # nor does a new start go back
    async with (
        await open_certdb(source, SystemClock()) as db,
        signing(db, tmp_path / "index", SIGNER) as signer,
    ):
        assert [signer.status(serial) for serial in (7, 8, 9, 10, 11)] == [REVOKED] * 4 + [GOOD]


async def test_D1_revocations_around_power_cuts_are_answered(
    pair: tuple[Cluster, Cluster], tmp_path: Path
) -> None:
    server, _ = pair
    rows = Rows(url(server))
    for serial in range(1001, 1020):
        await rows.insert(str(serial), AKI)
    async with (
        await open_certdb(url(server), SystemClock()) as db,
        signing(db, tmp_path / "index", SIGNER, bound_s=30) as signer,
    ):
        for serial in (1001, 1004, 1007):
            for each in (serial, serial + 1):
                with signer.oracle.committing(0, each, ["revoked"]):
                    await rows.says(str(each), AKI, "revoked")
            server.stop("immediate" if serial % 2 else "fast")
            server.start()
            with signer.oracle.committing(0, serial + 2, ["revoked"]):
                await rows.says(str(serial + 2), AKI, "revoked")
            await signer.until(partial(all_revoked, signer, range(1001, serial + 3)), f"{serial} and later")
            await signer.another_pass()
            assert all_revoked(signer, range(1001, serial + 3))
            assert signer.status(serial + 3) == GOOD


def all_revoked(signer: Signer, serials: Iterable[int]) -> bool:
    return all(signer.status(serial) == REVOKED for serial in serials)


async def test_D12_a_role_that_may_not_trim_is_told_so_once_and_follows(
    postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = DBConfig("postgres", postgres_url)
    rows = Rows(config)
    role = postgres_url.partition("?")[0].rsplit("/", 1)[-1] + "_signer"
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
    await rows.insert("7", AKI)
    tables = "certificates, ocspd_changes, ocspd_feed"
    await execute(config, f'CREATE ROLE "{role}" LOGIN', f'GRANT SELECT ON {tables} TO "{role}"')
    few = DBConfig("postgres", f"{postgres_url}&options=-crole%3D{role}")
    settings = replace(SETTINGS, trim_interval_s=0.01)
    async with (
        await open_certdb(few, SystemClock()) as db,
        signing(db, tmp_path / "index", SIGNER, settings=settings) as signer,
    ):
        with signer.oracle.committing(0, 7, ["revoked"]):
            await rows.says("7", AKI, "revoked")
        await signer.until(lambda: signer.status(7) == REVOKED, "a change is answered")
        await signer.until(lambda: "stay in the change feed" in caplog.text, "the warning")
        await signer.another_pass()
        assert signer.refresher.stats.health.up("database")
    assert caplog.text.count("stay in the change feed") == 1
    await execute(config, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')
