"""The manifest: which segments make up an index, newest first. One small JSON file, replaced whole.

    {"version": 1, "generation": 7, "published_at": 1772366400,
     "segments": [{"sha256": "…", "size_bytes": 12288, "entries": 3, "created_at": 1772366399}],
     "changes": [[7, 1772366398.912]]}

`changes` says when the newest changes were committed to the database and the generation that first
shows each, so that a responder can measure how long a revocation took to become visible.

A segment's file is named after its SHA-256, so a manifest names contents, not files that could
change. Trust: the answers are signed by the CA; whoever edits a manifest can withhold answers or
replay still-valid ones, but forge none.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ocspd.errors import IndexFileError

MANIFEST_NAME = "manifest.json"
VERSION = 1
MAX_BYTES = 1 << 20
MAX_CHANGES = 1000
"""How many change times a manifest carries at most."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


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

    def to_bytes(self) -> bytes:
        """Write the manifest as JSON text with a final newline."""
        value = {
            "version": VERSION,
            "generation": self.generation,
            "published_at": self.published_at,
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


def parse_manifest(data: bytes, source: str) -> Manifest:
    """Read a manifest; IndexFileError beginning with `source` (path or URL) when it is none."""
    if len(data) > MAX_BYTES:
        raise IndexFileError(f"{source}: manifest is longer than {MAX_BYTES} octets")
    try:
        value = json.loads(data)
        if value["version"] != VERSION:
            raise IndexFileError(
                f"{source}: manifest version {value['version']!r} is not {VERSION}, which this ocspd reads"
            )
        return Manifest(
            generation=_natural(value["generation"]),
            published_at=_natural(value["published_at"]),
            segments=tuple(_segment(entry) for entry in value["segments"]),
            changes=tuple(
                (_natural(generation), float(changed_at))
                for generation, changed_at in value.get("changes", [])[:MAX_CHANGES]
            ),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise IndexFileError(
            f"{source}: not a manifest ({err}); restore it, or remove it and sign again"
        ) from err


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a natural number")
    return value


def _segment(value: dict[str, Any]) -> SegmentRef:
    if not isinstance(value["sha256"], str) or not _SHA256.fullmatch(value["sha256"]):
        raise ValueError("sha256 is not 64 hexadecimal digits")
    return SegmentRef(
        sha256=value["sha256"],
        size_bytes=_natural(value["size_bytes"]),
        entries=_natural(value["entries"]),
        created_at=_natural(value["created_at"]),
    )
