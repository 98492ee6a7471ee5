"""What the API appends to: groups, failures and healing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ocspd.authority.audit import reading
from ocspd.authority.audit.log import AuditLog
from ocspd.authority.audit.writer import LogFile, open_key
from ocspd.clock import ManualClock, SystemClock
from ocspd.errors import Code, CodedError, OCSPDError
from tests.authority.audit.logs import START, checked, entries, events, opened, serials, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder / "audit.log"


@asynccontextmanager
async def running(path: Path, *, seal_s: float = 60.0) -> AsyncIterator[AuditLog]:
    async with AuditLog(opened(path, every=100), ManualClock(START), seal_s=seal_s) as audit:
        yield audit


def issue(serial: int) -> dict[str, str]:
    return {"event": "issue", "serial": str(serial)}


async def test_it_begins_with_start_and_ends_with_stop_both_sealed(log: Path) -> None:
    async with AuditLog(opened(log), ManualClock(START), about={"pid": 7}) as audit:
        assert await audit.append(issue(1)) == 3
    assert events(log) == ["start", "checkpoint", "issue", "stop", "checkpoint"]
    assert entries(log)[0].fields["pid"] == 7
    assert texts(checked(log)) == []


async def test_entries_of_many_requests_share_a_write(log: Path) -> None:
    async with running(log) as audit:
        numbers = await asyncio.gather(*(audit.append(issue(number)) for number in range(500)))
        assert len(set(numbers)) == 500
        assert audit.counts.entries == 500
        assert audit.counts.groups < 20
    assert serials(log) == list(range(500))
    assert texts(checked(log)) == []


class Held(LogFile):
    """A log whose writes wait until they are let go, as on a disk that is slow."""

    gate = threading.Event()
    sizes: list[int]

    def append(self, encoded: Sequence[bytes], *, seal: bool = False) -> list[int]:
        assert self.gate.wait(120)
        self.sizes.append(len(encoded))
        return super().append(encoded, seal=seal)


async def test_what_comes_in_during_a_write_is_the_next_group(log: Path) -> None:
    file = Held(log, open_key(reading.beside(log, reading.KEY)), ManualClock(START))
    file.sizes = []
    file.gate.set()
    async with AuditLog(file, ManualClock(START)) as audit:
        file.gate.clear()
        first = asyncio.create_task(audit.append(issue(0)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        rest = [asyncio.create_task(audit.append(issue(number))) for number in range(1, 50)]
        await asyncio.sleep(0)
        assert not first.done()
        file.gate.set()
        await asyncio.gather(first, *rest)
        assert file.sizes == [1, 1, 49]


async def test_a_request_that_is_given_up_is_logged_nonetheless(log: Path) -> None:
    async with running(log) as audit:
        task = asyncio.create_task(audit.append(issue(1)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await audit.append(issue(2))
    assert serials(log) == [1, 2]


async def test_entries_are_sealed_after_a_while(log: Path) -> None:
    async with running(log, seal_s=0.01) as audit:
        await audit.append(issue(1))
        while events(log)[-1] != "checkpoint":  # noqa: ASYNC110  (written by a thread)
            await asyncio.sleep(0.01)
        count = len(events(log))
        await asyncio.sleep(0.1)
        assert len(events(log)) == count


async def test_a_log_that_is_away_fails_every_append_and_heals_by_itself(
    log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = log.parent.with_name("elsewhere")
    async with running(log) as audit:
        await audit.append(issue(1))
        log.parent.rename(elsewhere)
        for number in (2, 3):
            with pytest.raises(CodedError) as caught:
                await audit.append(issue(number))
            assert caught.value.code is Code.AUDIT_FAILED
        with pytest.raises(CodedError):
            await audit.check()
        assert "No such file or directory" in audit.trouble
        elsewhere.rename(log.parent)
        while audit.trouble:  # noqa: ASYNC110  (nobody asks)
            await asyncio.sleep(0.01)
        await audit.check()
        await audit.append(issue(4))
        assert audit.counts.failed == 3
    assert events(log) == ["start", "checkpoint", "issue", "recovered", "issue", "stop", "checkpoint"]
    assert texts(checked(log)) == []
    told = [record.message for record in caplog.records if "until it can be written" in record.message]
    assert len(told) == 1


async def test_a_log_that_cannot_be_written_at_the_start_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "audit.log"
    key = open_key(tmp_path / "audit.key")
    with pytest.raises(OCSPDError, match=r"audit\.log: the audit log cannot be written: No such file"):
        async with AuditLog(LogFile(path, key, SystemClock()), SystemClock()):
            pass


FULL = """
import asyncio, json, os, resource, sys
from pathlib import Path
from ocspd.authority.audit.log import AuditLog
from ocspd.clock import SystemClock
from ocspd.errors import CodedError
from tests.authority.audit.logs import opened

async def main(path):
    done, refused = [], []
    async with AuditLog(opened(path), SystemClock()) as audit:
        async def one(serial):
            try:
                await audit.append({"event": "issue", "serial": str(serial), "sans": ["x" * 200]})
                done.append(serial)
            except CodedError:
                refused.append(serial)
        # A limit for files ends a write in its middle, as a full disk does.
        limit = path.stat().st_size + 5000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for start in range(0, 60, 6):
            await asyncio.gather(*map(one, range(start, start + 6)))
        assert refused and done
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await one(1000)
    print(json.dumps([done, refused]))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_full_disk_leaves_no_half_group_and_no_entry_of_what_failed(log: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(log)], capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stderr
    done, refused = json.loads(run.stdout)
    assert serials(log) == done
    assert 1000 in done
    assert refused
    assert texts(checked(log)) == []
    assert not list(log.parent.glob("*.torn-*"))
    assert "recovered" in events(log)


async def test_more_than_may_wait_is_refused(log: Path) -> None:
    file = Held(log, open_key(reading.beside(log, reading.KEY)), ManualClock(START))
    file.sizes = []
    file.gate.set()
    async with AuditLog(file, ManualClock(START), waiting=3) as audit:
        file.gate.clear()
        tasks = [asyncio.create_task(audit.append(issue(0)))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(audit.append(issue(number))) for number in range(1, 5)]
        await asyncio.sleep(0)
        file.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, CodedError) for result in results] == [False] * 4 + [True]


class Broken(LogFile):
    """A log with a bug."""

    broken = False

    def append(self, encoded: Sequence[bytes], *, seal: bool = False) -> list[int]:
        if self.broken:
            raise ZeroDivisionError
        return super().append(encoded, seal=seal)


async def test_a_bug_is_heard_of_by_who_waits_and_by_nobody_else(log: Path) -> None:
    file = Broken(log, open_key(reading.beside(log, reading.KEY)), ManualClock(START))
    async with AuditLog(file, ManualClock(START)) as audit:
        file.broken = True
        with pytest.raises(ZeroDivisionError):
            await audit.append(issue(1))
        file.broken = False
        await audit.append(issue(2))
    assert serials(log) == [2]


async def test_a_disk_that_hangs_fails_the_request_in_time(log: Path) -> None:
    file = Held(log, open_key(reading.beside(log, reading.KEY)), ManualClock(START))
    file.sizes = []
    file.gate.set()
    async with AuditLog(file, ManualClock(START), write_s=0.05) as audit:
        file.gate.clear()
        try:
            with pytest.raises(CodedError, match="not written in time"):
                await audit.append(issue(1))
            assert "nothing could be written for" in audit.trouble
        finally:
            file.gate.set()
        while audit.trouble:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
