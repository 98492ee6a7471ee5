"""Keeping an index current: small new segments in front, merged behind, always one manifest.

The order of segments is the order of knowledge: a response in front was decided on a later state of
the database than any response behind it. Three groups keep that true:

    recent    responses for changes the feed reported since the running (or last) pass began
    passing   slices of the running pass, decided on the state of the database when it began
    settled   everything from before

A finished pass joins `settled`; the next one first moves `recent` there. These rules ensure that what is
published never goes back:

 1. Segments are merged only with their neighbours and only inside a group, so merging never changes which
    response is found.
 2. An expired response hides the responses of older segments under its CertID, so a merge drops it only when
    there is no older segment: an older response may be valid for longer than the newer one.
 3. Generations continue from the highest that was ever tried here. If the newest manifest is replaced by an
    older one, before the writer starts or while it runs, it is restored (`directory.copy`).
 4. A segment whose file is missing or damaged is written again from its open descriptor. If that is
    impossible, it is `lost`: the manifest still names it, and all behind it, so that responders which have
    them open keep them, until a pass has signed again what only they held.

Disk: a change rewrites the newest segment only while that is small, so the files of changes are small, and
the files no manifest names any more are bounded in bytes (`IndexDirectory.collect`). Together with a running
merge this is never more than twice what is published, KEPT_BYTES, and what was written within KEPT_S.

Merges run on one thread that yields to everything else (`priority`): a responder on the same machine goes
first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocspd._index import Index
from ocspd.errors import IndexFileError
from ocspd.logs import logger
from ocspd.signer.priority import yield_to_others

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ocspd.clock import Clock
    from ocspd.index._writer import SegmentWriter
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest, SegmentRef

ROLL_BYTES = 64 << 10
"""The newest segment is rewritten with every change until it has this size: on average half of it per change.

A segment of one change has 15 KiB: header, slots and issuers fill pages, and its template is stored whole.
"""
COLLECT_S = 1.0
"""The shortest interval between searches of the directory for files no longer needed."""
GROW = 2
"""A run of segments is merged with its older neighbour when that is at most this many times as large."""
MAX_SEGMENTS = 6
"""More segments than this are merged in any case: each costs a lookup about 30 ns.

