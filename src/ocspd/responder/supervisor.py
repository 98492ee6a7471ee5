"""The responder as a service: sockets, workers, index and source, from start to drain.

    start     source prepared, index checked, workers running: READY
    running   a new manifest is checked and handed to every worker; SIGHUP makes the source check again
    draining  first SIGTERM or SIGINT: /readyz fails, requests are answered for `drain_delay_s`; then every
              connection is ended after its reply, the last after `drain_timeout_s`. A second signal
              ends everything at once.

No request passes through this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ocspd.errors import OCSPDError
from ocspd.logs import logger
from ocspd.ops.systemd import Notifier
from ocspd.tasks import cancelled_from_outside, time_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocspd.clock import Clock
    from ocspd.index.directory import IndexDirectory
    from ocspd.responder.pool import WorkerPool
    from ocspd.responder.served_index import ServedIndex

_POLL_S = 0.1
"""How often the manifest's inode is checked: a tenth of the second within which a revocation is due."""
_START_S = 60.0
_START_POLL_S = 0.01
_AFTER_BUG_S = 5.0
_SETTLE_S = 5.0


class Source(Protocol):
    """The origin of the responses in an index directory."""

    @property
    def directory(self) -> IndexDirectory:
        """The directory it publishes to."""
        ...

    async def prepare(self) -> None:
        """Publish the first generation; OCSPDError ends the program."""
        ...

    async def follow(self) -> None:
        """Publish new generations until cancelled. Never raises OCSPDError: it logs and continues."""
        ...

    def reload(self) -> None:
        """Check everything again soon (SIGHUP)."""
        ...

    @property
    def up(self) -> bool:
        """Whether everything it reads was usable at the last check."""
        ...


