"""A full pass of the signer over very many certificates, whose rows are made up as they are streamed.

    python -m bench.largepass DIRECTORY [--certificates 100000000] [--repeat]

`SignerDaemon` (the class behind `ocspd refresh`) signs every row with a P-256 key into the index of DIRECTORY
and merges as in production; one row in a hundred is revoked, CertIDs are SHA-1. It reports wall clock and CPU
time of the pass and of the merges after it, sizes, anonymous memory of all processes, the largest number of
segments for a lookup, and the most disk space the directory took. `--repeat` makes the pass a second time
with a new signer, which looks up every row in the index and finds a fresh response for each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data import Rows, make_signer
from bench.fullpass import private_mb

from ocspd.cli.loop import run_uvloop
from ocspd.clock import SystemClock
from ocspd.index.directory import IndexDirectory
from ocspd.signer.generations import Generations
from ocspd.signer.priority import weigh_session_least
from ocspd.signer.refreshing import SignerDaemon
from ocspd.signer.signer_parts import RefreshSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from ocspd.certdb.feed import Cursor, StatusRowChange
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.tally import Progress

TOLD_EVERY = 1_000_000


class SilentFeed:
    """A change feed without changes."""

    blind = ""

    async def current_cursor(self) -> Cursor:
        return {"position": 0}

    async def read(self, cursor: Mapping[str, str | int], limit: int) -> tuple[list[StatusRowChange], Cursor]:
        return [], dict(cursor)

    async def wait(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def trim(self, cursor: Mapping[str, str | int], keep: timedelta) -> int:
        return 0

    async def close(self) -> None:
        pass


class Source(Rows):
    """The same, as a daemon follows it."""

    def change_feed(self) -> SilentFeed:
        return SilentFeed()


class OneSigner:
    """A SignerSource that never changes."""

    def __init__(self, signer: OCSPSigner) -> None:
        self._next: list[OCSPSigner] | None = [signer]

    def load(self) -> list[OCSPSigner] | None:
        signers, self._next = self._next, None
        return signers


@dataclass(slots=True)
class Peaks:
    """The highest figure of each kind so far."""

    memory_mb: float = 0.0
    disk_bytes: int = 0
    segments: int = 0

    def look(self, generations: Generations) -> None:
        self.memory_mb = max(self.memory_mb, sum(map(private_mb, family())))
        self.disk_bytes = max(self.disk_bytes, disk_bytes(generations.directory.path))
        self.segments = max(self.segments, len(generations.segments))


def family() -> list[int]:
    """Return this process and its children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    # a child is listed by the thread that made it
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            children += " " + (task / "children").read_text()
    return [os.getpid(), *{int(pid) for pid in children.split()}]


def disk_bytes(directory: Path) -> int:
    """Return the disk space of the directory, files without a name included."""
    found = {}
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            status = path.stat()
            found[status.st_ino] = status.st_blocks * 512
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(path.readlink()).startswith(f"{directory}/"):
                status = path.stat()
                found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def is_writing(directory: Path) -> bool:
    """Whether a segment is being written."""
    return any(directory.glob(".new-*"))


def cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


async def make_pass(
    directory: Path, signer: OCSPSigner, count: int, *, grace_s: float, sample_s: float
) -> dict[str, Any]:
    """Run a signer until its first pass is over and nothing is left to merge."""
    begun, begun_cpu = time.monotonic(), cpu_s()
    told = [0]

    def progress(done: Progress) -> None:
        if done.certificates - told[0] >= TOLD_EVERY:
            told[0] = done.certificates
            print(
                f"[{time.monotonic() - begun:6.0f} s] {done.certificates:,} rows, {done.signed:,} signed, "
                f"{len(generations.segments)} segments, {peaks.memory_mb:.0f} MB, "
                f"{peaks.disk_bytes / 1e9:.2f} GB",
                file=sys.stderr,
                flush=True,
            )

    index = IndexDirectory(directory)
    peaks = Peaks()
    with index.lock():
        generations = Generations(index, SystemClock(), grace_s=grace_s)
        refresher = SignerDaemon(
            db=Source(count, signer.aki),
            source=OneSigner(signer),
            generations=generations,
            clock=SystemClock(),
            settings=RefreshSettings(pass_interval_s=1e9, merge_interval_s=0.5),
            on_progress=progress,
        )
        work = asyncio.create_task(refresher.run())
        ready = asyncio.create_task(refresher.ready.wait())
        while not ready.done():
            await asyncio.wait([work, ready], timeout=sample_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            await asyncio.to_thread(peaks.look, generations)
        pass_s, pass_cpu_s = time.monotonic() - begun, cpu_s() - begun_cpu
        segments_after = len(generations.segments)
        merge_peaks, quiet_since = Peaks(), time.monotonic()
        before = generations.segments
        size_before = sum(ref.size_bytes for ref in before)
        while time.monotonic() - quiet_since < 10:
            await asyncio.sleep(sample_s)
            await asyncio.to_thread(merge_peaks.look, generations)
            if generations.segments != before or await asyncio.to_thread(is_writing, directory):
                before, quiet_since = generations.segments, time.monotonic()
        merge_s = quiet_since - begun - pass_s
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    size = sum(ref.size_bytes for ref in generations.segments)
    return {
        "certificates": count,
        "signed": refresher.stats.responses,
        "pass_s": round(pass_s, 1),
        "pass_cpu_s": round(pass_cpu_s, 1),
        "per_second": round(count / pass_s),
        "private_mb": round(max(peaks.memory_mb, merge_peaks.memory_mb)),
        "segments_at_most": peaks.segments,
        "segments_after_pass": segments_after,
        "pass_disk_peak_gb": round(peaks.disk_bytes / 1e9, 2),
        "merge_s": round(merge_s, 1),
        "merge_disk_peak_gb": round(merge_peaks.disk_bytes / 1e9, 2),
        "merge_disk_peak_times_index": round(merge_peaks.disk_bytes / size_before, 2),
        "segments": len(generations.segments),
        "index_gb": round(size / 1e9, 3),
        "bytes_per_entry": round(size / count, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--certificates", type=int, default=100_000_000)
    parser.add_argument("--grace", type=float, default=5.0, help="seconds that replaced segments are kept")
    parser.add_argument("--sample", type=float, default=0.5, help="seconds between looks at memory and disk")
    parser.add_argument("--repeat", action="store_true")
    options = parser.parse_args()
    weigh_session_least()  # as the daemon does
    signer = make_signer("p256")
    options.directory.mkdir(parents=True, exist_ok=True)
    for _ in range(2 if options.repeat else 1):
        told = run_uvloop(
            make_pass(
                options.directory,
                signer,
                options.certificates,
                grace_s=options.grace,
                sample_s=options.sample,
            )
        )
        print(json.dumps(told, indent=1), flush=True)


if __name__ == "__main__":
    main()
