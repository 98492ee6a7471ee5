"""The worker processes: started, told which index and sockets to use, restarted when they die.

Every worker inherits every listening socket and accepts on its own; while one is down, another accepts
on its socket too, so no connection waits for the restart. Counters live in shared memory that outlasts
the worker, and its successor goes on counting there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from mmap import mmap
from typing import TYPE_CHECKING

from ocspd.logs import logger
from ocspd.metrics import COUNTER_BLOCK_BYTES, COUNTERS
from ocspd.web.control import Channel, WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.web.listeners import Listeners

_START_S = 30.0  # a worker that has not mapped the index by then is stuck
_SILENCE_S = 15.0  # one that has said nothing for so long is stuck, too (it speaks every second)
_FIRST_DELAY_S = 0.1
_LAST_DELAY_S = 30.0
_STEADY_S = 30.0  # one that lived for so long begins at the first delay again
_OPENED = COUNTERS.index("connections_opened") * 8
_CLOSED = COUNTERS.index("connections_closed") * 8


@dataclass(slots=True, kw_only=True)
class Slot:
    """One worker's place: what stays when the process in it changes."""

    number: int
    counters: mmap
    counters_fd: int
    process: asyncio.subprocess.Process | None = None
    channel: Channel | None = None
    ready: bool = False
    generation: int = -1
    """Of the index it uses; -1 for none."""
    sockets: tuple[int, ...] = ()
    heard_at: float = 0.0
    restarts: int = 0

    def totals(self) -> tuple[int, ...]:
        """Return the counters, in the order of `metrics.COUNTERS`."""
        return struct.unpack_from(f"={len(COUNTERS)}Q", self.counters)


@dataclass(slots=True, kw_only=True)
class WorkerPool:
    """The workers of one responder. `command` starts one; the control descriptor is appended to it."""

    command: Sequence[str]
    settings: WorkerSettings
    listeners: Listeners
    count: int
    slots: list[Slot] = field(default_factory=list)
    refused: int = 0
    """How often a worker could not use an index that was thought valid."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _index: tuple[str, str] | None = None
    _heard: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, directory: str, manifest: str) -> None:
        """Start every worker with an index (directory, manifest as JSON text)."""
        self._index = (directory, manifest)
        for number in range(self.count):
            descriptor = os.memfd_create(f"ocspd-counters-{number}")
            os.ftruncate(descriptor, COUNTER_BLOCK_BYTES)
            counters = mmap(descriptor, COUNTER_BLOCK_BYTES)
            slot = Slot(number=number, counters=counters, counters_fd=descriptor)
            self.slots.append(slot)
            self._tasks.append(asyncio.create_task(self._keep(slot)))

    def use(self, directory: str, manifest: str) -> None:
        """Let every worker use another index; those started later begin with it."""
        self._index = (directory, manifest)
        for slot in self.slots:
            if slot.channel is not None:
                slot.channel.send("index", directory=directory, manifest=manifest)

    @property
    def ready(self) -> int:
        """How many workers answer requests."""
        return sum(slot.ready for slot in self.slots)

    async def settled(self, generation: int) -> None:
        """Wait until no worker answers from another generation any more."""
        while any(slot.ready and slot.generation != generation for slot in self.slots):
            self._heard.clear()
            await self._heard.wait()

    async def stop(self, within_s: float) -> bool:
        """Drain: let requests in flight finish within a time, then end every worker.

        Returns whether all ended by themselves.
        """
        self._stopping.set()
        for slot in self.slots:
            if slot.channel is not None:
                slot.channel.send("drain", within_s=within_s)
        if not self._tasks:
            return True
        _, late = await asyncio.wait(self._tasks, timeout=within_s + 1)
        await self.kill()
        return not late

    async def kill(self) -> None:
        """End every worker at once. Idempotent."""
        self._stopping.set()
        for slot in self.slots:
            if slot.process is not None and slot.process.returncode is None:
                slot.process.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def close(self) -> None:
        """Release the shared memory."""
        for slot in self.slots:
            slot.counters.close()
            os.close(slot.counters_fd)
        self.slots.clear()

    async def _keep(self, slot: Slot) -> None:
        """Keep a process in the slot until the pool stops, pausing longer after each quick death."""
        delay = _FIRST_DELAY_S
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                await self._run(slot)
            except OSError as err:
                logger.error("worker %d cannot be started: %s", slot.number, err.strerror or err)
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _STEADY_S:
                delay = _FIRST_DELAY_S
            slot.restarts += 1
            logger.warning("worker %d is started again in %.1f s", slot.number, delay)
            with contextlib.suppress(TimeoutError):  # a drain need not wait for the pause to end
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(delay * 2, _LAST_DELAY_S)

    async def _run(self, slot: Slot) -> None:
        """Run one process in the slot to its end."""
        ours, theirs = socket.socketpair()
        inherited = [listener.fileno() for listener in self.listeners.sockets]
        with theirs:
            slot.process = process = await asyncio.create_subprocess_exec(
                *self.command,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), slot.counters_fd, *inherited),
            )
        slot.channel = channel = await Channel.over(ours)
        slot.heard_at = time.monotonic()
        channel.send(
            "configure", settings=self.settings.to_json(), sockets=inherited, counters=slot.counters_fd
        )
        assert self._index is not None
        channel.send("index", directory=self._index[0], manifest=self._index[1])
        hearing = asyncio.create_task(self._hear(slot, channel))
        watching = asyncio.create_task(self._watch(slot))
        try:
            code = await process.wait()
        finally:
            hearing.cancel()
            watching.cancel()
            channel.close()
            slot.channel, slot.ready, slot.generation, slot.sockets = None, False, -1, ()
            # what was open died with the process
            slot.counters[_CLOSED : _CLOSED + 8] = slot.counters[_OPENED : _OPENED + 8]
            self._assign()
        if not self._stopping.is_set():
            ending = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            logger.error("worker %d (process %d) %s", slot.number, process.pid, ending)

    async def _hear(self, slot: Slot, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            slot.heard_at = time.monotonic()
            match message["what"]:
                case "ready":
                    slot.ready = True
                    self._assign()
                case "index":
                    slot.generation = message["generation"]
                    self._heard.set()
                case "refused":
                    self.refused += 1
                    logger.error("worker %d keeps its index: %s", slot.number, message["why"])

    async def _watch(self, slot: Slot) -> None:
        """Kill a process that is stuck."""
        started = time.monotonic()
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            silent = now - slot.heard_at > _SILENCE_S
            if (silent or (not slot.ready and now - started > _START_S)) and slot.process is not None:
                logger.error("worker %d does not answer: killed", slot.number)
                slot.process.kill()

    def _assign(self) -> None:
        """Give each ready worker its own socket, and those of workers that are not."""
        ready = [slot for slot in self.slots if slot.ready and slot.channel is not None]
        total = len(self.listeners.sockets)
        wanted: dict[int, list[int]] = {slot.number: [] for slot in ready}
        for number in range(total):
            if self.listeners.shared:
                for slot in ready:
                    wanted[slot.number].append(number)
            elif number in wanted:
                wanted[number].append(number)
            elif ready:
                wanted[ready[number % len(ready)].number].append(number)
        for slot in ready:
            sockets = tuple(wanted[slot.number])
            if sockets != slot.sockets and slot.channel is not None:
                slot.sockets = sockets
                slot.channel.send("listen", sockets=list(sockets))
