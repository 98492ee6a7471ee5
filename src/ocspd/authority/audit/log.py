"""The audit log as the API uses it: append an entry, and go on when it is durable.

Entries that come in while a group is being written wait, and are the next group: one write and one fsync for
all of them. What a request does is logged before it is done, so that nothing is done unlogged; if it then
fails, another entry says so (`not-stored`, `not-revoked`).

While the log cannot be written, every append fails, and with it the request. Each one tries again, and so
does a task, so that it heals by itself; the first entry after that is of the event `recovered`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ocspd.authority.audit import chain
from ocspd.authority.audit.writer import GROUP_BYTES
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.recovery import Recovery
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ocspd.authority.audit.writer import LogFile
    from ocspd.clock import Clock

SEAL_S = 60.0
"""How long entries wait for a checkpoint at most, in seconds."""
WRITE_S = 20.0
"""How long a request waits for its entry, in seconds: a disk that hangs, or another process with the lock."""
GROUP_ENTRIES = 1024
WAITING_ENTRIES = 16384
"""How many entries may wait while the disk is busy; more requests are refused."""


@dataclass(slots=True)
class Counts:
    """What this process has written since it started."""

    entries: int = 0
    groups: int = 0
    seconds: float = 0.0
    """The time spent in writing, waiting for the lock included."""
    failed: int = 0
    """Requests that failed because their entry could not be written."""


@dataclass(slots=True)
class _Waiting:
    encoded: tuple[bytes, ...]
    done: asyncio.Future[int] = field(repr=False)


class AuditLog:
    """An audit log in one event loop. Use as `async with`: it begins with `start` and ends with `stop`."""

    def __init__(  # noqa: PLR0913  (limits that tests make small)
        self,
        file: LogFile,
        clock: Clock,
        *,
        about: Mapping[str, Any] | None = None,
        seal_s: float = SEAL_S,
        write_s: float = WRITE_S,
        waiting: int = WAITING_ENTRIES,
    ) -> None:
        """`about` is said in the entries `start` and `stop`; the others are SEAL_S and so on."""
        self._file = file
        self._clock = clock
        self._about = dict(about or {})
        self._seal_s = seal_s
        self._write_s = write_s
        self._most_waiting = waiting
        self._thread = ThreadPoolExecutor(1, "audit")
        self._queue: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._away_since = ""
        self._away = asyncio.Event()
        self._recovery = Recovery(
            meanwhile="until it can be written again, nothing is issued, revoked or changed",
            again="the audit log is written again",
            retry_s=(0.25, 5.0),
        )
        self.counts = Counts()

    @property
    def trouble(self) -> str:
        """Why the log cannot be written; "" when it can."""
        return self._recovery.trouble

    async def __aenter__(self) -> Self:
        """Write the entry `start`, and a checkpoint; OCSPDError when the log cannot be used."""
        encoded = chain.encode(self._stamped({"event": "start", **self._about}))
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, lambda: self._file.append([encoded], seal=True))
        except OSError as err:
            self._thread.shutdown(wait=False)
            raise OCSPDError(
                f"{self._file.path}: the audit log cannot be written: {err.strerror or err}"
            ) from err
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        self._tasks = [asyncio.create_task(self._seal_regularly()), asyncio.create_task(self._heal())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what is waiting, the entry `stop` and a checkpoint; a log that fails has said so already."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(CodedError):
            await self.append({"event": "stop", **self._about})
        with contextlib.suppress(OSError, OCSPDError, TimeoutError):
            async with time_limit(self._write_s):
                await self._in_thread([], seal=True)
        self._thread.shutdown(wait=False)
        self._file.close()

    def now(self) -> datetime:
        """Return the time of its clock."""
        return self._clock.now()

    async def check(self) -> None:
        """Raise CodedError 12000 if the log cannot be written; tries it if it could not be the last time."""
        if self.trouble:
            try:
                await self._append(())
            except CodedError:
                self.counts.failed += 1
                raise

    async def append(self, fields: Mapping[str, Any]) -> int:
        """Append an entry, `time` is added, and return its number once it is durable.

        CodedError 12000 when it is not; the reason is logged, once.
        """
        return await self._append((chain.encode(self._stamped(fields)),))

    async def append_all(self, entries: Sequence[Mapping[str, Any]]) -> int:
        """Append several entries that stay together, all or none; return the number of the last one."""
        return await self._append(tuple(chain.encode(self._stamped(fields)) for fields in entries))

    async def _append(self, encoded: tuple[bytes, ...]) -> int:
        if len(self._queue) >= self._most_waiting:
            raise _failure("too many entries are waiting to be written")
        waiting = _Waiting(encoded, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_groups())
        try:
            async with time_limit(self._write_s):
                return await waiting.done
        except TimeoutError:
            self._failed(f"{self._file.path}: nothing could be written for {self._write_s:g} s")
            self.counts.failed += 1
            raise _failure("the entry was not written in time") from None

    # -- groups --------------------------------------------------------------------------------------

    async def _write_groups(self) -> None:
        try:
            while self._queue:
                await self._write_group(self._next_group())
        finally:
            self._writing = None

    def _next_group(self) -> list[_Waiting]:
        size = count = entries = 0
        for waiting in self._queue:
            size += sum(map(len, waiting.encoded))
            entries += len(waiting.encoded)
            if count and (size > GROUP_BYTES or entries > GROUP_ENTRIES):
                break
            count += 1
        group, self._queue = self._queue[:count], self._queue[count:]
        return group

    async def _write_group(self, group: list[_Waiting]) -> None:
        encoded = [entry for waiting in group for entry in waiting.encoded]
        recovered = [self._recovered()] if self.trouble else []
        try:
            numbers = (await self._in_thread([*recovered, *encoded]))[len(recovered) :]
        except (OSError, OCSPDError) as err:
            self._failed(_reason(err, self._file))
            self.counts.failed += sum(1 for waiting in group if waiting.encoded)
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_exception(_failure(str(err)))
            return
        except Exception as err:  # noqa: BLE001  (a bug: who waits is to hear of it)
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_exception(err)
            return
        if self._recovery.works():
            self._away.clear()
        self.counts.entries += len(encoded)
        position = 0
        for waiting in group:
            position += len(waiting.encoded)
            if not waiting.done.done():
                waiting.done.set_result(numbers[position - 1] if waiting.encoded else 0)

    async def _in_thread(self, encoded: Sequence[bytes], *, seal: bool = False) -> list[int]:
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, lambda: self._file.append(encoded, seal=seal))
        finally:
            self.counts.groups += 1
            self.counts.seconds += time.perf_counter() - started

    # -- in the background ---------------------------------------------------------------------------

    async def _seal_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._seal_s)
            if self.trouble or self._file.is_sealed:
                continue
            try:
                await self._in_thread([], seal=True)
            except (OSError, OCSPDError) as err:
                self._failed(_reason(err, self._file))

    async def _heal(self) -> None:
        while True:
            await self._away.wait()
            await self._recovery.pause()
            with contextlib.suppress(CodedError):
                await self._append(())

    def _failed(self, why: str) -> None:
        if not self.trouble:
            self._away_since = chain.timestamp(self._clock.now())
        self._recovery.failed(why)
        self._away.set()

    def _recovered(self) -> bytes:
        fields = {"event": "recovered", "since": self._away_since, "reason": self.trouble[:1000]}
        return chain.encode(self._stamped(fields))

    def _stamped(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"time": chain.timestamp(self._clock.now()), **fields}


def _failure(why: str) -> CodedError:
    return CodedError(Code.AUDIT_FAILED, f"the audit log cannot be written: {why}")


def _reason(error: OSError | OCSPDError, file: LogFile) -> str:
    if isinstance(error, OSError):
        return f"{file.path}: the audit log cannot be written: {error.strerror or error}"
    return str(error)
