from __future__ import annotations

import asyncio

import pytest

from ocspd.errors import IndexFileError
from ocspd.tasks import Tasks


async def fail(error: Exception, after: asyncio.Event | None = None) -> None:
    if after is not None:
        await after.wait()
    raise error


async def test_one_error_is_raised_as_itself_and_ends_the_others() -> None:
    error = IndexFileError("a segment")
    others = []

    async def both() -> None:
        async with Tasks() as tasks:
            others.append(tasks.create_task(fail(ValueError(), asyncio.Event())))
            tasks.create_task(fail(error))

    with pytest.raises(IndexFileError) as caught:
        await both()
    assert caught.value is error
    assert others[0].cancelled()
    assert caught.value.__context__ is None


async def test_a_bug_is_not_hidden_behind_an_error_that_is_expected() -> None:
    async def all_at_once() -> None:
        async with Tasks() as tasks:
            for error in (IndexFileError("x"), ZeroDivisionError(), IndexFileError("y")):
                tasks.create_task(fail(error))

    with pytest.raises(ZeroDivisionError):
        await all_at_once()


async def test_groups_in_groups_are_undone() -> None:
    async def nested() -> None:
        raise ExceptionGroup("", [ExceptionGroup("", [IndexFileError("x")])])

    with pytest.raises(IndexFileError):
        async with Tasks() as tasks:
            tasks.create_task(nested())


async def test_what_is_cancelled_from_outside_is_cancelled() -> None:
    async def wait() -> None:
        async with Tasks() as tasks:
            tasks.create_task(asyncio.Event().wait())

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
