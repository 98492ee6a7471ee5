from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from ocspd.ops.listeners import in_use
from tests.ports import free_port
from tests.responder.raw_http import get, post
from tests.responder.responder import (
    CA,
    OCSPD,
    UNAUTHORIZED,
    Running,
    all_gone,
    answer,
    publish,
    responder,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER_MEMORY_BYTES = 60 << 20


@pytest.fixture
def index(tmp_path: Path) -> Path:
    publish(tmp_path / "index", [answer(serial) for serial in range(1, 11)])
    return tmp_path / "index"


@contextmanager
def started(index: Path, *flags: str, **options: Any) -> Iterator[Running]:
    with responder(index.parent / "log", "-index", str(index), *flags, **options) as running:
        yield running


@contextmanager
def connected(running: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", running.port), timeout=120) as client:
        yield client


def read_all(client: socket.socket) -> bytes:
    data = b""
    while part := client.recv(65536):
        data += part
    return data


class Load(threading.Thread):
    """Asks for serial 1 on new connections until stopped; collects what was not `good`."""

    def __init__(self, running: Running) -> None:
        super().__init__(daemon=True)
        self._running = running
        self._stop_asking = threading.Event()
        self.asked = 0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._stop_asking.is_set():
            self.asked += 1
            try:
                status = self._running.status(1)
                if status != "good":
                    self.failures.append(status)
            except Exception as err:  # noqa: BLE001  (whatever it is, the test shows it)
                self.failures.append(repr(err))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asking.set()
        self.join(20)


def test_a_worker_that_dies_is_started_again_and_no_connection_is_refused(index: Path) -> None:
    with started(index) as running, Load(running) as load:
        until(lambda: load.asked > 20)
        before = set(running.workers())
        assert len(before) == 2
        os.kill(before.copy().pop(), signal.SIGKILL)
        until(lambda: len(set(running.workers()) - before) == 1 and running.health()["workers"][0]["ready"])
        until(lambda: all(worker["ready"] for worker in running.health()["workers"]))
        asked = load.asked
        until(lambda: load.asked > asked + 50)
        restarts = sum(running.metric(f'ocspd_worker_restarts_total{{worker="{n}"}}') for n in (0, 1))
        assert restarts == 1
    assert [failure for failure in load.failures if "Reset" not in failure and "Remote" not in failure] == []
    assert len(load.failures) <= 1  # the connection that was open in the process killed
    assert "killed by signal 9" in running.log


def test_counters_survive_their_worker(index: Path) -> None:
    name = 'ocspd_requests_total{method="post",outcome="good"}'
    with started(index) as running:
        for _ in range(40):
            running.ask(1)
        assert running.metric(name) == 40
        for pid in running.workers():
            os.kill(pid, signal.SIGKILL)
        until(lambda: sum(worker["restarts"] for worker in running.health()["workers"]) == 2)
        until(lambda: all(worker["ready"] for worker in running.health()["workers"]))
        running.ask(1)
        assert running.metric(name) == 41
        until(lambda: running.metric("ocspd_connections_open") == 0)


def test_a_worker_that_keeps_dying_is_started_ever_more_slowly_and_holds_up_no_drain(index: Path) -> None:
    with started(index, "-workers", "1") as running:
        for times in range(1, 6):
            until(lambda: running.health()["workers"][0]["ready"])
            os.kill(running.workers()[0], signal.SIGKILL)
            until(partial(restarted, running, times))
        delays = [line.split(" in ")[1] for line in running.log.splitlines() if "will be restarted" in line]
        assert delays == ["0.1 s", "0.2 s", "0.4 s", "0.8 s", "1.6 s"]
        start = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - start < 9  # not the whole -drain-timeout
        assert "had to be killed" not in running.log


def restarted(running: Running, times: int) -> bool:
    return bool(running.health()["workers"][0]["restarts"] == times)


def test_while_all_workers_are_down_connections_wait(index: Path) -> None:
    with started(index) as running:
        for pid in running.workers():
            os.kill(pid, signal.SIGKILL)
        assert running.status(1) == "good"


def test_sigterm_fails_readiness_first_and_goes_on_answering_for_the_delay(index: Path) -> None:
    with started(index, "-drain-delay", "1500ms") as running:
        running.process.send_signal(signal.SIGTERM)
        until(lambda: running.admin("/readyz")[0] == 503)
        assert running.admin("/readyz") == (503, "draining\n")
        assert running.admin("/livez") == (200, "ok\n")
        with connected(running) as client:
            client.sendall(get("/"))
            assert b"Connection" not in client.recv(65536)
        assert running.status(1) == "good"
        assert running.process.wait(120) == 0
    assert "Traceback" not in running.log


def test_sigterm_lets_a_request_in_flight_finish(index: Path) -> None:
    request = post(CA.request(1))
    # One worker: which of two hears of the end first is chance.
    with started(index, "-workers", "1") as running, connected(running) as client, connected(running) as idle:
        client.sendall(request[:-5])
        until(lambda: running.metric("ocspd_connections_open") == 2)
        running.process.send_signal(signal.SIGTERM)
        assert read_all(idle) == b""
        client.sendall(request[-5:])
        reply = read_all(client)
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in reply
        assert running.process.wait(120) == 0


def test_the_drain_ends_in_its_time_whatever_clients_do(index: Path) -> None:
    with started(index, "-drain-timeout", "1s") as running, connected(running) as client:
        client.sendall(post(CA.request(1))[:-5])
        until(lambda: running.metric("ocspd_connections_open") == 1)
        start = time.monotonic()
        assert running.stop() == 0
        assert 0.9 < time.monotonic() - start < 9  # a request may take 10 s to arrive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_everything_at_once(index: Path, number: int) -> None:
    with started(index, "-drain-timeout", "60s") as running, connected(running) as client:
        client.sendall(post(CA.request(1))[:-5])
        until(lambda: running.metric("ocspd_connections_open") == 1)
        workers = running.workers()
        running.process.send_signal(number)
        until(lambda: "draining" in running.log)
        start = time.monotonic()
        running.process.send_signal(number)
        assert running.process.wait(120) == 1
        assert time.monotonic() - start < 30  # half of -drain-timeout
        until(lambda: all_gone(workers))
    assert "Traceback" not in running.log


def all_use(running: Running, generation: int) -> bool:
    return {worker["generation"] for worker in running.health()["workers"]} == {generation}


def test_a_new_generation_is_used_by_every_worker_without_a_lost_request(index: Path) -> None:
    with started(index) as running, Load(running) as load:
        until(lambda: load.asked > 20)
        for serial in range(100, 110):
            generation = publish(index, [answer(serial)], keep=True)
            assert until(partial(all_use, running, generation)) < 2
            assert running.status(serial) == "good"
        publish(index, [answer(5, revoked=True)], keep=True)
        until(lambda: running.status(5) == "revoked")
    assert load.failures == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "not a manifest"])
