"""A full pass into an index directory: one new segment, published when the pass has succeeded."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ocspd._index import Segment
from ocspd.index.directory import IndexDirectory
from ocspd.pki.certid import HASHES, issuer_hashes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from ocspd._writer import SegmentWriter
    from ocspd.clock import Clock
    from ocspd.index.manifest import SegmentRef
    from ocspd.pki.ocsp import OCSPSigner


@asynccontextmanager
async def index_pass(
    path: str | Path, signers: Sequence[OCSPSigner], clock: Clock
) -> AsyncIterator[SegmentWriter]:
    """Be the index's only writer and hand out a segment writer for the answers of one full pass.

    Leaving the block publishes the segment in place of all that held nothing but answers of these
    signers' issuers; segments that others' answers are in stay behind it. An error or cancellation
    leaves the index as it was. Raises IndexFileError when the directory cannot be used.
    """
    directory = IndexDirectory(path)
    with directory.lock():
        writer = directory.writer(int(clock.now().timestamp()))
        try:
            yield writer
            await asyncio.to_thread(_publish, directory, writer, signers, clock)
        finally:
            writer.abort()


def _publish(
    directory: IndexDirectory, writer: SegmentWriter, signers: Sequence[OCSPSigner], clock: Clock
) -> None:
    manifest = directory.manifest()
    kept = []
    if manifest is not None:
        ours = {(name, *issuer_hashes(signer.issuer, name)) for signer in signers for name in HASHES}
        kept = [ref for ref in manifest.segments if not ours.issuperset(_issuers(directory, ref))]
    writer.finish()
    now = clock.now().timestamp()
    directory.publish([directory.adopt(writer.path), *kept], int(now))
    directory.collect(now)


def _issuers(directory: IndexDirectory, ref: SegmentRef) -> list[tuple[str, bytes, bytes]]:
    return Segment(str(directory.segment_path(ref))).issuer_keys
