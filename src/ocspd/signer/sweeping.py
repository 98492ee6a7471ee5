"""Answers that call a certificate good of which the database knows nothing, or something else.

While a signer follows the change feed it hears of every deletion. What was deleted while no feed could be
followed (a new database or a restored one, a cursor that is lost, TRUNCATE) no pass can see: it reads the
rows there are. So a pass after such a break ends with a sweep, and no other does: every good answer of the
index is compared with the rows of its serial number, a few thousand at a time, so that memory is bounded. It
costs a look-up in the database for each, about a tenth of what signing it did.
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
    """Yield the certificates the index calls good at present, in batches."""
    found = _good(index, signers, now_s)
    while batch := await asyncio.to_thread(lambda: list(itertools.islice(found, BATCH))):
        yield [key for key in batch if key is not None]


def _good(index: Index, signers: Signers, now_s: int) -> Iterator[CertKey | None]:
    """Yield certificates, and None for what is none, so that a batch is a bounded amount of work."""
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
