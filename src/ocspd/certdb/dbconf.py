"""The certdb configuration file of CFSSL: `{"driver": …, "data_source": …}`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ocspd import wire
from ocspd.errors import Code, CodedError, ConfigError
from ocspd.shown import shown

DRIVERS = ("postgres", "mysql", "sqlite3")
_OTHER_SOURCE = re.compile(r"^[a-z]+://|\bpassw(?:or)?d\s*=|^(?![./])[^/]*:[^/]*@", re.ASCII | re.IGNORECASE)
"""postgres://…, password=…, user:password@…"""


@dataclass(frozen=True, slots=True)
class DBConfig:
    """A database driver (`postgres`, `mysql` or `sqlite3`) and the location of its data.

    For postgres a lib/pq URL or `key=value` string, for mysql a data source of go-sql-driver/mysql, for
    sqlite3 a path, `:memory:` or `file:` URI.
    The data source may hold a password: show `CertDB.name` instead.
    """

    driver: str
    data_source: str

    def __repr__(self) -> str:
        """Leave the data source out: it may hold a password."""
        return f"DBConfig(driver={self.driver!r})"


def parse_db_config(data: bytes) -> DBConfig:
    """Read the JSON of a `-db-config` file, keys in any case as Go reads them.

    Raises CodedError 5200 unless it is a JSON object with both values, ConfigError for an unknown driver.
    """
    try:
        fields = wire.Fields(wire.loads(data), "DBConfig")
        driver, source = fields.string("driver"), fields.string("data_source")
    except wire.JSONError as err:
        raise CodedError(Code.POLICY_INVALID, f"Invalid database configuration: {err}") from err
    if not driver or not source:
        raise CodedError(
            Code.POLICY_INVALID, 'Invalid database configuration: "driver" and "data_source" must both be set'
        )
    if driver not in DRIVERS:
        raise ConfigError(f"sql: unknown driver {shown(driver)!r}: use one of {', '.join(DRIVERS)}")
    if driver == "sqlite3" and _OTHER_SOURCE.search(source):
        # not shown: it may hold a password, which would come out as the name of a file
        raise CodedError(
            Code.POLICY_INVALID,
            'Invalid database configuration: "driver" is sqlite3 but "data_source" looks like PostgreSQL or '
            "MySQL: correct one of them (write ./NAME for a file with such a name)",
        )
    return DBConfig(driver, source)
