from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ocspd.errors import OCSPDError
from ocspd.recovery import Recovery, without_details

if TYPE_CHECKING:
    import pytest


class Waits:
    """Stands in for waiting: remembers how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float, wake: asyncio.Event | None) -> None:
        self.seconds.append(seconds)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    found = [(record.levelno, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


def test_each_reason_is_logged_once_and_then_that_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = Recovery(meanwhile="serving on", again="the store works again")
    assert not store.works()
    assert store.failed(OCSPDError("refused"))
    assert not store.failed("refused")
    assert lines(caplog) == [(logging.ERROR, "refused; serving on")]
    assert store.failed("timed out")
    assert store.failed("refused", meanwhile="starting")
    assert store.trouble == "refused"
    assert lines(caplog) == [
        (logging.ERROR, "timed out; serving on"),
        (logging.ERROR, "refused; starting"),
    ]
    assert store.works()
    assert not store.works()
    assert store.trouble == ""
    assert lines(caplog) == [(logging.INFO, "the store works again")]
    assert store.failed("refused")
    assert lines(caplog) == [(logging.ERROR, "refused; serving on")]


def test_a_reason_whose_details_vary_is_one_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = Recovery(meanwhile="serving on", level=logging.WARNING, same=without_details)
    assert store.failed("cannot read (request 1)")
    assert not store.failed("cannot read (request 2)")
    assert store.trouble == "cannot read (request 2)"
    assert store.failed("cannot write (request 3)")
    assert lines(caplog) == [
        (logging.WARNING, "cannot read (request 1); serving on"),
        (logging.WARNING, "cannot write (request 3); serving on"),
    ]


def test_nothing_is_logged_without_a_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    silent = Recovery()
    assert silent.failed("refused")
    assert silent.works()
    assert lines(caplog) == []


async def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    waits = Waits()
    store = Recovery(retry_s=(0.5, 3.0), wait=waits)
    await store.pause(idle_s=7.0)
    for _ in range(4):
        store.failed("refused")
        await store.pause(idle_s=7.0)
    assert waits.seconds == [7.0, 0.5, 1.0, 2.0, 3.0]
    store.works()
    assert store.delay_s == 0.0
    store.failed("refused")
    assert store.delay_s == 0.5


def test_pauses_begin_anew_after_an_attempt_that_lasted() -> None:
    worker = Recovery(retry_s=(0.5, 3.0))
    for lasted_s, delay_s in ((0.0, 0.5), (3.0, 1.0), (3.1, 0.5), (0.0, 1.0)):
        worker.failed("ended", lasted_s=lasted_s)
        assert worker.delay_s == delay_s


def test_ten_thousand_failures_in_a_row_are_no_overflow() -> None:
    store = Recovery()
    for _ in range(10_000):
        store.failed("refused")
    assert store.delay_s == 30.0


async def test_a_pause_ends_when_it_is_woken() -> None:
    wake = asyncio.Event()
    store = Recovery(retry_s=(3600.0, 3600.0))
    store.failed("refused")
    pausing = asyncio.create_task(store.pause(wake))
    await asyncio.sleep(0)
    wake.set()
    await pausing
    assert wake.is_set()
    await Recovery(retry_s=(0.0, 0.0)).pause()
