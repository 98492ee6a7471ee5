"""CFSSL's certificate database (floor 3) on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.certdb.dbconf import DBConfig, parse_db_config

if TYPE_CHECKING:
    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock

__all__ = ["DBConfig", "open_certdb", "parse_db_config"]


async def open_certdb(config: DBConfig, clock: Clock) -> CertDB:
    """Return the certdb of a configuration; it connects at the first operation. Use as `async with`.

    The driver's module is imported here, so a SQLite user never loads asyncpg.
    """
    if config.driver == "postgres":
        from ocspd.certdb.postgres import PostgresCertDB  # noqa: PLC0415  (only the driver in use is loaded)

        return PostgresCertDB(config.data_source, clock)
    from ocspd.certdb.sqlite import SQLiteCertDB  # noqa: PLC0415  (as above)

    return SQLiteCertDB(config.data_source, clock)
