"""Signing in other processes: rows go out, responses and tallies come back.

Two processes sign twice as fast as one; two threads reach 1.5 times, as the interpreter lock is held
between signatures. A worker is started with `spawn`, so it shares nothing with the event loop's
process, and gets its keys over a pipe: never on a command line, never in a file. It ends when its socket is
closed, so it does not outlive a parent that was killed.

Here the event loop sends chunks and receives results: one waiting thread per worker would cost as much
again in handing over the interpreter lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from ocspd.errors import IndexFileError, OCSPDError, ProcessError, SignerError
from ocspd.logs import capture_warnings
from ocspd.ops import children
from ocspd.signer.priority import leave_cpu_to_others, weigh_session_least
from ocspd.signer.signing import BatchSigner, RowSigner, Signed

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from datetime import datetime
    from multiprocessing.context import SpawnProcess
    from types import TracebackType

    from ocspd.certdb.packed import PackedRows
    from ocspd.pki.ocsp import OCSPSigner, SignerSpec
    from ocspd.signer.signing import Chunk, IssuerRouter, Segments

_STOP_S = 2.0
DEPTH = 2
"""Chunks a worker has at a time: the next one waits in its socket, so that the worker never waits for us."""


@dataclass(frozen=True, slots=True)
class _Finished:
    path: str | None


@dataclass(frozen=True, slots=True)
class _Task:
    """What a worker gets at its start."""

    specs: list[SignerSpec]
    background: bool
    segments: Segments | None
    router: IssuerRouter | None


_Work = tuple["PackedRows | Chunk", "datetime"] | None  # None: finish the segment
_Result = Signed | _Finished


class SigningPool:
    """Signs in `processes` worker processes; use as `async with`.

    Leaving the block, even by an error or a cancellation, ends the workers at once: a chunk is a
    fraction of a second of work, and what is not yet written will be signed again.
    """

    def __init__(
        self,
        signers: Sequence[OCSPSigner],
        *,
        processes: int,
        background: bool = False,
        segments: Segments | None = None,
        router: IssuerRouter | None = None,
    ) -> None:
        """`background` workers run only when nothing else wants the CPU; `router` is for packed rows."""
        self._task = _Task([signer.spec() for signer in signers], background, segments, router)
        self._size = processes
        self._workers: list[_Worker] = []
        self._free: asyncio.Queue[_Worker] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._size):
                self._workers.append(await _Worker.start(self._task))
            for _ in range(DEPTH):
                for worker in self._workers:
                    self._free.put_nowait(worker)
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def sign(self, rows: PackedRows | Chunk, now: datetime) -> Signed:
        """Sign rows in the next worker with a free slot; each has `DEPTH`."""
        worker = await self._free.get()
        try:
            signed = await worker.exchange((rows, now))
        finally:
            self._free.put_nowait(worker)  # one that has ended, too: whoever gets it hears so
        assert isinstance(signed, Signed)
        return signed

    async def finish(self) -> list[str]:
        """Finish the segment of every worker, after the chunks it has."""
        places = [await self._free.get() for _ in range(DEPTH * self._size)]
        try:
            finished = await asyncio.gather(*(worker.exchange(None) for worker in self._workers))
        finally:
            for worker in places:
                self._free.put_nowait(worker)
        return [result.path for result in finished if isinstance(result, _Finished) and result.path]

    def close(self) -> None:
        """End every worker. Idempotent."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join()
        self._workers.clear()


