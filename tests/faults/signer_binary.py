"""`ocspd refresh` as a program of its own, on SQLite, with its probes and metrics."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ocspd.index.directory import IndexDirectory
from ocspd.pki.certid import issuer_hashes
from tests.binary import OCSPD, ocspd
from tests.faults.oracle import GOOD, REVOKED, Oracle
from tests.pki.chain import Chain, make_chain
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ocspd._index import StoredResponse

WAIT_S = 120.0
KEYS = ("-ca", "ca.pem", "-responder", "responder.pem", "-responder-key", "responder-key.pem")
REVOKE = (
    "UPDATE certificates SET status = 'revoked', reason = 1, revoked_at = CURRENT_TIMESTAMP "
    "WHERE serial_number = ?"
)


@dataclass
class Place:
    """A directory with a CA, a database, an index, and an oracle that knows of some certificates."""

    path: Path
    chain: Chain = field(default_factory=make_chain)
    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def __post_init__(self) -> None:
        self.chain.write(self.path)
        (self.path / "db.json").write_text(
            json.dumps({"driver": "sqlite3", "data_source": str(self.database)})
        )
        self.index = IndexDirectory(self.path / "index")
        self.oracle = Oracle([self.chain.ca], 3600.0, hash_names=("sha1", "sha256"))

    @property
    def database(self) -> Path:
        return self.path / "certs.db"

    @property
    def words(self) -> list[str]:
        """The words that start a signer."""
        words = ["refresh", "-db-config", "db.json", *KEYS, "-index", "index", "-processes", "1"]
        return [*words, "-admin-port", str(self.port)]

    def fill(self, count: int, known: int = 1) -> None:
        """Make the database, and certificates 1 to `count`; the oracle hears of every `known`th."""
        made = ocspd("db", "up", "-db-config", "db.json", cwd=self.path)
        assert made.returncode == 0, made.stderr
        later = f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d %H:%M:%S}+00:00"
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.executemany(
                "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, "
                "reason, expiry, revoked_at, pem) "
                "VALUES (?, ?, '', 'good', 0, ?, '0001-01-01 00:00:00+00:00', '-')",
                [(str(serial), self.chain.signer().aki, later) for serial in range(1, count + 1)],
            )
        for serial in range(1, count + 1, known):
            self.oracle.committed(0, serial, [GOOD])

    def revoke(self, serial: int) -> None:
        """Revoke a certificate."""
        with (
            contextlib.closing(sqlite3.connect(self.database, isolation_level=None, timeout=60)) as session,
            self.oracle.committing(0, serial, [REVOKED]),
        ):
            session.execute(REVOKE, (str(serial),))

    def run_once(self) -> None:
        """Make an index, without a signer that stays."""
        done = ocspd(*self.words, "-once", cwd=self.path)
        assert done.returncode == 0, done.stderr

    def answer(self, serial: int) -> StoredResponse | None:
        """Return what the index answers, None where there is none."""
        if self.index.manifest() is None:
            return None
        return self.index.open().lookup("sha1", *issuer_hashes(self.chain.ca, "sha1"), serial)

    def revoked(self, serial: int) -> bool:
        """Tell whether the index calls a certificate revoked."""
        found = self.answer(serial)
        return found is not None and found.status == 1

    @contextlib.contextmanager
    def signer(self, *more: str, before: Sequence[str] = (), ready: bool = True) -> Iterator[RunningSigner]:
        """Run the signer until the block ends; `before` are words in front of its own."""
        log = self.path / "signer.log"
        read_end, write_end = os.pipe()  # a pipe has room where files have none
        with (
            log.open("wb") as file,
            subprocess.Popen(["cat"], stdin=read_end, stdout=file) as writing,
            subprocess.Popen(
                [*before, *OCSPD, *self.words, *more],
                cwd=self.path,
                env=self.environment,
                stderr=write_end,
                stdout=write_end,
            ) as process,
        ):
            os.close(read_end)
            os.close(write_end)
            running = RunningSigner(process, self.port, log)
            try:
                if ready:
                    running.until(lambda: running.probe()[0] == 200, "readiness")
                yield running
            finally:
                process.terminate()
                assert process.wait(WAIT_S) == 0
                writing.wait(WAIT_S)
        assert "Traceback" not in log.read_text()


@dataclass
class RunningSigner:
    """A signer at work."""

    process: subprocess.Popen[bytes]
    port: int
    path: Path

    @property
    def log(self) -> str:
        return self.path.read_text()

    def get(self, path: str) -> tuple[int, str]:
        """Ask its listener for operators; (0, "") when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as err:
            with err:
                return err.code, err.read().decode()
        except OSError:
            return 0, ""

    def probe(self) -> tuple[int, str]:
        return self.get("/readyz")

    def gauge(self, name: str) -> float:
        """Return a metric; NaN while there is none."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        return float("nan")

    def look(self) -> None:
        """Have it look at its certificates and keys now."""
        self.process.send_signal(signal.SIGHUP)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something it is to do."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.process.poll() is None, f"the signer has ended, before {what}:\n{self.log}"
            assert time.monotonic() < deadline, f"never: {what}\n{self.log}"
            time.sleep(0.05)
