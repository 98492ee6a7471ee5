"""Publishing an index to stores, without ever delaying the signer.

Each store has its own task that uploads the newest generation; generations that come while it is busy are
skipped. When a store fails, the newest generation is tried again with growing pauses, and what the store had
stays in force there.

A large new segment (a merged base) takes long to upload, and revocations must not wait for it: meanwhile
manifests are published that consist of the segments in front of it followed by those the store had. Every
response there is at least as new as the one served before.

A store may be ahead of the directory: the directory is restored or empty, or another signer's standby. What
is there stays in force, with a log line, until the first pass has compared every certificate with its rows;
then generations continue from the store's (`Publisher.takes_over`).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ocspd.errors import IndexFileError, OCSPDError
from ocspd.index.manifest import MANIFEST_NAME
from ocspd.index.remote import DamagedManifestError
from ocspd.logs import logger
from ocspd.recovery import Recovery, without_details
from ocspd.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ocspd.clock import Clock
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest, SegmentRef
    from ocspd.index.remote import RemoteIndex

LARGE_BYTES = 32 << 20
"""A segment of at least this size is uploaded while newer, smaller ones are published."""
_COLLECT_EVERY_S = 600.0
_COLLECT_SOON_S = 10.0
MAX_GENERATION = 1 << 52
"""No signer reaches higher numbers by counting, and they would soon be more than a manifest can hold."""
_COLLECT_BYTES = 16 << 20
"""Segments no longer needed are removed sooner when this much has been uploaded since the last time."""


@dataclass(slots=True)
class PublishStats:
    """The state of one store, for metrics and tests."""

    url: str
    up: bool = True
    failures: int = 0
    """Failed attempts."""
    generation: int = -1
    """The newest generation in the store; -1 before the first publication of this run."""
    published_at: float = 0.0
    """Time of that publication, in seconds since the epoch."""
    sent_bytes: int = 0


class Publisher:
    """Keeps stores at the newest generation of an index directory."""

    def __init__(
        self,
        remotes: Sequence[RemoteIndex],
        directory: IndexDirectory,
        clock: Clock,
        *,
        large_bytes: int = LARGE_BYTES,
        renumber: Callable[[int], Awaitable[Manifest]] | None = None,
    ) -> None:
        """`renumber` republishes the directory's content as a generation after a given one."""
        self.takes_over = asyncio.Event()
        """Set while this directory may replace a generation ahead of its own: not before its first pass."""
        self.takes_over.set()
        self._stores = [_StorePublisher(remote, directory, clock, large_bytes, self) for remote in remotes]
        self._loop = asyncio.get_running_loop()
        self._renumber = renumber

    async def renumbered(self, manifest: Manifest, there: Manifest) -> Manifest:
        """Return a generation with a higher number than that of a store that is ahead.

        IndexFileError when there are none left.
        """
        if there.generation >= MAX_GENERATION:
            raise IndexFileError(
                f"generation {there.generation} is published there, which leaves no higher numbers: remove "
                f"its {MANIFEST_NAME}"
            )
        if self._renumber is None or manifest.generation > there.generation:
            return manifest
        return await self._renumber(there.generation)

    @property
    def stats(self) -> tuple[PublishStats, ...]:
        """The state of every store."""
        return tuple(store.stats for store in self._stores)

    def offer(self, manifest: Manifest) -> None:
        """Note a generation and return at once; may be called in any thread (`Generations.published`)."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to publish
            self._loop.call_soon_threadsafe(self._take, manifest)

    async def run(self) -> None:
        """Publish until cancelled."""
        async with Tasks() as tasks:
            for store in self._stores:
                tasks.create_task(store.run())

    async def finish(self, manifest: Manifest) -> None:
        """Publish one generation everywhere, outside of `run`; OCSPDError names a store that fails."""
        for store in self._stores:
            await store.finish(manifest)

    def _take(self, manifest: Manifest) -> None:
        for store in self._stores:
            store.take(manifest)


@dataclass(slots=True)
class _StorePublisher:
    remote: RemoteIndex
    directory: IndexDirectory
    clock: Clock
    large_bytes: int
    publisher: Publisher
    stats: PublishStats = field(init=False)
    _newest: Manifest | None = None
    _there: Manifest | None = None
    """What this store has, as far as is known."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _upload: asyncio.Task[None] | None = None
    _uploading: SegmentRef | None = None
    _behind: tuple[SegmentRef, ...] = ()
    _tail: tuple[SegmentRef, ...] = ()
    _collected_at: float = 0.0
    _collected_bytes: int = 0
    _recovery: Recovery = field(
        default_factory=lambda: Recovery(
            meanwhile="what was published there stays in force, retrying", same=without_details
        )
    )

    def __post_init__(self) -> None:
        self.stats = PublishStats(self.remote.url)

    def take(self, manifest: Manifest) -> None:
        self._newest = manifest
        self._changed.set()

    async def run(self) -> None:
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                try:
                    await self._step()
                except OCSPDError as err:
                    self._failed(err)
                except Exception as err:  # noqa: BLE001  (a bug in publishing must not end the signer)
                    if self._failed(f"{self.remote.url}: a bug in ocspd, please report it"):
                        logger.error("%s", self.remote.url, exc_info=err)
                else:
                    continue
                await self._recovery.pause()
                self._changed.set()
        finally:
            if self._upload is not None:
                self._upload.cancel()

    async def finish(self, manifest: Manifest) -> None:
        manifest = await self._after(await self._published(), manifest)
        await self.remote.publish(self.directory, manifest)
        self._succeeded(manifest)
        await self.remote.collect(manifest)

    async def _step(self) -> None:
        """Bring the store closer to the newest generation."""
        manifest = self._newest
        assert manifest is not None
        if self._there is None:
            there = await self._published()
            manifest = await self._after(there, manifest)
            self._there = there
        large = await self._lacking(manifest)
        if self._uploading not in large or (self._upload is not None and self._upload.done()):
            await self._stop_upload()
        if large and self._there is not None and self._there.segments:
            if self._upload is None:
                self._uploading = large[0]
                self._upload = asyncio.create_task(self.remote.upload(self.directory, large[0]))
                self._upload.add_done_callback(lambda _: self._changed.set())
            manifest = self._in_front(manifest, large[0], self._there)
        if manifest != self._there or self.stats.generation < 0:
            await self.remote.publish(self.directory, manifest)
            self._succeeded(manifest)
        await self._collect(manifest)

    async def _published(self) -> Manifest | None:
        """Return what is published; None if there is nothing or it is damaged."""
        try:
            return await self.remote.published()
        except DamagedManifestError as err:
            if self.publisher.takes_over.is_set():
                logger.warning("%s; published again", err)
            else:
                self._failed(err)
                await self.publisher.takes_over.wait()
            return None

    async def _after(self, there: Manifest | None, manifest: Manifest) -> Manifest:
        """Return the generation to publish over `there`; wait for a pass if that is ahead."""
        if there is None or not _is_ahead(there, manifest):
            return manifest
        if not self.publisher.takes_over.is_set():
            which = " of another index" if there.index_id != manifest.index_id else ""
            self._failed(
                IndexFileError(
                    f"{self.remote.url}: has generation {there.generation}{which}, which is ahead of "
                    f"generation {manifest.generation} here (this directory is restored or new, or another "
                    "signer publishes there): replacing it after the first pass"
                )
            )
            await self.publisher.takes_over.wait()
            manifest = self._newest or manifest
        return await self.publisher.renumbered(manifest, there)

    def _in_front(self, newest: Manifest, large: SegmentRef, there: Manifest) -> Manifest:
        """Make a manifest without a segment that is not there yet: the newer segments, then what is there.

        While the segments from the large one on stay the same, a response that leaves the front has moved
        within the front, so what the store had at first is enough behind it; otherwise all it has is used.
        """
        at = newest.segments.index(large)
        front, tail = newest.segments[:at], newest.segments[at:]
        if tail != self._tail:
            self._tail, self._behind = tail, there.segments
        behind = tuple(ref for ref in self._behind if ref not in front)
        return replace(newest, segments=front + behind)

    async def _lacking(self, manifest: Manifest) -> list[SegmentRef]:
        refs = [ref for ref in manifest.segments if ref.size_bytes >= self.large_bytes]
        return [ref for ref in refs if not await self.remote.has(ref)]

    async def _stop_upload(self) -> None:
        """Stop the concurrent upload; OCSPDError if it had failed."""
        upload, self._upload, self._uploading = self._upload, None, None
        if upload is not None:
            upload.cancel()
            await asyncio.wait([upload])
            if not upload.cancelled():
                upload.result()

    async def _collect(self, manifest: Manifest) -> None:
        now = self.clock.now().timestamp()
        sent = self.remote.published_bytes - self._collected_bytes
        pause_s = _COLLECT_SOON_S if sent > _COLLECT_BYTES else _COLLECT_EVERY_S
        if abs(now - self._collected_at) > pause_s:
            self._collected_at = now
            self._collected_bytes = self.remote.published_bytes
            try:
                await self.remote.collect(manifest)
            except IndexFileError as err:
                logger.warning("%s; leaving segments there that are no longer needed", err)

    def _succeeded(self, manifest: Manifest) -> None:
        self._there = manifest
        self.stats.generation = manifest.generation
        self.stats.published_at = self.clock.now().timestamp()
        self.stats.sent_bytes = self.remote.published_bytes
        self.stats.up = True
        if self._recovery.works():
            logger.info("%s: publishing works again, generation %d", self.remote.url, manifest.generation)

    def _failed(self, why: str | OCSPDError) -> bool:
        """Count a failure; whether it is another than the last one, and so was logged."""
        self._there = None  # look again: somebody may have changed it
        self.stats.failures += 1
        self.stats.up = False
        return self._recovery.failed(why)


def _is_ahead(there: Manifest, here: Manifest) -> bool:
    """Return whether a store has something that this directory never published."""
    another = there.index_id and here.index_id and there.index_id != here.index_id
    return bool(another) or there.generation > here.generation