def test_an_index_that_cannot_be_used_is_named_once_and_the_one_before_serves_on(
    index: Path, damage: str
) -> None:
    with started(index) as running:
        old = set(index.glob("*.seg"))
        manifest = (index / "manifest.json").read_bytes()
        publish(index.parent / "other", [answer(serial) for serial in range(50)])
        publish(index.parent / "other", [answer(77)], later_s=60)
        new_manifest = (index.parent / "other" / "manifest.json").read_bytes()
        (segment,) = [
            path for path in (index.parent / "other").glob("*.seg") if path.name[:64].encode() in new_manifest
        ]
        data = bytearray(segment.read_bytes())
        target = index / segment.name
        match damage:
            case "truncated":
                target.write_bytes(data[:-100])
            case "flipped":
                data[5000] ^= 1
                target.write_bytes(data)
            case "not a manifest":
                new_manifest = b"{}"
                target = index / "manifest.json"
        new = index / "manifest.new"
        new.write_bytes(new_manifest)
        new.replace(index / "manifest.json")
        until(lambda: running.metric("ocspd_index_load_failures_total") == 1)
        time.sleep(1.5)  # long enough for it to be looked at again
        assert running.metric("ocspd_index_load_failures_total") == 1
        assert running.log.count(str(target)) == 1
        assert running.status(1) == "good"
        assert running.admin("/readyz")[0] == 200
        assert {worker["generation"] for worker in running.health()["workers"]} == {1}
        assert old <= set(index.glob("*.seg"))
        (index / "manifest.json").write_bytes(manifest)
        publish(index, [answer(78)])
        until(lambda: running.status(78) == "good")
    assert "Traceback" not in running.log


