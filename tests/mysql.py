"""A real MariaDB for the tests: $OCSPD_TEST_MYSQL, or one started for this run on a socket of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymysql

from ocspd.certdb.mysql_dsn import parse_mysql_source
from tests.tools import PEERS, need

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_S = 120.0


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Yield a data source of a server on which databases may be created, with {} for the database's name."""
    given = os.environ.get("OCSPD_TEST_MYSQL")
    if given:
        yield given
        return
    program = need("mariadbd")
    base = PEERS / "root" / "usr" if Path(program).is_relative_to(PEERS) else Path("/usr")
    share = next(path for path in (base / "share" / name for name in ("mariadb", "mysql")) if path.is_dir())
    with tempfile.TemporaryDirectory(prefix="ocspd-my-") as directory:
        folder = Path(directory)
        path = folder / "socket"
        command = [
            program,
            "--no-defaults",
            f"--basedir={base}",
            f"--datadir={folder / 'data'}",
            f"--lc-messages-dir={share}",
            f"--tmpdir={folder}",
            f"--log-error={folder / 'log.err'}",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--character-set-server=utf8mb4",
            "--performance-schema=OFF",
        ]
        if os.geteuid() == 0:
            command.append("--user=root")
        (folder / "data").mkdir()
        made = subprocess.run(
            [*command, "--bootstrap"],
            input=_system_tables(share),
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_S,
        )
        assert made.returncode == 0, (folder / "log.err").read_text() + made.stderr
        server = subprocess.Popen(
            [*command, "--skip-networking", f"--socket={path}", f"--pid-file={folder / 'pid'}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(path, server, folder / "log.err")
            yield f"root@unix({path})/{{}}"
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _system_tables(share: Path) -> str:
    """Return what mariadb-install-db runs, for a root without a password."""
    names = ("system_tables", "performance_tables", "system_tables_data")
    files = []
    for name in names:
        found = [share / f"{brand}_{name}.sql" for brand in ("mariadb", "mysql")]
        files += [path.read_text() for path in found if path.is_file()][:1]
    start = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n"
    return start + "\n".join(files)


def _wait_for(path: Path, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(OSError), contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.connect(str(path))
            return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def connect(data_source: str, **settings: Any) -> Any:
    """Connect past certdb, as a program without its modes: no strictness, every column as text."""
    arguments = parse_mysql_source(data_source).connect_arguments() | {"autocommit": True}
    return pymysql.connect(**arguments | {"sql_mode": "", "charset": "utf8mb4"} | settings)


def create_database(server: str) -> str:
    """Create an empty database with a fresh name; return its data source."""
    name = f"ocspd_{uuid.uuid4().hex[:12]}"
    with contextlib.closing(connect(server.format("mysql"))) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{name}`")
    return server.format(name) + "?parseTime=true"


def drop_database(server: str, data_source: str) -> None:
    """Drop a database made by create_database."""
    name = parse_mysql_source(data_source).database
    with contextlib.closing(connect(server.format("mysql"))) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")
