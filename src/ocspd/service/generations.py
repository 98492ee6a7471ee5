"""Keeping an index current: small new segments in front, merged behind, always one manifest.

The order of segments is the order of knowledge: an answer in front was decided on a later state of
the database than any answer behind it. Three groups keep that true:

    recent    answers to changes the feed reported since the running (or last) pass began
    passing   slices of the pass that is running, decided on the database as it was when it began
    settled   everything from before

A finished pass joins `settled`; the next one first moves `recent` there. Segments are merged only
with their neighbours and only inside a group, so merging never changes what is answered. Merges run on
one thread that yields to everything else (`priority`): a responder on the same machine goes first.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocspd._index import Index
from ocspd.errors import IndexFileError
from ocspd.logs import logger
from ocspd.service.priority import yield_to_others

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ocspd._writer import SegmentWriter
    from ocspd.clock import Clock
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest, SegmentRef

ROLL_ENTRIES = 20_000
"""The newest segment is rewritten with every change until it has this many answers."""
GROW = 2
"""A run of segments is merged with its elder neighbour when that is at most this many times as large."""
MAX_SEGMENTS = 6
"""More segments than this are merged in any case: each costs a lookup about 30 ns.

Slices of a running pass are merged only then: it writes so many that pairing them off as they come
would copy each answer seven times in a pass over 100 million.
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
    """Told of every generation published."""
    _last: Manifest | None = None  # what is published, whatever has happened to the file
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _merging: asyncio.Lock = field(default_factory=asyncio.Lock)
    _joining: SegmentWriter | None = None  # what the merge that is running writes
    _merger: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "ocspd-merge", initializer=yield_to_others)
    )

    def load(self) -> Manifest | None:
        """Take over what is published; None for an empty directory."""
        manifest = self.directory.manifest()
        if manifest is not None:
            self.settled = manifest.segments
        self._last = manifest
        self.directory.discard_unfinished()
        self.directory.collect(self._now_s(), self.grace_s)
        return manifest

    @property
    def segments(self) -> tuple[SegmentRef, ...]:
        """All segments, newest first."""
        return self.recent + self.passing + self.settled

    def open(self) -> Index:
        """Map the index as it is now."""
        return Index(self.directory.map(self.segments))

    async def add_changes(
        self, fill: Callable[[SegmentWriter], None], changed_at: Sequence[float]
    ) -> Manifest:
        """Publish answers to changes; they stand before everything else.

        `fill` adds the answers to a writer, in a thread; `changed_at` are the changes' commit times.
        """
        async with self._lock:
            newest = self.recent[0] if self.recent and self.recent[0].entries < ROLL_ENTRIES else None
            ref = await asyncio.to_thread(self._write, fill, newest)
            before = self.recent
            self.recent = (ref, *(before[1:] if newest is not None else before))
            try:
                return await asyncio.to_thread(self._publish, changed_at)
            except BaseException:
                self.recent = before
                raise

    async def publish(self) -> Manifest:
        """Publish the segments as they are, none at all included."""
        async with self._lock:
            return await asyncio.to_thread(self._publish, ())

    async def mend(self) -> bool:
        """Publish again what somebody else has damaged or removed; whether that was so."""
        async with self._lock:
            return self._last is not None and await asyncio.to_thread(self._mend, self._last)

    async def begin_pass(self) -> None:
        """Start a pass: what the feed reports from now on stands before the pass's answers."""
        self._hurry()
        async with self._merging, self._lock:
            self.settled = self.recent + self.passing + self.settled
            self.recent = self.passing = ()

    async def add_slice(self, paths: Sequence[str]) -> Manifest:
        """Publish finished segments of the running pass."""
        async with self._lock:
            refs = [await asyncio.to_thread(self.directory.adopt, path) for path in paths]
            before = self.passing
            self.passing = (*refs, *before)
            if self._is_behind():
                self._hurry()
            try:
                return await asyncio.to_thread(self._publish, ())
            except BaseException:
                self.passing = before
                raise

    async def end_pass(self) -> None:
        """Count the pass as complete: what comes next stands before its answers."""
        self._hurry()
        async with self._merging, self._lock:
            self.settled = self.passing + self.settled
            self.passing = ()

    async def merge(self) -> bool:
        """Merge one run of neighbours where that is due; whether anything was merged.

        Runs beside `add_changes` and `add_slice`: the directory needs room for the run a second time.
        """
        async with self._merging:
            for group in ("recent", "passing", "settled"):
                segments: tuple[SegmentRef, ...] = getattr(self, group)
                if group == "passing" and len(segments) <= MAX_SEGMENTS:
                    continue
                if group == "recent" and segments and segments[0].entries < ROLL_ENTRIES:
                    segments = segments[1:]  # the first is rewritten with every change anyway
                run = due_for_merge(segments)
                if len(run) > 1:
                    await self._merge(group, run)
                    return True
            return False

    async def _merge(self, group: str, run: tuple[SegmentRef, ...]) -> None:
        writer = self.directory.writer(int(self._now_s()), gentle=not self._is_behind())
        self._joining = writer
        try:
            ref = await asyncio.get_running_loop().run_in_executor(self._merger, self._join, run, writer)
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
            after = (*before[:start], *((ref,) if ref.entries else ()), *before[start + len(run) :])
            setattr(self, group, after)
            try:
                await asyncio.to_thread(self._publish, ())
            except BaseException:
                setattr(self, group, before)
                raise

    def _is_behind(self) -> bool:
        """Whether there are so many segments that merges have to hurry: a lookup asks every one."""
        return len(self.segments) > 2 * MAX_SEGMENTS

    def _hurry(self) -> None:
        """Have the merge that is running, if there is one, write as fast as it can: somebody waits for it."""
        if self._joining is not None:
            self._joining.hurry()

    def close(self) -> None:
        """Wait for what is left of a merge that was cancelled."""
        self._merger.shutdown()

    def _now_s(self) -> float:
        return self.clock.now().timestamp()

    def _write(self, fill: Callable[[SegmentWriter], None], newest: SegmentRef | None) -> SegmentRef:
        with self.directory.writer(int(self._now_s())) as writer:
            if newest is not None:
                writer.add_segment(self.directory.map([newest])[0])
            fill(writer)
            writer.finish()
            return self.directory.adopt(writer.path)

    def _join(self, run: tuple[SegmentRef, ...], writer: SegmentWriter) -> SegmentRef:
        now_s = int(self._now_s())
        with writer:
            segments = self.directory.map(run)
            for number, segment in enumerate(segments):
                writer.add_segment(segment, Index(segments[:number]) if number else None, now_s)
            writer.finish()
            return self.directory.adopt(writer.path)

    def _mend(self, last: Manifest) -> bool:
        try:
            found = self.directory.manifest()
        except IndexFileError as err:
            what = str(err)
        else:
            if found == last:
                return False
            change = "is gone" if found is None else "is not what was published"
            what = f"{self.directory.manifest_path}: {change}"
        self._publish(())
        logger.warning("%s; published again", what)
        return True

    def _publish(self, changed_at: Sequence[float]) -> Manifest:
        now_s = self._now_s()
        manifest = self.directory.publish(self.segments, int(now_s), changed_at, after=self._last)
        self._last = manifest
        self.directory.collect(now_s, self.grace_s)
        if self.published is not None:
            self.published(manifest)
        return manifest


def due_for_merge(segments: Sequence[SegmentRef]) -> tuple[SegmentRef, ...]:
    """Return the neighbours to merge, newest first; fewer than two when there is nothing to do.

    From the newest on, an elder neighbour joins while it is not much larger than the run so far, so an
    answer is rewritten about log2(N) times in its life, and a large base only when half of it is new.
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
