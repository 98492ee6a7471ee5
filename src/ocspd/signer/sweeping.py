"""Finding good responses whose certificate is missing in the database or has another status there.

While a signer follows the change feed, every deletion is reported. What was deleted while no feed could be
followed (a new or restored database, a lost cursor, TRUNCATE) no pass can see: it reads the existing rows. So
a pass after such an interruption, and no other, ends with a sweep: every good response of the index is
compared with the rows of its serial number, a few thousand at a time, so that memory is bounded. Each costs a
lookup in the database, about a tenth of signing it.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from ocspd.model import CertStatus
from ocspd.pki.certid import issuer_hashes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ocspd._index import Index
    from ocspd.signer.signers import CertKey, Signers

BATCH = 2_000


async def good_responses(index: Index, signers: Signers, now_s: int) -> AsyncIterator[list[CertKey]]:
    """Yield the certificates that are good in the index at present, in batches."""
    found = _good(index, signers, now_s)
    while batch := await asyncio.to_thread(lambda: list(itertools.islice(found, BATCH))):
        yield [key for key in batch if key is not None]


def _good(index: Index, signers: Signers, now_s: int) -> Iterator[CertKey | None]:
    """Yield certificates, and None for other entries, so that a batch is a bounded amount of work."""
    signer_indexes = {
        (name, *issuer_hashes(signer.issuer, name)): signer_index
        for signer_index, signer in enumerate(signers)
        for name in signer.policy.certid_hashes
    }
    for position, segment in enumerate(index.segments):
        newer = index.segments[:position]
        keys = segment.issuer_keys
        for key, serial, response in segment.records():
            signer_index = signer_indexes.get(keys[key])
            if (
                signer_index is None
                or response.status != CertStatus.GOOD
                or response.next_update <= now_s
                or any(other.lookup(*keys[key], serial) is not None for other in newer)
            ):
                yield None
            else:
                yield signer_index, serial
