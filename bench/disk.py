"""How much disk an index takes while certificates change (S10 of the named faults).

    python -m bench.disk [--certificates 100000] [--rate 20] [--seconds 300]

Changes are signed and published one by one at the given rate, with merges in parallel as in the signer. Once
a second the sizes of all files in the directory are added up, unfinished ones included. Prints the largest
size of what is published, the most disk space used, and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data import make_signer

from ocspd.clock import SystemClock
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertStatus
from ocspd.signer.generations import Generations

if TYPE_CHECKING:
    from ocspd.index._writer import SegmentWriter
    from ocspd.pki.ocsp import OCSPSigner


def base(directory: IndexDirectory, signer: OCSPSigner, certificates: int) -> str:
    """Sign every certificate once, with both CertIDs."""
    batch = signer.batch()
    with directory.writer(int(time.time())) as writer:
        batch.sign_rows(
            [(serial, 0, 0, None) for serial in range(certificates)],
            signer.policy.certid_hashes,
            writer=writer,
            due_s=int(batch.next_update.timestamp()),
            keep=False,
        )
        writer.finish()
    return writer.path


async def change(generations: Generations, signer: OCSPSigner, serial: int) -> None:
    """Publish one revocation."""
    now = generations.clock.now()
    batch = signer.batch(now, changed=True)
    answers = batch.sign_each(serial, CertStatus.REVOKED, 1, now, signer.policy.certid_hashes)

    def fill(writer: SegmentWriter) -> None:
        for answer in answers:
            writer.add(answer, int(batch.next_update.timestamp()))

    await generations.add_changes(fill, [now.timestamp()])


async def merges(generations: Generations) -> None:
    """Merge as the signer does."""
    while True:
        if not await generations.merge():
            await asyncio.sleep(5)


def size(path: Path) -> int:
    """Add up the files of a directory."""
    total = 0
    for each in path.iterdir():
        try:
            total += each.stat().st_size
        except FileNotFoundError:
            continue
    return total


async def measure(path: Path, options: argparse.Namespace) -> None:
    """Run and print."""
    directory = IndexDirectory(path)
    signer = make_signer("p256")
    with directory.lock():
        generations = Generations(directory, SystemClock())
        await generations.add_slice([base(directory, signer, options.certificates)])
        await generations.end_pass()
        work = asyncio.create_task(merges(generations))
        begun = looked = time.monotonic()
        most = published = changes = segments = 0
        while (now := time.monotonic()) < begun + options.seconds:
            await change(generations, signer, changes % options.certificates)
            changes += 1
            if now - looked >= 1:
                looked = now
                most = max(most, await asyncio.to_thread(size, path))
                published = max(published, sum(ref.size_bytes for ref in generations.segments))
                segments = max(segments, len(generations.segments))
            await asyncio.sleep(max(0.0, begun + changes / options.rate - time.monotonic()))
        work.cancel()
        await asyncio.wait([work])
        generations.close()
    seconds = time.monotonic() - begun
    print(
        f"{changes} changes in {seconds:.0f} s, {changes / seconds:.1f} a second; up to {segments} segments"
    )
    print(
        f"published up to {published / 1e6:.1f} MB, disk up to {most / 1e6:.1f} MB, "
        f"{(most - 2 * published) / 1e6:.1f} MB more than twice that"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--certificates", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=300.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocspd-bench-") as folder:
        asyncio.run(measure(Path(folder), options))


if __name__ == "__main__":
    main()
