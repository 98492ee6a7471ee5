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

    from ocspd.clock import Clock
    from ocspd.index._writer import SegmentWriter
    from ocspd.index.manifest import SegmentRef
    from ocspd.pki.ocsp import OCSPSigner


@asynccontextmanager
async def index_pass(
    path: str | Path, signers: Sequence[OCSPSigner], clock: Clock
) -> AsyncIterator[SegmentWriter]:
    """Become the index's only writer and yield a segment writer for the responses of one full pass.

    Leaving the block publishes the segment in place of all that contain only responses of these signers'
    issuers; segments with responses of others stay behind it. If one of those also contains responses of
    these issuers, the pass's segment begins with the responses of newer segments, or an older response
    would come back for a certificate the pass does not sign. An error or cancellation leaves the
    index unchanged. Raises IndexFileError when the directory cannot be used.
    """
    directory = IndexDirectory(path)
    with directory.lock():
        manifest = directory.manifest()
        ours = {(name, *issuer_hashes(signer.issuer, name)) for signer in signers for name in HASHES}
        issuers = [(ref, set(_issuers(directory, ref))) for ref in manifest.segments] if manifest else []
        kept = [ref for ref, keys in issuers if not keys <= ours]
        hiding = []
        for at, (ref, keys) in enumerate(issuers):
            if keys <= ours and any(later & ours and not later <= ours for _, later in issuers[at + 1 :]):
                hiding.append(ref)
        writer = directory.writer(int(clock.now().timestamp()))
        try:
            for segment in reversed(directory.map(hiding)):
                await asyncio.to_thread(writer.add_segment, segment)
            yield writer
            await asyncio.to_thread(_publish, directory, writer, kept, clock)
        finally:
            writer.abort()


def _publish(directory: IndexDirectory, writer: SegmentWriter, kept: list[SegmentRef], clock: Clock) -> None:
    writer.finish()
    now = clock.now().timestamp()
    directory.publish([directory.adopt(writer.path), *kept], int(now))
    directory.collect(now)


def _issuers(directory: IndexDirectory, ref: SegmentRef) -> list[tuple[str, bytes, bytes]]:
    return Segment(str(directory.segment_path(ref))).issuer_keys
