"""An index in an object store: published by one signer, pulled by any number of responders.

 1. Segments are named after their contents and never change; the manifest is written last. Whoever
    reads a manifest finds every segment it names.
 2. Only what is missing on the other side is transferred.
 3. A pulled segment is given its name after its SHA-256 was compared with the manifest's, and the local
    manifest is replaced after all of its segments are there: a failure at any moment leaves the last
    good generation and nothing half-written under a name that counts.
 4. Segments that no manifest names any more are kept for a grace time, for readers of the old one.

Trust: responses are signed by the CA. Whoever can write to the store can withhold responses or replay
still-valid ones, but forge none.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import shutil
from typing import TYPE_CHECKING, Any, Protocol

from ocspd import strict_json
from ocspd.errors import ConfigError, IndexFileError
from ocspd.index.exhaustion import is_exhaustion
from ocspd.index.manifest import (
    MANIFEST_NAME,
    MAX_BYTES,
    History,
    Manifest,
    SegmentRef,
    check_not_in_the_future,
    parse_manifest,
)
from ocspd.index.store import CONCURRENCY, MissingObjectError, ObjectStore, RemoteStore
from ocspd.logs import logger
from ocspd.machine import MACHINE, Machine
from ocspd.recovery import Recovery
from ocspd.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ocspd.clock import Clock
    from ocspd.index.directory import IndexDirectory

    Check = Callable[[IndexDirectory, Manifest], Awaitable[object]]

RETIRED_NAME = "retired.json"
"""The object that records since when segments in the store have been named by no manifest."""
REMOTE_GRACE_S = 3600.0
"""How long they are kept: longer than any pull that began with the old manifest takes."""
REMOTE_KEPT_S = 60.0
REMOTE_KEPT_BYTES = 64 << 20
"""If they exceed this in all, as far as their sizes are known, the oldest are removed sooner, but not before
REMOTE_KEPT_S: a pull that finds one missing starts again with the current manifest."""
LOCAL_GRACE_S = 300.0
_SHORT_GRACE_S = 10.0
_RESERVE = 0.05
_RESERVE_BYTES = 1 << 30
_ATTEMPTS = 4
RETRY_S = (0.5, 2.0)
"""First and longest pause before a download that broke off is taken up, in seconds."""
_SEGMENT = re.compile(r"[0-9a-f]{64}\.seg")


class DamagedManifestError(IndexFileError):
    """The published manifest cannot be read."""


class Space(Protocol):
    """The size and free space of a file system in bytes, as `shutil.disk_usage` returns them."""

    @property
    def total(self) -> int:
        """Size of the file system."""
        ...

    @property
    def free(self) -> int:
        """Bytes available."""
        ...


class RemoteIndex:
    """The index at one URL. One publisher, one task at a time; pullers are independent of each other."""

    def __init__(  # noqa: PLR0913  (one seam each)
        self,
        url: str,
        clock: Clock,
        *,
        disk_usage: Callable[[Path], Space] = shutil.disk_usage,
        check: Check | None = None,
        store: ObjectStore | None = None,
        retry_s: tuple[float, float] = RETRY_S,
    ) -> None:
        """Raise ConfigError when the URL or the store's settings cannot be used.

        `store` replaces the store that the URL names. `check` examines the segments of a generation before
        it is used; the default does so in this process.
        """
        self._store: ObjectStore = RemoteStore(url) if store is None else store
        self._store.check()
        self._clock = clock
        self._disk_usage = disk_usage
        self._retry_s = retry_s
        self.check = check or _check_here
        """Examines the segments of a generation; IndexFileError names one that cannot be used."""
        self._etag: str | None = None
        self._history = History()
        self._present: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._retired: dict[str, float] | None = None
        self.pulled_bytes = 0
        """Bytes of segments downloaded so far, including those that could not be used."""
        self.published_bytes = 0
        """Bytes of segments uploaded so far."""
        self.generation = -1
        """Of the remote manifest last read; -1 for none yet."""

    @property
    def url(self) -> str:
        """The URL without credentials."""
        return self._store.url

    # -- pulling ---------------------------------------------------------------------------------

    async def pull(self, directory: IndexDirectory) -> Manifest | None:
        """Make the published generation the local one; None when there is nothing new.

        The caller holds the directory's lock. IndexFileError names what cannot be reached or used; the
        local generation is then unchanged.
        """
        local = self._local(directory)
        whole = local is not None and all(directory.present(ref) for ref in local.segments)
        read = await self._read_manifest(self._etag if whole else None)
        if read is None:
            return None
        manifest, etag = read
        self._history.check(manifest, f"{self.url}/{MANIFEST_NAME}", self._now_s())
        self.generation = manifest.generation
        if manifest == local and whole:
            self._etag = etag
            return None
        try:
            await self._fetch_missing(directory, manifest)
            await self.check(directory, manifest)
            await asyncio.to_thread(directory.replace, manifest, local)
            self._history.note(manifest)
            self._etag = etag
            await asyncio.to_thread(directory.collect, self._now_s(), LOCAL_GRACE_S)
        except OSError as err:
            raise IndexFileError(f"{directory.path}: {err.strerror or err}") from err
        return manifest

    def _local(self, directory: IndexDirectory) -> Manifest | None:
        """Return the manifest pulled before; None if there is none or it must be replaced."""
        try:
            local = directory.manifest()
            if local is not None:
                check_not_in_the_future(local, str(directory.manifest_path), self._now_s())
                self._history.note(local)
        except IndexFileError as err:
            if is_exhaustion(err):
                raise
            logger.warning("%s; pulling it again", err)
            with contextlib.suppress(OSError):
                directory.machine.unlink(directory.manifest_path)
            return None
        return local

    async def _read_manifest(self, etag: str | None) -> tuple[Manifest, str | None] | None:
        try:
            found = await self._store.read(MANIFEST_NAME, limit=MAX_BYTES, unless=etag)
        except MissingObjectError as err:
            raise MissingObjectError(f"{err}: nothing has been published there yet") from err
        if found is None:
            return None
        data, etag = found
        return parse_manifest(data, f"{self.url}/{MANIFEST_NAME}"), etag

    async def _fetch_missing(self, directory: IndexDirectory, manifest: Manifest) -> None:
        missing = [ref for ref in dict.fromkeys(manifest.segments) if not directory.present(ref)]
        if not missing:
            return
        directory.create()
        await self._make_room(directory, sum(ref.size_bytes for ref in missing))
        gate = asyncio.Semaphore(CONCURRENCY)

        async def fetch(ref: SegmentRef) -> None:
            async with gate:
                await self._fetch(directory, ref)

        async with Tasks() as tasks:
            for ref in missing:
                tasks.create_task(fetch(ref))

    async def _make_room(self, directory: IndexDirectory, needed: int) -> None:
        """Raise IndexFileError if the generation does not fit. A reserve is left for others on the disk."""
        for grace_s in (LOCAL_GRACE_S, _SHORT_GRACE_S):
            await asyncio.to_thread(directory.collect, self._now_s(), grace_s)
            space = self._disk_usage(directory.path)
            reserve = min(int(space.total * _RESERVE), _RESERVE_BYTES)
            if needed + reserve <= space.free:
                return
        raise IndexFileError(
            f"{directory.path}: not enough space for the new generation (it needs {_mib(needed)} MiB and "
            f"{_mib(reserve)} MiB in reserve; {_mib(space.free)} MiB are free)"
        )

    async def _fetch(self, directory: IndexDirectory, ref: SegmentRef) -> None:
        path = directory.new_path()
        try:
            digest = await self._download(ref, path, directory.machine)
            if digest != ref.sha256:
                raise IndexFileError(
                    f"{self.url}/{ref.file_name}: contents do not match the manifest's SHA-256; not used"
                )
            await asyncio.to_thread(_rename, directory, path, ref)
        except OSError as err:
            raise IndexFileError(f"{path}: cannot write: {err.strerror}") from err
        finally:
            directory.machine.unlink(path)

    async def _download(self, ref: SegmentRef, path: Path, machine: Machine = MACHINE) -> str:
        """Write a segment to a file, resuming after a broken connection; return its SHA-256."""
        digest, written = hashlib.sha256(), 0

        def take(piece: Any) -> None:
            digest.update(piece)
            file.write(piece)

        def finish() -> None:
            file.flush()
            machine.fsync(file.fileno())

        with path.open("xb") as file:
            recovery = Recovery(retry_s=self._retry_s)
            while True:
                try:
                    async with contextlib.aclosing(self._store.stream(ref.file_name, written)) as pieces:
                        async for piece in pieces:
                            written += len(piece)
                            self.pulled_bytes += len(piece)
                            if written > ref.size_bytes:
                                break
                            await asyncio.to_thread(take, piece)
                    break
                except MissingObjectError:
                    raise
                except IndexFileError as err:
                    recovery.failed(err)
                    if recovery.failures == _ATTEMPTS:
                        raise
                    await recovery.pause()
            if written != ref.size_bytes:
                raise IndexFileError(
                    f"{self.url}/{ref.file_name}: not the manifest's {ref.size_bytes} bytes; not used"
                )
            await asyncio.to_thread(finish)
        return digest.hexdigest()

    # -- publishing ------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raise ConfigError for a URL that is read-only."""
        if not self._store.writable:
            raise ConfigError(f"{self.url}: this URL is read-only; publish to file://, s3://, gs:// or az://")

    async def has(self, ref: SegmentRef) -> bool:
        """Return whether the store has a segment."""
        self._sizes[ref.file_name] = ref.size_bytes
        if ref.file_name not in self._present and await self._store.size(ref.file_name) == ref.size_bytes:
            self._present.add(ref.file_name)
        return ref.file_name in self._present

    async def upload(self, directory: IndexDirectory, ref: SegmentRef) -> None:
        """Upload a segment unless the store has it; a damaged one is not uploaded."""
        self._store.create()
        if not await self.has(ref):
            await asyncio.to_thread(directory.verify, ref)
            await self._store.write(ref.file_name, directory.segment_path(ref))
            self.published_bytes += ref.size_bytes
            self._present.add(ref.file_name)

    async def publish(self, directory: IndexDirectory, manifest: Manifest) -> None:
        """Upload what the store is missing, then the manifest; IndexFileError leaves the old one in force."""
        self._store.create()
        for ref in manifest.segments:
            await self.upload(directory, ref)
        await self._store.write(MANIFEST_NAME, manifest.to_bytes())
        self.generation = manifest.generation

    async def published(self) -> Manifest | None:
        """Return the manifest in the store, for its publisher; None when there is none.

        DamagedManifestError when it is not a manifest.
        """
        self._store.create()
        try:
            found = await self._store.read(MANIFEST_NAME, limit=MAX_BYTES)
        except MissingObjectError:
            return None
        if found is None:
            return None
        try:
            return parse_manifest(found[0], f"{self.url}/{MANIFEST_NAME}")
        except IndexFileError as err:
            raise DamagedManifestError(str(err)) from err

    async def collect(
        self,
        manifest: Manifest,
        grace_s: float = REMOTE_GRACE_S,
        kept_bytes: int = REMOTE_KEPT_BYTES,
    ) -> list[str]:
        """Remove segments that `manifest`, the one just published, has not named for grace_s seconds.

        Segments beyond `kept_bytes` are removed sooner. The times are kept in the store as well, so that
        they survive a restart. Returns the names removed.
        """
        now = self._now_s()
        there = set(await self._store.names())
        self._present &= there
        if self._retired is None:
            self._retired = await self._read_retired()
        named = {ref.file_name for ref in manifest.segments}
        unnamed = {name for name in there if _SEGMENT.fullmatch(name)} - named
        since = {name: min(self._retired.get(name, now), now) for name in sorted(unnamed)}
        removed = []
        total = 0
        for name in sorted(since, key=lambda name: -since[name]):
            total += self._sizes.get(name, 0)
            age_s = now - since[name]
            if age_s > grace_s or (total > kept_bytes and age_s > REMOTE_KEPT_S):
                removed.append(name)
        self._sizes = {
            name: size for name, size in self._sizes.items() if name in there and name not in removed
        }
        self._present -= set(removed)
        await self._store.delete(removed)
        kept = {name: moment for name, moment in since.items() if name not in removed}
        if kept != self._retired:
            await self._store.write(RETIRED_NAME, (json.dumps(kept, indent=1) + "\n").encode())
            self._retired = kept
        return removed

    async def _read_retired(self) -> dict[str, float]:
        try:
            found = await self._store.read(RETIRED_NAME, limit=MAX_BYTES)
            value = strict_json.read(found[0], MAX_BYTES) if found else {}
            return {name: strict_json.moment(value[name], name) for name in value if _SEGMENT.fullmatch(name)}
        except (MissingObjectError, ValueError, TypeError):
            return {}  # the grace time begins again

    def _now_s(self) -> float:
        return self._clock.now().timestamp()


async def _check_here(directory: IndexDirectory, manifest: Manifest) -> None:
    await asyncio.to_thread(directory.open, manifest)


def _rename(directory: IndexDirectory, path: Path, ref: SegmentRef) -> None:
    directory.machine.replace(path, directory.segment_path(ref))
    directory.machine.fsync_directory(directory.path)


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // (1 << 20))
