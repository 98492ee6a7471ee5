"""Responses from an index that a signer publishes elsewhere, pulled into a directory of our own.

The directory is a cache: a responder that starts while the store is unreachable serves the generation
pulled before, and one that loses the store keeps serving until its responses expire.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.errors import IndexFileError, OCSPDError
from ocspd.index.directory import VERIFIED_BYTES
from ocspd.index.manifest import check_not_in_the_future
from ocspd.logs import logger
from ocspd.recovery import Recovery, wait, without_details
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from ocspd.clock import Clock
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest
    from ocspd.index.remote import RemoteIndex

START_S = 10.0
"""How long a start waits for the store when the cache has a generation to serve."""
_LONGEST_PAUSE_S = 5.0


@dataclass(slots=True)
class PullStats:
    """The state of pulling, for metrics and tests."""

    url: str
    up: bool = True
    failures: int = 0
    """Failed checks of the store."""
    succeeded_at: float = 0.0
    """Time of the last successful one, in seconds since the epoch."""
    generation: int = -1
    """The generation of the manifest in the store; -1 when it has not been read yet."""
    bytes: int = 0
    """Bytes of segments downloaded."""


class PulledIndex:
    """Keeps a directory at the newest generation of a remote index (`responder.supervisor.Source`)."""

    def __init__(
        self,
        remote: RemoteIndex,
        directory: IndexDirectory,
        clock: Clock,
        *,
        poll_s: float = 1.0,
        start_s: float = START_S,
    ) -> None:
        """Check the store every `poll_s` seconds; a start with a cache waits `start_s` for it."""
        self.directory = directory
        self.stats = PullStats(remote.url)
        self._remote = remote
        self._clock = clock
        self._poll_s = poll_s
        self._start_s = start_s
        self._forced = asyncio.Event()
        self._store = Recovery(
            again=f"{remote.url}: pulling works again",
            retry_s=(2 * poll_s, max(poll_s, _LONGEST_PAUSE_S)),
            same=without_details,
            wait=self._wait,
        )
        self._lock = ExitStack()

    async def prepare(self) -> None:
        """Pull for the first time, or start with what an earlier run has pulled.

        OCSPDError when there is neither, or when another process uses the directory.
        """
        self._lock.enter_context(self.directory.lock())
        cached = await self._check_cache()
        try:
            async with time_limit(self._start_s if cached else None):
                await self._poll()
        except TimeoutError:
            self._fail(
                f"{self.stats.url}: not pulled within {self._start_s:.0f} s",
                "starting with the previously pulled generation",
            )
        except OCSPDError as err:
            if not cached:
                raise
            self._fail(err, "starting with the previously pulled generation")

    async def follow(self) -> None:
        """Pull every new generation, until cancelled; a failure is logged once and retried."""
        while True:
            await self._store.pause(self._forced, idle_s=self._poll_s)
            self._forced.clear()
            try:
                await self._poll()
            except OCSPDError as err:
                self._fail(err, "still serving the previous generation")
            except Exception as err:  # noqa: BLE001  (a bug must neither end the pulling nor hide)
                if self._fail(f"{self.stats.url}: a bug in ocspd, please report it", "pulling on"):
                    logger.error("%s", self.stats.url, exc_info=err)

    @property
    def up(self) -> bool:
        """Whether the last check of the store succeeded."""
        return not self._store.trouble

    def reload(self) -> None:
        """Check the store at once."""
        self._forced.set()

    def close(self) -> None:
        """Release the directory for others."""
        self._lock.close()

    async def _poll(self) -> None:
        try:
            await self._remote.pull(self.directory)
        finally:
            self.stats.generation = self._remote.generation
            self.stats.bytes = self._remote.pulled_bytes
        self.stats.succeeded_at = self._clock.now().timestamp()
        self.stats.up = True
        self._store.works()

    def _fail(self, why: str | OCSPDError, meanwhile: str) -> bool:
        """Count a failure; whether it is another than the last one, and so was logged."""
        self.stats.up = False
        self.stats.failures += 1
        return self._store.failed(why, meanwhile=meanwhile)

    async def _wait(self, seconds: float, wake: asyncio.Event | None) -> None:
        """Wait a little more or less, so that responders do not ask in step."""
        await wait(seconds * (0.9 + 0.2 * self.directory.machine.fraction()), wake)

    async def _check_cache(self) -> bool:
        """Return whether an earlier run left a usable generation; damaged segments are removed."""
        try:
            manifest = self.directory.manifest()
            if manifest is None:
                return False
            check_not_in_the_future(
                manifest, str(self.directory.manifest_path), self._clock.now().timestamp()
            )
            await asyncio.to_thread(self._remove_damaged, manifest, VERIFIED_BYTES)
            try:
                await self._remote.check(self.directory, manifest)
            except IndexFileError:
                await asyncio.to_thread(self._remove_damaged, manifest, None)
                raise
        except IndexFileError as err:
            logger.warning("%s; pulling it again", err)
            with suppress(OSError):
                self.directory.machine.unlink(self.directory.manifest_path)
            return False
        return True

    def _remove_damaged(self, manifest: Manifest, up_to_bytes: int | None) -> None:
        """Compare segments with their SHA-256; IndexFileError names one that differs, which is removed."""
        for ref in manifest.segments:
            if up_to_bytes is not None and ref.size_bytes > up_to_bytes:
                continue
            try:
                self.directory.verify(ref)
            except IndexFileError:
                with suppress(OSError):
                    self.directory.machine.unlink(self.directory.segment_path(ref))  # it is pulled again
                raise
