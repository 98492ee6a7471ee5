from __future__ import annotations

import json
import ssl
import subprocess
from typing import TYPE_CHECKING

import asyncpg
import pytest

from ocspd.certdb import DBConfig, parse_db_config
from ocspd.certdb.dsn import parse_data_source
from ocspd.errors import Code, CodedError, OCSPDError
from tests.certdb.raw import execute
from tests.faults.cluster import clusters

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "HOST",
        "PORT",
        "USER",
        "PASSWORD",
        "DATABASE",
        "SSLMODE",
        "SSLCERT",
        "SSLKEY",
        "SSLROOTCERT",
    ):
        monkeypatch.delenv(f"PG{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "postgres://ca:s%40cret@db.example:5433/certs?connect_timeout=7&search_path=pki",
        "postgresql://ca:s%40cret@db.example:5433/certs?connect_timeout=7&search_path=pki",
        "user=ca password=s@cret host=db.example port=5433 dbname=certs connect_timeout=7 search_path=pki",
        (
            r" user = 'ca'  password='s\@cret' host=db.example port=5433 dbname=certs connect_timeout=7 "
            "search_path = 'pki' "
        ),
    ],
)
def test_urls_and_pairs_mean_the_same(text: str) -> None:
    arguments = parse_data_source(text).connect_arguments()
    context = arguments.pop("ssl")
    assert isinstance(context, ssl.SSLContext)
    assert arguments == {
        "host": ["db.example"],
        "port": [5433],
        "user": "ca",
        "password": "s@cret",
        "database": "certs",
        "timeout": 7.0,
        "server_settings": {"search_path": "pki", "application_name": "ocspd"},
    }


def test_the_default_requires_tls_and_checks_no_certificate_as_lib_pq_does() -> None:
    context = parse_data_source("host=db.example user=ca").connect_arguments()["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(("mode", "expected"), [("disable", False), ("prefer", "prefer"), ("allow", "allow")])
def test_tls_can_be_switched_off_or_left_to_the_server(mode: str, expected: object) -> None:
    assert parse_data_source(f"postgres://h/d?sslmode={mode}").connect_arguments()["ssl"] == expected


@pytest.mark.parametrize(
    ("mode", "checks_name"), [("require", False), ("verify-ca", False), ("verify-full", True)]
)
def test_a_root_certificate_is_checked_against(tmp_path: Path, mode: str, checks_name: bool) -> None:  # noqa: FBT001
    root = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    context = parse_data_source(f"host=h sslmode={mode} sslrootcert={root}").connect_arguments()["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, checks_name)


def test_a_missing_root_certificate_is_named() -> None:
    source = parse_data_source("host=h password=secret sslmode=verify-full sslrootcert=/nowhere/root.pem")
    with pytest.raises(CodedError, match=r"/nowhere/root\.pem") as caught:
        source.connect_arguments()
    assert "secret" not in str(caught.value)


def test_a_unix_socket_needs_no_tls() -> None:
    for text in (
        "host=/run/postgresql dbname=d",
        "postgres:///d?host=/run/postgresql",
        "postgres://u@/d?host=%2Frun",
    ):
        arguments = parse_data_source(text).connect_arguments()
        assert (arguments["ssl"], arguments["database"]) == (False, "d")


def test_several_hosts_and_an_ipv6_address_are_read() -> None:
    source = parse_data_source("postgres://u@a:1,[fe80::1]:2,c/d")
    assert (source.hosts, source.ports) == (["a", "fe80::1", "c"], [1, 2, 5432])
    assert parse_data_source("host=a,b user=u").ports == [5432, 5432]


def test_what_is_left_out_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "env.example")
    monkeypatch.setenv("PGPASSWORD", "hidden")
    monkeypatch.setenv("PGSSLMODE", "disable")
    source = parse_data_source("user=ca")
    assert source.name == "PostgreSQL database 'ca' at env.example:5432 (user ca)"
    assert source.password == "hidden"
    assert source.connect_arguments()["ssl"] is False
    assert "hidden" not in repr(source)


@pytest.mark.parametrize(
    "text",
    [
        "certs.db",
        "host",
        "host='x",
        "host=x\\",
        "a b=c",
        "port=abc",
        "host=a,b,c port=1,2",
        "sslmode=never",
        "= x",
    ],
)
def test_what_is_no_data_source_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(CodedError) as caught:
        parse_data_source(f"{text}")
    assert caught.value.code is Code.STORE_FAILED


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"null", b"{}", b'{"driver":"sqlite3"}', b'{"driver":"","data_source":"x"}', b"\xff",
     b'{"driver":5,"data_source":"x"}', b"[" * 100000],
)  # fmt: skip
def test_a_broken_configuration_is_5200(data: bytes) -> None:
    with pytest.raises(CodedError) as caught:
        parse_db_config(data)
    assert caught.value.code is Code.POLICY_INVALID


