"""PostgreSQL data sources as CFSSL's driver (Go's lib/pq) reads them, turned into asyncpg's arguments.

They differ from libpq's: sslmode defaults to `require`, and `require` checks no
certificate unless sslrootcert is given. A Unix socket is never encrypted.
"""

from __future__ import annotations

import getpass
import os
import re
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from ocspd.errors import Code, CodedError
from ocspd.logs import logger

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_ENVIRONMENT = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "passfile": "PGPASSFILE",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "application_name": "PGAPPNAME",
}
_NOT_SETTINGS = {
    *_ENVIRONMENT,
    "fallback_application_name",
    "binary_parameters",
    "disable_prepared_binary_result",
    "sslinline",
    "sslsni",
    "sslcrl",
    "sslpassword",
    "krbsrvname",
    "krbspn",
    "client_encoding",
    "target_session_attrs",
    "statement_cache_size",
}
_PASSWORD_LINE = re.compile(r"((?:[^\\:]|\\.)*):" * 4 + "(.*)")
_ESCAPED = re.compile(r"\\(.)")
CONNECT_TIMEOUT_S = 8.0
"""The limit for all hosts of a data source together, unless it sets one for each host."""
_TARGETS = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")


@dataclass(frozen=True, slots=True)
class DataSource:
    """The location of a PostgreSQL database; `connect_arguments()` returns what asyncpg takes."""

    hosts: list[str]
    ports: list[int]
    database: str
    user: str
    password: str | None = field(repr=False)
    options: dict[str, str] = field(repr=False)

    @property
    def name(self) -> str:
        """How messages name the database, without the password."""
        places = ",".join(
            f"{host}:{port}" if not host.startswith("/") else host
            for host, port in zip(self.hosts, self.ports, strict=True)
        )
        return f"PostgreSQL database {self.database!r} at {places} (user {self.user})"

    @property
    def target(self) -> str:
        """Which of several servers is meant.

        The primary unless the data source says otherwise (lib/pq takes any): a standby lags behind, and
        reading from it would take back what was read from its primary.
        """
        return self.options.get("target_session_attrs") or "primary"

    @property
    def statement_cache_size(self) -> int | None:
        """How many statements the driver keeps prepared; 0 for a pooler, None for the driver's default."""
        given = self.options.get("statement_cache_size")
        return None if given is None else _number("statement_cache_size", given)

    @property
    def connect_timeout_s(self) -> float:
        """The time limit for connecting, with all hosts tried."""
        given = _number("connect_timeout", self.options.get("connect_timeout", "0"))
        return given * len(self.hosts) if given else CONNECT_TIMEOUT_S

    def connect_arguments(self, place: int = 0) -> dict[str, Any]:
        """Return keyword arguments of asyncpg.connect for one of the hosts.

        Reads certificate files. Raises CodedError 11000 naming the one that cannot be used.
        """
        options = self.options
        settings = {key: value for key, value in options.items() if key not in _NOT_SETTINGS}
        settings["application_name"] = (
            options.get("application_name") or options.get("fallback_application_name") or "ocspd"
        )
        arguments: dict[str, Any] = {
            "host": [self.hosts[place]],
            "port": [self.ports[place]],
            "user": self.user,
            # asyncpg would look into a password file of its own accord, and read it in its own way
            "password": self._password(place) or "",
            "database": self.database,
            "ssl": self._ssl(),
            "timeout": self.connect_timeout_s / len(self.hosts),
            "server_settings": settings,
        }
        return arguments

    def _password(self, place: int) -> str | None:
        """Return the password given, or that of the first line of the password file that is for the host.

        For a Unix socket this is its directory or, as lib/pq has it, localhost.
        """
        if self.password is not None:
            return self.password
        path = (
            Path(self.options["passfile"]) if "passfile" in self.options else Path("~/.pgpass").expanduser()
        )
        host, port = self.hosts[place], str(self.ports[place])
        hosts = {host, "localhost"} if host.startswith("/") else {host}
        wanted = (hosts, {port}, {self.database}, {self.user})
        for fields in _password_entries(path):
            if all(
                field == "*" or _unescaped(field) in values
                for field, values in zip(fields[:4], wanted, strict=True)
            ):
                return _unescaped(fields[-1])
        return None

    def _ssl(self) -> ssl.SSLContext | str | bool:
        mode = self.options.get("sslmode") or "require"
        if mode == "disable" or all(host.startswith("/") for host in self.hosts):
            return False
        if mode in ("allow", "prefer"):
            return mode
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        root = self.options.get("sslrootcert")
        context.check_hostname = mode == "verify-full"
        if mode == "require" and not root:
            context.verify_mode = ssl.CERT_NONE
        certificate = self.options.get("sslcert") or _home_file("postgresql.crt")
        key = self.options.get("sslkey") or _home_file("postgresql.key")
        path = root or "the system's roots"
        try:
            if root:
                context.load_verify_locations(cafile=root)
            elif mode != "require":
                context.load_default_certs()
            if certificate:
                path = certificate
                context.load_cert_chain(certificate, key)
        except (OSError, ValueError) as err:
            reason = err.strerror if isinstance(err, OSError) and err.strerror else err
            raise CodedError(Code.STORE_FAILED, f"{self.name}: cannot use {path}: {reason}") from err
        return context


