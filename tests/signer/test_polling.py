"""When a database that does not record its changes is read again."""

from __future__ import annotations

import asyncio

from ocspd.signer.polling import Polling
from ocspd.tasks import time_limit


async def test_a_pass_for_another_reason_takes_the_place_of_the_one_that_was_to_come() -> None:
    wanted = asyncio.Event()
    polling = Polling(wanted)
    polling.pass_begins()
    polling.pass_ended(0.01, sweep_due=False)
    polling.changed()  # to be found by a pass 0.09 s later
    polling.pass_begins()  # because of SIGUSR1, say
    polling.pass_ended(1000, sweep_due=False)
    await asyncio.sleep(0.2)
    assert not wanted.is_set()


async def test_a_database_that_has_changed_at_each_look_is_read_at_the_time_it_may_be() -> None:
    wanted = asyncio.Event()
    polling = Polling(wanted)
    polling.pass_begins()
    polling.changed()
    assert not wanted.is_set()
    polling.pass_ended(0, sweep_due=False)
    for _ in range(1000):
        polling.changed()
    async with time_limit(30):
        await wanted.wait()
