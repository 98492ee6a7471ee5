"""The files of an audit log, in order, and the entries in them.

A log is the file it is named after and what rotation made of it: every file in the same directory whose name
begins with its name and whose first line is an entry. They are read in the order of their entries' numbers,
so that any scheme of names will do. What lies beside a log and is not part of it has one of the SUFFIXES.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.authority.audit import chain
from ocspd.errors import OCSPDError
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOCK, KEY, PUBLIC, CHECKPOINT, TORN = ".lock", ".key", ".pub", ".checkpoint", ".torn-"
SUFFIXES = (LOCK, KEY, PUBLIC, CHECKPOINT, ".gz", ".xz", ".zst", ".bz2")


def beside(path: Path, suffix: str) -> Path:
    """Return the name of a file that belongs to a log."""
    return path.with_name(path.name + suffix)


@dataclass(frozen=True, slots=True)
class LogPart:
    """One file of a log: its first entry's number, and how many bytes of it there were when it was found."""

    path: Path
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file, counted from 1, without its newline, which only the last may lack."""

    number: int
    data: bytes
    complete: bool


def parts_of(path: Path) -> list[LogPart]:
    """Return the files of a log in order; OCSPDError when its directory cannot be read.

    A file whose first line is not an entry is left out, except for the one the log is named after.
    """
    found = []
    try:
        names = sorted(os.listdir(path.parent))  # noqa: PTH208  (names are compared, not paths)
    except OSError as err:
        raise OCSPDError(f"{shown(str(path.parent), 4096)}: cannot read: {err.strerror}") from err
    for name in names:
        if not name.startswith(path.name) or name.endswith(SUFFIXES) or name.startswith(path.name + TORN):
            continue
        candidate = path.with_name(name)
        if candidate != path and (name[len(path.name)] not in ".-_" or not candidate.is_file()):
            continue
        examined = part(candidate)
        if examined.size and (examined.first or candidate == path):
            found.append(examined)
    return sorted(found, key=lambda part: (part.first or chain.LARGEST, part.path == path))


def part(path: Path) -> LogPart:
    """Examine one file; `first` is 0 when its first line is not an entry. OCSPDError if it is unreadable."""
    try:
        with path.open("rb") as file:
            line = file.readline(chain.MAX_LINE_BYTES + 1)
            size = os.fstat(file.fileno()).st_size
    except OSError as err:
        raise OCSPDError(f"{shown(str(path), 4096)}: cannot read: {err.strerror}") from err
    try:
        return LogPart(path, chain.parse(line.removesuffix(b"\n")).number, size)
    except ValueError:
        return LogPart(path, 0, size)


def lines(part: LogPart) -> Iterator[Line]:
    """Read the lines of a file, no further than its size was; a longer line than allowed comes in pieces.

    OCSPDError when it cannot be read.
    """
    left = part.size
    try:
        with part.path.open("rb") as file:
            number = 0
            while left > 0:
                data = file.readline(min(chain.MAX_LINE_BYTES + 1, left))
                if not data:
                    return
                left -= len(data)
                number += 1
                yield Line(number, data.removesuffix(b"\n"), data.endswith(b"\n"))
    except OSError as err:
        raise OCSPDError(f"{part.path}: cannot read: {err.strerror}") from err


@contextlib.contextmanager
def nobody_writes(path: Path) -> Iterator[None]:
    """Keep writers waiting, so that no half-written group is seen; without rights for the lock, go on."""
    try:
        descriptor = os.open(beside(path, LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def find(paths: Sequence[str]) -> list[LogPart]:
    """Return the files that a command line names: one log with what rotation made of it, or exactly these.

    OCSPDError when there is none.
    """
    if len(paths) == 1:
        with nobody_writes(Path(paths[0])):
            parts = parts_of(Path(paths[0]))
        if not parts and not Path(paths[0]).exists():
            raise OCSPDError(f"{shown(paths[0], 4096)}: no such audit log")
        return parts
    return sorted((part(Path(path)) for path in paths), key=lambda part: part.first)


def entries(parts: Sequence[LogPart]) -> Iterator[chain.Entry]:
    """Read every entry, leaving out lines that are none: `verify` names them."""
    for one in parts:
        for line in lines(one):
            with contextlib.suppress(ValueError):
                yield chain.parse(line.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which entries are wanted; empty and None mean every one. Times are aware; `until` is not included."""

    events: frozenset[str] = frozenset()
    serial: str = ""
    client: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def wants(self, entry: chain.Entry) -> bool:
        """Return whether an entry is wanted."""
        fields = entry.fields
        if self.events and entry.event not in self.events:
            return False
        if self.serial and fields.get("serial") != self.serial:
            return False
        if self.client and self.client not in (fields.get("client"), fields.get("address")):
            return False
        if self.since is None and self.until is None:
            return True
        at = time_of(entry)
        if at is None:
            return False
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


def time_of(entry: chain.Entry) -> datetime | None:
    """Return when an entry was made, None when it does not say."""
    return moment(entry.fields.get("time"))


def moment(text: object) -> datetime | None:
    """Read a time as entries have it, in UTC; None for anything else."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
        return at.astimezone(UTC) if at is not None and at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
