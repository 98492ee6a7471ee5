"""Plain SQL on a test database, past certdb: what CFSSL and goose would see and do."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from ocspd.certdb import DBConfig


async def execute(config: DBConfig, *statements: str) -> None:
    """Run statements, each committed by itself."""
    if config.driver == "sqlite3":
        with closing(sqlite3.connect(config.data_source, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)
        return
    connection = await asyncpg.connect(config.data_source)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def fetch(config: DBConfig, query: str) -> list[tuple[Any, ...]]:
    """Run a query."""
    if config.driver == "sqlite3":
        with closing(sqlite3.connect(config.data_source)) as connection:
            return connection.execute(query).fetchall()
    connection = await asyncpg.connect(config.data_source)
    try:
        return [tuple(record) for record in await connection.fetch(query)]
    finally:
        await connection.close()
