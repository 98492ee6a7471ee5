"""Shared fixtures; the header names the external programs that were found and those that were not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import SystemClock
from tests import mysql, postgres
from tests.tools import PROGRAMS, find, lacking, told_left_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from ocspd.certdb.base import CertDB

# How long making an example takes says how busy the machine is, and nothing about ocspd.
settings.register_profile("ocspd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ocspd")


def pytest_report_header() -> list[str]:
    """Say which comparisons this run can make."""
    have = [name for name in PROGRAMS if find(name)]
    return ["compared with: " + ", ".join(have), *lacking()]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """End the run, after pytest's own last line, with what it did not test."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        skips = (report.longrepr for report in reporter.stats.get("skipped", ()))
        for line in told_left_out(skip[2] for skip in skips if isinstance(skip, tuple)):
            reporter.write_line(line, yellow=True)


@pytest.fixture(autouse=True)
def own_logger() -> Iterator[None]:
    """Give every test the package's logger as it was at the start: what one test attaches ends with it."""
    logger = logging.getLogger("ocspd")
    handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers[:] = handlers
    logger.propagate = propagate
    logger.setLevel(level)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server for the whole run, on which databases can be created."""
    with postgres.running_server() as url:
        yield url


@pytest.fixture
async def postgres_url(postgres_server: str) -> AsyncIterator[str]:
    """URL of an empty database made for this test; good for asyncpg, lib/pq and a -db-config file."""
    url = await postgres.create_database(postgres_server)
    yield url
    await postgres.drop_database(postgres_server, url)


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[str]:
    """Data source of a MariaDB server for the whole run, on which databases can be created."""
    with mysql.running_server() as server:
        yield server


@pytest.fixture
def mysql_source(mysql_server: str) -> Iterator[str]:
    """Data source of an empty database in MariaDB made for this test."""
    source = mysql.create_database(mysql_server)
    yield source
    mysql.drop_database(mysql_server, source)


@pytest.fixture(params=["sqlite3", "postgres"])
def db_config(request: pytest.FixtureRequest, tmp_path: Path) -> DBConfig:
    """An empty database of each driver, not migrated."""
    if request.param == "mysql":
        return DBConfig("mysql", request.getfixturevalue("mysql_source"))
    if request.param == "postgres":
        return DBConfig("postgres", request.getfixturevalue("postgres_url"))
    return DBConfig("sqlite3", str(tmp_path / "certs.db"))


@pytest.fixture
async def migrated_db_config(db_config: DBConfig) -> DBConfig:
    """A migrated, empty database of each driver, to open by yourself or to write to a file."""
    async with await open_certdb(db_config, SystemClock()) as db:
        await migrate.up(db)
    return db_config


@pytest.fixture
async def certdb(migrated_db_config: DBConfig) -> AsyncIterator[CertDB]:
    """A migrated, empty certdb of each driver, on the system clock."""
    async with await open_certdb(migrated_db_config, SystemClock()) as db:
        yield db