@pytest.mark.parametrize(
    "source",
    [
        "postgres://u:Tr0ub4dor@h/db",
        "u:Tr0ub4dor@tcp(h:3306)/db?parseTime=true",
        "u:Tr0ub4dor@h/db",
        "postgres:u:Tr0ub4dor@h/db",
        "host=h PASSWORD = 'Tr0ub4dor'",
        "mysql://u:Tr0ub4dor?@h/db",
    ],
)
def test_a_source_of_another_driver_is_no_name_of_a_file(source: str) -> None:
    data = json.dumps({"driver": "sqlite3", "data_source": source}).encode()
    with pytest.raises(CodedError, match="correct one of them") as caught:
        parse_db_config(data)
    assert "Tr0ub4dor" not in str(caught.value)


@pytest.mark.parametrize(
    "source", ["certs.db", "/var/lib/a:b@c.db", "./a:b@c.db", ":memory:", "file:x?mode=ro"]
)
def test_a_name_of_a_file_may_be_odd(source: str) -> None:
    assert (
        parse_db_config(json.dumps({"driver": "sqlite3", "data_source": source}).encode()).driver == "sqlite3"
    )


def test_an_unknown_driver_is_named_with_the_known_ones() -> None:
    with pytest.raises(OCSPDError, match=r"unknown driver 'oracle'.*postgres, mysql, sqlite3"):
        parse_db_config(b'{"driver":"oracle","data_source":"x"}')


def test_a_configuration_is_read_as_go_reads_it() -> None:
    config = parse_db_config(b'{"Driver":"postgres","DATA_SOURCE":"password=secret","more":1}')
    assert config == DBConfig("postgres", "password=secret")
    assert "secret" not in repr(config)


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("db.example:5433:certs:ca:plain", "plain"),
        ("*:*:*:*:for all", "for all"),
        (r"db.example:5433:certs:ca:a\:b\\c", r"a:b\c"),
        (r"db.example:5433:certs:ca:ends\\", "ends\\"),
        ("db.example:5433:certs:ca:with:colons", "with:colons"),
        ("db.example:5433:certs:ca: spaces ", " spaces "),
        ("db.example:5433:certs:ca:", ""),
        (r"db.example:5433:certs:\c\a:escaped", "escaped"),
        (r"db.example:5433:\*:ca:literal star", None),
        ("db.example:5432:certs:ca:port", None),
        ("#db.example:5433:certs:ca:comment", None),
        ("db.example:5433:certs:ca", None),
    ],
)
def test_a_password_file_is_read_as_libpq_reads_it(tmp_path: Path, line: str, password: str | None) -> None:
    path = tmp_path / "pass word"
    path.write_text(f"# passwords\n\nother:*:*:*:no\n{line}\n*:*:*:other:no\n")
    path.chmod(0o600)
    source = f"host=db.example port=5433 dbname=certs user=ca passfile='{path}'"
    assert parse_data_source(source).connect_arguments()["password"] == (password or "")
    path.chmod(0o640)
    assert parse_data_source(source).connect_arguments()["password"] == ""  # others can read it


