from __future__ import annotations

import asyncio

import pytest

from ocspd.errors import IndexFileError
from ocspd.tasks import Tasks, time_limit


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


async def test_a_group_that_fails_while_it_is_left_cancels_nobody() -> None:
    """Its parent would count a cancellation for ever, and end at its next time-out on Python 3.11.2."""
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(IndexFileError):
        async with Tasks() as tasks:
            tasks.create_task(fail(IndexFileError("x")))
    assert task.cancelling() == 0
    with pytest.raises(TimeoutError):
        async with time_limit(0.001):
            await asyncio.Event().wait()


async def test_a_group_that_fails_while_its_body_waits_cancels_nobody() -> None:
    task = asyncio.current_task()
    assert task is not None

    async def both() -> None:
        async with Tasks() as tasks:
            tasks.create_task(fail(IndexFileError("x")))
            await asyncio.Event().wait()

    with pytest.raises(IndexFileError):
        await both()
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_is_still_counted_when_a_group_fails() -> None:
    counts: list[int] = []

    async def both() -> None:
        try:
            async with Tasks() as tasks:
                tasks.create_task(stubborn())
        finally:
            task = asyncio.current_task()
            assert task is not None
            counts.append(task.cancelling())

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise IndexFileError("while it is cancelled")

    task = asyncio.create_task(both())
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises((IndexFileError, asyncio.CancelledError)):
        await task
    assert counts == [1]


async def test_a_time_limit_counts_in_a_task_that_is_being_cancelled() -> None:
    outcome: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                async with time_limit(0.001):
                    await asyncio.Event().wait()
            except TimeoutError:
                outcome.append("timeout")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcome == ["timeout"]


async def test_a_time_limit_lets_a_cancellation_from_outside_pass() -> None:
    async def work() -> None:
        async with time_limit(60):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
