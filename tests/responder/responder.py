"""A running `ocspd ocspserve`, and an index directory for it."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.x509 import ocsp

from ocspd.index.directory import IndexDirectory
from tests.native.answers import Authority
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CA = Authority()
OCSPD = (sys.executable, "-m", "ocspd.cli.main")
TRY_LATER, UNAUTHORIZED = bytes.fromhex("30030a0103"), bytes.fromhex("30030a0106")


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def answer(serial: int, *, revoked: bool = False, hash_name: str = "sha1") -> bytes:
    """Sign an answer that is valid now."""
    start = now() - dt.timedelta(minutes=1)
    return CA.answer(
        serial,
        hash_name=hash_name,
        this_update=start,
        next_update=start + dt.timedelta(hours=96),
        revoked_at=start if revoked else None,
    )


def publish(path: Path, answers: Iterable[bytes], *, keep: bool = False, later_s: int = 0) -> int:
    """Publish a segment as the next generation, before the old ones if they are kept; its number.

    `later_s` makes it newer than what another index published in the same second.
    """
    directory = IndexDirectory(path)
    seconds = int(time.time()) + later_s
    with directory.lock():
        old = directory.manifest()
        with directory.writer(seconds) as writer:
            for der in answers:
                writer.add(der)
            writer.finish()
        refs = [directory.adopt(writer.path), *(old.segments if keep and old else ())]
        return directory.publish(refs, seconds).generation


def until(condition: Callable[[], Any], within_s: float = 120) -> float:
    """Wait for a condition; the seconds it took. Fails after within_s."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within_s, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - start


class Running:
    """A responder; its log is in a file."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, admin_port: int, log: Path) -> None:
        self.process, self.port, self.admin_port, self._log = process, port, admin_port, log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ask(self, serial: int, hash_name: str = "sha1") -> bytes:
        """Ask on a connection of its own; the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", "/", CA.request(serial, hash_name))
            return connection.getresponse().read()
        finally:
            connection.close()

    def status(self, serial: int) -> str:
        """Return good, revoked, or the OCSP status of an error."""
        response = ocsp.load_der_ocsp_response(self.ask(serial))
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return response.response_status.name.lower()
        return response.certificate_status.name.lower()

    def admin(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=120) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as err:
            with err:
                return err.code, err.read().decode()

    def health(self) -> Any:
        return json.loads(self.admin("/healthz")[1])

    def metric(self, name: str) -> float:
        """Return the value of a metric, labels included in its name."""
        for line in self.admin("/metrics")[1].splitlines():
            key, _, value = line.rpartition(" ")
            if key == name:
                return float(value)
        raise AssertionError(f"no metric {name}")

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            found += [int(pid) for pid in (task / "children").read_text().split()]
        return [pid for pid in found if b"ocspd.cli.worker" in _command(pid)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def all_gone(pids: Iterable[int]) -> bool:
    """Tell whether none of these processes runs any more."""
    return not any(_command(pid) for pid in pids)


@contextmanager
def responder(
    log: Path, *flags: str, command: Iterable[str] = OCSPD, wait: bool = True, **options: Any
) -> Iterator[Running]:
    """Run ocspserve on a free port until the block ends; `log` becomes its standard error."""
    port, admin_port = free_port(), free_port()
    words = [*command, "ocspserve", "-port", str(port), "-admin-port", str(admin_port)]
    words += ["-workers", "2", "-drain-delay", "0s", *flags]
    with log.open("ab") as file, subprocess.Popen(words, stderr=file, **options) as process:
        running = Running(process, port, admin_port, log)
        try:
            if wait:
                until(lambda: _ready(running))
            yield running
        finally:
            process.kill()
            process.wait()


def _ready(running: Running) -> bool:
    assert running.process.poll() is None, running.log
    try:
        return running.admin("/readyz")[0] == 200
    except OSError:
        return False
