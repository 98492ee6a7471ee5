"""Send requests as users do, with `openssl ocsp`, and check the replies under full load.

python -m bench.openssl URL -issuer CA -CAfile CA [-seconds 10] [-parallel 4] CERT…      any responder
python -m bench.openssl [-seconds 10] [-parallel 4]                                      one of its own

1. Loops of the real program, verification included. The time of a process is mostly its start, so the
   exchange alone is timed beside it: the bytes of `openssl ocsp -reqout` on a connection of their own.
2. wrk sends the same requests as fast as the responder can, POST and GET, on new and kept-alive connections;
   the open-loop generator sends them at half of that rate.
3. Replies sampled meanwhile are verified by `openssl ocsp -respin`: a figure counts only if openssl accepts
   the responses.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench import data, load, servers
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_STATUSES = ("good", "revoked", "unknown")
_CERTIFICATES = 32
"""How many certificates there are if the responder is started here."""
_CHECKED = 50
"""Replies of each kind of load that openssl verifies."""


@dataclass(frozen=True, slots=True)
class Target:
    """The responder, and the certificates to ask about."""

    url: str
    issuer: Path
    ca_file: Path
    certificates: tuple[Path, ...]
    admin_url: str = ""
    """The URL of the responder's admin listener, if known."""
    pid: int = 0
    """The process ID of the responder, if it was started here."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the URL."""
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise RuntimeError(f"{self.url}: an http:// URL is needed (OCSP responses are signed themselves)")
        return parts.hostname, parts.port or 80

    @property
    def path(self) -> str:
        """Path of the URL, without a slash at its end."""
        return urllib.parse.urlsplit(self.url).path.rstrip("/")


@dataclass(slots=True)
class Tally:
    """What the loops of openssl found. Times in seconds."""

    processes: list[float] = field(default_factory=list)
    exchanges: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    verified: int = 0
    complaints: Counter[str] = field(default_factory=Counter)


def openssl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run openssl and return its output."""
    return subprocess.run(["openssl", *map(str, words)], check=False, capture_output=True, text=True)


def write_request(target: Target, certificate: Path, file: Path) -> bytes:
    """Have openssl write its request for a certificate; return it. RuntimeError with openssl's message."""
    done = openssl(*("ocsp", "-issuer", target.issuer, "-cert", certificate, "-no_nonce", "-reqout", file))
    if not file.exists():
        raise RuntimeError(f"openssl makes no request for {certificate}: {done.stderr.strip()}")
    return file.read_bytes()


def exchange(target: Target, request: bytes) -> tuple[float, bytes]:
    """Send HTTP bytes on a connection of their own; return the time to the last byte and what came."""
    begun = time.perf_counter()
    with socket.create_connection(target.address, timeout=10) as connection:
        connection.sendall(request)
        reply = b""
        while part := connection.recv(65_536):
            reply += part
    return time.perf_counter() - begun, reply


def as_openssl(target: Target, der: bytes) -> bytes:
    """Return the HTTP request openssl sends: HTTP/1.0, POST, one to a connection."""
    host, port = target.address
    return (
        f"POST {target.path or '/'} HTTP/1.0\r\nHost: {host}:{port}\r\n"
        f"Content-Type: application/ocsp-request\r\nContent-Length: {len(der)}\r\n\r\n"
    ).encode() + der


def http_requests(target: Target, ders: Sequence[bytes], method: str, *, close: bool) -> list[bytes]:
    """Return HTTP/1.1 requests for the load generators."""
    host, port = target.address
    fields = f"Host: {host}:{port}\r\n" + ("Connection: close\r\n" if close else "")
    if method == "GET":
        paths = (urllib.parse.quote(base64.b64encode(der), safe="") for der in ders)
        return [f"GET {target.path}/{path} HTTP/1.1\r\n{fields}\r\n".encode() for path in paths]
    return [
        f"POST {target.path or '/'} HTTP/1.1\r\n{fields}Content-Type: application/ocsp-request\r\n"
        f"Content-Length: {len(der)}\r\n\r\n".encode()
        + der
        for der in ders
    ]


