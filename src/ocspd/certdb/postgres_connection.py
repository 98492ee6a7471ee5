"""A lazily opened pool of PostgreSQL connections; the driver's errors in certdb's terms.

A server that is stopped, unreachable or locked sends nothing, and asyncpg would wait for it even to cancel a
query. So an operation with a deadline is cut off there, connection included.

In every session the search path is the schema of `certificates` and, named last, the temporary schema:
nothing in that or in any other schema can take the place of our tables.

Behind a pooler that lends the server's connections for one transaction each (PgBouncer's `pool_mode =
transaction`), a session keeps nothing: no prepared statement, no search path, no LISTEN. There every use of a
connection is one transaction which sets its own search path, and no statement has a name. A pooler shows by
the process number it gives as the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from typing import TYPE_CHECKING, Any

import asyncpg

from ocspd.certdb import migrate
from ocspd.certdb.dsn import DataSource, parse_data_source
from ocspd.certdb.postgres_snapshot import Newest
from ocspd.errors import Code, CodedError, OCSPDError, SetupError
from ocspd.logs import logger
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_NUMBER = re.compile(r"\[Errno (\d+)\]", re.ASCII)

STATEMENT_TIMEOUT_S = 15.0
"""Longest use of a connection for one operation, unless it is a stream or maintenance."""

COMMAND_TIMEOUT_S = 60.0
"""Longest wait for one chunk of a stream: a server that vanished is noticed."""

MAINTENANCE_TIMEOUT_S = 86400.0
"""The same for migrations and trimming, which may build an index over every certificate."""

SERVER_IDENTITY = """(SELECT system_identifier FROM pg_control_system()) || '/' ||
       CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
       ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END || '/' ||
       (SELECT oid FROM pg_database WHERE datname = current_database())"""
"""An SQL expression for server, timeline and database: numbers of transactions mean something in one only.

The timeline is that of the log now written: the control file has it minutes after a promotion only.
"""

_GREETING = """
DO $$ BEGIN
    RAISE INFO '% % %', pg_backend_pid(), pg_is_in_recovery(), current_setting('transaction_read_only');
END $$
"""


def _search_path(local: str) -> str:
    """Return the statement that sets the search path, for the transaction if `local` is "true"."""
    return f"""
SELECT set_config('search_path', quote_ident(coalesce(
    (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = to_regclass('certificates') AND n.oid IS DISTINCT FROM pg_my_temp_schema()),
    current_schema())) || ', pg_temp', {local})
"""  # noqa: S608  (a constant)


OF_ONE_ROW = (
    ValueError,  # the driver's for a value it cannot send
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.TransactionRollbackError,
    asyncpg.PLPGSQLError,
)
"""Errors of a statement that one row may have caused: by a value, a constraint, a deadlock, a trigger."""


class RefusedError(CodedError):
    """The server reached must not be read from (11000): it is left, and the next host tried first."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.STORE_FAILED, message)


_PLACE = f"SELECT pg_current_snapshot()::text, {SERVER_IDENTITY}, pg_is_in_recovery()"

_COPY_AHEAD = 2  # pieces of at most some hundred kilobytes

POOL_SIZE = 4
"""Connections at most. One signer streams, upserts and reads the feed."""

