"""What holds for every certdb is tried on all three."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ocspd.certdb import DBConfig

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["sqlite3", "postgres", "mysql"])
def db_config(request: pytest.FixtureRequest, tmp_path: Path) -> DBConfig:
    """An empty database of each driver, not migrated."""
    fixtures = {"postgres": "postgres_url", "mysql": "mysql_source"}
    if request.param in fixtures:
        return DBConfig(request.param, request.getfixturevalue(fixtures[request.param]))
    return DBConfig("sqlite3", str(tmp_path / "certs.db"))
