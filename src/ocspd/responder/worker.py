"""A worker: serves requests on its supervisor's sockets, from the index the supervisor assigns.

It holds no key and opens no database; `responder/control.py` lists its instructions. It listens only once it
has an index. SIGTERM and SIGINT are left to the supervisor (Ctrl-C reaches the whole group).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import time
from mmap import mmap
from typing import TYPE_CHECKING

from ocspd import logs
from ocspd._fastpath import Connections
from ocspd._index import Index
from ocspd._responder import Responder
from ocspd.clock import SystemClock
from ocspd.errors import IndexFileError
from ocspd.index.directory import IndexDirectory
from ocspd.index.exhaustion import is_exhaustion
from ocspd.index.kept import KeptSegments
from ocspd.index.manifest import parse_manifest
from ocspd.logs import logger
from ocspd.metrics import COUNTER_BLOCK_BYTES, COUNTERS
from ocspd.recovery import Recovery
from ocspd.responder.control import Channel, WorkerSettings
from ocspd.responder.ocsp import OCSPServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

_ORPHAN_DRAIN_S = 5.0  # what is left to clients when the supervisor has gone without a word
_SWEEP_S = 0.05  # connections the kernel has already accepted are taken before the socket closes
_RETRY_S = (0.05, 0.4)  # first and longest pause before what could not be done is tried again
_BUG = "a bug in ocspd, please report it"
_REFUSED = COUNTERS.index("connections_refused") * 8


async def run_worker(control: socket.socket) -> None:
    """Serve until the supervisor sends `drain` or ends. `control` is this end of its channel."""
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signal_number, lambda: None)
    channel = await Channel.over(control)
    first = await channel.receive()
    if first is None:
        return
    assert first["what"] == "configure"
    worker = Worker(
        channel,
        WorkerSettings(**first["settings"]),
        sockets=[socket.socket(fileno=descriptor) for descriptor in first["sockets"]],
        counters=first["counters"],
    )
    await worker.run()


class Worker:
    """One process's share of the service."""

    def __init__(
        self,
        channel: Channel,
        settings: WorkerSettings,
        *,
        sockets: Sequence[socket.socket],
        counters: int,
    ) -> None:
        """Take the listening sockets (owned) and the descriptor of the counters' shared memory."""
        logs.setup(settings.loglevel)
        self._channel = channel
        self._settings = settings
        self._sockets = sockets
        self._listening: set[int] = set()
        self._counters = mmap(counters, COUNTER_BLOCK_BYTES)
        self._segments = KeptSegments()
        self._wanted_index = ("", "")
        self._wanted_sockets: list[int] = []
        self._index_assigned, self._sockets_assigned = asyncio.Event(), asyncio.Event()
        self._responder = Responder(
            Index([], out_of_service=True),  # until the first one is opened
            path=settings.path,
            counters=self._counters,
            max_age_cap_s=settings.max_age_cap_s,
        )
        self._slow = OCSPServer(
            self._responder,
            clock=SystemClock(),
            path=settings.path,
            keepalive_timeout_s=settings.idle_timeout_s,
        )
        self._connections = Connections(
            self._responder,
            slow_factory=self._slow,
            header_timeout_s=settings.header_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            write_timeout_s=settings.write_timeout_s,
            max_connections=settings.max_connections,
        )
        self._ready = False

    async def run(self) -> None:
        """Follow the supervisor's instructions until it ends this worker."""
        self._connections.tick(int(time.time()))
        asyncio.get_running_loop().add_reader(self._connections.fileno(), self._connections.turn)
        duties = [
            asyncio.create_task(self._tick()),
            asyncio.create_task(self._persist("index", self._index_assigned, self._use)),
            asyncio.create_task(self._persist("listen", self._sockets_assigned, self._listen)),
        ]
        drain_s = _ORPHAN_DRAIN_S
        while (message := await self._channel.receive()) is not None:
            match message["what"]:
                case "index":
                    self._wanted_index = message["directory"], message["manifest"]
                    self._index_assigned.set()
                case "listen":
                    self._wanted_sockets = message["sockets"]
                    self._sockets_assigned.set()
                case "drain":
                    drain_s = message["within_s"]
                    break
        for duty in duties[1:]:
            duty.cancel()
        await self._drain(drain_s)
        duties[0].cancel()
        self._channel.close()

    async def _persist(self, part: str, assigned: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
        """Retry the latest instruction until it succeeds; report each change of the reason it fails.

        What fails once (descriptors, memory, a file that is not there yet) may work a moment later, and
        a worker that gave up would serve an old index for as long as it lives.
        """
        recovery = Recovery(retry_s=_RETRY_S)
        while True:
            await assigned.wait()
            assigned.clear()
            try:
                await work()
            except Exception as err:  # noqa: BLE001  (see above)
                why = _why(err)
                if recovery.failed(why):
                    if why == _BUG:
                        logger.error(_BUG, exc_info=err)
                    self._channel.send("trouble", part=part, why=why, exhausted=is_exhaustion(err))
                await recovery.pause(assigned)
                assigned.set()
            else:
                if recovery.works():
                    self._channel.send("trouble", part=part, why="", exhausted=False)

    async def _use(self) -> None:
        """Open the wanted generation while serving, and switch to it between two requests."""
        path, text = self._wanted_index
        manifest = parse_manifest(text.encode(), path)
        index = await asyncio.to_thread(self._segments.open, IndexDirectory(path), manifest)
        self._responder.index = index
        self._channel.send("index", generation=index.generation)
        if not self._ready:
            self._ready = True
            self._channel.send("ready")
        del index
        await asyncio.to_thread(self._segments.settle, manifest)

    async def _listen(self) -> None:
        """Accept on exactly the assigned sockets; the queues of the others are left to their owners."""
        socket_indexes = set(self._wanted_sockets)
        for socket_index in self._listening - socket_indexes:
            self._connections.unlisten(self._sockets[socket_index].fileno())
            self._listening.discard(socket_index)
        for socket_index in socket_indexes - self._listening:
            self._sockets[socket_index].listen(self._settings.backlog)
            self._connections.listen(self._sockets[socket_index].fileno())
            self._listening.add(socket_index)

    async def _tick(self) -> None:
        """Advance the clock at the beginning of each second, and report that this process is alive."""
        descriptors = Recovery()
        async for now_s in seconds(time.time, asyncio.sleep):
            self._connections.tick(now_s)
            why = self._missing_descriptor()
            if descriptors.failed(why) if why else descriptors.works():
                self._channel.send("trouble", part="descriptors", why=why, exhausted=True)
            (refused,) = struct.unpack_from("=Q", self._counters, _REFUSED)
            self._channel.send("alive", connections=self._connections.current, refused=refused)

    def _missing_descriptor(self) -> str:
        """Return why no descriptor is available, "" if one is. Without one, new connections are refused."""
        try:
            os.close(os.dup(self._channel.fileno()))
        except OSError as err:
            return err.strerror or str(err)
        starved_by = self._connections.starved_by
        return os.strerror(starved_by) if starved_by else ""

    async def _drain(self, within_s: float) -> None:
        """End every connection after the reply it waits for, the last after `within_s` seconds."""
        deadline = time.monotonic() + within_s
        self._slow.draining = True
        self._connections.drain()
        await asyncio.sleep(_SWEEP_S)
        self._wanted_sockets = []
        await self._listen()
        for listener in self._sockets:
            listener.close()
        while self._connections.current and time.monotonic() < deadline:  # noqa: ASYNC110  (no event)
            await asyncio.sleep(0.02)
        self._connections.abort()
        asyncio.get_running_loop().remove_reader(self._connections.fileno())
        await asyncio.sleep(0)


def _why(error: Exception) -> str:
    """Return the reason of an error in a form an operator can act on."""
    match error:
        case IndexFileError():
            return str(error)
        case OSError():
            return error.strerror or str(error)
        case MemoryError():
            return "not enough memory"
        case _ if is_exhaustion(error):
            return "cannot start a thread (check the limits on processes and memory)"
    return _BUG


async def seconds(now: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> AsyncIterator[int]:
    """Yield the time in whole seconds at the beginning of each second, never twice in one.

    A timer may fire up to a millisecond early (uvloop rounds). Time limits count these ticks, so a
    second reported several times would end connections that are in use.
    """
    last = int(now())
    while True:
        await sleep(max(1 - now() % 1, 0.001))
        if int(now()) != last:
            last = int(now())
            yield last
