"""The certdb configuration file of CFSSL: `{"driver": …, "data_source": …}`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ocspd.errors import Code, CodedError, ConfigError

DRIVERS = ("postgres", "sqlite3")


@dataclass(frozen=True, slots=True)
class DBConfig:
    """A database driver (`postgres` or `sqlite3`) and where its data are.

    For postgres a lib/pq URL or `key=value` string, for sqlite3 a path, `:memory:` or `file:` URI.
    The data source may hold a password: show `CertDB.name` instead.
    """

    driver: str
    data_source: str

    def __repr__(self) -> str:
        """Leave the data source out: it may hold a password."""
        return f"DBConfig(driver={self.driver!r})"


def parse_db_config(data: bytes) -> DBConfig:
    """Read the JSON of a `-db-config` file, keys in any case as Go reads them.

    Raises CodedError 5200 when it is no JSON object or lacks a value, ConfigError for an unknown driver.
    """
    try:
        value = json.loads(data)
    except ValueError as err:
        raise CodedError(Code.POLICY_INVALID, f"Invalid database configuration: {err}") from err
    if not isinstance(value, dict):
        raise CodedError(Code.POLICY_INVALID, "Invalid database configuration: not a JSON object")
    fields = {str(key).lower(): item for key, item in value.items()}
    driver, source = fields.get("driver"), fields.get("data_source")
    if not isinstance(driver, str) or not isinstance(source, str) or not driver or not source:
        raise CodedError(
            Code.POLICY_INVALID, 'Invalid database configuration: "driver" and "data_source" must both be set'
        )
    if driver not in DRIVERS:
        raise ConfigError(f"sql: unknown driver {driver!r}: use one of {', '.join(DRIVERS)}")
    return DBConfig(driver, source)
