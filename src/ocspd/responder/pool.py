"""The worker processes: started, assigned an index and sockets, restarted when they die.

Every worker inherits every listening socket and accepts on its own; while one is down, another accepts
on its socket too, so no connection waits for the restart. Counters live in shared memory that outlives
the worker, and its successor continues them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import time
from dataclasses import dataclass, field
from mmap import mmap
from typing import TYPE_CHECKING, Any

from ocspd.errors import OCSPDError
from ocspd.logs import logger
from ocspd.metrics import COUNTER_BLOCK_BYTES, COUNTERS
from ocspd.recovery import Recovery
from ocspd.responder.control import Channel, WorkerSettings
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ocspd.ops.listeners import Listeners

_START_S = 30.0  # a worker that has not mapped the index by then is stuck
_SILENCE_S = 15.0  # one that has said nothing for so long is stuck, too (it speaks every second)
_POLL_S = 1.0
_BEHIND_S = 5.0  # a worker that has not said why it is behind has so long to catch up
_AT_LIMIT_S = 10.0  # so long after the last refused connection a worker counts as below its limit again
_RETRY_S = (0.1, 30.0)  # first and longest pause before a worker that died is started again
SIGBUS_MEANS = "a file of the index was truncated while it was mapped, or its disk failed"
_TROUBLE = {
    "index": "it keeps the previous index",
    "listen": "it does not accept on every socket",
    "descriptors": "it closes new connections",
}
_SOLVED = {
    "index": "the index is in use",
    "listen": "it accepts on every socket again",
    "descriptors": "it accepts connections again",
}
_OPENED = COUNTERS.index("connections_opened") * 8
_CLOSED = COUNTERS.index("connections_closed") * 8


@dataclass(slots=True, kw_only=True)
class Slot:
    """One worker's slot: the state that outlives the process in it."""

    worker_index: int
    counters: mmap
    counters_fd: int
    process: asyncio.subprocess.Process | None = None
    channel: Channel | None = None
    ready: bool = False
    generation: int = -1
    """The generation of the index it uses; -1 for none."""
    sockets: tuple[int, ...] = ()
    silent_s: float = 0.0
    """How long the worker has been silent while the supervisor was running to receive its messages."""
    trouble: dict[str, str] = field(default_factory=dict)
    """What it cannot do at present (`index`, `listen`, `descriptors`), and why."""
    refused: int = 0
    """Connections refused because of the limit, as last reported."""
    at_limit_s: float = 0.0
    """How much longer it counts as being at its limit of connections."""
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
    diagnose: Callable[[], str] = lambda: ""
    """Describes what is wrong with the files of the index, for the log line on a worker killed by SIGBUS."""
    slots: list[Slot] = field(default_factory=list)
    refused: int = 0
    """How often a worker could not use an index that had been found valid."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _index: tuple[str, str] | None = None
    _generation: int = -1
    _behind_s: float = 0.0
    _progress: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, directory: str, manifest: str, generation: int) -> None:
        """Start every worker with an index (directory, manifest as JSON text); OCSPDError if that fails."""
        self._index, self._generation = (directory, manifest), generation
        for worker_index in range(self.count):
            try:
                descriptor = os.memfd_create(f"ocspd-counters-{worker_index}")
                os.ftruncate(descriptor, COUNTER_BLOCK_BYTES)
                counters = mmap(descriptor, COUNTER_BLOCK_BYTES)
            except OSError as err:
                raise OCSPDError(
                    f"cannot create the counters of worker {worker_index}: {err.strerror}"
                ) from err
            slot = Slot(worker_index=worker_index, counters=counters, counters_fd=descriptor)
            self.slots.append(slot)
            self._tasks.append(asyncio.create_task(self._keep(slot)))
        self._tasks.append(asyncio.create_task(self._measure()))

    def use(self, directory: str, manifest: str, generation: int) -> None:
        """Make every worker use another index; those started later begin with it."""
        if not any(self.is_behind(slot) for slot in self.slots):
            self._behind_s = 0.0
        self._index, self._generation = (directory, manifest), generation
        for slot in self.slots:
            if slot.channel is not None:
                slot.channel.send("index", directory=directory, manifest=manifest)

    def is_behind(self, slot: Slot) -> bool:
        """Return whether a worker is serving another generation than the one in use."""
        return slot.ready and slot.generation != self._generation

    @property
    def trouble(self) -> str:
        """Describe in a few words what keeps a worker from working; "" if nothing does."""
        for slot in self.slots:
            if slot.trouble:
                return f"worker {slot.worker_index}: {next(iter(slot.trouble.values()))}"
        for slot in self.slots:
            if self.is_behind(slot) and self._behind_s > _BEHIND_S:
                return f"worker {slot.worker_index} is still serving generation {slot.generation}"
        return ""

    @property
    def ready(self) -> int:
        """The number of workers that serve requests."""
        return sum(slot.ready for slot in self.slots)

    async def settled(self, generation: int) -> None:
        """Wait until no worker serves another generation any more."""
        while any(slot.ready and slot.generation != generation for slot in self.slots):
            self._progress.clear()
            await self._progress.wait()

    async def stop(self, within_s: float) -> bool:
        """Drain: let requests in flight finish within a time, then end every worker.

        Returns whether all ended without being killed.
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
        recovery = Recovery(retry_s=_RETRY_S)
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                await self._run(slot)
            except OSError as err:
                logger.error("worker %d cannot be started: %s", slot.worker_index, err.strerror or err)
            except Exception:  # noqa: BLE001  (a bug here must not cost the responder a worker for good)
                logger.exception("worker %d: a bug in ocspd, please report it", slot.worker_index)
            if self._stopping.is_set():
                return
            recovery.failed("ended", lasted_s=time.monotonic() - started)
            slot.restarts += 1
            logger.warning("worker %d will be restarted in %.1f s", slot.worker_index, recovery.delay_s)
            await recovery.pause(self._stopping)  # a drain need not wait for its end

    async def _run(self, slot: Slot) -> None:
        """Run one process in the slot to its end."""
        ours, theirs = socket.socketpair()
        inherited = [listener.fileno() for listener in self.listeners.sockets]
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            slot.process = process = await asyncio.create_subprocess_exec(
                *self.command,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), slot.counters_fd, *inherited),
            )
            undo.callback(process.kill)
            slot.channel = channel = await Channel.over(ours)
            undo.pop_all()
        slot.silent_s = 0.0
        channel.send(
            "configure", settings=self.settings.to_json(), sockets=inherited, counters=slot.counters_fd
        )
        assert self._index is not None
        channel.send("index", directory=self._index[0], manifest=self._index[1])
        receiving = asyncio.create_task(self._receive(slot, channel))
        watching = asyncio.create_task(self._watch(slot))
        try:
            code = await process.wait()
        finally:
            receiving.cancel()
            watching.cancel()
            channel.close()
            slot.channel, slot.ready, slot.generation, slot.sockets = None, False, -1, ()
            slot.trouble, slot.at_limit_s = {}, 0.0
            self._progress.set()
            # what was open died with the process
            slot.counters[_CLOSED : _CLOSED + 8] = slot.counters[_OPENED : _OPENED + 8]
            self._assign()
        if not self._stopping.is_set():
            ending = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            if code == -signal.SIGBUS:
                ending += f" (SIGBUS): {self.diagnose() or SIGBUS_MEANS}"
            logger.error("worker %d (process %d) %s", slot.worker_index, process.pid, ending)

    async def _receive(self, slot: Slot, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            slot.silent_s = 0.0
            match message["what"]:
                case "ready":
                    slot.ready = True
                    self._assign()
                case "index":
                    slot.generation = message["generation"]
                    self._progress.set()
                case "trouble":
                    self._note(slot, message)
                case "alive":
                    self._note_refusals(slot, message["refused"])

    def _note(self, slot: Slot, message: dict[str, Any]) -> None:
        part, why = message["part"], message["why"]
        if not why:
            slot.trouble.pop(part, None)
            logger.info("worker %d: %s", slot.worker_index, _SOLVED[part])
            return
        slot.trouble[part] = why
        self.refused += part == "index"
        self._assign()
        logger.error("worker %d: %s; %s; retrying", slot.worker_index, why, _TROUBLE[part])

    def _note_refusals(self, slot: Slot, refused: int) -> None:
        """Log when a worker reaches its limit of connections, and when it is below it again."""
        if refused > slot.refused:
            if not slot.at_limit_s:
                logger.warning(
                    "worker %d has reached its limit of %d connections and closes new ones; "
                    "raise LimitNOFILE, the hard limit of open files, for more",
                    slot.worker_index,
                    self.settings.max_connections,
                )
            slot.at_limit_s = _AT_LIMIT_S
        elif slot.at_limit_s:
            slot.at_limit_s = max(slot.at_limit_s - 1, 0.0)
            if not slot.at_limit_s:
                logger.info("worker %d: below its limit of connections again", slot.worker_index)
        slot.refused = refused

    async def _measure(self) -> None:
        """Measure for how long a worker has been behind."""
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with time_limit(_POLL_S):
                    await self._stopping.wait()
            behind = any(self.is_behind(slot) for slot in self.slots)
            self._behind_s = self._behind_s + _POLL_S if behind else 0.0

    async def _watch(self, slot: Slot) -> None:
        """Kill a process that is stuck.

        Time is counted in rounds of this loop, not read from a clock: a supervisor that did not run for a
        while (stopped, frozen with its group) has received nothing either, and its workers' messages are
        still to be read.
        """
        started_s = 0.0
        while True:
            await asyncio.sleep(_POLL_S)
            slot.silent_s += _POLL_S
            started_s += _POLL_S
            stuck = not slot.ready and not slot.trouble and started_s > _START_S
            if (slot.silent_s > _SILENCE_S or stuck) and slot.process is not None:
                logger.error("worker %d does not respond: killed", slot.worker_index)
                slot.process.kill()

    def _assign(self) -> None:
        """Give each ready worker its own socket, and those of workers that are not.

        While none is ready, those that cannot open the index respond with tryLater: a client that learns
        this at once can try elsewhere, in a queue it would wait.
        """
        alive = [slot for slot in self.slots if slot.channel is not None]
        serving = [slot for slot in alive if slot.ready] or [
            slot for slot in alive if "index" in slot.trouble
        ]
        wanted: dict[int, list[int]] = {slot.worker_index: [] for slot in serving}
        for socket_index in range(len(self.listeners.sockets)):
            if self.listeners.shared:
                for sockets in wanted.values():
                    sockets.append(socket_index)
            elif socket_index in wanted:
                wanted[socket_index].append(socket_index)
            elif serving:
                wanted[serving[socket_index % len(serving)].worker_index].append(socket_index)
        for slot in alive:
            own = tuple(wanted.get(slot.worker_index, ()))
            if own != slot.sockets and slot.channel is not None:
                slot.sockets = own
                slot.channel.send("listen", sockets=list(own))
