"""A database as CFSSL's own goose leaves it: its two migrations and nothing of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.certdb.migrate import _STATE_TABLE, load_migrations
from tests.certdb import raw

if TYPE_CHECKING:
    from ocspd.certdb import DBConfig

VERSION = 2


async def goose_up(config: DBConfig) -> None:
    """Migrate an empty database to CFSSL's version."""
    dialect = config.driver.removesuffix("3")
    await raw.execute(
        config,
        *(
            statement
            for migration in load_migrations(dialect)
            if migration.version <= VERSION
            for statement in migration.up
        ),
        _STATE_TABLE[dialect],
        *(
            f"INSERT INTO goose_db_version (version_id, is_applied) VALUES ({version}, TRUE)"
            for version in range(VERSION + 1)
        ),
    )
