"""Data sources as go-sql-driver/mysql reads them; the expectations are those of its own tests and README."""

from __future__ import annotations

import pytest

from ocspd.certdb.mysql_dsn import parse_mysql_source
from ocspd.errors import Code, CodedError


@pytest.mark.parametrize(
    ("text", "user", "password", "host", "port", "socket", "database"),
    [
        ("ca:pw@tcp(db.example:3307)/certs?parseTime=true", "ca", "pw", "db.example", 3307, "", "certs"),
        ("ca:pw@tcp(db.example)/certs", "ca", "pw", "db.example", 3306, "", "certs"),
        ("ca:pw@tcp([de:ad:be:ef::1]:80)/certs", "ca", "pw", "de:ad:be:ef::1", 80, "", "certs"),
        ("ca:pw@tcp([de:ad:be:ef::1])/certs", "ca", "pw", "de:ad:be:ef::1", 3306, "", "certs"),
        ("ca:pw@unix(/run/my.sock)/certs", "ca", "pw", "localhost", 3306, "/run/my.sock", "certs"),
        ("ca@unix/certs", "ca", "", "localhost", 3306, "/tmp/mysql.sock", "certs"),
        ("ca:p@ss(word)@tcp([de::1]:80)/certs?tls=false", "ca", "p@ss(word)", "de::1", 80, "", "certs"),
        ("ca:p@/ssword@/certs", "ca", "p@/ssword", "127.0.0.1", 3306, "", "certs"),
        ("ca:a:b@tcp(h:1)/certs", "ca", "a:b", "h", 1, "", "certs"),
        ("/certs", "", "", "127.0.0.1", 3306, "", "certs"),
        ("@/certs", "", "", "127.0.0.1", 3306, "", "certs"),
        ("ca@tcp/my%2Fcerts", "ca", "", "127.0.0.1", 3306, "", "my/certs"),
    ],
)  # fmt: skip
def test_a_data_source_means_what_it_means_to_cfssl(  # noqa: PLR0917
    text: str, user: str, password: str, host: str, port: int, socket: str, database: str
) -> None:
    source = parse_mysql_source(text)
    assert (source.user, source.password, source.host, source.port) == (user, password, host, port)
    assert (source.socket, source.database) == (socket, database)
    assert not password or password not in source.name + repr(source)


def test_parameters_are_the_drivers_or_variables_of_the_server() -> None:
    source = parse_mysql_source(
        "ca@/certs?parseTime=true&loc=US%2FPacific&charset=utf8mb4,utf8&collation=x&timeout=90s&readTimeout=1s"
        "&time_zone=%27%2B00%3A00%27&innodb_lock_wait_timeout=5&sql_mode=ANSI&flag"
    )
    assert source.variables == (("time_zone", "'+00:00'"), ("innodb_lock_wait_timeout", "5"))
    assert source.connect_timeout_s == 90
    assert parse_mysql_source("ca@/certs").connect_timeout_s == 8


@pytest.mark.parametrize(
    ("given", "mode", "verifies"),
    [
        ("", "false", None),
        ("tls=false", "false", None),
        ("tls=true", "true", True),
        ("tls=1", "true", True),
        ("tls=skip-verify", "skip-verify", False),
        ("tls=Preferred", "preferred", False),
    ],
)
def test_tls_is_off_unless_asked_for(given: str, mode: str, verifies: object) -> None:
    source = parse_mysql_source(f"ca@tcp(h)/certs?{given}")
    context = source.connect_arguments()["ssl"]
    assert source.tls == mode
    assert (context and context.check_hostname) == verifies
    assert source.needs_tls is (mode in {"true", "skip-verify"})
    assert not parse_mysql_source(f"ca@unix(/s)/certs?{given}").needs_tls


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ca:s3cret@tcp(h:1)", "USER:PASSWORD"),
        ("s3cret", "USER:PASSWORD"),
        ("ca:s3cret@tcp(h:1/certs", "must end with"),
        ("ca:s3cret@tcp(h:1)x/certs", "must end with"),
        ("ca:s3cret@tcp(h:99999)/certs", "port"),
        ("ca:s3cret@tcp(h:-1)/certs", "port"),
        ("ca:s3cret@pipe(x)/certs", "tcp or unix"),
        ("ca:s3cret@tcp(h:1)/", "no database"),
        ("ca:s3cret@tcp(h:1)/certs?parseTime=yes", "parseTime must be true or false"),
        ("ca:s3cret@tcp(h:1)/certs?tls=s3cret", "tls must be"),
        ("ca:s3cret@tcp(h:1)/certs?timeout=s3cret", "timeout is not a duration"),
        ("ca:s3cret@tcp(h:1)/certs?timeout=-5s", "timeout is not a duration"),
        ("ca:s3cret@tcp(h:1)/certs?a%20b=1", "system variable"),
        ("ca:s3cret@tcp(h:1)/certs?x;y=1", "system variable"),
        ("ca:s3cret@tcp(h:1)/certs?tls=true&allowFallbackToPlaintext=true", "contradicts"),
    ],
)
def test_what_is_no_data_source_is_said_without_showing_it(text: str, complaint: str) -> None:
    with pytest.raises(CodedError, match=complaint) as caught:
        parse_mysql_source(text)
    assert caught.value.code is Code.STORE_FAILED
    assert "s3cret" not in caught.value.message
