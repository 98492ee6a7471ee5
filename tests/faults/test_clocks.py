"""S12: a clock that is set, forward or back, while a signer runs; through the daemon's own loop."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ocspd.clock import ManualClock
from tests.faults.daemon import SETTINGS, Rows, Signer, signing
from tests.faults.oracle import Oracle
from tests.pki.chain import make_chain

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB

CHAIN = make_chain()
START = datetime.now(UTC)
GOOD, REVOKED = 0, 1
COUNT = 30
AHEAD_S = 60
"""How far ahead a response may be after a change (`pki.signing_policy.MAX_AHEAD`)."""


def usable(signer: Signer, clock: ManualClock) -> bool:
    """Tell whether every response counts by the clock, and none is of the future."""
    now_s = clock.now().timestamp()
    found = [signer.answer(serial) for serial in range(1, COUNT + 1)]
    return all(
        each is not None and each.this_update <= now_s + AHEAD_S and each.next_update > now_s
        for each in found
    )


@pytest.mark.parametrize("hours", [[24, -24], [100, -100], [-24, 24], [100], [-2, 0.5, 1, 1]])
async def test_S12_every_response_counts_soon_after_the_clock_was_set(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path, hours: list[float]
) -> None:
    rows = Rows(migrated_db_config)
    for serial in range(1, COUNT + 1):
        await rows.insert(str(serial), CHAIN.signer().aki, days=60)
    clock = ManualClock(START)
    signer_at = CHAIN.signer(clock=clock)
    # it is not asked about these certificates: the times of their responses go back with the clock
    oracle = Oracle([CHAIN.ca])
    async with signing(certdb, tmp_path / "index", signer_at, clock=clock, oracle=oracle) as signer:
        for revoked, step in enumerate(hours, 1):
            clock.advance(timedelta(hours=step))
            await rows.says(str(revoked), signer_at.aki, "revoked")
            await signer.until(lambda: usable(signer, clock), "every response counts")
            await signer.until(lambda one=revoked: signer.status(one) == REVOKED, "the revocation")  # type: ignore[misc]
            assert {signer.status(serial) for serial in range(1, revoked + 1)} == {REVOKED}
            assert {signer.status(serial) for serial in range(revoked + 1, COUNT + 1)} == {GOOD}


async def test_S12_a_clock_that_is_set_during_a_pass_does_not_put_off_the_next_one(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path
) -> None:
    rows = Rows(migrated_db_config)
    await rows.insert("7", CHAIN.signer().aki, days=60)
    clock = ManualClock(START)
    settings = replace(SETTINGS, pass_interval_s=0.1, merge_interval_s=3600)
    path = tmp_path / "index"

    def set_clock() -> None:
        clock.advance(timedelta(hours=10))

    async with signing(
        certdb, path, CHAIN.signer(clock=clock), settings=settings, clock=clock, on_pass=set_clock
    ) as signer:
        await signer.until(lambda: signer.refresher.stats.passes >= 3, "passes after it")
        assert signer.refresher.stats.pass_seconds < 3600
