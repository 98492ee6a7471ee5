"""A small world to ask about: two authorities, every kind of answer, and an index of them."""

from __future__ import annotations

import datetime as dt
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509

from ocspd._index import Index, Segment
from ocspd.index._writer import SegmentWriter
from tests.native.answers import NOW, Authority

NOW_S = int(NOW.timestamp())
HOUR = dt.timedelta(hours=1)
GOOD, REVOKED, REASONLESS, EXPIRED, ENDLESS, HIGH_BIT, SHA256_ONLY, OVERDUE, ABSENT = range(1001, 1010)
BIG = (1 << 159) | 5


@dataclass(frozen=True)
class Stored:
    """An answer, when it is due, and whom it is about: (hash name, name hash, key hash, serial)."""

    der: bytes
    refresh_at: int
    key: tuple[str, bytes, bytes, int]


@cache
def authorities() -> tuple[Authority, Authority]:
    return Authority(), Authority("rsa", "second authority", embed=False)


@cache
def stored() -> tuple[Stored, ...]:
    """Every answer of the index; the later one of two for the same key counts."""
    first, second = authorities()
    found = []

    def add(authority: Authority, serial: int, refresh_in_s: int | None, **fields: object) -> None:
        hash_name = str(fields.get("hash_name", "sha1"))
        der = authority.answer(serial, **fields)  # type: ignore[arg-type]
        refresh_at = NOW_S + (48 * 3600 if refresh_in_s is None else refresh_in_s)
        found.append(Stored(der, refresh_at, (hash_name, *authority.hashes(hash_name), serial)))

    for authority in (first, second):
        add(authority, GOOD, None, revoked_at=NOW - HOUR)  # replaced by the next one
        add(authority, GOOD, None)
        add(authority, GOOD, None, hash_name="sha256")
        add(authority, REVOKED, 3600, revoked_at=NOW - HOUR, reason=x509.ReasonFlags.key_compromise)
        add(authority, REASONLESS, 3600, revoked_at=NOW - HOUR)
        add(authority, EXPIRED, -3600, this_update=NOW - 5 * 24 * HOUR, next_update=NOW)
        add(authority, ENDLESS, 3600, next_update=None)
        add(authority, SHA256_ONLY, 1 << 50, hash_name="sha512")
        add(authority, OVERDUE, -1)
        add(authority, BIG, 90, next_update=NOW + dt.timedelta(seconds=60))
    return tuple(found)


@cache
def segment_path() -> str:
    """Write the segment once a process."""
    path = str(Path(tempfile.mkdtemp(prefix="ocspd-test-")) / "world.seg")
    with SegmentWriter(path, created_at=NOW_S) as writer:
        for answer in stored():
            writer.add(answer.der, answer.refresh_at)
        writer.finish()
    return path


def open_index() -> Index:
    return Index([Segment(segment_path())], generation=1)
