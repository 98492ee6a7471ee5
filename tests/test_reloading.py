from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ocspd.ops.reloading import reload_on

if TYPE_CHECKING:
    import pytest


async def test_a_reload_that_fails_unexpectedly_is_logged_and_the_next_one_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted, done = asyncio.Event(), asyncio.Event()
    calls: list[int] = []

    async def reload() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            wanted.set()  # another SIGHUP while this one is at work
            raise ValueError("nobody thought of this")
        done.set()

    task = asyncio.create_task(reload_on(wanted, reload))
    wanted.set()
    await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert calls == [0, 1]
    (record,) = caplog.records
    assert "reload failed, what is in use stays" in record.getMessage()
    assert task.cancelled()