def test_sighup_is_a_reload_and_nothing_ends(index: Path) -> None:
    with started(index) as running:
        workers = running.workers()
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "[INFO] reloading" in running.log)
        assert running.status(1) == "good"
        assert running.workers() == workers


def test_workers_of_a_supervisor_that_was_killed_do_not_stay(index: Path) -> None:
    with started(index) as running:
        workers = running.workers()
        running.process.kill()
        running.process.wait()
        until(lambda: all_gone(workers))


def test_a_worker_is_small_and_holds_no_cryptography_and_no_database(index: Path) -> None:
    with started(index) as running:
        running.ask(1)
        for pid in running.workers():
            sizes = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
            private = sum(int(row[1]) * 1024 for row in sizes if row[0].startswith("Private_"))
            assert private < WORKER_MEMORY_BYTES
            mapped = Path(f"/proc/{pid}/maps").read_text()
            assert "_fastpath" in mapped
            for package in ("cryptography", "asyncpg", "_sqlite3", "_re2"):
                assert package not in mapped


def test_without_an_index_it_says_what_to_do_and_ends(tmp_path: Path) -> None:
    result = subprocess.run(
        [*OCSPD, "ocspserve", "-index", tmp_path / "none", "-port", str(free_port()), "-admin-port", "0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if "[INFO]" not in line]
    assert line.startswith(f"{tmp_path}/none: no manifest.json")
    assert "ocspd index build" in line


def test_a_taken_port_is_one_line_and_exit_code_1(index: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [*OCSPD, "ocspserve", "-index", index, "-port", str(port), "-admin-port", "0"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if "[INFO]" not in line]
    assert line == (
        f"cannot listen on 127.0.0.1:{port}: address already in use (choose another -port, or stop the "
        "program that listens there)"
    )


@pytest.mark.parametrize(("port", "both"), [(8888, True), (8889, False)])
def test_the_port_that_serve_and_ocspserve_share_is_told_when_it_is_taken(port: int, both: bool) -> None:  # noqa: FBT001
    text = in_use("-port", port)
    assert ("serve and ocspserve both use 8888" in text) == both
    assert "choose another -port" in text


def test_a_second_responder_on_the_same_port_is_refused_too(index: Path) -> None:
    with started(index) as running:
        result = subprocess.run(
            [*OCSPD, "ocspserve", "-index", index, "-port", str(running.port), "-admin-port", "0"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 1
        assert "already in use" in result.stderr


def test_systemd_hears_of_every_state(index: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(120)
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with started(index, env=environment) as running:
            first = manager.recv(4096).decode().splitlines()
            assert first == ["READY=1", "STATUS=serving generation 1, 10 entries"]
            assert manager.recv(4096) == b"WATCHDOG=1"
            running.process.send_signal(signal.SIGHUP)
            assert heard(manager).startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert heard(manager).startswith("READY=1\n")
            assert running.stop() == 0
            assert heard(manager).startswith("STOPPING=1\n")


def heard(manager: socket.socket) -> str:
    """Return the next message that is no watchdog beat."""
    while (message := manager.recv(4096).decode()) == "WATCHDOG=1":
        pass
    return message


def test_sockets_from_systemd_are_used_and_survive_a_restart(index: Path) -> None:
    start = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_FDS='1', "
        "LISTEN_PID=str(os.getpid())); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    with socket.create_server(("127.0.0.1", 0)) as held:
        held.listen(64)
        number = str(held.fileno())
        command = [sys.executable, "-c", start, number, "-m", "ocspd.cli.main"]
        with started(index, command=command, pass_fds=(held.fileno(),)) as running:
            running.port = held.getsockname()[1]
            assert running.status(1) == "good"
            assert running.stop() == 0
        with socket.create_connection(held.getsockname(), timeout=120) as waiting:
            waiting.sendall(post(CA.request(4711), "Connection: close"))
            with started(index, command=command, pass_fds=(held.fileno(),)):
                assert read_all(waiting).endswith(UNAUTHORIZED)


def test_workers_share_a_tcp_and_a_unix_socket_from_systemd(index: Path, tmp_path: Path) -> None:
    start = (
        "import os, sys; [os.dup2(int(n), 50 + at) for at, n in enumerate(sys.argv[1:3])]; "
        "os.dup2(50, 3); os.dup2(51, 4); os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid())); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[3:]])"
    )
    path = str(tmp_path / "ocsp.sock")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(path, family=socket.AF_UNIX) as unix,
    ):
        numbers = (tcp.fileno(), unix.fileno())
        command = [sys.executable, "-c", start, *map(str, numbers), "-m", "ocspd.cli.main"]
        with started(index, command=command, pass_fds=numbers) as running:
            assert f"Now listening on 127.0.0.1:{tcp.getsockname()[1]}, unix:{path}\n" in running.log
            for _ in range(50):  # either worker takes them
                for family, address in ((socket.AF_INET, tcp.getsockname()), (socket.AF_UNIX, path)):
                    with socket.socket(family, socket.SOCK_STREAM) as client:
                        client.settimeout(120)
                        client.connect(address)
                        client.sendall(
                            post(CA.request(1)) + get("/odd?really") + get("/", "Connection: close")
                        )
                        data = read_all(client)
                        assert data.count(b"HTTP/1.1 ") == 3
                        assert b"HTTP/1.1 200 OK" in data
            assert running.stop() == 0


def test_sockets_that_are_announced_but_missing_are_named(index: Path) -> None:
    start = (
        "import os, sys; os.environ.update(LISTEN_FDS='1000', LISTEN_PID=str(os.getpid())); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", start, "-m", "ocspd.cli.main"]
    with started(index, command=command, wait=False) as running:
        assert running.process.wait(120) == 1
        assert "LISTEN_FDS=1000: descriptor 3 is not a socket; unset LISTEN_FDS" in running.log
        assert "Traceback" not in running.log


def test_sigterm_lets_workers_accept_clients_that_have_not_spoken_yet(index: Path) -> None:
    """The kernel would hold them back, and reset them when the socket closes."""
    start = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_FDS='1', "
        "LISTEN_PID=str(os.getpid())); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    with socket.create_server(("127.0.0.1", 0)) as held:
        command = [sys.executable, "-c", start, str(held.fileno()), "-m", "ocspd.cli.main"]
        options = {"command": command, "pass_fds": (held.fileno(),)}
        with started(index, "-drain-delay", "600s", **options) as running:
            until(lambda: held.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) > 0)
            running.process.send_signal(signal.SIGTERM)
            until(lambda: held.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == 0)
            with socket.create_connection(held.getsockname(), timeout=120):
                until(lambda: running.metric("ocspd_connections_open") == 1)
            assert running.process.poll() is None  # still in the delay


def test_everything_listens_on_ipv6_too(index: Path) -> None:
    with started(index, "-address", "") as running:
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, running.port), timeout=120) as client:
                client.sendall(get("/", "Connection: close"))
                assert read_all(client).startswith(b"HTTP/1.1 200 OK\r\n")
