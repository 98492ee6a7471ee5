"""Issuing in other processes, so that it takes every CPU and none of the event loop's time.

Threads would not do: the library that signs holds the interpreter lock. A process is started with `spawn` and
gets its issuer, key included, over a socket; it ends when that is closed, so it does not outlive a parent
that was killed. It writes its own log lines to the same stderr.

Requests travel in groups, as tuples: these take a fifth of the time that dataclasses take.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ocspd import logs
from ocspd.errors import OCSPDError, ProcessError
from ocspd.logs import logger
from ocspd.ops import children
from ocspd.pki.issuer import SignRequest
from ocspd.pki.template import Issued

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from multiprocessing.context import SpawnProcess

    from ocspd.pki.issuer import Issuer
    from ocspd.pki.issuer_spec import IssuerSpec

DEPTH = 2
"""Groups a process has at a time: the next one waits in its socket, so that it never waits for us."""
_KEPT = 4
"""Issuers a process has at a time: of before and after a reload, with room for requests that take long."""
_STOP_S = 2.0
_PAUSE_S = 1.0
"""Between the end of a process and its successor's start."""
_NONE_RUNS = "no signing process is running: see the server's log"
_ENDED = "a signing process ended unexpectedly: send the request again"

Outcome = Issued | OCSPDError


@dataclass(frozen=True, slots=True)
class Registered:
    """An issuer, and its number: a process that has it already is sent only that."""

    number: int
    spec: IssuerSpec


