"""SQLite connections: CFSSL's data sources, one worker thread per connection, errors in certdb's terms."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ocspd.certdb import migrate
from ocspd.errors import Code, CodedError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0
"""How long a statement waits for another process's lock; CFSSL's driver waits 5 s."""


class Location:
    """A CFSSL data source for SQLite: a path, `:memory:`, or a `file:` URI, with options of Go's driver.

    `file` is None for a database in memory.
    """

    def __init__(self, source: str) -> None:
        address, _, query = source.partition("?")
        self._options = [(key, value) for key, value in parse_qsl(query) if not key.startswith("_")]
        if not address.startswith("file:"):
            self._options = []  # Go's driver cuts them off a plain path
            self._path = address
        else:
            self._path = unquote(address.removeprefix("file:"))
        self.file = None if ":memory:" in address or ("mode", "memory") in self._options else Path(self._path)
        if not self._path:
            raise CodedError(Code.POLICY_INVALID, "Invalid database configuration: data_source names no file")

    @property
    def name(self) -> str:
        """The database in messages."""
        return f"SQLite database {self._path}"

    def uri(self, *, create: bool) -> str:
        """Return the URI to open; without `create` a missing file is an error."""
        options = dict(self._options)
        if self.file is not None:
            options.setdefault("mode", "rwc" if create else "rw")
        return f"file:{quote(self._path)}" + (f"?{urlencode(options)}" if options else "")


class Worker:
    """One connection and the one thread it lives in."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="certdb")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def run(self, work: Callable[[sqlite3.Connection], T], *, create: bool = False) -> T:
        """Run work in the thread; sqlite3's errors become CodedError 11000."""
        if self._closed:
            raise CodedError(Code.STORE_FAILED, f"{self.location.name} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work, create)

    async def close(self) -> None:
        """Close the connection and end the thread."""
        self._closed = True
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
        self._executor.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, work: Callable[[sqlite3.Connection], T], create: bool) -> T:  # noqa: FBT001  (run_in_executor passes positionally)
        try:
            if self._connection is None:
                self._connection = _connect(self.location, create=create)
            return work(self._connection)
        except sqlite3.Error as err:
            raise _translate(err, self.location) from err


def _connect(location: Location, *, create: bool) -> sqlite3.Connection:
    if location.file is not None and not create and not location.file.exists():
        raise CodedError(
            Code.STORE_FAILED, f"{location.name} does not exist: make it with ocspd db up -db-config FILE"
        )
    connection = sqlite3.connect(
        location.uri(create=create),
        uri=True,
        timeout=BUSY_TIMEOUT_S,
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
            raise CodedError(
                Code.STORE_FAILED,
                f"{location.name} was made by an old CFSSL: its column serial_number is declared "
                f"{kind.decode('utf-8', 'replace')}, so SQLite keeps rounded numbers instead of serials. "
                "Make a new database with ocspd db up and insert the certificates from the column pem",
            )


def _translate(err: sqlite3.Error, location: Location) -> CodedError:
    text = str(err)
    if "no such table" in text or "no such column" in text or "has no column" in text:
        return migrate.unmigrated(location.name, text)
    if "unable to open" in text:
        return CodedError(
            Code.STORE_FAILED,
            f"{location.name} cannot be opened: check that the directory exists and its rights",
        )
    if "not a database" in text:
        return CodedError(Code.STORE_FAILED, f"{location.name}: the file is not an SQLite database")
    return CodedError(Code.STORE_FAILED, f"{location.name}: {text}")
