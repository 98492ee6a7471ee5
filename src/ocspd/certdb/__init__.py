"""CFSSL's certificate database (floor 3) on SQLite, PostgreSQL and MySQL or MariaDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.certdb.dbconf import DBConfig, parse_db_config
from ocspd.errors import SetupError

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
    if config.driver == "mysql":
        try:
            from ocspd.certdb.mysql import MySQLCertDB  # noqa: PLC0415  (as above)
        except ModuleNotFoundError as err:  # a checkout that is older than its new dependency
            raise SetupError(
                f"driver mysql needs the Python package {err.name}: pip install {err.name}"
            ) from err

        return MySQLCertDB(config.data_source, clock)
    from ocspd.certdb.sqlite import SQLiteCertDB  # noqa: PLC0415  (as above)

    return SQLiteCertDB(config.data_source, clock)