class ChangeLatency:
    """Histogram of the time from a change's commit in the database until every worker serves it."""

    BOUNDS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS_S) + 1)
        """Changes in each bucket, the last without a bound; not cumulative."""
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one change; a negative time, from a database clock that is ahead, counts as 0."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(self.BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """One responder. Call `run` once."""

    source: Source
    index: ServedIndex
    pool: WorkerPool
    clock: Clock
    drain_delay_s: float = 0.5
    drain_timeout_s: float = 10.0
    notifier: Notifier = field(default_factory=Notifier)
    visible: ChangeLatency = field(default_factory=ChangeLatency)
    max_expired: float = 0.5
    """The share of an issuer's responses that may have expired before clients are sent elsewhere."""
    restarts: Counter[str] = field(default_factory=Counter)
    """How often each duty of this process failed because of a bug and was restarted."""
    ready: bool = False
    """Whether to send clients here: workers are serving, responses are valid, nothing is draining."""
    _started: bool = False
    _signals: int = 0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _force: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> int:
        """Serve until stopped; return the exit code: 0 drained, 1 ended at once by a second signal."""
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._start()
            duties = {
                "source": self.source.follow,
                "index": self._watch_index,
                "service": self._watch_service,
            }
            tasks = [asyncio.create_task(self._keep_doing(name, duty)) for name, duty in duties.items()]
            await self._stop.wait()
            return await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.pool.kill()
            await self.index.close()
            self.pool.listeners.close()

    def stop(self) -> None:
        """Drain; the second call ends everything at once."""
        self._signals += 1
        if self._signals > 1:
            self._force.set()
        self._stop.set()

    def reload(self) -> None:
        """Make the source check everything again, and read the manifest again."""
        logger.info("reloading")
        self.notifier.reloading()
        self.source.reload()
        self._changed.set()

    def why_not_ready(self) -> str:
        """Return in a few words why clients should not be sent here; "" when this responder is ready."""
        if self._stop.is_set():
            return "draining"
        if self.index.manifest is None:
            return "no index yet"
        if not self._started:
            return f"starting: {self.pool.ready} of {self.pool.count} workers are ready"
        if not self.pool.ready:
            return self.pool.trouble or "no worker is running"
        return self._why_behind() or self._why_expired()

    @property
    def source_up(self) -> bool:
        """Whether the current contents of the source (file, table, index, URL) are being served."""
        return self.source.up and not self.index.complaint

    def _why_behind(self) -> str:
        """Return what keeps this responder, and not the others, from the newest index."""
        if self.index.shortage:
            return f"there is a newer index that cannot be read: {self.index.shortage}"
        return self.pool.trouble

    def _why_expired(self) -> str:
        now = self.clock.now().timestamp()
        issuers = self.index.issuers
        if issuers and all(issuer.next_update_max <= now for issuer in issuers):
            return "every response has expired"
        for issuer in issuers:
            share = issuer.expired(now)
            if share > self.max_expired:
                return (
                    f"{share:.0%} of the responses of issuer {issuer.key_hash} ({issuer.hash_name}) have "
                    f"expired, more than -max-expired allows"
                )
        return ""

    async def _start(self) -> None:
        """Prepare everything; a signal meanwhile ends it."""
        starting = asyncio.create_task(self._prepare())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not starting.done():
            starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        if not self._stop.is_set():
            self.notifier.ready(self._status())

    async def _prepare(self) -> None:
        await self.source.prepare()
        await self.index.refresh()
        assert self.index.manifest is not None
        self.pool.listeners.listen(self.pool.settings.backlog)
        self.pool.start(str(self.index.directory.path), self._manifest_text(), self.index.generation)
        for _ in range(int(_START_S / _START_POLL_S)):  # looks, not a clock: see WorkerPool._watch
            if self.pool.ready >= self.pool.count:
                break
            await asyncio.sleep(_START_POLL_S)
        else:
            raise OCSPDError("the workers failed to start: see the messages above")
        self._started = self.ready = True
        logger.info("Now listening on %s", self.pool.listeners.name)

    async def _watch_index(self) -> None:
        """Hand every new generation to the workers, checked."""
        while True:
            forced = self._changed.is_set()
            self._changed.clear()
            before = self.index.generation
            if await self.index.refresh(force=forced):
                self.pool.use(str(self.index.directory.path), self._manifest_text(), self.index.generation)
                logger.info(
                    "index generation %d: %d entries in %d segments",
                    self.index.generation,
                    self.index.entries,
                    self.index.segments,
                )
                await self._observe(before)
            if forced:
                self.notifier.ready(self._status())
            with contextlib.suppress(TimeoutError):
                async with time_limit(_POLL_S):
                    await self._changed.wait()

    async def _observe(self, before: int) -> None:
        """Measure how long the changes after generation `before` took to reach every worker."""
        manifest = self.index.manifest
        assert manifest is not None
        changes = [moment for generation, moment in manifest.changes if generation > before]
        with contextlib.suppress(TimeoutError):
            async with time_limit(_SETTLE_S):
                await self.pool.settled(manifest.generation)
            now = self.clock.now().timestamp()
            for moment in changes:
                self.visible.observe(now - moment)

    async def _watch_service(self) -> None:
        """Keep `ready` and systemd up to date."""
        interval = self.notifier.watchdog_s or 1.0
        while True:
            ready = not self.why_not_ready()
            if ready != self.ready:
                self.ready = ready
                self.notifier.send(f"STATUS={self._status()}")
            if self.notifier.watchdog_s and self.pool.ready:
                self.notifier.send("WATCHDOG=1")
            await asyncio.sleep(min(interval, 1.0))

    async def _drain(self) -> int:
        self.ready = False
        self.notifier.send("STOPPING=1", "STATUS=draining")
        logger.info("draining: no new connections in %.1f s", self.drain_delay_s)
        forced = asyncio.create_task(self._force.wait())
        draining = asyncio.create_task(self._end())
        await asyncio.wait([forced, draining], return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if draining.done():
            logger.info("stopped" if draining.result() else "stopped; some workers had to be killed")
            return 0
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        logger.warning("stopped immediately by a second signal")
        return 1

    async def _end(self) -> bool:
        self.pool.listeners.accept_at_once()
        await asyncio.sleep(self.drain_delay_s)
        self.pool.listeners.close()
        return await self.pool.stop(self.drain_timeout_s)

    async def _keep_doing(self, name: str, duty: Callable[[], Awaitable[None]]) -> None:
        """Repeat a duty for ever: a bug in it must not end the service, which depends on none of them.

        A duty that ends on its own has a bug, too, even if it cancelled itself.
        """
        while True:
            try:
                await duty()
            except asyncio.CancelledError:
                if cancelled_from_outside():
                    raise
                logger.error("a bug in ocspd, please report it: duty %s was cancelled; still serving", name)
            except Exception:  # noqa: BLE001  (see above)
                logger.exception("a bug in ocspd, please report it; still serving")
            self.restarts[name] += 1
            await asyncio.sleep(_AFTER_BUG_S)

    def _manifest_text(self) -> str:
        assert self.index.manifest is not None
        return self.index.manifest.to_bytes().decode()

    def _status(self) -> str:
        reason = self.why_not_ready()
        if reason:
            return f"not ready: {reason}"
        return f"serving generation {self.index.generation}, {self.index.entries} entries"
