"""What goes wrong: each fault is a coroutine that begins it and, where it lasts, ends it."""

from __future__ import annotations

import asyncio
import errno
import random
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from ocspd.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tests.simulation.database import Database
    from tests.simulation.machine import Disk
    from tests.simulation.processes import Deaths
    from tests.simulation.store import Store
    from tests.simulation.world import World

    Fault = Callable[[World, random.Random], Awaitable[None]]
    Trouble = Callable[[World], Coroutine[object, object, None]]

TROUBLE_S = 100.0
"""How long faults begin."""
_PAUSES_S = (0.5, 8.0, 12.0)
"""How long it takes to the next one, about: what is to recover from one fault has to survive another."""
_STEPS = 12
"""In how many steps from now a process dies at most: publishing something takes nine."""


async def make_trouble(world: World) -> None:
    """Begin faults, one every few seconds, whatever is broken already. Returns when the last has ended."""
    rng = world.rng("trouble")
    async with Tasks() as tasks:
        while world.loop.time() < TROUBLE_S:
            await asyncio.sleep(rng.expovariate(1 / rng.choice(_PAUSES_S)))
            tasks.create_task(_begun(rng.choice(_FAULTS)(world, random.Random(rng.random()))))


async def _begun(fault: Awaitable[None]) -> None:
    await fault


async def killed(world: World, rng: random.Random) -> None:
    """Kill a process at whatever it waits for."""
    who = _somebody(rng)
    world.note(f"fault: {who} is killed")
    world.processes[who].kill()


async def stopped(world: World, rng: random.Random) -> None:
    """Stop a process as systemd does."""
    who = _somebody(rng)
    world.note(f"fault: {who} is stopped")
    world.processes[who].stop()


async def dies_at_a_step(world: World, rng: random.Random) -> None:
    """Kill a process between two steps on its disk."""
    world.processes[_somebody(rng)].machine.left = rng.randrange(_STEPS)


async def power_fails(world: World, rng: random.Random) -> None:
    """Cut the power of a computer, at once or between two steps on its disk."""
    who = _somebody(rng)
    process = world.processes[who]
    process.on_death.append(partial(world.cut_power, who))
    if rng.random() < 0.5:
        process.kill()
    else:
        process.machine.left = rng.randrange(_STEPS)


async def disk_fails(world: World, rng: random.Random) -> None:
    """Have a disk full or broken for a while."""
    who, what = _somebody(rng), rng.choice((errno.ENOSPC, errno.EIO))
    disk = world.disks[who]
    disk.error = what
    await _fails(world, rng, f"disk of {who}, {errno.errorcode[what]}", disk)


async def database_fails(world: World, rng: random.Random) -> None:
    """Have connections to the database break for a while."""
    await _fails(world, rng, "database", world.db)


async def database_hangs(world: World, rng: random.Random) -> None:
    """Have the database give no answer for a while."""
    world.judge.begins("database hangs")
    world.db.hung = True
    await asyncio.sleep(_a_while(rng))
    world.db.wake()
    world.judge.ends("database hangs")


async def database_is_restored(world: World, rng: random.Random) -> None:
    """Put the database back to an older copy."""
    world.judge.happens("database is restored from an older copy")
    world.db.restore()


async def store_fails(world: World, rng: random.Random) -> None:
    """Have requests to the store go wrong for a while."""
    await _fails(world, rng, "store", world.store)


async def signing_fails(world: World, rng: random.Random) -> None:
    """Have signing processes die for a while."""
    await _fails(world, rng, "signing processes", world.deaths)


async def clock_is_set(world: World, rng: random.Random) -> None:
    """Set every clock, forward or back."""
    step_s = rng.choice((-20.0, -1.0, 1.0, 50.0, 7200.0, 400_000.0, -7200.0))
    world.judge.happens(f"clock is set by {step_s:.0f} s")
    world.clock.ahead += timedelta(seconds=step_s)
    world.judge.clock_is_set()


async def signed_again(world: World, rng: random.Random) -> None:
    """Ask for everything to be signed again, as after the loss of a key."""
    if world.daemon is not None:
        world.note("everything is to be signed again")
        world.daemon.sign_again()


_FAULTS: tuple[Fault, ...] = (
    killed,
    stopped,
    dies_at_a_step,
    power_fails,
    power_fails,
    disk_fails,
    disk_fails,
    database_fails,
    database_hangs,
    database_is_restored,
    store_fails,
    store_fails,
    signing_fails,
    clock_is_set,
    signed_again,
)


def _somebody(rng: random.Random) -> str:
    return rng.choice(("signer", "signer", "puller"))


def _a_while(rng: random.Random) -> float:
    return rng.choice((0.5, 5.0, 20.0)) * rng.random()


async def _fails(world: World, rng: random.Random, what: str, part: Disk | Database | Store | Deaths) -> None:
    """Have a share of what a part is asked for fail for a while."""
    share = rng.choice((0.1, 0.5, 1.0))
    world.judge.begins(f"{what} ({share:.0%})")
    part.failing = share
    await asyncio.sleep(_a_while(rng))
    part.failing = 0.0
    world.judge.ends(f"{what} ({share:.0%})")
