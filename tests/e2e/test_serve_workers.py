"""`ocspd serve` with processes that sign: they come and go with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from tests.authority.cfssl import make_material, run
from tests.e2e.test_authority_admin import get, values
from tests.e2e.test_serve import OCSPD, csr_of, flags_of, serve
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.test_serve import Server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_material(tmp_path_factory.mktemp("made"))


def signers(server: Server) -> list[int]:
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    pids = {int(pid) for path in tasks for pid in path.read_text().split()}
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it does not happen")


def database(folder: Path) -> Path:
    config = folder / "db.json"
    config.write_text(json.dumps({"driver": "sqlite3", "data_source": f"{folder}/certs.db"}))
    run(*OCSPD, "db", "up", "-db-config", str(config))
    return config


def test_a_stop_lets_them_finish_also_when_it_is_sent_to_all(made: Path, tmp_path: Path) -> None:
    config = database(tmp_path)
    with serve(tmp_path, *flags_of(made), "-db-config", str(config), "-workers", "3") as server:
        pids = signers(server)
        assert len(pids) == 3
        with ThreadPoolExecutor(12) as threads:
            body = {"certificate_request": csr_of(made)}
            assert server.post("sign", body)[0] == 200
            replies = [threads.submit(server.post, "sign", body) for _ in range(12)]
            while not any(reply.done() for reply in replies):
                time.sleep(0.001)
            for pid in (*pids, server.process.pid):
                os.kill(pid, signal.SIGTERM)
            got = [reply.result() for reply in replies if reply.exception() is None]
        assert server.process.wait(120) == 0
        assert {status for status, _ in got} == {200}
        assert "ended unexpectedly" not in server.log()
    assert not any(map(running, pids))
    connection = sqlite3.connect(tmp_path / "certs.db")
    stored = {int(serial) for (serial,) in connection.execute("SELECT serial_number FROM certificates")}
    connection.close()
    serials = {
        x509.load_pem_x509_certificate(json.loads(text)["result"]["certificate"].encode()).serial_number
        for _, text in got
    }
    assert len(serials) == len(got)
    assert serials <= stored


def test_they_end_when_the_server_is_killed(made: Path, tmp_path: Path) -> None:
    with serve(tmp_path, *flags_of(made), "-workers", "2") as server:
        pids = signers(server)
        assert len(pids) == 2
        server.process.kill()
        server.process.wait()
        until(lambda: not any(map(running, pids)))


def test_one_that_is_killed_is_replaced(made: Path, tmp_path: Path) -> None:
    with serve(tmp_path, *flags_of(made), "-workers", "2") as server:
        first = signers(server)
        os.kill(first[0], signal.SIGKILL)
        server.wait_for("starting another")
        until(lambda: len(signers(server)) == 2)
        until(lambda: server.post("sign", {"certificate_request": csr_of(made)})[0] == 200)
        assert server.stop() == 0


def test_readiness_tells_that_none_is_running(made: Path, tmp_path: Path) -> None:
    port = free_port()

    def none_is_left() -> bool:
        with contextlib.suppress(OSError):  # one that has ended meanwhile
            for pid in signers(server):
                os.kill(pid, signal.SIGKILL)
        return get(port, "/readyz") == (503, "signer: no signing process is running: see the server's log\n")

    with serve(tmp_path, *flags_of(made), "-workers", "2", "-admin-port", str(port)) as server:
        server.wait_for(f"admin listener on 127.0.0.1:{port}")
        assert get(port, "/readyz") == (200, "ok\n")
        until(none_is_left)
        until(lambda: get(port, "/readyz") == (200, "ok\n"))
        assert values(port)["ocspd_authority_signer_up"] == 1
        assert server.stop() == 0


def test_with_one_worker_there_is_no_other_process(made: Path, tmp_path: Path) -> None:
    with serve(tmp_path, *flags_of(made), "-workers", "1") as server:
        assert signers(server) == []
        assert server.post("sign", {"certificate_request": csr_of(made)})[0] == 200
        assert server.stop() == 0
