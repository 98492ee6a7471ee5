"""Plain SQL on a test database, past certdb: what CFSSL and goose would see and do."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import asyncpg

from tests import mysql

if TYPE_CHECKING:
    from ocspd.certdb import DBConfig


async def execute(config: DBConfig, *statements: str) -> None:
    """Run statements, each committed by itself."""
    if config.driver == "sqlite3":
        with closing(sqlite3.connect(config.data_source, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)
        return
    if config.driver == "mysql":
        with closing(mysql.connect(config.data_source)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(in_mysql(statement))
        return
    connection = await asyncpg.connect(config.data_source)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def in_mysql(statement: str) -> str:
    """Write times without a zone, and Go's zero time as CFSSL's driver has it there."""
    return statement.replace("+00:00'", "'").replace("'0001-01-01 00:00:00'", "'0000-00-00 00:00:00'")


async def fetch(config: DBConfig, query: str) -> list[tuple[Any, ...]]:
    """Run a query."""
    if config.driver == "sqlite3":
        with closing(sqlite3.connect(config.data_source)) as connection:
            return connection.execute(query).fetchall()
    if config.driver == "mysql":
        with closing(mysql.connect(config.data_source)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())
    connection = await asyncpg.connect(config.data_source)
    try:
        return [tuple(record) for record in await connection.fetch(query)]
    finally:
        await connection.close()