def parse_data_source(text: str) -> DataSource:
    """Read a `postgres://` URL or a `key=value` string; what it leaves out comes from PG* variables.

    Raises CodedError 11000 without showing the text, which may hold a password.
    """
    given = _parse_url(text) if text.startswith(("postgres://", "postgresql://")) else _parse_pairs(text)
    options = {key: os.environ[name] for key, name in _ENVIRONMENT.items() if os.environ.get(name)}
    options.update(given)
    if options.get("sslmode") and options["sslmode"] not in _SSL_MODES:
        raise _bad(f"unsupported sslmode; use one of {', '.join(_SSL_MODES)}")
    target = options.get("target_session_attrs")
    if target and target not in _TARGETS:
        raise _bad(f"unsupported target_session_attrs; use one of {', '.join(_TARGETS)}")
    hosts = options.get("host", "localhost").split(",")
    ports = [_number("port", port or "5432") for port in options.get("port", "5432").split(",")]
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise _bad("give one port, or one for each host")
    user = options.get("user") or _system_user()
    return DataSource(
        hosts=[host or "localhost" for host in hosts],
        ports=ports,
        database=options.get("dbname") or user,
        user=user,
        password=options.get("password"),
        options=options,
    )


def _bad(message: str) -> CodedError:
    return CodedError(Code.STORE_FAILED, f"data_source of the database configuration: {message}")


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise _bad(  # not shown: it may be the end of a password
            f"{name} is not a number; in a URL, write / ? # @ and : of the password as %2F %3F %23 %40 %3A"
        )
    return int(text)


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "postgres"


def _home_file(name: str) -> str | None:
    path = Path("~/.postgresql").expanduser() / name
    return str(path) if path.is_file() else None


def _password_entries(path: Path) -> list[tuple[str, ...]]:
    """Return the lines of a password file, each as host, port, database, user and password.

    As in libpq, a backslash escapes the colon or backslash after it, and a file that others can read is
    ignored (PostgreSQL manual, 34.16). A field that is only an unescaped `*` matches everything.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return []
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            logger.warning("ignoring %s because other users can read it: run chmod 0600 %s", path, path)
            return []
        lines = path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
    # the password is the rest of the line, colons included
    found = [_PASSWORD_LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    return [match.groups() for match in found if match is not None]


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(r"\1", field)


def _parse_url(text: str) -> dict[str, str]:
    rest, _, query = text.split("://", 1)[1].partition("?")
    authority, _, database = rest.partition("/")
    if "@" not in authority and "@" in f"{database}{query}":
        raise _bad("the password contains / or ?: write %2F or %3F in a URL")
    login, _, places = authority.rpartition("@")
    options: dict[str, str] = {}
    user, colon, password = login.partition(":")
    if user:
        options["user"] = unquote(user)
    if colon and password:
        options["password"] = unquote(password)
    hosts, ports = [], []
    for place in places.split(",") if places else []:
        host, port = place, ""
        if place.startswith("["):
            host, _, port = place[1:].partition("]")
            port = port.removeprefix(":")
        elif ":" in place:
            host, _, port = place.rpartition(":")
        hosts.append(unquote(host))
        ports.append(port)
    if any(hosts):
        options["host"] = ",".join(hosts)
    if any(ports):
        options["port"] = ",".join(ports)
    if database:
        options["dbname"] = unquote(database)
    options.update(parse_qsl(query, keep_blank_values=True))
    return options


def _parse_pairs(text: str) -> dict[str, str]:
    """Read `key = value` pairs: quotes protect spaces, a backslash escapes the next character."""
    options: dict[str, str] = {}
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return options
        equals = text.find("=", at)
        key = text[at:equals].strip() if equals >= 0 else ""
        if not key or any(char.isspace() for char in key):
            raise _bad('expected a postgres:// URL or "key=value" pairs separated by spaces')
        at = equals + 1
        while at < len(text) and text[at].isspace():
            at += 1
        options[key], at = _value(text, at)


def _value(text: str, at: int) -> tuple[str, int]:
    quoted = text[at : at + 1] == "'"
    at += quoted
    value: list[str] = []
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
            if at == len(text):
                raise _bad("nothing after a backslash")
            char = text[at]
        elif quoted and char == "'":
            return "".join(value), at + 1
        elif not quoted and char.isspace():
            return "".join(value), at
        value.append(char)
        at += 1
    if quoted:
        raise _bad("unterminated quoted value")
    return "".join(value), at
