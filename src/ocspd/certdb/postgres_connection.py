"""A lazily opened pool of PostgreSQL connections; the driver's errors in certdb's terms."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import asyncpg

from ocspd.certdb import migrate
from ocspd.certdb.dsn import DataSource, parse_data_source
from ocspd.errors import Code, CodedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COMMAND_TIMEOUT_S = 60.0
"""Longest wait for one statement or one chunk of a stream: a server that vanished is noticed."""

MAINTENANCE_TIMEOUT_S = 86400.0
"""The same for migrations and trimming, which may build an index over every certificate."""

_COPY_AHEAD = 2  # pieces of at most some hundred kilobytes

POOL_SIZE = 4
"""Connections at most. One signer streams, upserts and reads the feed; an authority inserts."""


class Database:
    """Connections to one database."""

    def __init__(self, data_source: str) -> None:
        self.source: DataSource = parse_data_source(data_source)
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    @property
    def name(self) -> str:
        """The database in messages."""
        return self.source.name

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Lend a connection of the pool; errors inside the block become CodedError 11000."""
        with self.errors():
            async with self._opening:
                if self._closed:
                    raise CodedError(Code.STORE_FAILED, f"{self.name} is closed")
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        **self.source.connect_arguments(),
                        min_size=0,
                        max_size=POOL_SIZE,
                        command_timeout=COMMAND_TIMEOUT_S,
                    )
            async with self._pool.acquire() as connection:
                yield connection

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

        async with self.connection() as connection:
            copying = asyncio.create_task(copy(connection))
            try:
                while (piece := await asyncio.wait_for(pieces.get(), COMMAND_TIMEOUT_S)) is not None:
                    room.release()
                    yield piece
                await copying
            finally:
                copying.cancel()
                await asyncio.wait({copying})

    async def connect(self) -> Any:
        """Open a connection outside the pool; the caller closes it."""
        with self.errors():
            return await asyncpg.connect(**self.source.connect_arguments())

    @contextlib.contextmanager
    def errors(self) -> Any:
        """Turn the driver's errors into CodedError 11000 naming the database and the remedy."""
        try:
            yield
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, OverflowError) as err:
            raise self._translate(err) from err

    async def close(self) -> None:
        """Close the pool; a connection still in use is cut after two seconds."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), 2)
            except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                pool.terminate()

    def _translate(self, err: Exception) -> CodedError:
        name = self.name
        text = str(err).splitlines()[0] if str(err) else type(err).__name__
        match err:
            case asyncpg.InvalidCatalogNameError():
                text = f"{name} does not exist: create it (createdb), then run ocspd db up -db-config FILE"
            case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
                return migrate.unmigrated(name, text)
            case asyncpg.InvalidAuthorizationSpecificationError():
                text = f"{name} refuses the login: {text}"
            case asyncpg.UniqueViolationError():
                text = f"{name}: there is such a row already ({text})"
            case asyncpg.PostgresError():
                text = f"{name}: {text}"
            case ConnectionError() if "SSL" in text:
                text = f"{name} does not offer TLS: add sslmode=disable to data_source if that is acceptable"
            case TimeoutError():
                text = f"{name} cannot be reached: no answer in time"
            case OSError():
                text = f"{name} cannot be reached: {err.strerror or text}"
            case _:
                text = f"{name}: {text}"
        return CodedError(Code.STORE_FAILED, text)