def test_a_password_file_says_localhost_for_a_socket_and_has_the_name_with_a_colon(tmp_path: Path) -> None:
    path = tmp_path / ".pgpass"  # the default, in $HOME
    path.write_text("localhost:5432:a\\:b:c\\\\d:secret\n")
    path.chmod(0o600)
    source = r"host=/run/postgresql dbname=a:b user=c\\d"
    assert parse_data_source(source).connect_arguments()["password"] == "secret"


TWO_LINES = {
    "the first is right": ["{host}:*:*:ca:right", "{host}:*:*:ca:wrong"],
    "the second is right": ["{host}:*:*:ca:wrong", "{host}:*:*:ca:right"],
    "one for everybody before the one for this host": ["*:*:*:*:wrong", "{host}:5432:certs:ca:right"],
    "one for this host before the one for everybody": ["{host}:5432:certs:ca:right", "*:*:*:*:wrong"],
    "a first one for another database": ["{host}:*:other:ca:wrong", "{host}:*:certs:ca:right"],
    "a first one for another user": ["{host}:*:*:cb:wrong", "*:*:*:ca:right"],
    "a first one for another port": ["{host}:5433:*:ca:wrong", "*:*:*:ca:right"],
    "a first one that is cut short": ["{host}:*:certs:ca", "*:*:*:ca:right"],
    "a first one without a password": ["{host}:*:*:ca:", "{host}:*:*:ca:right"],
}


async def test_of_two_lines_for_a_host_the_one_counts_that_libpq_takes(
    tmp_path: Path, postgres_server: str
) -> None:
    assert postgres_server  # sees to the rights of the programs
    with clusters(1) as (server,):
        server.make()
        server.start()
        config = DBConfig("postgres", f"postgres://postgres@/postgres?host={server.path}&sslmode=disable")
        await execute(config, "CREATE ROLE ca LOGIN PASSWORD 'right'", "CREATE DATABASE certs")
        rules = server.path / "data" / "pg_hba.conf"
        rules.write_text("local all ca scram-sha-256\nlocal all all trust\n")
        await execute(config, "SELECT pg_reload_conf()")
        path = tmp_path / "pgpass"
        source = f"host={server.path} dbname=certs user=ca sslmode=disable passfile={path}"
        came: dict[str, tuple[bool, bool]] = {}
        for name, lines in TWO_LINES.items():
            path.write_text("".join(f"{line}\n" for line in lines).format(host=server.path))
            path.chmod(0o600)
            libpq = subprocess.run(  # noqa: ASYNC221  (nothing else is going on)
                [server.program("psql"), "-w", "-X", "-c", "SELECT 1", source],
                capture_output=True,
                check=False,
                timeout=60,
            )
            try:
                connection = await asyncpg.connect(**parse_data_source(source).connect_arguments())
            except (asyncpg.PostgresError, asyncpg.InterfaceError):
                came[name] = libpq.returncode == 0, False
            else:
                await connection.close()
                came[name] = libpq.returncode == 0, True
        assert {name: ours for name, (_, ours) in came.items()} == {
            name: theirs for name, (theirs, _) in came.items()
        }
        assert set(came.values()) == {(True, True), (False, False)}


def test_a_socket_is_named_by_its_directory_or_localhost_whichever_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "pgpass"
    for first, second in (("/run/x", "localhost"), ("localhost", "/run/x")):
        path.write_text(f"/run/y:*:*:*:no\n{first}:*:*:*:one\n{second}:*:*:*:two\n")
        path.chmod(0o600)
        source = f"host=/run/x dbname=a user=b passfile={path}"
        assert parse_data_source(source).connect_arguments()["password"] == "one"


def test_the_primary_is_meant_unless_the_data_source_says_otherwise() -> None:
    def target(text: str) -> object:
        return parse_data_source(f"host=a,b port=5432,5433 user=ca {text}").target

    assert target("") == "primary"
    assert target("target_session_attrs=any") == "any"
    with pytest.raises(CodedError, match="unsupported target_session_attrs"):
        parse_data_source("host=a user=ca target_session_attrs=newest")
