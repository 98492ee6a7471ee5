"""An index directory: content-addressed segments, the manifest that lists them, and a copy of it.

Writers hold the directory's lock; readers never do. A segment is complete and durable before a
manifest names it, and a segment that no manifest names any more is kept for a grace time, so a reader
that has just read the old manifest still finds its files.

The copy (`published.json`) is for writers only: it reveals when somebody has replaced the newest
manifest with an older one, and what the newest was. Generations continue from the higher of the two, so
that no generation is published twice with different contents.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd._index import Index, Segment
from ocspd.errors import IndexFileError, OCSPDError
from ocspd.files import read_bounded, write_atomic
from ocspd.index._writer import SegmentWriter
from ocspd.index.manifest import (
    MANIFEST_NAME,
    MAX_BYTES,
    MAX_CHANGES,
    MAX_SEGMENTS,
    Manifest,
    SegmentRef,
    parse_manifest,
)
from ocspd.machine import MACHINE, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COPY_NAME = "published.json"
_LOCK = ".lock"
_NEW = "new-"
KEPT_S = 10.0
"""How long a segment that no manifest names any more is kept at least: a reader of the previous manifest
opens its segments within milliseconds, and a later one reads the next manifest."""
VERIFIED_BYTES = 64 << 20
"""Segments up to this size are compared with their SHA-256 before use (about 50 ms); larger ones are checked
in structure only, since reading them whole would delay every revocation: `ocspd index verify` does it."""
KEPT_BYTES = 32 << 20
"""Up to this size in all, such segments are kept for the whole grace time."""


class IndexDirectory:
    """Read and publish the index that lives in one directory."""

    def __init__(self, path: str | Path, machine: Machine = MACHINE) -> None:
        self.path = Path(path)
        self.machine = machine
        self._locks: list[int] = []
        self._adopted: dict[str, float] = {}  # what no manifest has named yet, and since when (monotonic)

    @property
    def manifest_path(self) -> Path:
        """The path of the manifest."""
        return self.path / MANIFEST_NAME

    def create(self) -> None:
        """Create the directory if it is missing; IndexFileError when that is impossible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise IndexFileError(f"{self.path}: cannot create index directory: {err.strerror}") from err

    def manifest(self) -> Manifest | None:
        """Read the manifest; None when nothing has been published here yet."""
        try:
            data = read_bounded(self.manifest_path, MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as err:
            raise IndexFileError(
                f"{self.manifest_path}: cannot read manifest: {err.strerror or err}"
            ) from err
        return parse_manifest(data, str(self.manifest_path))

    def copy(self) -> Manifest | None:
        """Read the copy of the newest manifest a writer published here; None when there is no usable one."""
        try:
            data = read_bounded(self.path / COPY_NAME, MAX_BYTES + 1)
            return parse_manifest(data, str(self.path / COPY_NAME))
        except (OSError, IndexFileError):
            return None

    def usable(self, ref: SegmentRef) -> bool:
        """Return whether a segment is there, complete and (up to VERIFIED_BYTES) as its name says."""
        try:
            self.map([ref])
            if ref.size_bytes <= VERIFIED_BYTES:
                self.verify(ref)
        except IndexFileError:
            return False
        return True

    def present(self, ref: SegmentRef) -> bool:
        """Return whether a file of a segment's name and size exists; its contents are not read."""
        try:
            return self.segment_path(ref).stat().st_size == ref.size_bytes
        except OSError:
            return False

    def write_again(self, ref: SegmentRef, descriptor: int) -> bool:
        """Write a segment again from its still open descriptor; return whether the contents were intact."""
        path = self.new_path()
        digest = hashlib.sha256()
        offset = 0
        try:
            with path.open("xb") as file:
                while data := os.pread(descriptor, 1 << 20, offset):
                    digest.update(data)
                    file.write(data)
                    offset += len(data)
                if digest.hexdigest() != ref.sha256:
                    return False
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                self.machine.fsync(file.fileno())
            self.machine.replace(path, self.segment_path(ref))
            self.machine.fsync_directory(self.path)
        except OSError as err:
            raise IndexFileError(f"{path}: cannot write segment: {err.strerror}") from err
        finally:
            with contextlib.suppress(OSError):
                self.machine.unlink(path)
        return True

    def segment_path(self, ref: SegmentRef) -> Path:
        """Return the path of a segment."""
        return self.path / ref.file_name

    def open(self, manifest: Manifest | None = None) -> Index:
        """Map the segments of a manifest (the published one by default) as an Index.

        Structure is validated, contents are not (`verify`). IndexFileError names what is unusable.
        """
        if manifest is None:
            manifest = self.manifest()
            if manifest is None:
                raise IndexFileError(f"{self.path}: no {MANIFEST_NAME}: nothing has been published here yet")
        return Index(self.map(manifest.segments), generation=manifest.generation)

    def map(self, refs: Sequence[SegmentRef]) -> list[Segment]:
        """Map segments of this directory, in the order given; IndexFileError as for `open`."""
        segments = []
        for ref in refs:
            segment = Segment(str(self.segment_path(ref)))
            if segment.size_bytes != ref.size_bytes:
                raise IndexFileError(
                    f"{segment.path}: {segment.size_bytes} bytes, but the manifest says {ref.size_bytes}"
                )
            segments.append(segment)
        return segments

    def verify(self, ref: SegmentRef) -> None:
        """Compare a segment's contents with its SHA-256; IndexFileError names it when they differ."""
        path = self.segment_path(ref)
        if sha256_of(path) != ref.sha256:
            raise IndexFileError(
                f"{path}: contents do not match the manifest's SHA-256; fetch or build it again"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Become the only writer; IndexFileError at once when another process already is."""
        self.create()
        try:
            self._take_lock()
            yield
        finally:
            while self._locks:
                os.close(self._locks.pop())

    def create_again(self) -> None:
        """Create the directory and its lock again after somebody has removed them; for the lock's holder.

        IndexFileError when that is impossible, or another writer was faster.
        """
        self.create()
        with contextlib.suppress(OSError):
            held = {(os.fstat(lock).st_dev, os.fstat(lock).st_ino) for lock in self._locks}
            found = (self.path / _LOCK).stat()
            if (found.st_dev, found.st_ino) in held:
                return
        self._take_lock()

    def keep_lock(self) -> None:
        """Take the lock again if its file was removed; for the lock's holder, before it publishes.

        Otherwise two writers, each believing itself the only one, would replace each other's manifests.
        IndexFileError when another writer was faster.
        """
        if self._locks:
            self.create_again()

    def _take_lock(self) -> None:
        path = self.path / _LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as err:
            raise IndexFileError(f"{path}: cannot lock index directory: {err.strerror}") from err
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise IndexFileError(f"{self.path}: another process is writing this index") from None
        self._locks.append(descriptor)

    @property
    def prefix(self) -> str:
        """The beginning of the path of a new segment; the rest of the name and `.seg` follow."""
        return str(self.path / _NEW)

    def writer(self, now_s: int, *, paced: bool = False) -> SegmentWriter:
        """Start a segment in this directory; pass it to `adopt` once it is finished."""
        return SegmentWriter(str(self.new_path()), created_at=now_s, paced=paced, machine=self.machine)

    def new_path(self) -> Path:
        """Name a file for a segment being written; `collect` removes it if it is left behind."""
        return Path(f"{self.prefix}{os.getpid()}-{self.machine.random_bytes(8).hex()}.seg")

    def adopt(self, path: str | Path) -> SegmentRef:
        """Give a finished segment of this directory its content-addressed name; on failure it is removed."""
        path = Path(path)
        try:
            segment = Segment(str(path))
            ref = SegmentRef(
                sha256=sha256_of(path),
                size_bytes=segment.size_bytes,
                entries=segment.entries,
                created_at=segment.created_at,
            )
            self._adopted[ref.file_name] = self.machine.monotonic()
            self.machine.replace(path, self.segment_path(ref))
            self.machine.fsync_directory(self.path)
        except BaseException as err:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                self.machine.unlink(path)
            if isinstance(err, OSError):
                raise IndexFileError(f"{path}: cannot rename segment: {err.strerror}") from err
            raise
        return ref

    def publish(
        self,
        segments: Sequence[SegmentRef],
        now_s: int,
        changed_at: Sequence[float] = (),
        *,
        after: Manifest | None = None,
    ) -> Manifest:
        """Publish these segments, newest first, as the next generation of the index.

        `changed_at` are the commit times, in seconds, of the database changes it is the first to show.
        `after` is the previous generation, if the caller knows it better than the directory may.
        """
        before = self.manifest() if after is None else after
        manifest = self.next_manifest(segments, now_s, changed_at, before=before)
        self.replace(manifest, before)
        return manifest

    def next_manifest(
        self,
        segments: Sequence[SegmentRef],
        now_s: int,
        changed_at: Sequence[float],
        *,
        before: Manifest | None,
        above: int = 0,
    ) -> Manifest:
        """Make the manifest for `replace`: its generation is after `before`, the copy's and `above`.

        IndexFileError for more segments than a reader takes.
        """
        if len(segments) > MAX_SEGMENTS:
            raise IndexFileError(
                f"{self.path}: {len(segments)} segments, more than the {MAX_SEGMENTS} a manifest may name: "
                "merge them (`ocspd index merge`)"
            )
        copy = self.copy()
        generation = max(before.generation if before else 0, copy.generation if copy else 0, above) + 1
        changes = [(generation, moment) for moment in changed_at] + list(before.changes if before else ())
        return Manifest(
            generation=generation,
            published_at=now_s,
            segments=tuple(segments),
            changes=tuple(changes[:MAX_CHANGES]),
            index_id=next((one.index_id for one in (before, copy) if one and one.index_id), "")
            or self.machine.random_bytes(16).hex(),
        )

    def replace(self, manifest: Manifest, before: Manifest | None) -> None:
        """Replace the manifest `before`; the grace time of the segments it no longer names begins now."""
        for ref in before.segments if before else ():
            if ref not in manifest.segments:
                with contextlib.suppress(OSError):
                    self.machine.touch(self.segment_path(ref))
        data = manifest.to_bytes()
        try:
            write_atomic(self.manifest_path, data, machine=self.machine)
        except OCSPDError as err:
            raise IndexFileError(str(err)) from err
        for ref in manifest.segments:
            self._adopted.pop(ref.file_name, None)
        with contextlib.suppress(OSError):  # the manifest is in force without it
            temporary = self.path / f".{MANIFEST_NAME}.copy"
            temporary.write_bytes(data)
            self.machine.replace(temporary, self.path / COPY_NAME)

    def discard_unfinished(self) -> None:
        """Remove the segments that earlier writers left unfinished; before the lock's holder starts its own.

        `collect` cannot recognise them when process ids are reused, as they are in containers.
        """
        try:
            found = [path for path in self.path.iterdir() if _is_unfinished(path.name)]
        except OSError:
            return  # the directory is gone, and they with it
        for path in found:
            with contextlib.suppress(OSError):
                self.machine.unlink(path)

    def collect(self, now_s: float, grace_s: float = 300, *, manifest: Manifest | None = None) -> list[str]:
        """Remove segments that have been named by no manifest for more than grace_s seconds.

        If they exceed KEPT_BYTES in all, the oldest of them are removed sooner, but not before KEPT_S.
        Files that writers which have ended left behind are removed after the same time: a segment being
        written has its writer's process id in its name, and one that this writer has finished is about to
        be named, whatever the clock says since. `manifest` is the published one, if the caller knows it
        better than the directory may. A modification time in the future comes from a clock that was set
        back since, and counts as long ago. Returns the names removed.
        """
        if manifest is None:
            manifest = self.manifest()
        kept = {ref.file_name for ref in manifest.segments} if manifest else set()
        finished = [(name, self.machine.monotonic() - since) for name, since in tuple(self._adopted.items())]
        kept |= {name for name, age_s in finished if age_s <= grace_s}
        for name in [name for name, age_s in finished if age_s > grace_s]:
            self._adopted.pop(name, None)
        found = []
        for path in self.path.iterdir():
            leftover = _is_unfinished(path.name) or path.name.startswith(f".{MANIFEST_NAME}.")
            if path.name in kept or not (path.suffix == ".seg" or leftover) or _in_the_making(path.name):
                continue
            with contextlib.suppress(OSError):
                age_s = abs(now_s - self.machine.changed_at(path))
                found.append((age_s, path.stat().st_size, path))
        removed = []
        total = 0
        for age_s, size, path in sorted(found, key=lambda each: each[0]):
            total += size
            if age_s > grace_s or (total > KEPT_BYTES and age_s > KEPT_S):
                with contextlib.suppress(OSError):
                    self.machine.unlink(path)
                    removed.append(path.name)
        return removed


def _is_unfinished(name: str) -> bool:
    """Return whether a file is a segment that has no content-addressed name yet."""
    return name.startswith((f".{_NEW}", _NEW))


def _in_the_making(name: str) -> bool:
    """Return whether the writer of a segment without a content-addressed name may still be running."""
    found = re.match(rf"\.?{_NEW}(\d+)-", name)
    return found is not None and Path(f"/proc/{found[1]}").exists()


def sha256_of(path: Path) -> str:
    """Return the lower-case hex SHA-256 of a file; IndexFileError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise IndexFileError(f"{path}: cannot read segment: {err.strerror}") from err
