"""The file of an audit log: append a group of entries, durably, after whatever is the last entry now.

Any number of processes may have the same log. One lock (flock on FILE.lock) is held from reading the last
digest to the end of fdatasync, so the chain has one order, and a group that fails can be taken back: nobody
has written after it. The lock is on a file of its own, because the log itself may be renamed.

What may be found on the way, and what is done:

    the file was renamed (logrotate, another process)   a new one continues the chain
    it is empty (logrotate's create, copytruncate)      the chain continues in it
    its last line is torn (kill -9, power cut)          the line is moved to FILE.torn-N, named in the log and
                                                        in an entry; the chain goes on after the last good one
    it ends before a signed checkpoint, or before       an entry of the event `gap` says so, and numbers
    what this process wrote                             continue after what is missing, for `verify` to see
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocspd.authority.audit import chain, reading
from ocspd.authority.audit.chain import Position
from ocspd.errors import OCSPDError
from ocspd.files import read_bounded, write_atomic
from ocspd.logs import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ocspd.clock import Clock
    from ocspd.pki.seals import SealKey

ROTATE_BYTES = 256 << 20
GROUP_BYTES = 1 << 20
"""A group is not larger than this by much, so that a torn one is found in one look at the end of a file."""
_WINDOW_BYTES = 4 << 20
_MODE = 0o600


@dataclass(frozen=True, slots=True)
class _Tail:
    """The end of a file: its last whole entry (None without one), where that ends, what was torn."""

    position: Position | None
    is_checkpoint: bool
    end: int
    torn: bytes


class _Group:
    """The lines of one write, checkpoints among them where they are due."""

    def __init__(self, at: Position, checkpoint: Callable[[Position], bytes], every: int) -> None:
        self.lines: list[bytes] = []
        self.at = at
        self.newest = b""
        """The line of the last checkpoint."""
        self._checkpoint = checkpoint
        self._every = every

    @property
    def is_sealed(self) -> bool:
        return bool(self.lines) and self.lines[-1] == self.newest

    def add(self, fields: bytes) -> int:
        """Add an entry and return its number."""
        self._link(fields)
        number = self.at.number
        if (number + 1) % self._every == 0:
            self._add_checkpoint()
        return number

    def seal(self) -> None:
        """End with a checkpoint."""
        if not self.is_sealed:
            self._add_checkpoint()

    def _add_checkpoint(self) -> None:
        self._link(self._checkpoint(self.at))
        self.newest = self.lines[-1]

    def _link(self, fields: bytes) -> None:
        line, self.at = chain.link(self.at, fields)
        self.lines.append(line)


class LogFile:
    """One process's hold on a log. Used from one thread at a time; every operation may raise OSError."""

    def __init__(
        self,
        path: Path,
        key: SealKey,
        clock: Clock,
        *,
        every: int = chain.EVERY,
        rotate_bytes: int = ROTATE_BYTES,
    ) -> None:
        """`every` is the interval of checkpoints; a file of `rotate_bytes` is renamed, 0: never."""
        self.path = path
        self._key = key
        self._clock = clock
        self._every = every
        self._rotate_bytes = rotate_bytes
        self._lock: int | None = None
        self._file: int | None = None
        self._identity = (0, 0)
        self._size = 0
        self._at = Position()
        self._sealed = True
        self._known = False
        self._notices: list[bytes] = []

    @property
    def is_sealed(self) -> bool:
        """Whether the last entry this process knows of is a checkpoint."""
        return self._sealed

    def append(self, encoded: Sequence[bytes], *, seal: bool = False) -> list[int]:
        """Append entries (see `chain.encode`), make them durable, and return their numbers.

        With `seal` a checkpoint follows. If this raises OSError, none of them is in the log.
        """
        with self._locked():
            self._settle()
            group = _Group(self._at, self._checkpoint, self._every)
            numbers = [group.add(fields) for fields in (*self._notices, *encoded)]
            if seal and not (self._sealed and not numbers):
                group.seal()
            if not group.lines:
                return []
            self._write(b"".join(group.lines))
            noticed, self._notices = len(self._notices), []
            self._at, self._sealed = group.at, group.is_sealed
            if group.newest:
                self._keep_checkpoint(group.newest)
            if self._rotate_bytes and self._size >= self._rotate_bytes:
                self._rotate()
            return numbers[noticed:]

    def close(self) -> None:
        """Let go of the file."""
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file, self._lock, self._known = None, None, False

    # -- checkpoints ---------------------------------------------------------------------------------

    def _checkpoint(self, at: Position) -> bytes:
        return chain.checkpoint(at, self._key, self._clock.now(), self._every)

    def _keep_checkpoint(self, line: bytes) -> None:
        """Keep the newest checkpoint beside the log too: a log that was cut off before it is noticed."""
        try:
            write_atomic(reading.beside(self.path, reading.CHECKPOINT), line, 0o644)
        except OCSPDError as err:  # it is in the log, which is what counts
            logger.warning("%s", err)
        logger.info("audit checkpoint: %s", line.decode().strip())

    def _kept_checkpoint(self) -> chain.Entry | None:
        name = reading.beside(self.path, reading.CHECKPOINT)
        try:
            entry = chain.parse(read_bounded(name, chain.MAX_LINE_BYTES).removesuffix(b"\n"))
            chain.check_checkpoint(entry, self._key.check)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as err:
            logger.warning("%s: not used: %s", name, err)
            return None
        return entry

    # -- where the chain is --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._lock is not None and not _is_named(self._lock, reading.beside(self.path, reading.LOCK)):
            os.close(self._lock)  # others would lock another file
            self._lock = None
        if self._lock is None:
            name = reading.beside(self.path, reading.LOCK)
            self._lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _settle(self) -> None:
        """Find the file to append to and where its chain ends."""
        try:
            found: os.stat_result | None = self.path.lstat()
        except FileNotFoundError:
            found = None
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise OCSPDError(f"{self.path}: is not a regular file: an audit log cannot be kept there")
        if self._file is not None and (found is None or (found.st_dev, found.st_ino) != self._identity):
            self._read_to_the_end(self._file)  # others may have appended before it was renamed
            os.close(self._file)
            self._file = None
            logger.info("%s was renamed: the audit log continues in a new file", self.path)
        if self._file is None:
            if not self._known:
                self._read_siblings()
            self._open()
        assert self._file is not None
        self._read_to_the_end(self._file)
        if not self._known:
            self._known = True
            self._look_for_what_is_missing()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, _MODE)
        except FileExistsError:
            descriptor = os.open(self.path, flags)
        else:
            _sync_directory(self.path.parent)
        found = os.fstat(descriptor)
        self._file, self._identity, self._size = descriptor, (found.st_dev, found.st_ino), 0

    def _read_siblings(self) -> None:
        """At the start: where the chain ended in the newest of the files that rotation left."""
        others = [part for part in reading.parts_of(self.path) if part.path != self.path]
        if not others:
            return
        descriptor = os.open(others[-1].path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            self._read_to_the_end(descriptor)
        finally:
            os.close(descriptor)

    def _read_to_the_end(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size == self._size and self._known:
            return
        tail = _tail(descriptor, self.path)
        if tail.torn:
            self._keep_torn(descriptor, tail)
        self._size = tail.end
        if tail.position is None:
            return  # a new file: the chain is where it was
        if tail.position.number < self._at.number:
            self._missing(self._at)
            self._at = Position(self._at.number, tail.position.digest)
        else:
            self._at = tail.position
        self._sealed = tail.is_checkpoint

    def _look_for_what_is_missing(self) -> None:
        kept = self._kept_checkpoint()
        if kept is not None and kept.number > self._at.number:
            self._missing(kept.position)
            self._at = Position(kept.number, self._at.digest)

    def _missing(self, known: Position) -> None:
        logger.error(
            "%s: entries are missing: there was an entry %d; the log continues after it",
            self.path,
            known.number,
        )
        self._notice({"event": "gap", "missing": known.number, "missing_sha256": known.digest})

    def _keep_torn(self, descriptor: int, tail: _Tail) -> None:
        """Move what is after the last whole entry to a file of its own. It was never confirmed to anybody."""
        number = self._at.number if tail.position is None else tail.position.number
        name = reading.beside(self.path, f"{reading.TORN}{number + 1}")
        with contextlib.suppress(FileExistsError):
            _write_new(name, tail.torn)
        found = hashlib.sha256(tail.torn).hexdigest()
        if hashlib.sha256(name.read_bytes()).hexdigest() != found:
            name = reading.beside(self.path, f"{reading.TORN}{number + 1}-{found[:16]}")
            with contextlib.suppress(FileExistsError):
                _write_new(name, tail.torn)
        os.ftruncate(descriptor, tail.end)
        os.fsync(descriptor)
        logger.warning(
            "%s: the last line is torn: its %d bytes were moved to %s", self.path, len(tail.torn), name
        )
        self._notice({"event": "torn", "bytes": len(tail.torn), "sha256": found, "kept": name.name})

    def _notice(self, fields: dict[str, Any]) -> None:
        self._notices.append(chain.encode({"time": chain.timestamp(self._clock.now()), **fields}))

    # -- writing -------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError:
            self._take_back(self._file)
            raise
        self._size += len(data)

    def _take_back(self, descriptor: int) -> None:
        """Remove what was written of a group that failed, and look at the disk anew the next time.

        If not even that works, a torn line is left, or whole entries about something that did not happen.
        """
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, self._size)
            os.fdatasync(descriptor)
        os.close(descriptor)
        self._file = None

    def _rotate(self) -> None:
        target = reading.beside(self.path, f".{self._at.number:012d}")
        assert self._file is not None
        try:
            if target.exists():
                return
            self.path.rename(target)
            _sync_directory(self.path.parent)
        except OSError as err:  # the entries are durable: it is tried again with the next group
            logger.warning("%s: cannot be renamed to %s: %s", self.path, target.name, err.strerror)
            return
        os.close(self._file)
        self._file = None
        logger.info("the audit log %s was renamed to %s", self.path, target.name)


def _is_named(descriptor: int, path: Path) -> bool:
    """Return whether an open file still has this name."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _tail(descriptor: int, path: Path) -> _Tail:
    size = os.fstat(descriptor).st_size
    start = max(0, size - _WINDOW_BYTES)
    window = _read(descriptor, start, size - start)
    end = window.rfind(b"\n") + 1
    while end:
        begin = window.rfind(b"\n", 0, end - 1) + 1
        if begin == 0 and start > 0:
            break
        try:
            entry = chain.parse(window[begin : end - 1])
        except ValueError:
            end = begin
            continue
        return _Tail(entry.position, entry.event == "checkpoint", start + end, window[end:])
    if start or (size and not _is_torn(window)):
        raise OCSPDError(f"{path}: is not an audit log: move it away, or give another name")
    return _Tail(None, is_checkpoint=True, end=0, torn=window)


def _is_torn(data: bytes) -> bool:
    """Return whether a file without one whole entry may still be the beginning of a log."""
    beginning = b'{"n":'
    return data[: len(beginning)] == beginning[: len(data)] or not data.strip(b"\0")


def _read(descriptor: int, start: int, size: int) -> bytes:
    parts = []
    while size:
        data = os.pread(descriptor, size, start)
        if not data:
            break
        parts.append(data)
        start += len(data)
        size -= len(data)
    return b"".join(parts)


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that does not exist yet, durably; FileExistsError when it does.

    It is complete as soon as it has its name: another process may be waiting to read it.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_key(path: Path) -> SealKey:
    """Read the key of checkpoints, or make one, with mode 0600 and its public half beside it (.pub).

    OCSPDError naming the file when it cannot be used.
    """
    from ocspd.inputs import key_password, naming, read_file  # noqa: PLC0415  (only for servers)
    from ocspd.pki.seals import SealKey  # noqa: PLC0415

    if not path.exists():
        made = SealKey.generate()
        try:
            _write_new(path, made.pem())
        except FileExistsError:
            pass  # another process was faster
        except OSError as err:
            raise OCSPDError(f"{path}: cannot write: {err.strerror}") from err
        else:
            logger.info("made the key of audit checkpoints: %s", path)
    with naming(str(path)):
        key = SealKey.load(read_file(str(path)), key_password())
    public = path.with_suffix(reading.PUBLIC) if path.suffix == reading.KEY else Path(f"{path}.pub")
    try:
        current = public.read_bytes()
    except OSError:
        current = b""
    if current != key.check.pem():
        write_atomic(public, key.check.pem())
    return key