class Pool(RowSigner, Protocol):
    """Signers in other processes; `SigningPool` is one."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def close(self) -> None:
        """End every process. Idempotent."""
        ...


class PoolFactory(Protocol):
    """Creates pools, as `SigningPool` does."""

    def __call__(
        self,
        signers: Sequence[OCSPSigner],
        *,
        processes: int,
        background: bool = False,
        segments: Segments | None = None,
        router: IssuerRouter | None = None,
    ) -> Pool:
        """Create a pool; it starts when it is entered."""
        ...


@dataclass(frozen=True, slots=True)
class Pools:
    """How signing processes are made, and from how many rows on they are worth starting."""

    make: PoolFactory = SigningPool
    local_rows: int = 400
    """Fewer rows are signed in this process, sooner than another one could start."""


class _Worker:
    """One process and our end of its socket."""

    def __init__(
        self, process: SpawnProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._expected: deque[asyncio.Future[Any]] = deque()  # results come in the order chunks were sent
        self._ended = False
        self._problem = ""
        self._receiving = asyncio.create_task(self._receive())

    @classmethod
    async def start(cls, task: _Task) -> Self:
        """Start a process. OCSPDError when the system does not allow it."""
        process, ours = await asyncio.to_thread(
            children.start, _work, task, name="ocspd-sign", flag="-processes"
        )
        return cls(process, *await asyncio.open_connection(sock=ours))

    async def exchange(self, work: _Work) -> _Result:
        """Send rows, or None to finish the segment, and wait for the result."""
        framed = children.framed(work)
        if self._ended:
            raise self._error()
        mine: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._expected.append(mine)
        # whatever the transport thinks of a process that has just ended: `_receive` tells
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.writelines(framed)
        result = await mine
        if isinstance(result, OCSPDError):
            raise result
        assert isinstance(result, Signed | _Finished)
        return result

    async def _receive(self) -> None:
        """Deliver results until the worker ends, or sends something else."""
        problem = ""
        try:
            while True:
                (size,) = children.LENGTH.unpack(await self._reader.readexactly(children.LENGTH.size))
                result = pickle.loads(await self._reader.readexactly(size))  # noqa: S301  (our own process)
                mine = self._expected.popleft()
                if not mine.done():
                    mine.set_result(result)
        except (OSError, EOFError):
            pass  # it has ended
        except Exception as err:  # noqa: BLE001  (unpickling raises anything)
            problem = f"a signing process sent an unreadable message ({type(err).__name__})"
            with contextlib.suppress(OSError):
                self._process.kill()
        # Its files close before the kernel has an exit code for us: join() waits for that too.
        await asyncio.to_thread(self._process.join, _STOP_S)
        self._problem = problem
        self._ended = True
        for mine in self._expected:
            if not mine.done():
                mine.set_exception(self._error())
                mine.exception()  # nobody may be left to hear of it
        self._expected.clear()

    def _error(self) -> OCSPDError:
        problem = (
            self._problem or f"a signing process ended unexpectedly (exit code {self._process.exitcode})"
        )
        return ProcessError(
            f"{problem}; the responses it had not returned are missing: run the command again"
        )

    def stop(self) -> None:
        self._receiving.cancel()
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            self._process.terminate()

    def join(self) -> None:
        self._process.join(_STOP_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def _opened(spec: SignerSpec, now: datetime) -> OCSPSigner | SignerError:
    """Make a signer; one that cannot be made at present does not affect the others."""
    try:
        return spec.open(now)
    except OCSPDError as err:
        return SignerError(str(err))


def _work(parent: socket.socket, task: _Task) -> None:
    """Run a worker: sign rows until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    capture_warnings()
    if task.background:
        leave_cpu_to_others()
    light = not task.background
    signer: BatchSigner | None = None
    with contextlib.suppress(EOFError, OSError), parent.makefile("rb") as incoming:
        while True:
            work: _Work = children.read(incoming)
            light = light or weigh_session_least()
            try:
                result: _Result | OCSPDError
                if work is None:
                    result = _Finished(None if signer is None else signer.finish())
                else:
                    rows, now = work
                    if signer is None:
                        signers = [_opened(spec, now) for spec in task.specs]
                        signer = BatchSigner(signers, task.segments, task.router, background=task.background)
                    result = signer.sign(rows, now)
            except IndexFileError as err:
                result = IndexFileError(str(err))
            except SignerError as err:
                result = SignerError(str(err))
            except OCSPDError as err:
                result = OCSPDError(str(err))
            except Exception as err:  # noqa: BLE001  (the parent tries again, and the log has it)
                result = ProcessError(f"a signing process failed ({type(err).__name__}: {err})")
            parent.sendall(b"".join(children.framed(result)))
