"""Building, describing, verifying and merging index directories."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ocspd._index import NO_NEXT_UPDATE, Index
from ocspd.errors import IndexFileError, OCSPDError
from ocspd.pki.certid import HASHES, issuer_hashes
from ocspd.pki.relying_party import ResponseChecker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ocspd._index import StoredResponse
    from ocspd.index._writer import SegmentWriter
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest
    from ocspd.pki.certs import Certificate

CHUNK_BYTES = 16 << 20
_SHOWN = 20


@dataclass(slots=True)
class BuildReport:
    """What a build imported and skipped: `bad` are (position of the token, reason), the first thousand."""

    responses: int = 0
    skipped: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)


def add_dump(writer: SegmentWriter, path: Path, report: BuildReport, on_bytes: Callable[[int], None]) -> None:
    """Add a dump of base64 responses (CFSSL, Boulder), read in pieces whatever its size.

    `on_bytes` is called with the bytes read. OCSPDError when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            rest = b""
            while data := file.read(CHUNK_BYTES):
                on_bytes(len(data))
                data = rest + data
                cut = max(data.rfind(blank) for blank in (b"\n", b" ", b"\t", b"\r")) + 1
                if cut == 0 and len(data) > 2 * CHUNK_BYTES:
                    raise OCSPDError(
                        f"{path}: not a list of base64 responses: no line break in {len(data)} bytes"
                    )
                rest = data[cut:]
                _add(writer, data[:cut], report)
            _add(writer, rest, report)
    except OSError as err:
        raise OCSPDError(f"{path}: cannot read: {err.strerror}") from err


def _add(writer: SegmentWriter, data: bytes, report: BuildReport) -> None:
    before = writer.skipped
    added, bad = writer.add_base64(data)
    report.responses += added
    report.skipped += writer.skipped - before
    report.bad += bad[: max(0, 1000 - len(report.bad))]


def describe(directory: IndexDirectory) -> dict[str, Any]:
    """Return the output of `ocspd index stats`; IndexFileError when there is no usable index.

    A response that a newer segment replaces is counted in both until they are merged.
    """
    manifest = directory.manifest()
    if manifest is None:
        raise IndexFileError(f"{directory.path}: nothing has been published here yet: build an index first")
    index = directory.open(manifest)
    issuers: dict[tuple[str, bytes, bytes], dict[str, int]] = {}
    for segment in index.segments:
        for key, stats in zip(segment.issuer_keys, segment.issuer_stats(), strict=True):
            _sum(issuers.setdefault(key, {}), stats)
    size = sum(segment.size_bytes for segment in index.segments)
    result: dict[str, Any] = {
        "generation": manifest.generation,
        "published_at": iso(manifest.published_at),
        "entries": index.entries,
        "bytes": size,
        "bytes_per_entry": round(size / index.entries, 2) if index.entries else None,
        "statuses": {
            name: sum(stats.get(name, 0) for stats in issuers.values())
            for name in ("good", "revoked", "unknown")
        },
    }
    for name in ("this_update", "next_update"):
        result[name] = _range(issuers.values(), name)
    result["issuers"] = [
        {
            "hash": key[0],
            "name_hash": key[1].hex(),
            "key_hash": key[2].hex(),
            **{name: stats.get(name, 0) for name in ("entries", "good", "revoked", "unknown")},
            **{name: _range([stats], name) for name in ("this_update", "next_update")},
        }
        for key, stats in issuers.items()
    ]
    result["segments"] = [
        {
            "file": ref.file_name,
            "bytes": ref.size_bytes,
            "entries": ref.entries,
            "created_at": iso(ref.created_at),
            "templates": segment.templates,
        }
        for ref, segment in zip(manifest.segments, index.segments, strict=True)
    ]
    return result


def _sum(total: dict[str, int], stats: dict[str, int]) -> None:
    for name, value in stats.items():
        if name.endswith("_min"):
            total[name] = min(total.get(name, value), value)
        elif name.endswith("_max"):
            total[name] = max(total.get(name, value), value)
        else:
            total[name] = total.get(name, 0) + value


def iso(seconds: int) -> str | None:
    """Write seconds since the epoch for people: RFC 3339, UTC; None for no time."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):  # NO_NEXT_UPDATE, or a year that has no date
        return None


def _range(stats: Iterable[dict[str, int]], name: str) -> dict[str, str | None]:
    rows = list(stats)
    oldest = [row[f"{name}_min"] for row in rows if f"{name}_min" in row]
    newest = [row[f"{name}_max"] for row in rows if row.get(f"{name}_max", NO_NEXT_UPDATE) != NO_NEXT_UPDATE]
    return {
        "oldest": iso(min(oldest, default=NO_NEXT_UPDATE)),
        "newest": iso(max(newest, default=NO_NEXT_UPDATE)),
    }


@dataclass(slots=True)
class VerifyReport:
    """The result of `verify`: responses checked, replaced ones that were not, and failures by cause."""

    checked: int = 0
    replaced: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every response that can be served passed the check."""
        return not self.failures


def verify(
    directory: IndexDirectory,
    issuers: Sequence[Certificate],
    now_s: int,
    on_checked: Callable[[int, int], None],
) -> VerifyReport:
    """Check every response of an index: file contents, CertID, validity and signature.

    `on_checked` is called with the responses done and their total. Responses that a newer segment replaces
    are not served and not checked. IndexFileError when a file is damaged.
    """
    manifest = directory.manifest()
    if manifest is None:
        raise IndexFileError(f"{directory.path}: nothing has been published here yet: build an index first")
    index = directory.open(manifest)
    checker = ResponseChecker(issuers, now_s)
    report = VerifyReport()
    done = 0
    for position, (ref, segment) in enumerate(zip(manifest.segments, index.segments, strict=True)):
        directory.verify(ref)
        segment.verify()
        keys = segment.issuer_keys
        newer = index.segments[:position]
        for key, serial, response in segment.records():
            done += 1
            if done % 1000 == 0:
                on_checked(done, index.entries)
            if any(other.lookup(*keys[key], serial) is not None for other in newer):
                report.replaced += 1
                continue
            report.checked += 1
            try:
                times = response.this_update, response.next_update
                checker.check(response.der, keys[key], serial, stored=(response.status, *times))
            except OCSPDError as err:
                report.failures[str(err)] += 1
                if len(report.examples) < _SHOWN:
                    report.examples.append(f"serial {serial} ({keys[key][0]}): {err}")
    on_checked(done, index.entries)
    return report


def lookup(index: Index, issuer: Certificate, serial: int) -> dict[str, StoredResponse]:
    """Return the responses about a serial of an issuer, by CertID hash."""
    found = {name: index.lookup(name, *issuer_hashes(issuer, name), serial) for name in HASHES}
    return {name: response for name, response in found.items() if response is not None}


def merge(directory: IndexDirectory, now_s: int) -> Manifest:
    """Merge all segments into one, without expired and replaced responses. The caller holds the lock."""
    manifest = directory.manifest()
    if manifest is None:
        raise IndexFileError(f"{directory.path}: nothing has been published here yet: build an index first")
    segments = directory.map(manifest.segments)
    with directory.writer(now_s) as writer:
        for at, segment in enumerate(segments):
            writer.add_segment(segment, Index(segments[:at]) if at else None, now_s)
        writer.finish()
        return directory.publish([directory.adopt(writer.path)], now_s)
