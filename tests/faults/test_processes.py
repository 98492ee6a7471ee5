"""S2: a signing process that dies in a pass, by the out-of-memory killer or otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ocspd.clock import SystemClock
from ocspd.index.directory import IndexDirectory
from ocspd.signer.generations import Generations
from ocspd.signer.refreshing import SignerDaemon
from tests.certdb.raw import execute
from tests.faults.daemon import SETTINGS, Rows, Signers, until
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB
    from ocspd.pki.ocsp import OCSPSigner

COUNT = 20_000


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
async def test_S2_a_signing_process_that_is_killed_ends_neither_the_daemon_nor_the_pass(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path, kind: signal.Signals
) -> None:
    signer = make_chain().signer(clock=SystemClock(), certid_hashes=("sha1",))
    later = datetime.now(UTC) + timedelta(days=5)
    rows = Rows(migrated_db_config)
    text = "convert_to({}::text, 'UTF8')" if migrated_db_config.driver == "postgres" else "CAST({} AS TEXT)"
    await execute(
        migrated_db_config,
        "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason, "
        "expiry, revoked_at, pem) WITH RECURSIVE numbers(n) AS "
        f"(SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {COUNT}) "
        f"SELECT {text.format('n')}, {rows.text(signer.aki)}, {rows.text('')}, {rows.text('good')}, 0, "
        f"'{later:%Y-%m-%d %H:%M:%S}+00:00', '0001-01-01 00:00:00+00:00', {rows.text('-')} FROM numbers",
    )
    directory = IndexDirectory(tmp_path / "index")
    with directory.lock():
        generations = Generations(directory, SystemClock())
        refresher = SignerDaemon(
            db=certdb,
            source=Signers(signer),
            generations=generations,
            clock=SystemClock(),
            settings=replace(SETTINGS, processes=2),
        )
        task = asyncio.create_task(refresher.run())
        killed: set[int] = set()
        try:
            while len(killed) < 3 and not refresher.ready.is_set():
                assert not task.done()
                for child in multiprocessing.active_children():
                    if child.pid is not None and child.pid not in killed and len(killed) < 3:
                        await asyncio.sleep(0.15 * len(killed))  # starting, and at work
                        with contextlib.suppress(ProcessLookupError):  # the pass has ended it
                            os.kill(child.pid, kind)
                        killed.add(child.pid)
                await asyncio.sleep(0.02)
            assert killed
            await until(refresher.ready.is_set, "the pass", lambda: not task.done())
            assert refresher.stats.health.up("processes")
            assert directory.open().entries == COUNT
        finally:
            task.cancel()
            await asyncio.wait({task})
            generations.close()


class CancelledOnce(Signers):
    """Signers whose second look is cancelled by its own means, as a library with a defect may do."""

    def load(self) -> Sequence[OCSPSigner] | None:
        self.looks += 1
        if self.looks == 2:
            raise asyncio.CancelledError
        return super().load()

    looks = 0


async def test_a_duty_that_nobody_cancelled_is_begun_again(
    certdb: CertDB, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signer = make_chain().signer(clock=SystemClock(), certid_hashes=("sha1",))
    directory = IndexDirectory(tmp_path / "index")
    with directory.lock():
        generations = Generations(directory, SystemClock())
        source = CancelledOnce(signer)
        daemon = SignerDaemon(
            db=certdb, source=source, generations=generations, clock=SystemClock(), settings=SETTINGS
        )
        task = asyncio.create_task(daemon.run())
        try:
            await until(lambda: source.looks > 3, "another look at the signers", lambda: not task.done())
            assert "signers: RuntimeError: cancelled for no reason" in caplog.text
        finally:
            task.cancel()
            await asyncio.wait({task})
            generations.close()
