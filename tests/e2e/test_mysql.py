"""Signer and responder as programs of their own, on MariaDB."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from typing import TYPE_CHECKING

from ocspd.certdb import DBConfig
from tests.binary import OCSPD, ocspd
from tests.certdb import raw
from tests.faults.daemon import Rows
from tests.faults.signer_binary import KEYS
from tests.pki.chain import make_chain
from tests.ports import free_port
from tests.responder.responder import responder, until
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def refresh(path: Path) -> Iterator[None]:
    """Run a signer for the database of db.json until the block ends."""
    port = free_port()
    words = [*OCSPD, "refresh", "-db-config", "db.json", *KEYS, "-index", "index", "-admin-port", str(port)]
    with (
        (path / "refresh.log").open("wb") as log,
        subprocess.Popen(words, cwd=path, stderr=log) as process,
    ):

        def ready() -> bool:
            assert process.poll() is None, (path / "refresh.log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60).close()
                return True
            return False

        try:
            until(ready)
            yield
        finally:
            process.terminate()
            process.wait(60)


async def test_a_revocation_in_mariadb_is_answered_within_a_second(mysql_source: str, tmp_path: Path) -> None:
    config = DBConfig("mysql", mysql_source)
    chain = make_chain()
    chain.write(tmp_path)
    (tmp_path / "db.json").write_text(json.dumps({"driver": "mysql", "data_source": mysql_source}))
    made = ocspd("db", "up", "-db-config", "db.json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    rows = Rows(config)
    aki = chain.signer().aki
    for serial in range(1, 9):
        await rows.insert(str(serial), aki)

    def status(port: int, serial: int) -> str:
        command = [need("openssl"), "ocsp", "-no_nonce", "-issuer", "ca.pem", "-CAfile", "ca.pem"]
        command += ["-serial", str(serial), "-url", f"http://127.0.0.1:{port}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Response verify OK" in done.stderr, done.stderr
        return done.stdout.split(f"{serial}: ")[1].split()[0]

    with refresh(tmp_path), responder(tmp_path / "log", "-index", "index", cwd=tmp_path) as running:
        for serial in range(1, 9):
            assert status(running.port, serial) == "good"
            done = ocspd("revoke", "-db-config", "db.json", "-serial", str(serial), "-aki", aki, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            until(lambda serial=serial: status(running.port, serial) == "revoked")  # type: ignore[misc]
        await raw.execute(
            config, "UPDATE certificates SET status = 'good', revoked_at = NULL WHERE serial_number = '8'"
        )
        until(lambda: status(running.port, 8) == "good")
    assert "Traceback" not in (tmp_path / "refresh.log").read_text()