def run_loop(target: Target, ders: Sequence[bytes], deadline: float, tally: Tally, number: int) -> None:
    """Run one openssl after the other until the deadline, and time the exchange alone beside each."""
    order = random.Random(number)
    while time.monotonic() < deadline:
        at = order.randrange(len(target.certificates))
        begun = time.perf_counter()
        done = openssl(
            *("ocsp", "-issuer", target.issuer, "-cert", target.certificates[at], "-no_nonce"),
            *("-CAfile", target.ca_file, "-url", target.url, "-timeout", "10"),
        )
        tally.processes.append(time.perf_counter() - begun)
        first = done.stdout.partition("\n")[0].rpartition(": ")[2].strip()
        tally.statuses[first if first in _STATUSES else "no status"] += 1
        if "Response verify OK" in done.stderr:
            tally.verified += 1
        else:
            tally.complaints[(done.stderr.strip() or "nothing said").splitlines()[0]] += 1
        with contextlib.suppress(OSError):
            tally.exchanges.append(exchange(target, as_openssl(target, ders[at]))[0])


def ask_with_openssl(target: Target, ders: Sequence[bytes], *, seconds: float, parallel: int) -> Tally:
    """Run loops of openssl side by side and print what they found."""
    tally = Tally()
    begun = time.monotonic()
    loops = [
        threading.Thread(target=run_loop, args=(target, ders, begun + seconds, tally, number))
        for number in range(parallel)
    ]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    elapsed = time.monotonic() - begun
    count = len(tally.processes)
    found = ", ".join(f"{status} {number}" for status, number in tally.statuses.most_common())
    print(f"openssl ocsp, {parallel} at a time: {count / elapsed:,.0f} responses/s; {found}; "
          f"{100 * tally.verified / max(count, 1):.1f} % verified")  # fmt: skip
    for what, times in (("whole process", tally.processes), ("exchange alone", tally.exchanges)):
        if times:
            p50, p99 = quantiles(times)
            print(f"  {what}: p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")
    for complaint, number in tally.complaints.most_common(3):
        print(f"  {number} times: {complaint}")
    return tally


def quantiles(values: Sequence[float]) -> tuple[float, float]:
    """Return median and 99th percentile."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def replay(target: Target, ders: Sequence[bytes], scratch: Path, *, seconds: int) -> bool:
    """Send openssl's requests at full rate; return whether openssl accepts all replies sampled meanwhile."""
    wrk = servers.find("wrk")
    if wrk is None:
        print("left out: the full rate needs wrk (Debian package wrk)")
        return True
    fine = True
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    openloop = load.compile_openloop(scratch) if target.address[0] == "127.0.0.1" else None
    # The load generators know the server by its port; its CPU time is not ours to read here.
    server = servers.Server("responder", target.address[1], subprocess.Popen(["sleep", "86400"]))
    try:
        for method in ("POST", "GET"):
            for close in (True, False):
                name = f"{method}, {'a connection each' if close else 'kept alive'}"
                file = scratch / "requests"
                requests = http_requests(target, ders, method, close=close)
                data.write_requests(file, iter(requests))
                checking = Checker(target, http_requests(target, ders, method, close=True), scratch)
                with checking:
                    run = load.saturate(
                        server, name, file, wrk=wrk, cpus=cpus, seconds=seconds, host=target.address[0]
                    )
                print(f"{name}: {run.per_second:,.0f} requests/s, p50 {run.p50_us:,.0f} us, "
                      f"p99 {run.p99_us:,.0f} us, {run.errors} errors; {checking.summary}")  # fmt: skip
                fine = fine and checking.accepted == checking.checked and run.errors == 0
                if openloop and not close:
                    half = load.at_rate(
                        server,
                        name,
                        file,
                        openloop=openloop,
                        cpus=cpus,
                        seconds=seconds,
                        rate=run.per_second / 2,
                    )
                    print(f"  at half of that rate: p50 {half.p50_us:,.0f} us, p99 {half.p99_us:,.0f} us")
    finally:
        server.process.terminate()
        server.process.wait()
    return fine


