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
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, Self

from ocspd.errors import OCSPDError
from ocspd.model import CertStatus
from ocspd.pki.ocsp_template import SerialError, known_reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from types import TracebackType

    from ocspd.model import StatusRow
    from ocspd.pki.ocsp import OCSPSigner, SignerSpec
    from ocspd.pki.ocsp_template import Batch

_STOP_S = 2.0

Row = tuple[int, int, int, float | None]
"""Serial, status, reason, revocation time in seconds since the epoch: cheap to pickle."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one issuer to sign at one instant; `signer` is the signer's number in its list."""

    signer: int
    now: datetime
    rows: list[Row]


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


class Signing(Protocol):
    """Whatever signs chunks."""

    async def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign one chunk; OCSPDError when no further chunk can be signed either."""
        ...


def to_row(row: StatusRow) -> Row:
    """Reduce a status row to what signing needs."""
    revoked_at = None if row.revoked_at is None else row.revoked_at.timestamp()
    return row.serial, int(row.status), row.reason, revoked_at


class _Bench:
    """Signers with the batch of the current minute of each."""

    def __init__(self, signers: Iterable[OCSPSigner]) -> None:
        self._signers = list(signers)
        self._batches: dict[int, tuple[datetime, Batch]] = {}

    def sign(self, chunk: Chunk) -> SignedChunk:
        signer = self._signers[chunk.signer]
        minute = chunk.now.replace(second=0, microsecond=0)
        made_at, batch = self._batches.get(chunk.signer, (None, None))
        if batch is None or made_at != minute:
            batch = signer.batch(chunk.now)
            self._batches[chunk.signer] = minute, batch
        sign_each, hashes = batch.sign_each, signer.certid_hashes
        answers: list[list[bytes] | str] = []
        reasons_dropped = 0
        for serial, status, number, revoked_s in chunk.rows:
            reason, revoked_at = 0, None
            if status != CertStatus.GOOD:
                if status != CertStatus.REVOKED:
                    answers.append("unknown status")
                    continue
                reason = number if known_reason(number) else 0
                reasons_dropped += reason != number
                revoked_at = None if revoked_s is None else datetime.fromtimestamp(revoked_s, UTC)
            try:
                answers.append(sign_each(serial, status, reason, revoked_at, hashes))
            except SerialError:
                answers.append("bad serial")
        return SignedChunk(answers, batch.this_update, batch.next_update, reasons_dropped)


class LocalSigning:
    """Signs in a thread of this process: for a few rows, which are done before a process has started."""

    def __init__(self, signers: Sequence[OCSPSigner]) -> None:
        self._bench = _Bench(signers)
        self._lock = asyncio.Lock()

    async def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign one chunk."""
        async with self._lock:
            return await asyncio.to_thread(self._bench.sign, chunk)


class SigningPool:
    """Signs in `processes` worker processes; use as `async with`.

    Leaving the block, also by an error or a cancellation, ends the workers at once: a chunk is a
    fraction of a second of work, and what was not written yet will be signed again.
    """

    def __init__(self, signers: Sequence[OCSPSigner], *, processes: int, niceness: int = 0) -> None:
        """`niceness` is added to the workers' scheduling priority value (nice(2))."""
        self._specs = [signer.spec() for signer in signers]
        self._niceness = niceness
        self._size = processes
        self._workers: list[_Worker] = []
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._size):
                worker = await asyncio.to_thread(_Worker, self._specs, self._niceness)
                self._workers.append(worker)
                self._idle.put_nowait(worker)
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def sign(self, chunk: Chunk) -> SignedChunk:
        """Sign one chunk in the next idle worker; at most `processes` are signed at a time."""
        worker = await self._idle.get()
        # a worker whose answer is not awaited to the end is never idle again: its pipe is out of step
        signed = await asyncio.to_thread(worker.exchange, chunk)
        self._idle.put_nowait(worker)
        return signed

    def close(self) -> None:
        """End every worker. Idempotent."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join()
        self._workers.clear()


class _Worker:
    """One process and our end of its pipe."""

    def __init__(self, specs: list[SignerSpec], niceness: int) -> None:
        self._reaping = threading.Lock()  # two threads that wait for one child lose its exit code
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work, args=(theirs, specs, niceness), name="ocspd-sign", daemon=True
        )
        try:
            self._process.start()
        except OSError as err:
            raise OCSPDError(f"cannot start a signing process: {err.strerror}; use -processes 1") from err
        finally:
            theirs.close()

    def exchange(self, chunk: Chunk) -> SignedChunk:
        """Send a chunk and wait for its answers."""
        try:
            self._pipe.send(chunk)
            result = self._pipe.recv()
        except (OSError, EOFError):
            with self._reaping:
                self._process.join(_STOP_S)
            raise OCSPDError(
                f"a signing process ended unexpectedly (exit code {self._process.exitcode}); answers it had "
                "not returned are missing: run the command again"
            ) from None
        if isinstance(result, str):
            raise OCSPDError(result)
        assert isinstance(result, SignedChunk)
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


def _work(pipe: Connection, specs: list[SignerSpec], niceness: int) -> None:
    """Be a worker: answer chunks until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if niceness:
        os.nice(niceness)
    bench: _Bench | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            chunk: Chunk = pipe.recv()
            try:
                if bench is None:
                    bench = _Bench(spec.open(chunk.now) for spec in specs)
                result: SignedChunk | str = bench.sign(chunk)
            except OCSPDError as err:
                result = str(err)
            pipe.send(result)
