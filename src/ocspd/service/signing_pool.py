"""Signing in other processes: chunks of rows go out, chunks of answers come back.

Two processes sign twice as fast as one; two threads reach 1.5 times, as the interpreter lock is held
between signatures. A worker is started with `spawn`, so it shares nothing with the event loop's
process, and gets its keys over a pipe: never on a command line, never in a file. It ends when its pipe
does, so it does not outlive a parent that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ocspd.errors import OCSPDError
from ocspd.service.priority import leave_cpu_to_others, weigh_session_least
from ocspd.service.signing import Bench, Chunk, PackedChunk, SignedChunk, SignedPacked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from types import TracebackType

    from ocspd.pki.ocsp import OCSPSigner, SignerSpec
    from ocspd.service.signing import Segments, Sorting

_STOP_S = 2.0
DEPTH = 2
"""Chunks a worker has at a time: the next one lies in its pipe while it signs, so it never waits for us."""


@dataclass(frozen=True, slots=True)
class _Finished:
    path: str | None


@dataclass(frozen=True, slots=True)
class _Task:
    """What a worker is told at its start."""

    specs: list[SignerSpec]
    background: bool
    segments: Segments | None
    sorting: Sorting | None


_Work = Chunk | PackedChunk | None  # None: finish the segment
_Result = SignedChunk | SignedPacked | _Finished


class SigningPool:
    """Signs in `processes` worker processes; use as `async with`.

    Leaving the block, also by an error or a cancellation, ends the workers at once: a chunk is a
    fraction of a second of work, and what was not written yet will be signed again.
    """

    def __init__(
        self,
        signers: Sequence[OCSPSigner],
        *,
        processes: int,
        background: bool = False,
        segments: Segments | None = None,
        sorting: Sorting | None = None,
    ) -> None:
        """`background` workers run only where nothing else wants to; `sorting` is for packed chunks."""
        self._task = _Task([signer.spec() for signer in signers], background, segments, sorting)
        self._size = processes
        self._workers: list[_Worker] = []
        self._free: asyncio.Queue[_Worker] = asyncio.Queue()
        # threads of our own: each may wait long, and the loop's are few
        self._threads = ThreadPoolExecutor(DEPTH * processes, "ocspd-sign")

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._size):
                worker = await asyncio.to_thread(_Worker, self._task)
                self._workers.append(worker)
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

    async def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign one chunk in the next worker that has a place free; each has `DEPTH`."""
        signed = await self._give(chunk)
        assert isinstance(signed, SignedChunk)
        return signed

    async def sign_packed(self, chunk: PackedChunk) -> SignedPacked:
        """Sort and sign a packed chunk in the next worker that has a place free."""
        signed = await self._give(chunk)
        assert isinstance(signed, SignedPacked)
        return signed

    async def _give(self, chunk: _Work) -> _Result:
        worker = await self._free.get()
        signed = await self._exchange(worker, chunk)
        self._free.put_nowait(worker)
        return signed

    async def _exchange(self, worker: _Worker, chunk: _Work) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, worker.exchange, chunk)

    async def finish(self) -> list[str]:
        """Finish the segment of every worker, after the chunks it has."""
        places = [await self._free.get() for _ in range(DEPTH * self._size)]
        finished = await asyncio.gather(*(self._exchange(worker, None) for worker in self._workers))
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
        self._threads.shutdown(wait=False)


class _Worker:
    """One process and our end of its pipe."""

    def __init__(self, task: _Task) -> None:
        self._reaping = threading.Lock()  # two threads that wait for one child lose its exit code
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._expected: deque[Future[Any]] = deque()  # results come in the order chunks were sent
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work, args=(theirs, task), name="ocspd-sign", daemon=True
        )
        try:
            self._process.start()
        except OSError as err:
            raise OCSPDError(f"cannot start a signing process: {err.strerror}; use -processes 1") from err
        finally:
            theirs.close()

    def exchange(self, chunk: _Work) -> _Result:
        """Send a chunk, or None to finish the segment, and wait for the result."""
        mine: Future[Any] = Future()
        try:
            with self._sending:
                self._pipe.send(chunk)
                self._expected.append(mine)
            while not mine.done():
                with self._receiving:  # whoever is first receives for whoever has waited longest
                    if not mine.done():
                        received = self._pipe.recv()
                        self._expected.popleft().set_result(received)
            result = mine.result()
        except (OSError, EOFError):
            with self._reaping:
                self._process.join(_STOP_S)
            raise OCSPDError(
                f"a signing process ended unexpectedly (exit code {self._process.exitcode}); answers it had "
                "not returned are missing: run the command again"
            ) from None
        if isinstance(result, str):
            raise OCSPDError(result)
        assert isinstance(result, SignedChunk | SignedPacked | _Finished)
        return result

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._process.terminate()

    def join(self) -> None:
        with self._reaping:
            self._process.join(_STOP_S)
            if self._process.exitcode is None:
                self._process.kill()
                self._process.join()
        # the pipe closes with the last reference to it: a thread may still be reading its end


def _work(pipe: Connection, task: _Task) -> None:
    """Be a worker: answer chunks until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if task.background:
        leave_cpu_to_others()
    light = not task.background
    bench: Bench | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            chunk: _Work = pipe.recv()
            light = light or weigh_session_least()
            try:
                result: _Result | str
                if chunk is None:
                    result = _Finished(None if bench is None else bench.finish())
                else:
                    if bench is None:
                        now = chunk.now
                        signers = [spec.open(now) for spec in task.specs]
                        bench = Bench(signers, task.segments, task.sorting, background=task.background)
                    result = bench.sign(chunk) if isinstance(chunk, Chunk) else bench.sign_packed(chunk)
            except OCSPDError as err:
                result = str(err)
            pipe.send(result)