class SigningProcesses:
    """Processes that issue certificates. `start` before use, `close` after."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._slots: list[_Slot] = []
        self._starting = asyncio.Lock()
        self._numbers = 0

    async def start(self) -> None:
        """Start the processes; ProcessError when the system does not allow it. Idempotent."""
        async with self._starting:
            if self._slots:
                return
            slots = [_Slot() for _ in range(self.count)]
            try:
                results = await asyncio.gather(*(slot.start() for slot in slots), return_exceptions=True)
            except BaseException:
                await _close(slots)
                raise
            for result in results:
                if isinstance(result, BaseException):
                    await _close(slots)
                    raise result
            self._slots = slots

    @property
    def wanted(self) -> bool:
        """Whether there is an issuer to sign for."""
        return self._numbers > 0

    @property
    def trouble(self) -> str:
        """Why nothing can be signed at present; "" when it can, or before anything was to be signed."""
        if not self._slots or any(slot.is_ready for slot in self._slots):
            return ""
        return _NONE_RUNS

    def register(self, spec: IssuerSpec) -> Registered:
        """Return what certificates of an issuer are asked for with."""
        self._numbers += 1
        return Registered(self._numbers, spec)

    async def issue(
        self, issuer: Registered, requests: Sequence[SignRequest], now: datetime
    ) -> list[Outcome]:
        """Issue certificates in the process that has least to do; return one outcome for each request."""
        if not self._slots:
            await self.start()
        slot = min(self._slots, key=_Slot.load)
        return await slot.issue(issuer, [_to_tuple(request) for request in requests], now)

    async def close(self) -> None:
        """End every process. Idempotent."""
        slots, self._slots = self._slots, []
        await _close(slots)


async def _close(slots: Sequence[_Slot]) -> None:
    for slot in slots:
        await slot.close()
    for slot in slots:
        await asyncio.to_thread(slot.join)


class _Slot:
    """One process, and those that take its place after it has ended."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._link: _Link | None = None
        self._known: deque[int] = deque(maxlen=_KEPT)
        """The numbers of the issuers that the process has: `_work` forgets the oldest one, too."""
        self._closed = False
        self._starting: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether its process has started, and has not ended."""
        return self._link is not None and self._link.ready.done()

    def load(self) -> int:
        """Return how many requests are on their way."""
        return 1 << 30 if self._link is None else self._link.load

    async def start(self) -> None:
        """Start a process and wait until it is ready."""
        process, ours = await asyncio.to_thread(
            children.start, _work, _Task(logs.level()), name="ocspd-issue", flag="-workers"
        )
        self._process = process
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(lambda: _Link(self._ended), sock=ours)
        self._link = link
        self._known.clear()
        await link.ready

    async def issue(self, issuer: Registered, requests: list[_Request], now: datetime) -> list[Outcome]:
        link = self._link
        if link is None:
            raise ProcessError(_NONE_RUNS)
        is_known = issuer.number in self._known
        group: _Group = (issuer.number, None if is_known else issuer.spec, now, requests)
        message = b"".join(children.framed(group))
        if not is_known:
            self._known.append(issuer.number)
        return [_outcome(each) for each in await link.exchange(message, len(requests))]

    def _ended(self) -> None:
        """Start another process in the place of one that has ended."""
        process, self._link = self._process, None
        if not self._closed and process is not None:
            self._starting = asyncio.get_running_loop().create_task(self._replace(process))

    async def _replace(self, process: SpawnProcess) -> None:
        await asyncio.to_thread(process.join, _STOP_S)
        logger.error(
            "signing process %s ended unexpectedly (exit code %s): starting another",
            process.pid,
            process.exitcode,
        )
        await asyncio.sleep(_PAUSE_S)
        try:
            await self.start()
        except (OCSPDError, OSError) as err:
            logger.error("%s", err)  # if it was started and has ended, `_ended` was called again
            if self._link is None and self._process is process:
                self._ended()

    async def close(self) -> None:
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        if self._link is not None:
            await self._link.close()

    def join(self) -> None:
        if self._process is not None:
            self._process.join(_STOP_S)
            if self._process.exitcode is None:
                self._process.kill()
                self._process.join()


class _Link(asyncio.Protocol):
    """Our end of a process's socket: replies come in the order of the groups sent."""

    def __init__(self, ended: Any) -> None:
        self.load = 0
        self._ended = ended
        self._closed = asyncio.Event()
        self._received = bytearray()
        self._expected: deque[tuple[asyncio.Future[Any], int]] = deque()
        self._transport: Any = None
        self.ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._expected.append((self.ready, 0))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    async def exchange(self, message: bytes, count: int) -> list[_Reply]:
        """Send a group of `count` requests, framed, and wait for its replies."""
        future: asyncio.Future[list[_Reply]] = asyncio.get_running_loop().create_future()
        self._expected.append((future, count))
        self.load += count
        self._transport.write(message)
        return await future

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= children.LENGTH.size:
            end = children.LENGTH.size + children.LENGTH.unpack_from(received)[0]
            if len(received) < end:
                return
            with memoryview(received)[children.LENGTH.size : end] as view:
                replies = pickle.loads(view)  # noqa: S301  (our own process)
            del received[:end]
            future, count = self._expected.popleft()
            self.load -= count
            if not future.done():
                future.set_result(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        for future, _ in self._expected:
            if not future.done():
                future.set_exception(ProcessError(_ENDED))
                future.exception()  # nobody may be left to hear of it
        self._expected.clear()
        self._closed.set()
        self._ended()

    async def close(self) -> None:
        self._transport.abort()
        await self._closed.wait()


_Request = tuple[Any, ...]
_Reply = tuple[Any, ...] | OCSPDError
_Group = tuple[int, "IssuerSpec | None", datetime, list[_Request]]
_ISSUED = tuple(Issued.__dataclass_fields__)
_REQUEST = tuple(SignRequest.__dataclass_fields__)
_issued_fields = attrgetter(*_ISSUED)
_request_fields = attrgetter(*_REQUEST)


def _to_tuple(request: SignRequest) -> _Request:
    fields: _Request = _request_fields(request)
    return fields


def _outcome(reply: _Reply) -> Outcome:
    if isinstance(reply, OCSPDError):
        return reply
    return Issued(**dict(zip(_ISSUED, reply, strict=True)))


# -- the process -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Task:
    """What a process gets at its start."""

    level: int


def _work(parent: socket.socket, task: _Task) -> None:
    """Run a process: issue until the socket is closed."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # Ctrl-C and systemd's go to all; the parent decides
    logs.setup(task.level)
    issuers: dict[int, Issuer] = {}
    with contextlib.suppress(EOFError, OSError), parent.makefile("rb") as incoming:
        parent.sendall(b"".join(children.framed([])))  # ready, and deaf to signals
        while True:
            group: _Group = children.read(incoming)
            number, spec, now, requests = group
            if spec is not None:
                issuers[number] = spec.open()
                if len(issuers) > _KEPT:
                    del issuers[next(iter(issuers))]
            replies = [_reply(issuers[number], request, now) for request in requests]
            try:
                parent.sendall(b"".join(children.framed(replies)))
            except (pickle.PicklingError, TypeError, AttributeError):  # an error that cannot travel
                texts = [
                    ProcessError(str(each)) if isinstance(each, OCSPDError) else each for each in replies
                ]
                parent.sendall(b"".join(children.framed(texts)))


def _reply(issuer: Issuer, request: _Request, now: datetime) -> _Reply:
    try:
        issued = issuer.issue(SignRequest(**dict(zip(_REQUEST, request, strict=True))), now)
    except OCSPDError as err:
        return err
    except Exception:  # noqa: BLE001  (the other requests go on)
        logger.exception("a bug in ocspd, please report it")
        return ProcessError("internal error, see the server's log")
    fields: _Reply = _issued_fields(issued)
    return fields
