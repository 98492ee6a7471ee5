"""D7 and D11, invariant 4: a database that lost commits takes no revocation back until a row is changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from ocspd._der import parse_response
from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import SystemClock
from tests.certdb.raw import execute
from tests.faults.cluster import clusters, data_source
from tests.faults.daemon import Rows, signing
from tests.faults.oracle import Oracle
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    import pytest

    from tests.faults.daemon import Signer

CHAIN = make_chain()
SIGNER = CHAIN.signer(clock=SystemClock())
AKI = SIGNER.aki
GOOD, REVOKED = 0, 1


async def revoke(rows: Rows, signer: Signer, serial: int) -> None:
    """Revoke a certificate, for key compromise, and wait for the answer."""
    with signer.oracle.committing(0, serial, ["revoked"]):
        await rows.set(
            str(serial), AKI,
            f"status = {rows.text('revoked')}, reason = 1, revoked_at = '2026-02-03 04:05:06+00:00'",
        )  # fmt: skip
    await signer.until(lambda: signer.status(serial) == REVOKED, "a revocation")


def said(signer: Signer, serial: int) -> tuple[int, int | None, int | None]:
    answer = signer.answer(serial)
    assert answer is not None
    response = parse_response(answer.der)
    return response.status, response.reason, response.revoked_at


async def keeps(rows: Rows, signer: Signer, held: int) -> None:
    """See that 7 and 8 stay revoked and are renewed so, and that a row that is changed counts."""
    stats = signer.refresher.stats
    await signer.until(lambda: stats.held == held, "the count of what is held")
    before = said(signer, 7), signer.answer(7)
    assert before[0][:2] == (REVOKED, 1)
    signer.refresher.sign_again()
    await signer.until(lambda: signer.answer(7) != before[1], "another signature")
    await signer.another_pass()
    assert said(signer, 7) == before[0]
    assert [signer.status(serial) for serial in (6, 7, 8)] == [GOOD, REVOKED, REVOKED]
    await revoke(rows, signer, 6)


async def test_D7_a_restored_file_takes_no_revocation_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = DBConfig("sqlite3", str(tmp_path / "certs.db"))
    rows, path = Rows(config), Path(config.data_source)
    oracle = Oracle([CHAIN.ca], 10.0)
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        for serial in (6, 7, 8):
            await rows.insert(str(serial), AKI)
            oracle.committed(0, serial, ["good"])
        shutil.copy(path, tmp_path / "backup.db")
        async with signing(db, tmp_path / "index", SIGNER, oracle=oracle) as signer:
            await revoke(rows, signer, 7)
            await revoke(rows, signer, 8)
            (tmp_path / "backup.db").replace(path)
            await keeps(rows, signer, 2)
            assert caplog.text.count("2 certificates stay revoked") == 1
            assert f"7 of {AKI}, 8 of {AKI}" in caplog.text
    async with (
        await open_certdb(config, SystemClock()) as db,
        signing(db, tmp_path / "index", SIGNER, oracle=oracle) as signer,
    ):
        await signer.another_pass()
        assert [signer.status(serial) for serial in (6, 7, 8)] == [REVOKED] * 3
        # somebody means it
        oracle.committed(0, 7, ["good"])
        await rows.says("7", AKI, "good")
        await signer.until(lambda: signer.status(7) == GOOD, "a row that was changed")
        await rows.says("8", AKI, "revoked")
        await signer.another_pass()
        assert [signer.status(serial) for serial in (6, 7, 8)] == [REVOKED, GOOD, REVOKED]
        assert signer.refresher.stats.held == 0
    (tmp_path / "index" / "signer.json").unlink()
    await rows.says("6", AKI, "good")
    oracle.committed(0, 6, ["good"])
    async with (
        await open_certdb(config, SystemClock()) as db,
        signing(db, tmp_path / "index", SIGNER, oracle=oracle) as signer,
    ):
        assert signer.status(6) == GOOD  # the database is believed as it is


async def test_D11_a_promoted_standby_that_lost_commits_takes_no_revocation_back(
    tmp_path: Path, postgres_server: str
) -> None:
    assert postgres_server  # sees to the rights of the programs
    with clusters(2) as (old, new):
        old.make()
        old.start()
        at_old, at_new = (
            DBConfig("postgres", f"postgres://postgres@/postgres?host={server.path}&sslmode=disable")
            for server in (old, new)
        )
        async with await open_certdb(at_old, SystemClock()) as db:
            await migrate.up(db)
        rows = Rows(at_old)
        for serial in (6, 7, 8):
            await rows.insert(str(serial), AKI)
        new.standby(old)  # and nothing of what follows reaches it
        source = DBConfig("postgres", data_source(old, new))
        async with (
            await open_certdb(source, SystemClock()) as db,
            signing(db, tmp_path / "index", SIGNER, bound_s=30) as signer,
        ):
            await revoke(rows, signer, 7)
            await revoke(rows, signer, 8)
            old.stop()
            new.start()
            new.promote()
            await keeps(Rows(at_new), signer, 2)


async def test_D11_a_database_moved_with_an_old_dump_takes_no_revocation_back(
    tmp_path: Path, postgres_url: str
) -> None:
    config = DBConfig("postgres", postgres_url)
    rows = Rows(config)
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        for serial in (6, 7, 8):
            await rows.insert(str(serial), AKI)
    name = postgres_url.partition("?")[0].rsplit("/", 1)[1]
    moved = DBConfig("postgres", postgres_url.replace(f"/{name}", f"/{name}_copy"))
    admin = await asyncpg.connect(postgres_url.replace(f"/{name}", "/postgres"))
    await admin.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    try:
        async with (
            await open_certdb(config, SystemClock()) as db,
            signing(db, tmp_path / "index", SIGNER) as signer,
        ):
            await revoke(rows, signer, 7)
            await revoke(rows, signer, 8)
        async with (
            await open_certdb(moved, SystemClock()) as copy,
            signing(copy, tmp_path / "index", SIGNER) as signer,
        ):
            await keeps(Rows(moved), signer, 2)
    finally:
        await admin.execute(f"DROP DATABASE {name}_copy WITH (FORCE)")
        await admin.close()


async def test_D12_a_revocation_taken_back_while_triggers_were_off_is_believed(
    tmp_path: Path, postgres_url: str
) -> None:
    config = DBConfig("postgres", postgres_url)
    rows = Rows(config)
    async with await open_certdb(config, SystemClock()) as db:
        await migrate.up(db)
        await rows.insert("7", AKI)
        async with signing(db, tmp_path / "index", SIGNER) as signer:
            await revoke(rows, signer, 7)
            signer.oracle.committed(0, 7, ["good"])
            await execute(
                config,
                "BEGIN; ALTER TABLE certificates DISABLE TRIGGER ALL; "
                "UPDATE certificates SET status = 'good'; "
                "ALTER TABLE certificates ENABLE TRIGGER ALL; COMMIT",
            )
            await signer.until(lambda: signer.status(7) == GOOD, "what was decided")
