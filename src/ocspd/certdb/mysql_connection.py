"""MySQL and MariaDB connections: a few threads with one connection each, errors in certdb's terms.

PyMySQL blocks, so each connection lives in a thread of its own. An operation that has not ended by its
deadline, or whose task is cancelled, is cut off with its connection: a server that is stopped or unreachable
sends nothing. Until a session is ready each read has a limit as well, as a connection whose socket is being
made, or wrapped in TLS, cannot be cut off: its thread would wait for ever, and a daemon that ends for it.

Every session has the same modes, whatever the server's: strict, because a value must not be cut off or
replaced without a word, and with zero dates, because CFSSL writes them. The time zone stays the server's, as
in CFSSL's sessions: times of its columns are UTC in whatever zone the session has.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pymysql
from pymysql import converters
from pymysql.connections import Connection
from pymysql.constants import CLIENT, CR, ER, FIELD_TYPE, SERVER_STATUS

from ocspd.certdb import migrate
from ocspd.certdb.mysql_dsn import MySQLSource, parse_mysql_source
from ocspd.errors import Code, CodedError, OCSPDError, SetupError
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")

STATEMENT_TIMEOUT_S = 15.0
"""Longest time for one operation, unless it is a page of a stream or maintenance."""
PAGE_TIMEOUT_S = 60.0
MAINTENANCE_TIMEOUT_S = 86400.0
"""The same for migrations, which may rewrite a table or build an index over every certificate."""
POOL_SIZE = 4
"""Connections at most; the change feed has its own."""
_IDLE_S = 1.0
"""A connection that was idle for longer is tried before it is used: the server may have ended it."""

_MODES = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
)
_SIGNALLED = 1644  # a trigger's SIGNAL
_REJECTED = (
    ER.TRUNCATED_WRONG_VALUE,
    ER.TRUNCATED_WRONG_VALUE_FOR_FIELD,
    ER.WARN_DATA_OUT_OF_RANGE,
    _SIGNALLED,
)
"""Numbers of errors that are about the values of one statement; the transaction goes on."""
_ENCODERS = {kind: encode for kind, encode in converters.encoders.items() if isinstance(kind, type)}
_DECODERS = dict.fromkeys(
    (FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG), int
)
"""Nothing else is converted: times stay text, as they need not be any that datetime can hold."""


class _Connection(Connection):  # type: ignore[misc]  # PyMySQL ships no types
    """A connection that gives no password to a server without TLS where TLS is wanted."""

    needs_tls = False

    def _request_authentication(self) -> None:
        if self.needs_tls and not self.server_capabilities & CLIENT.SSL:
            raise pymysql.err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server does not offer TLS")
        super()._request_authentication()


class Session:
    """One connection and the one thread it lives in."""

    def __init__(self, source: MySQLSource) -> None:
        self._source = source
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="certdb")
        self._connection: Any = None
        self._used_at = 0.0
        self.usable = True
        """False once it was cut off; then it is of no use to anybody."""

    @property
    def connected(self) -> bool:
        """Whether the connection is open, as far as is known without asking."""
        return self.usable and self._connection is not None and bool(self._connection.open)

    async def run(self, work: Callable[[Any], T], limit_s: float = STATEMENT_TIMEOUT_S) -> T:
        """Run work in the thread; the driver's errors become CodedError 11000.

        Making a connection has a limit of its own.
        """
        if not self.usable:
            raise CodedError(Code.STORE_FAILED, f"{self._source.name} is closed")
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._run, work)
        try:
            async with time_limit(limit_s + self._source.connect_timeout_s):
                return await future
        except TimeoutError:
            raise CodedError(Code.STORE_FAILED, f"{self._source.name} does not respond") from None
        finally:
            if not future.done() or future.cancelled():
                self.cut()

    def cut(self) -> None:
        """End the connection, whatever the thread is doing."""
        self.usable = False
        connection = self._connection
        if connection is not None and (found := getattr(connection, "_sock", None)) is not None:
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)
        self._executor.shutdown(wait=False)

    async def close(self) -> None:
        """Say goodbye to the server and end the thread."""
        if self.usable:
            self.usable = False
            await asyncio.get_running_loop().run_in_executor(self._executor, self._disconnect)
            self._executor.shutdown(wait=False)

    def _run(self, work: Callable[[Any], T]) -> T:
        try:
            if self._connection is not None and time.monotonic() - self._used_at > _IDLE_S:
                self._try()
            if self._connection is None:
                self._begin()
            found = work(self._connection)
        except pymysql.err.IntegrityError as err:
            if self._connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS:
                self._disconnect()
            raise translated(err, self._source) from err
        except OCSPDError:
            self._disconnect()
            raise
        except Exception as err:  # whatever a driver or a server in trouble raises must not end a daemon
            self._disconnect()  # what it was in the middle of is rolled back
            raise translated(err, self._source) from err
        self._used_at = time.monotonic()
        return found

    def _begin(self) -> None:
        self._connection = _made(self._source)  # before it is open, so that it can be cut off
        _open(self._connection, self._source)
        if not self.usable:  # given up meanwhile
            raise TimeoutError

    def _try(self) -> None:
        try:
            self._connection.ping(reconnect=False)
        except (pymysql.Error, OSError):
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(pymysql.Error, OSError):
                connection.close()


def _made(source: MySQLSource) -> _Connection:
    connection = _Connection(
        **source.connect_arguments(),
        defer_connect=True,
        autocommit=True,
        charset="utf8mb4",
        binary_prefix=True,
        conv=_ENCODERS | _DECODERS,
        client_flag=CLIENT.FOUND_ROWS,  # rows that were changed to what they were count
        read_timeout=source.connect_timeout_s,
        write_timeout=source.connect_timeout_s,
        program_name="ocspd",
    )
    connection.needs_tls = source.needs_tls
    connection._secure = bool(source.socket)  # noqa: SLF001  (PyMySQL sets it for sockets it makes itself)
    return connection


def _open(connection: _Connection, source: MySQLSource) -> None:
    """Connect to the server and set the session's modes."""
    connection.connect(_socket(source))
    with connection.cursor() as cursor:
        for name, value in source.variables:
            cursor.execute(f"SET SESSION {name} = {value}")
        for statement in _MODES:
            cursor.execute(statement)
    # from now on operations have limits, and can be cut off
    connection._read_timeout = connection._write_timeout = None  # noqa: SLF001  (PyMySQL has no other way)


