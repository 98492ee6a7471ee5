"""The manifest: which segments make up an index, newest first. One small JSON file, replaced whole.

    {"version": 1, "generation": 7, "published_at": 1772366400,
     "index": "0f…",
     "segments": [{"sha256": "…", "size_bytes": 12288, "entries": 3, "created_at": 1772366399}],
     "changes": [[7, 1772366398.912]]}

`index` identifies the index by 32 random hexadecimal digits made with its first generation, so that an
older generation or another index is not taken for a newer generation (`History`).

`changes` gives the times when the newest changes were committed to the database and the generation that
first shows each, so that a responder can measure how long a revocation took to become visible.

A segment's file is named after its SHA-256, so a manifest names contents, not files that could
change. Trust: the responses are signed by the CA; whoever edits a manifest can withhold responses or
replay still-valid ones, but forge none.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ocspd import strict_json
from ocspd.errors import IndexFileError

MANIFEST_NAME = "manifest.json"
VERSION = 1
MAX_BYTES = 1 << 20
MAX_CHANGES = 1000
"""The most change times a manifest carries."""
MAX_SEGMENTS = 1024
"""How many segments an index may have: a lookup searches each, and a reader maps each."""
MAX_SEGMENT_BYTES = 1 << 50
FUTURE_S = 86_400
"""How far ahead of the reader's clock a manifest may have been published."""
_MAX_INDEXES = 64
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INDEX_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRef:
    """One segment of an index.

    `sha256` is lower-case hex over the whole file; `created_at` is in seconds since the epoch.
    """

    sha256: str
    size_bytes: int
    entries: int
    created_at: int

    @property
    def file_name(self) -> str:
        """Name of the segment's file beside the manifest."""
        return f"{self.sha256}.seg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An index at one moment; `generation` grows with every publication, `published_at` in seconds.

    `changes` are (generation that first shows it, time of commit in seconds), newest first.
    """

    generation: int
    published_at: int
    segments: tuple[SegmentRef, ...]
    changes: tuple[tuple[int, float], ...] = ()
    index_id: str = ""
    """The index this is a generation of; "" in manifests older than this field."""

    def to_bytes(self) -> bytes:
        """Write the manifest as JSON text with a final newline."""
        value = {
            "version": VERSION,
            "generation": self.generation,
            "published_at": self.published_at,
            **({"index": self.index_id} if self.index_id else {}),
            "segments": [
                {
                    "sha256": ref.sha256,
                    "size_bytes": ref.size_bytes,
                    "entries": ref.entries,
                    "created_at": ref.created_at,
                }
                for ref in self.segments
            ],
            "changes": [list(change) for change in self.changes],
        }
        return (json.dumps(value, indent=1) + "\n").encode()


class History:
    """The manifests a reader has used so far; decides whether another one is newer. In memory only.

    Of one index the higher generation is newer, whatever the signer's clock did. A lower one is newer only
    if it was published later: then the signer continues from a backup. Another index is newer if it was
    published later than the one in use. Everything else is the past, and is never served again.
    """

    def __init__(self) -> None:
        self._newest: Manifest | None = None
        self._generations: dict[str, int] = {}

    def note(self, manifest: Manifest) -> None:
        """Record that a manifest is in use now."""
        self._newest = manifest
        self._generations[manifest.index_id] = manifest.generation
        while len(self._generations) > _MAX_INDEXES:
            del self._generations[next(iter(self._generations))]

    def check(self, manifest: Manifest, source: str, now_s: float) -> None:
        """Raise IndexFileError beginning with `source` unless a manifest may replace the last."""
        check_not_in_the_future(manifest, source, now_s)
        newest = self._newest
        if newest is None or manifest == newest or self._is_newer(manifest, newest):
            return
        which = f"generation {manifest.generation}"
        if manifest.index_id != newest.index_id:
            which += " of another index"
        raise IndexFileError(
            f"{source}: {which} is older than generation {newest.generation}, which is in use: ignored until "
            "something newer is published"
        )

    def _is_newer(self, manifest: Manifest, newest: Manifest) -> bool:
        if manifest.published_at > newest.published_at:
            return True
        if not manifest.index_id or not newest.index_id:
            last_generation: int | None = newest.generation
        else:
            last_generation = self._generations.get(manifest.index_id)
        if last_generation is None:
            return False
        # A store first gets a generation in front of an older base, and then with its own: the same twice.
        same = manifest.published_at == newest.published_at and manifest.index_id == newest.index_id
        return manifest.generation > last_generation or (same and manifest.generation == last_generation)


def check_not_in_the_future(manifest: Manifest, source: str, now_s: float) -> None:
    """Raise IndexFileError for a manifest from the future, which would make every later one look old."""
    ahead = manifest.published_at - now_s
    if ahead > FUTURE_S:
        raise IndexFileError(
            f"{source}: published {ahead / 3600:.0f} hours in the future: the clock of this machine or "
            "of the signer is wrong"
        )


def parse_manifest(data: bytes, source: str) -> Manifest:
    """Read a manifest; IndexFileError beginning with `source` (path or URL) if it is not one.

    Every number is bounded, so no later computation with one can fail.
    """
    try:
        value = strict_json.read(data, MAX_BYTES)
        version = strict_json.natural(strict_json.member(value, "version"), "version")
        if version != VERSION:
            raise IndexFileError(
                f"{source}: manifest version {version}, but this ocspd reads version {VERSION}"
            )
        segments = strict_json.array(strict_json.member(value, "segments"), "segments", MAX_SEGMENTS)
        changes = strict_json.array(value.get("changes", []), "changes", MAX_BYTES)
        return Manifest(
            generation=_natural(value, "generation"),
            published_at=_natural(value, "published_at", strict_json.MAX_TIME_S),
            segments=tuple(_segment(entry) for entry in segments),
            changes=tuple(_change(entry) for entry in changes[:MAX_CHANGES]),
            index_id=_matching(value, "index", _INDEX_ID) if "index" in value else "",
        )
    except ValueError as err:
        raise IndexFileError(
            f"{source}: not a manifest ({err}); restore it, or remove it and sign again"
        ) from err


def _natural(value: Any, name: str, largest: int = strict_json.MAX_COUNT) -> int:
    return strict_json.natural(strict_json.member(value, name), name, largest)


def _matching(value: Any, name: str, pattern: re.Pattern[str]) -> str:
    text = strict_json.member(value, name)
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError(f"{name} does not have the right number of hexadecimal digits")
    return text


def _change(value: Any) -> tuple[int, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("a change is not [generation, time]")
    return strict_json.natural(value[0], "generation of a change"), strict_json.moment(
        value[1], "time of a change"
    )


def _segment(value: Any) -> SegmentRef:
    return SegmentRef(
        sha256=_matching(value, "sha256", _SHA256),
        size_bytes=_natural(value, "size_bytes", MAX_SEGMENT_BYTES),
        entries=_natural(value, "entries"),
        created_at=_natural(value, "created_at", strict_json.MAX_TIME_S),
    )
