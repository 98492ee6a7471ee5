"""What a signer costs the clients of a responder beside it: latency when idle, during a pass, during merges.

    python -m bench.interference [--entries 1000000] [--rate 20000] [--seconds 10] [--repeats 5]

Each program is a session of its own, as services are. One worker serves an index on one CPU; `openloop` sends
requests from the other at a steady rate, so latency counts from the time a request was due. What runs beside
the worker is pinned to the worker's CPU; on the other it would disturb the measurement. The first round is a
warm-up. Then three kinds of round alternate:

    quiet   nothing else runs
    pass    a signer (`bench.largepass`: the daemon's own classes, made-up rows) signs certificates of another
            CA into the served index; the responder loads each generation
    merge   two segments of a million responses are merged over and over, as in the daemon
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import data, load, servers
from tests.ports import free_port

from ocspd.cli.loop import run_uvloop
from ocspd.clock import SystemClock
from ocspd.index.directory import IndexDirectory
from ocspd.index.manifest import parse_manifest
from ocspd.signer.generations import Generations
from ocspd.signer.priority import weigh_session_least

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED = 50_000
SETTLE_S = 3.0
MERGED_ENTRIES = 1_000_000
UNMERGED = "unmerged.json"


async def merge_for_ever(directory: Path) -> None:
    """Merge the two segments of an index again and again, publishing every time."""
    weigh_session_least()  # as the daemon does
    index = IndexDirectory(directory)
    unmerged = parse_manifest(*await asyncio.to_thread(read_unmerged, directory))
    with index.lock():
        while True:
            generations = Generations(index, SystemClock(), grace_s=1e9, settled=unmerged.segments)
            if not await generations.merge():
                raise SystemExit(f"{directory}: nothing to merge")
            generations.close()


def read_unmerged(directory: Path) -> tuple[bytes, str]:
    path = directory / UNMERGED
    return path.read_bytes(), str(path)


@contextlib.contextmanager
def beside(command: list[str | Path] | None) -> Iterator[None]:
    """Run a program on the worker's CPU."""
    if command is None:
        yield
        return
    with subprocess.Popen(
        ["taskset", "-c", "0", sys.executable, "-m", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # as services are
    ) as process:
        try:
            time.sleep(SETTLE_S)
            yield
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {process.returncode} before the round was over")
        finally:
            process.terminate()


def two_segments(directory: Path, source: data.AnswerSource) -> None:
    """Make an index of two segments that are due for a merge."""
    index = IndexDirectory(directory)
    now_s = int(time.time())
    with index.lock():
        refs = []
        for first in (0, MERGED_ENTRIES):
            with index.writer(now_s) as writer:
                for number in range(first, first + MERGED_ENTRIES):
                    writer.add(source.der(number))
                writer.finish()
                refs.append(index.adopt(writer.path))
        (directory / UNMERGED).write_bytes(index.publish(refs, now_s).to_bytes())


def rounds(options: argparse.Namespace, scratch: Path) -> dict[str, list[load.Run]]:
    """Run every kind of round `repeats` times."""
    signer = data.make_signer("p256")
    source = data.AnswerSource(signer, real_every=1_000)
    index, merged = scratch / "index", scratch / "merged"
    print("making indexes", file=sys.stderr)
    data.build_index(index, source, options.entries)
    two_segments(merged, source)
    make = data.RequestSource(signer).get
    step = max(1, options.entries // ASKED)
    data.write_requests(scratch / "requests", (make(number) for number in range(0, options.entries, step)))
    openloop = load.compile_openloop(scratch)
    port = free_port()
    kinds: dict[str, list[str | Path] | None] = {
        "quiet": None,
        "pass": ["bench.largepass", index, "--sample", "60"],
        "merge": ["bench.interference", "--merge", merged],
    }
    found: dict[str, list[load.Run]] = {kind: [] for kind in kinds}
    with (
        (scratch / "log").open("wb") as log,
        servers.running(
            "ocspd", servers.ocspd_command(index, port, workers=1), port, cpus="0", log=log
        ) as server,
    ):
        load.at_rate(
            server, "warm-up", scratch / "requests", openloop=openloop, cpus="1", seconds=5, rate=options.rate
        )
        for number in range(options.repeats):
            for kind, command in kinds.items():
                with beside(command):
                    run = load.at_rate(
                        server,
                        kind,
                        scratch / "requests",
                        openloop=openloop,
                        cpus="1",
                        seconds=options.seconds,
                        rate=options.rate,
                    )
                found[kind].append(run)
                print(
                    f"{number + 1}/{options.repeats} {kind}: p50 {run.p50_us:.0f} us, "
                    f"p99 {run.p99_us:.0f} us, longest {run.max_us:.0f} us",
                    file=sys.stderr,
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=20_000.0, help="requests a second")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--merge", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.merge is not None:
        run_uvloop(merge_for_ever(options.merge))
    with tempfile.TemporaryDirectory(prefix="ocspd-bench-") as scratch:
        found = rounds(options, Path(scratch))
    medians = {
        kind: {
            name: round(statistics.median(getattr(run, name) for run in runs), 1)
            for name in ("p50_us", "p99_us", "max_us")
        }
        for kind, runs in found.items()
    }
    quiet = medians["quiet"]["p99_us"]
    result = {
        "entries": options.entries,
        "rate_per_s": options.rate,
        "rounds": options.repeats,
        **medians,
        "p99_times_quiet": {
            kind: round(medians[kind]["p99_us"] / quiet, 2) for kind in medians if kind != "quiet"
        },
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