Slices of a running pass are merged only then: it writes so many that merging them as they come would
copy each response seven times in a pass over 100 million.
"""


@dataclass(slots=True)
class Generations:
    """The one writer of an index directory; the caller holds the directory's lock.

    Every method that publishes is atomic: an error (IndexFileError: disk full, directory gone) leaves
    the last published generation in force and the groups as they were.
    """

    directory: IndexDirectory
    clock: Clock
    grace_s: float = 300.0
    """How long a segment no manifest names any more is kept for readers of an older manifest."""
    recent: tuple[SegmentRef, ...] = ()
    passing: tuple[SegmentRef, ...] = ()
    settled: tuple[SegmentRef, ...] = ()
    published: Callable[[Manifest], None] | None = None
    """Called with every published generation."""
    lost: frozenset[SegmentRef] = frozenset()
    """Segments that cannot be read, and those behind them: it is unknown what is newest under their keys."""
    _lost_before_pass: frozenset[SegmentRef] = frozenset()
    _last: Manifest | None = None  # what is published, whatever has happened to the file
    _highest: int = 0
    """The highest generation that may have been seen by a reader, whether or not publishing it succeeded."""
    _kept: dict[SegmentRef, int] = field(default_factory=dict)  # a descriptor of every segment published
    _collected_at: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _merging: asyncio.Lock = field(default_factory=asyncio.Lock)
    _joining: SegmentWriter | None = None  # what the merge that is running writes
    _merger: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "ocspd-merge", initializer=yield_to_others)
    )

    def load(self) -> Manifest | None:
        """Read the published generation; None for an empty directory.

        IndexFileError for a manifest that cannot be read where there is no copy of it either.
        """
        copy = self.directory.copy()
        wrong = ""
        try:
            manifest = self.directory.manifest()
        except IndexFileError as err:
            if copy is None:
                raise
            manifest, wrong = None, str(err)
        if copy is not None and (manifest is None or manifest.generation < copy.generation):
            path = self.directory.manifest_path
            if manifest is not None:
                wrong = (
                    f"{path}: generation {copy.generation} was replaced by the older generation "
                    f"{manifest.generation}"
                )
            wrong = wrong or f"{path}: is missing"
            if manifest is None or all(map(self.directory.usable, copy.segments)):
                manifest = copy
        if copy is not None:
            self._highest = copy.generation
        self.directory.discard_unfinished()
        if manifest is None:
            return None
        self.settled = manifest.segments
        self._last = manifest
        self._find_lost(deep=True)
        if wrong:
            logger.warning("%s; published again", wrong)
            manifest = self._publish(())
        else:
            self._keep(manifest)
        self.directory.collect(self._now_s(), self.grace_s, manifest=manifest)
        return manifest

    @property
    def segments(self) -> tuple[SegmentRef, ...]:
        """All readable segments, newest first."""
        return tuple(ref for ref in self._named if ref not in self.lost)

    @property
    def _named(self) -> tuple[SegmentRef, ...]:
        """All segments, newest first, as the manifest names them."""
        return self.recent + self.passing + self.settled

    @property
    def pass_wanted(self) -> bool:
        """Whether responses are lost that the running pass, if any, does not replace."""
        return bool(self.lost - self._lost_before_pass)

    def open(self) -> Index:
        """Map the present index."""
        return Index(self.directory.map(self.segments))

    async def add_changes(
        self, fill: Callable[[SegmentWriter], None], changed_at: Sequence[float]
    ) -> Manifest:
        """Publish responses for changes, in front of everything else.

        `fill` adds the responses to a writer, in a thread; `changed_at` are the changes' commit times.
        """
        async with self._lock:
            newest = self.recent[0] if self.recent and self.recent[0].size_bytes < ROLL_BYTES else None
            if newest in self.lost:
                newest = None
            try:
                ref = await asyncio.to_thread(self._write, fill, newest)
            except IndexFileError:
                if self._last is None or not await asyncio.to_thread(self._mend, self._last):
                    raise
                newest = newest if newest not in self.lost else None
                ref = await asyncio.to_thread(self._write, fill, newest)
            rest = self.recent[1:] if newest is not None else self.recent
            return await self._replace("recent", (ref, *rest), changed_at)

    async def publish(self, *, above: int = 0) -> Manifest:
        """Publish the present segments, even if there are none, as a generation after `above`."""
        async with self._lock:
            self._highest = max(self._highest, above)
            return await asyncio.to_thread(self._publish, ())

    async def mend(self) -> bool:
        """Write and publish again what was damaged or removed by others; return whether anything was.

        Afterwards `pass_wanted` says whether something was lost for good.
        """
        async with self._lock:
            return self._last is not None and await asyncio.to_thread(self._mend, self._last)

    async def begin_pass(self) -> None:
        """Start a pass: what the feed reports from now on goes in front of the pass's responses."""
        self._hasten()
        async with self._merging, self._lock:
            self.settled = self.recent + self.passing + self.settled
            self.recent = self.passing = ()
            self._lost_before_pass = self.lost

    async def add_slice(self, paths: Sequence[str]) -> Manifest:
        """Publish finished segments of the running pass."""
        async with self._lock:
            refs = [await asyncio.to_thread(self.directory.adopt, path) for path in paths]
            return await self._replace("passing", (*refs, *self.passing))

    async def end_pass(self) -> None:
        """Complete the pass: what comes next goes in front of its responses."""
        self._hasten()
        async with self._merging, self._lock:
            replaced, self._lost_before_pass = self._lost_before_pass, frozenset()
            self.lost -= replaced
            self.settled = tuple(ref for ref in self.passing + self.settled if ref not in replaced)
            self.passing = ()
            if replaced:
                await asyncio.to_thread(self._publish, ())
                logger.info("%s: every response is available again", self.directory.path)

    async def merge(self) -> bool:
        """Merge one run of neighbours if that is due; return whether anything was merged.

        Runs beside `add_changes` and `add_slice`: the directory needs space for a second copy of the run.
        """
        async with self._merging:
            if self.lost:
                return False  # a pass is about to replace them
            for group in ("recent", "passing", "settled"):
                segments: tuple[SegmentRef, ...] = getattr(self, group)
                if group == "passing" and len(segments) <= MAX_SEGMENTS:
                    continue
                if group == "recent" and segments and segments[0].size_bytes < ROLL_BYTES:
                    segments = segments[1:]  # the first is rewritten with every change anyway
                run = due_for_merge(segments)
                if len(run) > 1:
                    await self._merge(group, run)
                    return True
            return False

    async def _merge(self, group: str, run: tuple[SegmentRef, ...]) -> None:
        # nothing comes to lie behind a settled segment while a merge runs
        drop_expired = group == "settled" and run[-1] == self.settled[-1]
        writer = self.directory.writer(int(self._now_s()), paced=not self._is_behind())
        self._joining = writer
        try:
            ref = await asyncio.get_running_loop().run_in_executor(
                self._merger, self._join, run, writer, drop_expired
            )
        except asyncio.CancelledError:
            writer.stop()  # the process waits for its threads before it ends
            raise
        finally:
            self._joining = None
        async with self._lock:
            before: tuple[SegmentRef, ...] = getattr(self, group)
            if run[0] not in before:  # the newest one was rewritten meanwhile: merge it another time
                return
            start = before.index(run[0])
            merged = (ref,) if ref.entries else ()
            await self._replace(group, (*before[:start], *merged, *before[start + len(run) :]))

    async def _replace(
        self, group: str, segments: tuple[SegmentRef, ...], changed_at: Sequence[float] = ()
    ) -> Manifest:
        """Publish with these segments in a group; undo that if readers cannot have seen the result."""
        before: tuple[SegmentRef, ...] = getattr(self, group)
        setattr(self, group, segments)
        if self._is_behind():
            self._hasten()
        last = self._last
        try:
            return await asyncio.to_thread(self._publish, changed_at)
        except BaseException:
            if self._last is last:
                setattr(self, group, before)
            raise

    def _is_behind(self) -> bool:
        """Whether there are so many segments that merges must run at full speed (a lookup searches all)."""
        return len(self.segments) > 2 * MAX_SEGMENTS

    def _hasten(self) -> None:
        """Make the running merge, if any, write at full speed: something is waiting for it."""
        if self._joining is not None:
            self._joining.full_speed()

    def close(self) -> None:
        """Wait for the rest of a merge that was cancelled."""
        self._merger.shutdown()
        while self._kept:
            os.close(self._kept.popitem()[1])

    def _now_s(self) -> float:
        return self.clock.now().timestamp()

    def _write(self, fill: Callable[[SegmentWriter], None], newest: SegmentRef | None) -> SegmentRef:
        with self.directory.writer(int(self._now_s())) as writer:
            if newest is not None:
                writer.add_segment(self.directory.map([newest])[0])
            fill(writer)
            writer.finish()
            return self.directory.adopt(writer.path)

    def _join(self, run: tuple[SegmentRef, ...], writer: SegmentWriter, drop_expired: bool) -> SegmentRef:  # noqa: FBT001
        keep_after = int(self._now_s()) if drop_expired else 0
        with writer:
            segments = self.directory.map(run)
            for position, segment in enumerate(segments):
                writer.add_segment(segment, Index(segments[:position]) if position else None, keep_after)
            writer.finish()
            return self.directory.adopt(writer.path)

    def _mend(self, last: Manifest) -> bool:
        try:
            found = self.directory.manifest()
        except IndexFileError as err:
            what = str(err)
        else:
            change = "is missing" if found is None else "is not the published one"
            what = "" if found == last else f"{self.directory.manifest_path}: {change}"
        mended = self._find_lost()
        if what:
            self.directory.create_again()
            self._publish(())
            logger.warning("%s; published again", what)
        return bool(what) or mended

    def _find_lost(self, *, deep: bool = False) -> bool:
        """Write missing or truncated segments again; record the lost ones. Return whether any was wrong.

        With `deep` the contents are read, too.
        """
        whole = self.directory.usable if deep else self.directory.present
        damaged = [ref for ref in self.segments if not whole(ref)]
        gone = []
        for ref in damaged:
            path = self.directory.segment_path(ref)
            self.directory.create_again()
            if ref in self._kept and self.directory.write_again(ref, self._kept[ref]):
                logger.warning("%s was removed or damaged; written again", path)
            else:
                gone.append(ref)
                logger.error(
                    "%s is missing or damaged; its responses and those in older segments are signed again",
                    path,
                )
        if gone:
            named = self._named
            self.lost = frozenset(named[min(map(named.index, gone)) :])
        return bool(damaged)

    def _publish(self, changed_at: Sequence[float]) -> Manifest:
        now_s = self._now_s()
        before = self._last
        manifest = self.directory.next_manifest(
            self._named, int(now_s), changed_at, before=before, above=self._highest
        )
        self._highest = manifest.generation
        try:
            self.directory.keep_lock()
            self.directory.replace(manifest, before)
        except IndexFileError:
            if self._is_published(manifest):
                self._last = manifest  # only the disk's word that it will last is missing
            raise
        self._last = manifest
        self._keep(manifest)
        if abs(now_s - self._collected_at) >= COLLECT_S:
            self._collected_at = now_s
            self.directory.collect(now_s, self.grace_s, manifest=manifest)
        if self.published is not None:
            self.published(manifest)
        return manifest

    def _is_published(self, manifest: Manifest) -> bool:
        try:
            return self.directory.manifest() == manifest
        except IndexFileError:
            return False

    def _keep(self, manifest: Manifest) -> None:
        """Keep a descriptor of each segment, so that it can be written again when its name is removed."""
        for ref in set(self._kept) - set(manifest.segments):
            os.close(self._kept.pop(ref))
        for ref in set(manifest.segments) - set(self._kept) - self.lost:
            with contextlib.suppress(OSError):
                self._kept[ref] = os.open(self.directory.segment_path(ref), os.O_RDONLY | os.O_CLOEXEC)


def due_for_merge(segments: Sequence[SegmentRef]) -> tuple[SegmentRef, ...]:
    """Return the neighbours to merge, newest first; fewer than two when there is nothing to do.

    From the newest on, an older neighbour joins while it is not much larger than the run so far, so a
    response is rewritten about log2(N) times in its life, and a large base only when half of it is new.
    """
    run: list[SegmentRef] = []
    size = 0
    for ref in segments:
        if run and ref.entries > GROW * size:
            if len(segments) <= MAX_SEGMENTS:
                break
            if len(run) > 1:
                break
        run.append(ref)
        size += ref.entries
    return tuple(run)
