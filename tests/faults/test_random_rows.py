"""Never good after revoked, whatever is written: random rows beside a signer at work, judged by the oracle.

    OCSPD_RANDOM_ROWS=100:200 OCSPD_RANDOM_STEPS=2000 pytest tests/faults/test_random_rows.py

tries the seeds from 100 to 199 with 2000 commits each.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from ocspd.clock import SystemClock
from tests.faults.daemon import signing, until
from tests.faults.oracle import Oracle
from tests.faults.random_rows import World
from tests.pki.chain import make_chain, pem

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB
    from tests.faults.daemon import Signer

CHAINS = make_chain(), make_chain(name="Other CA", number=1)
SIGNERS = [chain.signer(clock=SystemClock()) for chain in CHAINS]
PEMS = [pem(chain.issue(7)).decode() for chain in CHAINS]
FIRST, _, END = os.environ.get("OCSPD_RANDOM_ROWS", "1:4").partition(":")
STEPS = int(os.environ.get("OCSPD_RANDOM_STEPS", "60"))
BEFORE = 20
"""How many commits there are before a signer runs."""


@pytest.mark.parametrize("seed", range(int(FIRST), int(END)))
async def test_random_rows_are_never_good_after_revoked_and_all_are_answered(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path, seed: int
) -> None:
    oracle = Oracle([chain.ca for chain in CHAINS], 10.0, time.monotonic, ("sha1", "sha256"))
    world = World(migrated_db_config, oracle, [signer.aki for signer in SIGNERS], PEMS, seed)
    choice = random.Random(seed)
    await world.open()
    try:
        for _ in range(BEFORE):
            await world.step()
        for _ in range(2):
            async with signing(certdb, tmp_path / "index", *SIGNERS, oracle=oracle) as signer:
                await _write(world, signer, choice)
                await _answered(world, oracle, signer)
                await signer.another_pass()
                await _answered(world, oracle, signer)
            for _ in range(BEFORE):  # while nobody follows
                await world.step()
    except BaseException:
        (tmp_path / "done.sql").write_text("\n".join(world.done))
        raise
    finally:
        await world.close()


async def _write(world: World, signer: Signer, choice: random.Random) -> None:
    for _ in range(STEPS):
        chance = choice.random()
        if chance < 0.05:
            await signer.another_pass()
        elif chance < 0.06:
            await world.truncate()
        else:
            await world.step()
        await asyncio.sleep(choice.choice((0, 0, 0, 0.001, 0.01, 0.03)))


async def _answered(world: World, oracle: Oracle, signer: Signer) -> None:
    """Wait until every certificate is answered as its rows say."""

    def missing() -> list[str]:
        return oracle.unanswered(besides=world.over)

    try:
        await until(lambda: not missing(), "every answer", lambda: not signer.task.done())
    except AssertionError:
        raise AssertionError("\n".join(missing())) from None