class Checker:
    """Samples replies while a load runs, and has openssl verify them afterwards."""

    def __init__(self, target: Target, requests: Sequence[bytes], scratch: Path) -> None:
        self.checked = self.accepted = 0
        self._target, self._requests, self._scratch = target, requests, scratch
        self._stop = threading.Event()
        self._replies: list[tuple[int, bytes]] = []
        self._thread = threading.Thread(target=self._take)

    def _take(self) -> None:
        while not self._stop.wait(0.05) and len(self._replies) < _CHECKED:
            at = len(self._replies) % len(self._requests)
            with contextlib.suppress(OSError):
                self._replies.append((at, exchange(self._target, self._requests[at])[1]))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        file = self._scratch / "response.der"
        for at, reply in self._replies:
            file.write_bytes(reply.partition(b"\r\n\r\n")[2])
            done = openssl(
                *("ocsp", "-respin", file, "-issuer", self._target.issuer, "-CAfile", self._target.ca_file),
                *("-cert", self._target.certificates[at]),
            )
            self.checked += 1
            self.accepted += "Response verify OK" in done.stderr and done.returncode == 0

    @property
    def summary(self) -> str:
        """The share that openssl accepts, in words."""
        return f"openssl accepts {self.accepted} of {self.checked} replies taken meanwhile"


@contextlib.contextmanager
def own_responder(scratch: Path) -> Iterator[Target]:
    """Start a responder over certificates made for the purpose."""
    authority = data.make_authority("p256")
    authority.write(scratch)
    certificates = []
    for number in range(_CERTIFICATES):
        file = scratch / f"{number}.pem"
        file.write_bytes(authority.certificate(number))
        certificates.append(file)
    source = data.AnswerSource(authority.signer, real_every=1)
    data.build_index(scratch / "index", source, 10_000)
    port, admin_port = free_port(), free_port()
    command = servers.ocspd_command(scratch / "index", port, workers=1, admin_port=admin_port)
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    with (
        (scratch / "ocspd.log").open("wb") as log,
        servers.running("ocspd", command, port, cpus=cpus, log=log) as server,
    ):
        ca = scratch / "ca.pem"
        admin_url = f"http://127.0.0.1:{admin_port}"
        yield Target(f"http://127.0.0.1:{port}", ca, ca, tuple(certificates), admin_url, server.process.pid)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.openssl", description="Ask a responder with openssl ocsp.")
    parser.add_argument("url", nargs="?", help="http://HOST[:PORT][/PATH]; without it one is started")
    parser.add_argument("-issuer", type=Path, help="certificate of the CA, PEM")
    parser.add_argument("-CAfile", dest="ca_file", type=Path, help="certificates to trust, PEM")
    parser.add_argument("-seconds", type=int, default=10, help="of each run (default 10)")
    parser.add_argument("-parallel", type=int, default=4, help="openssl processes at a time (default 4)")
    parser.add_argument("certificates", nargs="*", type=Path, help="certificates to ask about, PEM")
    arguments = parser.parse_intermixed_args()
    if arguments.url and not (arguments.issuer and arguments.ca_file and arguments.certificates):
        parser.error("with a URL, -issuer, -CAfile and at least one certificate are needed")
    if arguments.seconds < 1 or not 1 <= arguments.parallel <= 256:
        parser.error("-seconds must be positive, -parallel between 1 and 256")
    if shutil.which("openssl") is None:
        parser.error("openssl is not installed")
    scratch = Path(tempfile.mkdtemp(prefix="ocspd-bench-"))
    try:
        with contextlib.ExitStack() as stack:
            if arguments.url:
                target = Target(
                    arguments.url, arguments.issuer, arguments.ca_file, tuple(arguments.certificates)
                )
            else:
                target = stack.enter_context(own_responder(scratch))
            ders = [
                write_request(target, certificate, scratch / f"{number}.request")
                for number, certificate in enumerate(target.certificates)
            ]
            tally = ask_with_openssl(target, ders, seconds=arguments.seconds, parallel=arguments.parallel)
            fine = replay(target, ders, scratch, seconds=arguments.seconds)
    except (OSError, RuntimeError, subprocess.SubprocessError) as err:
        print(f"bench.openssl: {err}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0 if fine and tally.verified == len(tally.processes) else 1


if __name__ == "__main__":
    sys.exit(main())
