"""SQLite connections: CFSSL's data sources, one worker thread per connection, errors in certdb's terms.

A connection keeps reading a file that was replaced or removed, and never notices the one in its place.
So before each piece of work the identities of the file and of its write-ahead log are compared with those
opened; if they differ, all connections of this process are closed and made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ocspd.certdb import migrate
from ocspd.errors import Code, CodedError, SetupError
from ocspd.logs import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# the bytes every reader of an SQLite file locks (os.h of SQLite: SHARED_FIRST, SHARED_SIZE)
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510

BUSY_TIMEOUT_S = 10.0
"""How long a statement waits for another process's lock; CFSSL's driver waits 5 s."""


class Location:
    """A CFSSL data source for SQLite: a path, `:memory:`, or a `file:` URI, with options of Go's driver.

    `file` is None for a database in memory.
    """

    def __init__(self, source: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.busy_timeout_s = busy_timeout_s
        address, _, query = source.partition("?")
        self._options = [(key, value) for key, value in parse_qsl(query) if not key.startswith("_")]
        if not address.startswith("file:"):
            self._options = []  # Go's driver cuts them off a plain path
            self._path = address
        else:
            self._path = unquote(address.removeprefix("file:"))
        self.file = None if ":memory:" in address or ("mode", "memory") in self._options else Path(self._path)
        self.identity: str | None = None
        """Device and inode of the file that is open, None when none is."""
        self.openings = 0
        """How many times the file was opened again."""
        self._wal: str | None = None
        self._workers: list[Worker] = []
        self._reopening = threading.Lock()
        if not self._path:
            raise CodedError(Code.POLICY_INVALID, "Invalid database configuration: data_source names no file")

    @property
    def name(self) -> str:
        """How messages name the database."""
        return f"SQLite database {self._path}"

    def uri(self, *, create: bool) -> str:
        """Return the URI to open; without `create` a missing file is an error."""
        options = dict(self._options)
        if self.file is not None:
            options.setdefault("mode", "rwc" if create else "rw")
        return f"file:{quote(self._path)}" + (f"?{urlencode(options)}" if options else "")

    def join(self, worker: Worker) -> None:
        """Add a worker to those that have this file open."""
        self._workers.append(worker)

    def leave(self, worker: Worker) -> None:
        """Forget a worker that is closed."""
        with contextlib.suppress(ValueError):
            self._workers.remove(worker)

    def opened(self) -> None:
        """Record which file was opened."""
        if self.file is not None and self.identity is None:
            self.identity = _identity(self.file)
            self._wal = None
            self.openings += 1

    def look(self) -> None:
        """Close all connections when the path no longer leads to the file that was opened.

        The same when its write-ahead log is another one: what is written to that is not seen here. All
        are closed at once, because connections of one process share SQLite's state of a file.
        """
        with self._reopening:
            if self.file is None or self.identity is None:
                return
            wal = _identity(Path(f"{self.file}-wal"))
            if _identity(self.file) == self.identity and (self._wal is None or wal == self._wal):
                self._wal = wal
                return
            logger.warning("%s or its write-ahead log was replaced or removed: opening it again", self.name)
            with _unchecked(self.file), contextlib.ExitStack() as stack:
                for worker in list(self._workers):
                    stack.enter_context(worker.lock)
                for worker in list(self._workers):
                    worker.disconnect()
                self.identity = None


def _identity(path: Path) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return f"{status.st_dev}-{status.st_ino}"


@contextlib.contextmanager
def _unchecked(path: Path) -> Iterator[None]:
    """Keep the last connection that closes from writing back and deleting a log that is not its own.

    SQLite does so with an exclusive lock only, which another open file description's lock prevents, even
    one of this process. It has no switch for it that Python 3.11 could reach.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            lock = struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        yield
    finally:
        os.close(descriptor)


class Worker:
    """One connection and the one thread it lives in."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.lock = threading.Lock()
        """Held while the connection is used."""
        location.join(self)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="certdb")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def run(self, work: Callable[[sqlite3.Connection], T], *, create: bool = False) -> T:
        """Run work in the thread; sqlite3's errors become CodedError 11000."""
        if self._closed:
            raise CodedError(Code.STORE_FAILED, f"{self.location.name} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work, create)

    @property
    def file_identity(self) -> str:
        """The identity of the open file, "" for a database in memory."""
        return self.location.identity or ""

    async def close(self) -> None:
        """Close the connection and end the thread."""
        self._closed = True
        self.location.leave(self)
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
        self._executor.shutdown(wait=False)

    def _close(self) -> None:
        with self.lock:
            self.disconnect()

    def disconnect(self) -> None:
        """Close the connection; the next piece of work makes a new one. The caller holds the lock."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, work: Callable[[sqlite3.Connection], T], create: bool) -> T:  # noqa: FBT001  (run_in_executor passes positionally)
        self.location.look()
        with self.lock:
            try:
                if self._connection is None:
                    self._connection = _connect(self.location, create=create)
                    self.location.opened()
                return work(self._connection)
            except (sqlite3.Error, sqlite3.Warning, OverflowError, MemoryError) as err:
                raise translate(err, self.location) from err


def _connect(location: Location, *, create: bool) -> sqlite3.Connection:
    if location.file is not None and not create and not location.file.exists():
        raise SetupError(f"{location.name} does not exist: create it with ocspd db up -db-config FILE")
    connection = sqlite3.connect(
        location.uri(create=create),
        uri=True,
        timeout=location.busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.text_factory = bytes
    try:
        _check_affinity(connection, location)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_affinity(connection: sqlite3.Connection, location: Location) -> None:
    for _, column, kind, *_ in connection.execute("PRAGMA table_info(certificates)"):
        if column == b"serial_number" and not any(
            word in kind.upper() for word in (b"BLOB", b"CHAR", b"CLOB", b"TEXT")
        ):
            raise SetupError(
                f"{location.name} was made by an old CFSSL: its column serial_number is declared "
                f"{kind.decode('utf-8', 'replace')}, so SQLite rounds the serial numbers. "
                "Create a new database with ocspd db up and insert the certificates from the column pem"
            )


def translate(err: Exception, location: Location) -> CodedError:
    """Return an error of sqlite3 as CodedError 11000 with the remedy."""
    text = str(err)
    if "no such table" in text or "no such column" in text or "has no column" in text:
        return migrate.unmigrated(location.name, text)
    if "unable to open" in text:
        return CodedError(
            Code.STORE_FAILED,
            f"{location.name} cannot be opened: check that the directory exists and its permissions",
        )
    if "not a database" in text:
        return SetupError(f"{location.name}: not an SQLite database file")
    return CodedError(Code.STORE_FAILED, f"{location.name}: {text}")