_IDLE_S = 300.0
"""A connection for insertions that was not used for so long is made again: something may have cut it."""


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection that records which of the hosts it goes to."""

    __slots__ = ("host_index",)


def _specificity(error: Exception) -> int:
    """Rank an error by how well it explains why no server can be reached."""
    if isinstance(error, asyncpg.PostgresError):
        return 2
    return int(isinstance(error, asyncpg.TargetServerAttributeNotMatched))


class Pooler:
    """Whether there is a pooler between us and the server: None until a connection was made."""

    def __init__(self, *, found: bool | None) -> None:
        self.found = found
        self.noted = False

    def note(self, name: str) -> None:
        """Say what it means, once."""
        if self.found and not self.noted:
            self.noted = True
            logger.info(
                "%s is behind a pooler such as PgBouncer, which delivers no notifications: if changes are "
                "followed, they are polled every quarter of a second, and no statement is prepared by name",
                name,
            )


async def _greet(connection: Any, wanted: str) -> bool:
    """Return whether there is a pooler. Raises asyncpg's error if the server is not of the kind wanted.

    It tells by a message: a result would take a prepared statement, which a pooler may look for elsewhere.
    """
    told: list[str] = []

    def hear(_connection: object, message: Any) -> None:
        told.append(message.message)

    connection.add_log_listener(hear)
    try:
        await connection.execute(_GREETING)
        await asyncio.sleep(0)
    finally:
        connection.remove_log_listener(hear)
    pid, recovering, read_only = told[-1].split()
    if not _meets(wanted, standby=recovering == "t", read_only=read_only == "on"):
        raise asyncpg.TargetServerAttributeNotMatched(f"not {wanted}")
    return int(pid) != int(connection.get_server_pid())


def _meets(target: str, *, standby: bool, read_only: bool) -> bool:
    """Return whether a server is of the kind wanted (target_session_attrs)."""
    return {
        "primary": not standby,
        "standby": standby,
        "read-write": not (standby or read_only),
        "read-only": standby or read_only,
    }.get(target, True)


@contextlib.contextmanager
def _cut_off(connection: Any, limit_s: float) -> Iterator[None]:
    """Cut a connection that is still in use after a time; TimeoutError then."""
    late = asyncio.Event()

    def cut() -> None:
        late.set()
        connection.terminate()

    timer = asyncio.get_running_loop().call_later(limit_s, cut)
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        if late.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()


class Database:
    """Connections to one database."""

    def __init__(
        self, source: DataSource, newest: Newest | None = None, pooler: Pooler | None = None
    ) -> None:
        self.source = source
        self.newest = newest or Newest()
        self._pooler = pooler or Pooler(found=source.statement_cache_size == 0 or None)
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._inserter: Any = None
        self._inserting = asyncio.Lock()
        self._inserted_at = 0.0
        self._closed = False

    @classmethod
    def of(cls, data_source: str) -> Database:
        """Return the database of a data source; CodedError 11000 when it cannot be read."""
        return cls(parse_data_source(data_source))

    def sibling(self) -> Database:
        """Return the same database with connections of its own."""
        return Database(self.source, self.newest, self._pooler)

    @property
    def pooled(self) -> bool:
        """Whether a connection may go to another session of the server for each transaction."""
        return bool(self._pooler.found)

    @property
    def name(self) -> str:
        """How messages name the database."""
        return self.source.name

    async def _prepare(self, connection: Any) -> None:
        """Bring a session to its initial state; see the module's docstring for the search path."""
        if not self.pooled:
            await connection.execute(f"{connection.get_reset_query()}\n{_search_path('false')}")

    @contextlib.asynccontextmanager
    async def transaction(
        self, limit_s: float | None, *, isolation: str | None = None, readonly: bool
    ) -> AsyncIterator[Any]:
        """Lend a connection for one transaction; see `connection`."""
        async with (
            self._lent(limit_s) as connection,
            self._transaction(connection, isolation=isolation, readonly=readonly),
        ):
            yield connection

    @contextlib.asynccontextmanager
    async def connection(self, limit_s: float | None = STATEMENT_TIMEOUT_S) -> AsyncIterator[Any]:
        """Lend a connection of the pool; errors inside the block become CodedError 11000.

        Behind a pooler the block is one transaction. For the limit see `_lent`.
        """
        async with self._lent(limit_s) as connection:
            if not self.pooled:
                yield connection
                return
            async with self._transaction(connection, isolation=None, readonly=False):
                yield connection

    @contextlib.asynccontextmanager
    async def _transaction(
        self, connection: Any, *, isolation: str | None, readonly: bool
    ) -> AsyncIterator[None]:
        async with connection.transaction(isolation=isolation, readonly=readonly):
            if self.pooled:
                await connection.execute(_search_path("true"))
            yield

    @contextlib.asynccontextmanager
    async def _lent(self, limit_s: float | None) -> AsyncIterator[Any]:
        """Lend a connection of the pool; errors inside the block become CodedError 11000.

        The block has limit_s seconds, None for a stream whose every chunk has COMMAND_TIMEOUT_S. Waiting
        for a free connection counts, making one does not: that has the connect_timeout of the data source.
        """
        with self.errors():
            async with self._opening:
                if self._closed:
                    raise CodedError(Code.STORE_FAILED, f"{self.name} is closed")
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        connect=self._open,
                        connection_class=_Connection,
                        min_size=0,
                        max_size=POOL_SIZE,
                        command_timeout=COMMAND_TIMEOUT_S,
                        init=self._prepare,
                        reset=self._prepare,
                    )
            wait_s = None if limit_s is None else limit_s + self.source.connect_timeout_s
            async with (
                self._pool.acquire(timeout=wait_s) as connection,
                self._leaving(self._pool, connection),
            ):
                if limit_s is None:
                    yield connection
                else:
                    with _cut_off(connection, limit_s):
                        yield connection

    @contextlib.asynccontextmanager
    async def inserter(self) -> AsyncIterator[Any]:
        """Lend the connection that is only for insertions, to one caller at a time; errors as `connection`.

        Nothing in its session ever changes, so it is not reset after each use: that would take as long as an
        insertion. The block has STATEMENT_TIMEOUT_S seconds, without the time to connect.
        """
        with self.errors():
            async with self._inserting:
                if self._closed:
                    raise CodedError(Code.STORE_FAILED, f"{self.name} is closed")
                loop = asyncio.get_running_loop()
                if self._inserter is not None and loop.time() - self._inserted_at > _IDLE_S:
                    self._inserter.terminate()
                if not self.inserter_is_open:
                    self._inserter = await self._open_prepared()
                connection = self._inserter
                with _cut_off(connection, STATEMENT_TIMEOUT_S):
                    if self.pooled:
                        async with self._transaction(connection, isolation=None, readonly=False):
                            yield connection
                    else:
                        yield connection
                self._inserted_at = loop.time()

    @property
    def inserter_is_open(self) -> bool:
        """Whether there is a connection for insertions, which the server has not closed."""
        return self._inserter is not None and not self._inserter.is_closed()

    @contextlib.asynccontextmanager
    async def _leaving(self, pool: asyncpg.Pool, connection: Any) -> AsyncIterator[None]:
        """Drop the connection to a server that is refused inside the block."""
        try:
            yield
        except RefusedError:
            self.newest.first = connection.host_index + 1
            await pool.expire_connections()
            raise

    async def copy_out(self, sql: str, *values: Any) -> AsyncIterator[bytes]:
        """Stream a query's rows in binary COPY format, in pieces as the server sends them.

        The server waits while the caller does; COMMAND_TIMEOUT_S is for the next piece only.
        """
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        room = asyncio.Semaphore(_COPY_AHEAD)

        async def take(data: bytes) -> None:
            await room.acquire()
            pieces.put_nowait(data)

        async def copy(connection: Any) -> None:
            try:
                await connection.copy_from_query(
                    sql, *values, output=take, format="binary", timeout=MAINTENANCE_TIMEOUT_S
                )
            finally:
                pieces.put_nowait(None)

        async with self.connection(None) as connection:
            await self.not_behind(connection)
            copying = asyncio.create_task(copy(connection))
            try:
                while True:
                    async with time_limit(COMMAND_TIMEOUT_S):
                        piece = await pieces.get()
                    if piece is None:
                        break
                    room.release()
                    yield piece
                await copying
            finally:
                left_early = not copying.done()
                copying.cancel()
                await asyncio.wait({copying})
                if not copying.cancelled():
                    copying.exception()  # the driver's complaint about having been interrupted
                if left_early:  # a connection in the middle of a COPY is of no use to anybody else
                    connection.terminate()

    async def connect(self) -> Any:
        """Open a connection outside the pool; the caller closes it."""
        with self.errors():
            connection = await self._open()
            try:
                if not self.pooled:
                    with _cut_off(connection, STATEMENT_TIMEOUT_S):
                        await self._prepare(connection)
                        await self.not_behind(connection)
            except BaseException as err:
                if isinstance(err, RefusedError):
                    self.newest.first = connection.host_index + 1
                connection.terminate()
                raise
            return connection

    async def _open_prepared(self) -> Any:
        connection = await self._open()
        try:
            with _cut_off(connection, STATEMENT_TIMEOUT_S):
                await self._prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _open(self, *_: object, **settings: Any) -> Any:
        """Connect to the first host of the kind wanted, or raise the most specific of asyncpg's errors.

        One by one, because each host has its own line in a password file, and beginning with another one
        after a server was refused (RefusedError).
        """
        hosts = len(self.source.hosts)
        target = self.source.target
        failure: Exception | None = None
        for wanted in ("standby", "any") if target == "prefer-standby" else (target,):
            for turn in range(hosts):
                host_index = (self.newest.first + turn) % hosts
                arguments = self.source.connect_arguments(host_index)
                try:
                    connection = await self._greeted(wanted, **settings | arguments)
                except Exception as err:  # noqa: BLE001  (whatever it is, another host may be well)
                    failure = max(failure or err, err, key=_specificity)
                else:
                    connection.host_index = host_index
                    return connection
        assert failure is not None
        raise failure

    async def _greeted(self, wanted: str, **arguments: Any) -> Any:
        """Connect to one server; asyncpg's error if it is not of the kind wanted."""
        given = arguments | {"target_session_attrs": "any", "connection_class": _Connection}
        while True:
            size = 0 if self.pooled else self.source.statement_cache_size
            connection = await asyncpg.connect(
                **given, **({} if size is None else {"statement_cache_size": size})
            )
            try:  # a pooler lets anybody in, and then waits for a server that may be away
                with _cut_off(connection, arguments["timeout"]):
                    pooled = await _greet(connection, wanted)
            except BaseException:
                connection.terminate()
                raise
            before, self._pooler.found = self.pooled, self.pooled or pooled
            self._pooler.note(self.name)
            if self.pooled == before:
                return connection
            connection.terminate()  # again, without statements that have names

    async def not_behind(self, connection: Any) -> None:
        """Raise CodedError 11000 on a server that does not have what was read before from the one followed.

        It would be a standby that lags behind, an old primary beside the new one, or another server
        altogether, and reading from it would take back revocations.
        """
        snapshot, source, recovering = await connection.fetchrow(_PLACE)
        if objection := self.newest.objection(source, snapshot, recovering=recovering):
            raise RefusedError(f"{self.name} {objection}")

    @contextlib.contextmanager
    def errors(self) -> Any:
        """Turn the driver's errors into CodedError 11000 naming the database and the remedy."""
        try:
            yield
        except OCSPDError:
            raise
        except Exception as err:  # whatever a driver or a server in trouble raises must not end a daemon
            raise self._translate(err) from err

    async def close(self) -> None:
        """Close every connection; one still in use is cut after two seconds."""
        self._closed = True
        inserter, self._inserter = self._inserter, None
        pool, self._pool = self._pool, None
        for each in (inserter, pool):
            if each is not None:
                try:
                    async with time_limit(2):
                        await each.close()
                except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    each.terminate()

    def _setup_problem(self, err: Exception, text: str) -> str:
        """Return the message of an error that only a person can remove; "" if waiting may help."""
        match err:
            case asyncpg.InvalidCatalogNameError():
                return f"{self.name} does not exist: create it (createdb) and run ocspd db up -db-config FILE"
            case asyncpg.InvalidAuthorizationSpecificationError():
                return f"{self.name} rejects the login: {text}"
            case asyncpg.InsufficientPrivilegeError():
                return f"{self.name}: {text}: grant this user the privilege"
        return ""

    def _translate(self, err: Exception) -> CodedError:
        name = self.name
        text = str(err).splitlines()[0] if str(err) else type(err).__name__
        if problem := self._setup_problem(err, text):
            return SetupError(problem)
        match err:
            case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
                return migrate.unmigrated(name, text)
            case asyncpg.UniqueViolationError():
                text = f"{name}: the row already exists ({text})"
            case asyncpg.TargetServerAttributeNotMatched():
                wanted = self.source.target
                text = f"{name}: none of its hosts is {'a ' if wanted == 'primary' else ''}{wanted}"
            case asyncpg.PostgresError():
                text = f"{name}: {text}"
            case ConnectionError() if "SSL" in text:
                text = f"{name} does not offer TLS: add sslmode=disable to data_source if that is acceptable"
            case TimeoutError():
                text = f"{name} does not respond"
            case OSError():
                text = f"{name} cannot be reached: {_why(err)}"
            case asyncpg.InternalClientError() | asyncpg.InterfaceError():
                text = f"{name}: the connection was lost"  # the driver speaks of its own states
            case _:
                text = f"{name}: {text}"
        return CodedError(Code.STORE_FAILED, text)


def _why(err: OSError) -> str:
    """Return the system's words for a failed connection: asyncio puts its own in their place.

    After several addresses it raises one error without a number, which lists those of all of them.
    """
    error_number = err.errno
    if error_number is None and (found := _NUMBER.search(str(err))):
        error_number = int(found[1])
    if error_number is None or error_number <= 0 or isinstance(err, socket.gaierror):
        return (err.strerror or str(err)).lower()
    return os.strerror(error_number).lower()
