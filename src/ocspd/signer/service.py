"""A signer as a service: a daemon with its publisher, between the first look at its source and a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, Self

from ocspd.errors import CodedError, SetupError
from ocspd.logs import logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from types import TracebackType

    from ocspd.certdb.base import CertDB
    from ocspd.ops.systemd import Notifier
    from ocspd.signer.generations import Generations
    from ocspd.signer.publishing import Publisher
    from ocspd.signer.refreshing import SignerDaemon
    from ocspd.signer.tally import Progress


class PassDisplay(Protocol):
    """Whoever shows how far passes are; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, progress: Progress) -> None:
        """Take the newest figures."""
        ...

    def finish(self) -> None:
        """Show no more of this pass."""
        ...


async def first_estimate(database: CertDB, *, wait: bool) -> int | None:
    """Estimate how many certificates there are; None if the database is down.

    What a person must do first (create tables, correct a password) is an error at once; for a database that
    is down a daemon waits, with `wait`, as it does later.
    """
    try:
        await database.check()
        return await database.estimate_unexpired()
    except CodedError as err:
        if not wait or isinstance(err, SetupError):
            raise
        logger.warning("%s; waiting for it", err)
        return None


@contextlib.asynccontextmanager
async def working(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a task during the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


class SignerService:
    """A signer that works until SIGTERM; SIGHUP looks at certificates and keys, SIGUSR1 signs all again."""

    def __init__(
        self,
        daemon: SignerDaemon,
        generations: Generations,
        publisher: Publisher | None,
        notifier: Notifier,
        followed: str,
    ) -> None:
        """`followed` names what the daemon follows in messages."""
        self.daemon = daemon
        self._generations = generations
        self._publisher = publisher
        self._notifier = notifier
        self._followed = followed

    async def run(self, *, once: bool) -> int:
        """Run until a signal (or, with `once`, until the first pass is published); returns the exit code."""
        publisher, directory = self._publisher, self._generations.directory
        async with AsyncExitStack() as stack:
            if publisher is not None and not once:
                publisher.takes_over = self.daemon.ready
                await stack.enter_async_context(working(publisher.run()))
                if (manifest := directory.manifest()) is not None:
                    publisher.offer(manifest)  # what the last run may not have got rid of
            code = await self._work(once=once)
            if publisher is not None and once and (manifest := directory.manifest()) is not None:
                await publisher.finish(manifest)
            return code

    async def _work(self, *, once: bool) -> int:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self._check_now)
        loop.add_signal_handler(signal.SIGUSR1, self.daemon.sign_again)
        work = asyncio.create_task(self.daemon.run())
        ready = asyncio.create_task(self.daemon.ready.wait())
        stop = asyncio.create_task(stopped.wait())
        watchdog = asyncio.create_task(self._watchdog())
        try:
            await asyncio.wait([work, ready, stop], return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not stop.done():
                stats = self.daemon.stats
                logger.info(
                    "signed %d OCSP responses; %d certificates have responses%s",
                    stats.responses,
                    stats.pass_certificates - stats.foreign - stats.skipped.total(),
                    "" if once else f"; following {self._followed}",
                )
                self._notifier.ready(f"following {self._followed}")
                if not once:
                    await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            self._notifier.send("STOPPING=1")
            return 0
        finally:
            for task in (work, ready, stop, watchdog):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def _check_now(self) -> None:
        logger.info("SIGHUP: checking certificates and keys")
        self.daemon.check_now()

    async def _watchdog(self) -> None:
        while self._notifier.watchdog_s:
            self._notifier.send("WATCHDOG=1")
            await asyncio.sleep(self._notifier.watchdog_s)
