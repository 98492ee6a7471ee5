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
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from ocspd._writer import SegmentWriter
from ocspd.errors import OCSPDError
from ocspd.service.priority import leave_cpu_to_others, weigh_session_least

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from types import TracebackType

    from ocspd.model import StatusRow
    from ocspd.pki.ocsp import OCSPSigner, SignerSpec
    from ocspd.pki.ocsp_template import Batch, Row

_STOP_S = 2.0
DEPTH = 2
"""Chunks a worker has at a time: the next one lies in its pipe while it signs, so it never waits for us."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one issuer to sign at one instant; `signer` is the signer's number in its list."""

    signer: int
    now: datetime
    rows: list[Row]
    until: datetime | None = None
    """When the answers end at the latest."""


@dataclass(frozen=True, slots=True)
class SignedChunk:
    """The answers to a chunk.

    `answers` has one entry for each row: its answers in the order of the signer's CertID hashes, or
    the cause why there is none. `reasons_dropped` counts revoked rows whose reason is no CRLReason:
    they were signed without one, as a revocation must not stay unheard for a detail.
    """

    answers: list[list[bytes] | str]
    this_update: datetime
    next_update: datetime
    reasons_dropped: int
    made: int
    """Signatures made; where answers stay with the worker (see `Segments`) the lists above are empty."""
    skipped: int
    """Rows that got no answer."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Where whoever signs also writes its answers, as segments of an index directory of its own making.

    Answers then need not travel back, which costs as much as a fifth of the signing; `keep` has them
    travel all the same, for the table. Names of the files begin with `prefix`.
    """

    prefix: str
    created_at: int
    keep: bool = False


@dataclass(frozen=True, slots=True)
class _Finished:
    path: str | None


class Signing(Protocol):
    """Whatever signs chunks."""

    async def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign one chunk; OCSPDError when no further chunk can be signed either."""
        ...

    async def finish(self) -> list[str]:
        """Finish the segments written so far and return their paths; the next chunk begins new ones."""
        ...


def to_chunk(signer: int, now: datetime, rows: Sequence[StatusRow]) -> Chunk:
    """Reduce rows of one issuer to what signing needs."""
    ends = [row.until for row in rows if row.until is not None]
    reduced = [
        (serial, int(status), reason, None if revoked_at is None else revoked_at.timestamp())
        for serial, _, status, reason, revoked_at, _, _ in rows
    ]
    return Chunk(signer, now, reduced, min(ends, default=None))


class _Bench:
    """Signers with the batch of the current minute of each, and the segment they write."""

    def __init__(self, signers: Iterable[OCSPSigner], segments: Segments | None = None) -> None:
        self._signers = list(signers)
        self._batches: dict[int, tuple[tuple[datetime, datetime | None], Batch]] = {}
        self._segments = segments
        self._writer: SegmentWriter | None = None
        self._written = 0

    def sign(self, chunk: Chunk) -> SignedChunk:
        signer = self._signers[chunk.signer]
        times = chunk.now.replace(second=0, microsecond=0), chunk.until
        made_for, batch = self._batches.get(chunk.signer, (None, None))
        if batch is None or made_for != times:
            batch = signer.batch(chunk.now, until=chunk.until)
            self._batches[chunk.signer] = times, batch
        keep = self._segments is None or self._segments.keep
        signed = batch.sign_rows(
            chunk.rows,
            signer.certid_hashes,
            writer=self._segment(),
            due_s=signer.due_s(batch.this_update, batch.next_update),
            keep=keep,
        )
        return SignedChunk(
            answers=signed.answers,
            this_update=batch.this_update,
            next_update=batch.next_update,
            reasons_dropped=signed.reasons_dropped,
            made=signed.made,
            skipped=len(chunk.rows) - signed.made // len(signer.certid_hashes),
        )

    def _segment(self) -> SegmentWriter | None:
        """Return the segment to write to."""
        if self._segments is not None and self._writer is None:
            self._written += 1
            path = f"{self._segments.prefix}{os.getpid()}-{self._written}.seg"
            self._writer = SegmentWriter(path, created_at=self._segments.created_at)
        return self._writer

    def finish(self) -> str | None:
        """Finish the segment begun and return its path."""
        writer, self._writer = self._writer, None
        if writer is None:
            return None
        with writer:
            if writer.added:
                writer.finish()
        return writer.path if writer.added else None


class LocalSigning:
    """Signs in a thread of this process: for a few rows, which are done before a process has started."""

    def __init__(self, signers: Sequence[OCSPSigner], segments: Segments | None = None) -> None:
        self._bench = _Bench(signers, segments)
        self._lock = asyncio.Lock()

    async def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign one chunk."""
        async with self._lock:
            return await asyncio.to_thread(self._bench.sign, chunk)

    async def finish(self) -> list[str]:
        """Finish the segment written so far."""
        async with self._lock:
            path = await asyncio.to_thread(self._bench.finish)
        return [path] if path is not None else []


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
    ) -> None:
        """`background` workers run only where nothing else wants to."""
        self._specs = [signer.spec() for signer in signers]
        self._segments = segments
        self._background = background
        self._size = processes
        self._workers: list[_Worker] = []
        self._free: asyncio.Queue[_Worker] = asyncio.Queue()
        # threads of our own: each may wait long, and the loop's are few
        self._threads = ThreadPoolExecutor(DEPTH * processes, "ocspd-sign")

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._size):
                worker = await asyncio.to_thread(_Worker, self._specs, self._background, self._segments)
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
        worker = await self._free.get()
        signed = await self._exchange(worker, chunk)
        self._free.put_nowait(worker)
        assert isinstance(signed, SignedChunk)
        return signed

    async def _exchange(self, worker: _Worker, chunk: Chunk | None) -> SignedChunk | _Finished:
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

    def __init__(self, specs: list[SignerSpec], background: bool, segments: Segments | None) -> None:  # noqa: FBT001
        self._reaping = threading.Lock()  # two threads that wait for one child lose its exit code
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._expected: deque[Future[Any]] = deque()  # results come in the order chunks were sent
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work, args=(theirs, specs, background, segments), name="ocspd-sign", daemon=True
        )
        try:
            self._process.start()
        except OSError as err:
            raise OCSPDError(f"cannot start a signing process: {err.strerror}; use -processes 1") from err
        finally:
            theirs.close()

    def exchange(self, chunk: Chunk | None) -> SignedChunk | _Finished:
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
        assert isinstance(result, SignedChunk | _Finished)
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


def _work(pipe: Connection, specs: list[SignerSpec], background: bool, segments: Segments | None) -> None:  # noqa: FBT001
    """Be a worker: answer chunks until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if background:
        leave_cpu_to_others()
    light = not background
    bench: _Bench | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            chunk: Chunk | None = pipe.recv()
            light = light or weigh_session_least()
            try:
                result: SignedChunk | _Finished | str
                if chunk is None:
                    result = _Finished(None if bench is None else bench.finish())
                else:
                    if bench is None:
                        now = chunk.now
                        bench = _Bench([spec.open(now) for spec in specs], segments)
                    result = bench.sign(chunk)
            except OCSPDError as err:
                result = str(err)
            pipe.send(result)
