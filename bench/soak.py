"""Millions of connections to one responder: do its memory and its descriptors stay flat?

    python -m bench.soak [--connections 2000000] [--steps 10] [--entries 100000] [--workers 2]

Clients open a connection for each request; steps alternate between GET and POST. After each step, when the
clients have gone, the private memory (kilobytes, all processes of the responder together) and the open
descriptors of every process are read. Exit status 1 when the last reading is above the second one (the first
step fills what is filled only once) by more than 1 MB or 2 descriptors, or when a request got no reply.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import data, load, servers
from tests.ports import free_port

MOST_GROWTH_BYTES = 1 << 20
MOST_GROWTH_DESCRIPTORS = 2
STEP_S = 5


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of a responder after so many connections."""

    connections: int
    errors: int
    private_bytes: int
    descriptors: int


def read(server: servers.Server, connections: int, errors: int) -> Reading:
    """Look at all processes of a server."""
    pids = server.pids()
    return Reading(
        connections,
        errors,
        sum(servers.private_bytes(pid) for pid in pids),
        sum(1 for pid in pids for _ in Path(f"/proc/{pid}/fd").iterdir()),
    )


def verdict(readings: list[Reading]) -> str:
    """Return what is wrong with a series of readings; "" for a flat one without errors."""
    second, last = readings[1], readings[-1]
    if last.errors:
        return f"{last.errors} requests got no reply"
    if last.private_bytes > second.private_bytes + MOST_GROWTH_BYTES:
        return f"private memory grew from {second.private_bytes} to {last.private_bytes} bytes"
    if last.descriptors > second.descriptors + MOST_GROWTH_DESCRIPTORS:
        return f"open descriptors grew from {second.descriptors} to {last.descriptors}"
    return ""


def soak(scratch: Path, wrk: str, options: argparse.Namespace) -> list[Reading]:
    """Open the connections; return a reading before the first and after each step."""
    signer = data.make_signer("p256")
    data.build_index(scratch / "index", data.AnswerSource(signer, real_every=1_000), options.entries)
    requests = data.RequestSource(signer)
    files = (scratch / "get", scratch / "post")
    for path, make in zip(files, (requests.get, requests.post), strict=True):
        data.write_requests(
            path, (data.closing(make(number * 7919 % options.entries)) for number in range(50_000))
        )
    port = free_port()
    command = servers.ocspd_command(scratch / "index", port, workers=options.workers)
    with (
        (scratch / "log").open("wb") as log,
        servers.running("ocspd", command, port, cpus="0-1", log=log) as server,
    ):
        readings = [read(server, 0, 0)]
        made = errors = 0
        for step in range(1, options.steps + 1):
            while made < options.connections * step // options.steps:
                run = load.saturate(
                    server, "soak", files[step % 2], wrk=wrk, cpus="0-1", seconds=STEP_S, connections=256
                )
                made += run.requests
                errors += run.errors
            time.sleep(1)  # the last clients leave
            readings.append(read(server, made, errors))
            now = readings[-1]
            print(
                f"{now.connections:>10,} connections  {now.errors} errors  "
                f"{now.private_bytes / 1e6:6.2f} MB private  {now.descriptors} descriptors",
                flush=True,
            )
    return readings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--connections", type=int, default=2_000_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    wrk = servers.find("wrk")
    if wrk is None:
        print("wrk is not installed (Debian package wrk)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        readings = soak(Path(scratch), wrk, options)
    wrong = verdict(readings)
    print(wrong or "flat", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
