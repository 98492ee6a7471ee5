"""Load generators: wrk for saturation, openloop.c for latency at a given rate; one request to look at."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.servers import Server

HERE = Path(__file__).parent
_WRK_ERRORS = ("connect", "read", "write", "status", "timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The result of one run of a load generator against one server."""

    server: str
    scenario: str
    requests: int
    per_second: float
    cpu_us: float
    """CPU time of the server per request, microseconds."""
    p50_us: float
    p99_us: float
    max_us: float
    octets: float
    """Bytes of a reply, head included (wrk only)."""
    errors: int


def saturate(  # noqa: PLR0913  (one value for each thing varied)
    server: Server,
    scenario: str,
    requests: Path,
    *,
    wrk: str,
    cpus: str,
    seconds: int,
    connections: int = 64,
    threads: int = 1,
    host: str = "127.0.0.1",
) -> Run:
    """Send requests as fast as `connections` closed loops can; read the server's CPU time around it."""
    before = server.cpu_s()
    done = subprocess.run(
        [
            *("taskset", "-c", cpus, wrk, "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s"),
            *("--timeout", "10s", "-s", HERE / "ocsp.lua", f"http://{host}:{server.port}", "--", requests),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    if done.returncode:
        raise RuntimeError(f"{server.name}, {scenario}: wrk: {(done.stderr or done.stdout).strip()}")
    cpu_s = server.cpu_s() - before
    figures = _json_line(done.stdout)
    count = figures["requests"]
    if not count:
        raise RuntimeError(f"{server.name} sent no reply in {scenario}: {done.stdout}")
    return Run(
        server=server.name,
        scenario=scenario,
        requests=count,
        per_second=count / (figures["duration_us"] / 1e6),
        cpu_us=cpu_s / count * 1e6,
        p50_us=figures["p50_us"],
        p99_us=figures["p99_us"],
        max_us=figures["max_us"],
        octets=figures["bytes"] / count,
        errors=sum(figures[key] for key in _WRK_ERRORS),
    )


def one_by_one(  # noqa: PLR0913  (as above)
    server: Server, scenario: str, requests: Path, *, cpus: str, seconds: int, connections: int = 8
) -> Run:
    """Ask with closed loops that open a connection for each request, without wrk's probe in between.

    For servers that a connection without a request drives into a loop. A Python program: enough for some
    thousand requests a second, more would measure the program.
    """
    before = server.cpu_s()
    numbers = map(str, (server.port, connections, seconds))
    words = [sys.executable, "-m", "bench.load", *numbers, str(requests)]
    done = subprocess.run(
        ["taskset", "-c", cpus, *words], check=True, capture_output=True, text=True, timeout=seconds + 60
    )
    cpu_s = server.cpu_s() - before
    figures = json.loads(done.stdout)
    count = figures["requests"]
    if not count:
        raise RuntimeError(f"{server.name} answered nothing in {scenario}")
    return Run(
        server=server.name,
        scenario=scenario,
        requests=count,
        per_second=count / figures["seconds"],
        cpu_us=cpu_s / count * 1e6,
        p50_us=figures["p50_us"],
        p99_us=figures["p99_us"],
        max_us=figures["max_us"],
        octets=figures["octets"] / count,
        errors=figures["errors"],
    )


def _loops(port: int, connections: int, seconds: int, file: Path) -> dict[str, float]:
    """Be the load generator of `one_by_one`."""
    requests = list(_requests(file.read_bytes()))
    end = time.monotonic() + seconds
    latencies: list[float] = []
    octets = errors = 0

    def loop(first: int) -> None:
        nonlocal octets, errors
        at = first
        while (begun := time.monotonic()) < end:
            at = (at + connections) % len(requests)
            size = 0
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                    client.sendall(requests[at])
                    while data := client.recv(65_536):
                        size += len(data)
            except OSError:
                errors += 1
                continue
            errors += not size
            octets += size
            latencies.append((time.monotonic() - begun) * 1e6)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cuts = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
    return {
        "requests": len(latencies),
        "seconds": seconds,
        "octets": octets,
        "errors": errors,
        "p50_us": cuts[49],
        "p99_us": cuts[98],
        "max_us": max(latencies, default=0.0),
    }


def _requests(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _json_line(output: str) -> dict[str, Any]:
    for line in output.splitlines():
        if line.startswith("JSON "):
            figures: dict[str, Any] = json.loads(line[5:])
            return figures
    raise RuntimeError(f"wrk printed no figures: {output}")


def compile_openloop(directory: Path) -> Path:
    """Compile the open-loop generator; RuntimeError with the compiler's message when that fails."""
    program = directory / "openloop"
    done = subprocess.run(
        [os.environ.get("CC", "cc"), "-O2", "-o", program, HERE / "openloop.c"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"openloop.c does not compile: {done.stderr}")
    return program


def at_rate(  # noqa: PLR0913  (one value for each thing varied)
    server: Server,
    scenario: str,
    requests: Path,
    *,
    openloop: Path,
    cpus: str,
    seconds: int,
    rate: float,
    connections: int = 64,
    waits: bool = False,
) -> Run:
    """Send requests at a fixed rate; latency counts from the time each request was due.

    Where it may, the generator runs before everything else on its CPU: what holds it up counts as latency.
    With `waits` it sleeps in between instead of taking a CPU for itself.
    """
    before = server.cpu_s()
    done = subprocess.run(
        [
            *("sh", "-c", '{ echo -20 >/proc/self/autogroup; } 2>/dev/null; exec "$@"', "sh"),
            *("taskset", "-c", cpus, openloop, str(server.port), str(connections)),
            *(f"{rate:.0f}", str(seconds), requests),
            *(("wait",) if waits else ()),
        ],
        start_new_session=True,
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    if done.returncode:
        raise RuntimeError(f"{server.name}, {scenario} at {rate:.0f}/s: {done.stderr.strip()}")
    cpu_s = server.cpu_s() - before
    figures = json.loads(done.stdout)
    return Run(
        server=server.name,
        scenario=scenario,
        requests=figures["requests"],
        per_second=figures["rate"],
        cpu_us=cpu_s / figures["requests"] * 1e6,
        p50_us=figures["p50_us"],
        p99_us=figures["p99_us"],
        max_us=figures["max_us"],
        octets=0,
        errors=0,
    )


def ask(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Send one HTTP request and return head (with its empty line) and body of the reply."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = connection.recv(65536)
            if not chunk:
                raise RuntimeError(f"port {port} closed the connection after {data[:80]!r}")
            data += chunk
        head, body = data.split(b"\r\n\r\n", 1)
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(body) < length:
            body += connection.recv(65536)
        return head + b"\r\n\r\n", body


if __name__ == "__main__":
    _port, _connections, _seconds = map(int, sys.argv[1:4])
    print(json.dumps(_loops(_port, _connections, _seconds, Path(sys.argv[4]))))