def _socket(source: MySQLSource) -> socket.socket:
    """Connect a socket: PyMySQL leaves its own open when that fails."""
    if not source.socket:
        made = socket.create_connection((source.host, source.port), source.connect_timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return made
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(source.connect_timeout_s)
        made.connect(source.socket)
    except BaseException:
        made.close()
        raise
    return made


class Database:
    """Connections to one database."""

    def __init__(self, source: MySQLSource, size: int = POOL_SIZE) -> None:
        self.source = source
        self._size = size
        self._idle: list[Session] = []
        self._every: set[Session] = set()
        self._room = asyncio.Semaphore(size)
        self._closed = False

    @classmethod
    def of(cls, data_source: str) -> Database:
        """Return the database of a data source; CodedError 11000 when it cannot be read."""
        return cls(parse_mysql_source(data_source))

    def sibling(self, size: int) -> Database:
        """Return the same database with connections of its own."""
        return Database(self.source, size)

    @property
    def name(self) -> str:
        """How messages name the database."""
        return self.source.name

    @contextlib.asynccontextmanager
    async def session(self, limit_s: float = STATEMENT_TIMEOUT_S) -> AsyncIterator[Session]:
        """Lend a connection; CodedError 11000 after `close`, or if none is free within the limit."""
        try:
            async with time_limit(limit_s + self.source.connect_timeout_s):
                await self._room.acquire()
        except TimeoutError:
            raise CodedError(Code.STORE_FAILED, f"{self.name} does not respond") from None
        try:
            if self._closed:
                raise CodedError(Code.STORE_FAILED, f"{self.name} is closed")
            session = self._idle.pop() if self._idle else Session(self.source)
            self._every.add(session)
            try:
                yield session
            finally:
                if session.usable:
                    self._idle.append(session)
                else:
                    self._every.discard(session)
        finally:
            self._room.release()

    @property
    def connected(self) -> bool:
        """Whether a connection is open, as far as is known without asking."""
        return any(session.connected for session in self._every)

    def rejection(self, err: Exception) -> CodedError | None:
        """Return the error of a statement that the database rejected for what is in it, None for another."""
        number = err.args[0] if isinstance(err, pymysql.Error) and err.args else 0
        kinds = (pymysql.err.IntegrityError, pymysql.err.DataError, UnicodeError)
        if isinstance(err, kinds) or number in _REJECTED:
            return translated(err, self.source)
        return None

    async def run(self, work: Callable[[Any], T], limit_s: float = STATEMENT_TIMEOUT_S) -> T:
        """Run work on a connection of the pool."""
        async with self.session(limit_s) as session:
            return await session.run(work, limit_s)

    async def fetch(
        self, sql: str, values: Any = (), limit_s: float = STATEMENT_TIMEOUT_S
    ) -> list[tuple[Any, ...]]:
        """Run a query."""
        return await self.run(lambda connection: fetch(connection, sql, values), limit_s)

    async def change(self, sql: str, values: Any = ()) -> int:
        """Run a statement; return how many rows it met."""
        return await self.run(lambda connection: change(connection, sql, values))

    async def close(self) -> None:
        """Close the connections; one that is in use is cut."""
        self._closed = True
        idle, self._idle = self._idle, []
        for session in idle:
            self._every.discard(session)
            await session.close()
        for session in self._every:
            session.cut()


def fetch(connection: Any, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
    """Run a query on a connection."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return list(cursor.fetchall())


def change(connection: Any, sql: str, values: Any = ()) -> int:
    """Run a statement on a connection; return how many rows it met."""
    with connection.cursor() as cursor:
        return int(cursor.execute(sql, values or None))


def translated(err: Exception, source: MySQLSource) -> CodedError:  # noqa: C901, PLR0912  (a case for each number)
    """Turn an error of the driver into one that names the database and the remedy."""
    name = source.name
    err = getattr(err, "original_exception", err)  # the system's, where the driver packs it into its own
    number = err.args[0] if isinstance(err, pymysql.Error) and err.args else 0
    text = str(err.args[-1] if isinstance(err, pymysql.Error) and err.args else err).splitlines()
    said = text[0] if text else type(err).__name__
    match number:
        case ER.NO_SUCH_TABLE | ER.BAD_FIELD_ERROR:
            return migrate.unmigrated(name, said)
        case ER.BAD_DB_ERROR:
            return SetupError(
                f"{name} does not exist: create it (CREATE DATABASE) and run ocspd db up -db-config FILE"
            )
        case ER.ACCESS_DENIED_ERROR | 1698:
            return SetupError(f"{name} rejects the login: {said}")
        case ER.DBACCESS_DENIED_ERROR | ER.TABLEACCESS_DENIED_ERROR | ER.COLUMNACCESS_DENIED_ERROR | 1227:
            return SetupError(f"{name}: {said}: grant this user the privilege")
        case 1419:
            return SetupError(
                f"{name}: {said}: the server writes a binary log, so making triggers needs SUPER or "
                "SET GLOBAL log_bin_trust_function_creators = 1"
            )
        case ER.DUP_ENTRY:
            return CodedError(Code.STORE_FAILED, f"{name}: the row already exists ({said})")
        case 2013 if isinstance(err.__context__, TimeoutError):
            return CodedError(Code.STORE_FAILED, f"{name} does not respond")
        case 2006 | 2013 | 2014 | 2055:
            return CodedError(Code.STORE_FAILED, f"{name}: the connection was lost")
        case ER.TRUNCATED_WRONG_VALUE:  # before migration 003 no time after 2038-01-19
            return CodedError(
                Code.STORE_FAILED, f"{name}: {said}: ocspd db up -db-config FILE makes room for later times"
            )
        case 2026:
            return CodedError(
                Code.STORE_FAILED, f"{name}: {said}: use tls=false in data_source if that is acceptable"
            )
    if isinstance(err, TimeoutError):
        return CodedError(Code.STORE_FAILED, f"{name} does not respond")
    if isinstance(err, ssl.SSLError):
        said = f"TLS failed: {err.reason or said}"
    elif isinstance(err, OSError):
        return CodedError(Code.STORE_FAILED, f"{name} cannot be reached: {(err.strerror or said).lower()}")
    elif isinstance(err, pymysql.err.InterfaceError):
        said = "the connection was lost"
    return CodedError(Code.STORE_FAILED, f"{name}: {said}")
