"""Opening one generation after the other, where a segment that stays is opened and checked once.

A segment is named after its contents, so one that is open under a SHA-256 is the right one, whichever
generation asks for it: a new generation costs what is new in it.
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
    """Segments open by their SHA-256. One caller at a time; `open` is made for a thread."""

    def __init__(self) -> None:
        self._open: dict[str, Segment] = {}
        self._used: frozenset[str] = frozenset()
        self.opened = 0
        """How many segments were opened so far, for tests and measurements."""

    def open(
        self, directory: IndexDirectory, manifest: Manifest, check: Callable[[SegmentRef], None] | None = None
    ) -> Index:
        """Return a generation; IndexFileError names what is unusable, and what was opened stays for a retry.

        `check` is asked about each segment that is new, before it is mapped; it raises IndexFileError.
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
        """Forget every segment that this generation, which is used now, does not name.

        Giving back the pages of a large one takes milliseconds: call it in a thread, and hold no Index
        of an older generation.
        """
        self._used = frozenset(ref.sha256 for ref in manifest.segments)
        for name in self._open.keys() - self._used:
            del self._open[name]
