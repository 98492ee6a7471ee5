"""Runs in which one thing goes wrong, after which ocspd once served a wrong response for good."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from ocspd.model import CertStatus
from tests.simulation.database import Transaction

if TYPE_CHECKING:
    from tests.simulation.world import World

_SERIAL = 99
_BEGIN_S = 20.0


async def restored_and_killed(world: World) -> None:
    """Put the database back, and kill the signer once it has a new cursor but has not swept the index."""
    await asyncio.sleep(_BEGIN_S)
    world.judge.begins("database is restored, the signer killed")
    _issue(world)
    await asyncio.sleep(5)
    world.db.restore()
    while world.daemon is None or not world.daemon._state.sweep_due:  # noqa: ASYNC110  (no event)
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    world.processes["signer"].kill()
    world.judge.ends("database is restored, the signer killed")


async def restored_while_the_disk_is_full(world: World) -> None:
    """Put the database back while the signer cannot save its new cursor."""
    await asyncio.sleep(_BEGIN_S)
    world.judge.begins("database is restored, the disk is full")
    _issue(world)
    await asyncio.sleep(5)
    world.disks["signer"].failing = 1.0
    world.db.restore()
    await asyncio.sleep(2)
    world.disks["signer"].failing = 0.0
    world.judge.ends("database is restored, the disk is full")


async def deleted_during_passes(world: World) -> None:
    """Have the signer start, which begins a pass, and delete a certificate that is new to it meanwhile."""
    rng = world.rng("deletions")
    for _ in range(12):
        world.processes["signer"].stop()
        await asyncio.sleep(0.05)
        _issue(world)
        await world.processes["signer"].works.wait()
        await asyncio.sleep(0.5 * rng.random())
        world.db.commit(Transaction({(_SERIAL, ""): None}))
        await asyncio.sleep(12)


def _issue(world: World) -> None:
    row = world.db.row(_SERIAL, CertStatus.GOOD, world.clock.now() + timedelta(days=30))
    world.db.commit(Transaction({(_SERIAL, ""): row}))
