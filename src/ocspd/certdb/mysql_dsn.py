"""MySQL data sources as CFSSL's driver (go-sql-driver/mysql) reads them, turned into PyMySQL's arguments.

    [user[:password]@][protocol[(address)]]/database[?parameter=value&…]

The last slash separates the database, the last @ before it the login; nothing in the login is escaped. What
the driver does to values in Go (`parseTime`, `loc`, `interpolateParams`, …) does not matter here. Parameters
that the driver does not know are system variables of the session, as MySQL would read them in SET.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_plus

from ocspd import wire
from ocspd.errors import Code, CodedError

DEFAULT_PORT = 3306
_DEFAULT_SOCKET = "/tmp/mysql.sock"  # noqa: S108  (go-sql-driver's)
CONNECT_TIMEOUT_S = 8.0
"""The limit for connecting unless the data source sets one (`timeout`)."""
_TRUE, _FALSE = ("1", "true", "TRUE", "True"), ("0", "false", "FALSE", "False")
_BOOLEANS = frozenset(
    (
        "allowAllFiles",
        "allowCleartextPasswords",
        "allowFallbackToPlaintext",
        "allowNativePasswords",
        "allowOldPasswords",
        "checkConnLiveness",
        "clientFoundRows",
        "columnsWithAlias",
        "compress",
        "interpolateParams",
        "multiStatements",
        "parseTime",
        "rejectReadOnly",
    )
)
_OURS = frozenset(
    (
        "charset",
        "collation",
        "connectionAttributes",
        "loc",
        "maxAllowedPacket",
        "readTimeout",
        "serverPubKey",
        "strict",
        "timeTruncate",
        "timeout",
        "tls",
        "writeTimeout",
    )
)
"""Parameters of the driver, not variables of the server."""
_NEVER_SET = frozenset(("sql_mode", "autocommit", "transaction_isolation", "tx_isolation"))
"""Variables that certdb sets itself."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_TLS = ("true", "false", "skip-verify", "preferred")


@dataclass(frozen=True, slots=True)
class MySQLSource:
    """The location of a MySQL or MariaDB database."""

    host: str
    port: int
    socket: str
    """Path of a Unix socket, "" for TCP."""
    database: str
    user: str
    password: str = field(repr=False)
    tls: str
    connect_timeout_s: float
    variables: tuple[tuple[str, str], ...] = ()
    """System variables and their values in SQL, in the order given."""

    @property
    def name(self) -> str:
        """How messages name the database, without the password."""
        place = self.socket or (f"[{self.host}]" if ":" in self.host else self.host) + f":{self.port}"
        return f"MySQL database {self.database!r} at {place} (user {self.user})"

    def connect_arguments(self) -> dict[str, Any]:
        """Return keyword arguments of a PyMySQL connection."""
        place: dict[str, Any] = {"host": self.host, "port": self.port}
        if self.socket:
            place = {"unix_socket": self.socket}
        return place | {
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "connect_timeout": self.connect_timeout_s,
            "ssl": self._ssl(),
        }

    @property
    def needs_tls(self) -> bool:
        """Whether a server without TLS must be refused."""
        return self.tls in {"true", "skip-verify"} and not self.socket

    def _ssl(self) -> ssl.SSLContext | None:
        if self.tls == "false" or self.socket:
            return None
        context = ssl.create_default_context()
        if self.tls != "true":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def parse_mysql_source(text: str) -> MySQLSource:
    """Read a data source of go-sql-driver/mysql.

    Raises CodedError 11000 without showing the text, which may hold a password.
    """
    left, slash, right = text.rpartition("/")
    if not slash:
        raise _bad("write USER:PASSWORD@tcp(HOST:PORT)/DATABASE or USER@unix(SOCKET)/DATABASE")
    login, _, place = left.rpartition("@")
    user, _, password = login.partition(":")
    network, opened, address = place.partition("(")
    if opened:
        if not address.endswith(")"):
            raise _bad("the address must end with ) before the last slash; write / in a parameter as %2F")
        address = address[:-1]
    database, _, query = right.partition("?")
    parameters = _parameters(query)
    host, port, socket = _place(network or "tcp", address)
    if not database:
        raise _bad("it names no database after the last slash")
    return MySQLSource(
        host=host,
        port=port,
        socket=socket,
        database=unquote(database),
        user=user,
        password=password,
        tls=_tls(parameters),
        connect_timeout_s=_seconds("timeout", parameters.get("timeout", "")) or CONNECT_TIMEOUT_S,
        variables=tuple(
            (_variable(name), value)
            for name, value in parameters.items()
            if name not in _OURS and name not in _BOOLEANS and name not in _NEVER_SET
        ),
    )


def _bad(message: str) -> CodedError:
    return CodedError(Code.STORE_FAILED, f"data_source of the database configuration: {message}")


def _place(network: str, address: str) -> tuple[str, int, str]:
    """Return host, port and socket."""
    if network == "unix":
        return "localhost", DEFAULT_PORT, address or _DEFAULT_SOCKET
    if network not in {"tcp", "tcp4", "tcp6"}:
        raise _bad("the protocol before the address must be tcp or unix")
    host, port = address or "127.0.0.1", ""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16):
        raise _bad("the port is not a number from 1 to 65535")
    return host or "127.0.0.1", int(port or DEFAULT_PORT), ""


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        if not equals:
            continue
        found[name] = unquote_plus(value)
        if name in _BOOLEANS and value not in (*_TRUE, *_FALSE):
            raise _bad(f"{name} must be true or false")
    for name in ("readTimeout", "writeTimeout"):
        _seconds(name, found.get(name, ""))
    return found


def _tls(parameters: dict[str, str]) -> str:
    """Return which TLS is wanted: one of _TLS."""
    given = parameters.get("tls", "false")
    mode = "true" if given in _TRUE else "false" if given in _FALSE else given.lower()
    if mode not in _TLS:
        raise _bad(f"tls must be one of {', '.join(_TLS)}")
    if mode == "true" and parameters.get("allowFallbackToPlaintext") in _TRUE:
        raise _bad("allowFallbackToPlaintext contradicts tls=true: use tls=preferred")
    return mode


def _seconds(name: str, text: str) -> float:
    """Read a duration in Go's form, such as 5s; 0 if it is empty."""
    if not text:
        return 0.0
    try:
        seconds = wire.parse_duration(text).total_seconds()
    except wire.DurationError:
        seconds = -1.0
    if seconds < 0:
        raise _bad(f"{name} is not a duration such as 5s")
    return seconds


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise _bad("a parameter has a name that no system variable has")
    return name
