"""Opening one generation after another, with each segment opened and checked only once.

A segment is named after its contents, so one that is open under a SHA-256 is right for every generation
that names it, and a new generation costs only what is new in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd._index import Index

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocspd._index import Segment
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest, SegmentRef


class KeptSegments:
    """Open segments by their SHA-256. One caller at a time; `open` is meant to run in a thread."""

    def __init__(self) -> None:
        self._open: dict[str, Segment] = {}
        self._used: frozenset[str] = frozenset()
        self.opened = 0
        """The number of segments opened so far, for tests and measurements."""

    def open(
        self, directory: IndexDirectory, manifest: Manifest, check: Callable[[SegmentRef], None] | None = None
    ) -> Index:
        """Return a generation; IndexFileError names what is unusable. What was opened is kept for a retry.

        `check` is called with each new segment before it is mapped; it raises IndexFileError.
        """
        named = {ref.sha256 for ref in manifest.segments}
        for name in self._open.keys() - named - self._used:
            del self._open[name]
        segments = []
        for ref in manifest.segments:
            segment = self._open.get(ref.sha256)
            if segment is None:
                if check is not None:
                    check(ref)
                (segment,) = directory.map([ref])
                self._open[ref.sha256] = segment
                self.opened += 1
            segments.append(segment)
        return Index(segments, generation=manifest.generation)

    def settle(self, manifest: Manifest) -> None:
        """Drop every segment that this generation, which is in use now, does not name.

        Unmapping a large one takes milliseconds: call it in a thread, and hold no Index of an older
        generation.
        """
        self._used = frozenset(ref.sha256 for ref in manifest.segments)
        for name in self._open.keys() - self._used:
            del self._open[name]
