"""Two responders on one index, behind the load balancers that `deploy/` configures."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.index.directory import IndexDirectory
from ocspd.model import CertStatus
from tests.binary import OCSPD
from tests.pki.chain import make_chain
from tests.ports import free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
_START_S = 120


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a URL answers 200; fail with the log when the process ends or it takes too long."""
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as err:
            err.close()
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{url} does not respond: {log.read_text()}")


@dataclass(slots=True)
class Responder:
    """One `ocspd ocspserve` that can be stopped and started again on the same ports."""

    index: Path
    log: Path
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*OCSPD, "ocspserve", "-index", str(self.index), "-workers", "1"),
                    *("-address", "127.0.0.1", "-port", str(self.port)),
                    *("-admin-address", "127.0.0.1", "-admin-port", str(self.admin_port)),
                ],
                stdout=log,
                stderr=log,
            )
        wait_for(f"http://127.0.0.1:{self.admin_port}/readyz", self.process, self.log)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(120)

    def metrics(self) -> str:
        """Return what Prometheus would scrape."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def answers_again(self) -> bool:
        """Tell whether it has answered a client since it was started, by its own count."""
        lines = re.findall(
            r'^ocspd_requests_total\{.*outcome="good".*\} (\S+)$', self.metrics(), re.MULTILINE
        )
        return sum(map(float, lines)) > 0


@contextlib.contextmanager
def two_responders(directory: Path) -> Iterator[tuple[Responder, Responder]]:
    """Write a chain and an index with its one certificate, and serve it twice."""
    chain = make_chain()
    chain.write(directory)
    index = IndexDirectory(directory / "index")
    with index.lock():
        now_s = int(time.time())
        with index.writer(now_s) as writer:
            writer.add(chain.signer().sign(serial=chain.leaf.serial_number, status=CertStatus.GOOD))
            writer.finish()
        (segment,) = index.path.glob("new-*.seg")
        index.publish([index.adopt(segment)], now_s)
    both = Responder(index.path, directory / "a.log"), Responder(index.path, directory / "b.log")
    try:
        for responder in both:
            responder.start()
        yield both
    finally:
        for responder in both:
            if responder.process is not None and responder.process.poll() is None:
                responder.process.kill()
                responder.process.wait()


@contextlib.contextmanager
def balancer(
    argv: list[str | Path], port: int, log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a load balancer until the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, env=os.environ | (env or {}))
    try:
        wait_for(f"http://127.0.0.1:{port}/", process, log)
        yield process
    finally:
        process.terminate()
        process.wait(120)


@contextlib.contextmanager
def haproxy(directory: Path, a: Responder, b: Responder) -> Iterator[int]:
    """Run HAProxy with the configuration of `deploy/`; gives its port."""
    port = free_port()
    env = {
        "OCSPD_BIND": f"127.0.0.1:{port}",
        "OCSPD_A": f"127.0.0.1:{a.port}",
        "OCSPD_B": f"127.0.0.1:{b.port}",
        "OCSPD_A_ADMIN": str(a.admin_port),
        "OCSPD_B_ADMIN": str(b.admin_port),
    }
    command: list[str | Path] = [need("haproxy"), "-db", "-f", DEPLOY / "haproxy" / "haproxy.cfg"]
    with balancer(command, port, directory / "haproxy.log", env):
        yield port


def nginx_main(directory: Path, site: Path) -> Path:
    """Write an nginx.conf that includes a site and keeps everything in a directory."""
    main = directory / "nginx.conf"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    main.write_text(
        f"pid {directory}/nginx.pid;\nerror_log stderr warn;\nevents {{}}\nhttp {{\n  access_log off;\n"
        + "".join(f"  {kind}_temp_path {directory}/{kind};\n" for kind in kinds)
        + f"  include {site};\n}}\n"
    )
    return main


@contextlib.contextmanager
def nginx(directory: Path, a: Responder, b: Responder) -> Iterator[int]:
    """Run nginx with the configuration of `deploy/`, its ports replaced; gives its port."""
    port = free_port()
    site = directory / "site.conf"
    text = (DEPLOY / "nginx" / "ocspd.conf").read_text()
    for old, new in (("8080", port), ("8889", a.port), ("8890", b.port)):
        text = re.sub(rf"\b{old}\b", str(new), text)
    site.write_text(text)
    main = nginx_main(directory, site)
    command: list[str | Path] = [
        *(need("nginx"), "-e", "stderr", "-p", directory, "-c", main, "-g", "daemon off;"),
    ]
    with balancer(command, port, directory / "nginx.log"):
        yield port
