"""Which rows of a pass need a new answer: a question to the index as it was when the pass began.

A row that says anything else where the index says revoked is told apart: see `resolving`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ocspd._index import Index
from ocspd.index._freshness import replaced, stale
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertStatus, known_reason
from ocspd.pki.certid import issuer_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ocspd._index import StoredResponse
    from ocspd.index.manifest import SegmentRef
    from ocspd.model import Row
    from ocspd.pki.ocsp import OCSPSigner


@dataclass(frozen=True, slots=True)
class Staleness:
    """What decides. Cheap to pickle; every process maps the index for itself."""

    directory: Path
    segments: tuple[SegmentRef, ...]
    keys: tuple[list[tuple[str, bytes, bytes]], ...]
    """The CertID prefixes of each signer's issuer, by the signer's index."""
    spread_s: tuple[int, ...]
    """By how many seconds a renewal may come early, by a hash of the serial."""
    signed_after_s: int = 0
    """Answers produced before this time (seconds since the epoch) are stale whatever they say."""

    @classmethod
    def of(
        cls,
        directory: Path,
        segments: tuple[SegmentRef, ...],
        signers: Sequence[OCSPSigner],
        spread: float,
        *,
        signed_after_s: int = 0,
    ) -> Staleness:
        """Take the segments, newest first, for the index; `spread` is a share of an answer's life."""
        return cls(
            directory=directory,
            segments=segments,
            keys=tuple(
                [(name, *issuer_hashes(signer.issuer, name)) for name in signer.policy.certid_hashes]
                for signer in signers
            ),
            spread_s=tuple(int(signer.policy.validity.total_seconds() * spread) for signer in signers),
            signed_after_s=signed_after_s,
        )

    def open(self) -> StaleRows:
        """Map the index. IndexFileError names what is unusable."""
        return StaleRows(self, Index(IndexDirectory(self.directory).map(self.segments)))


class StaleRows:
    """Answers the question, in one process."""

    def __init__(self, staleness: Staleness, index: Index) -> None:
        self._staleness = staleness
        self._index = index

    def __call__(
        self, signer_index: int, rows: Sequence[Row], now_s: int, until_s: int | None = None
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Return the positions of the rows of a signer to sign; the status counts until `until_s`.

        The second are those of rows that say something else than revoked where the index says that.
        """
        if not self._index.entries:
            return range(len(rows)), ()
        return stale(
            self._index,
            self._staleness.keys[signer_index],
            [(serial, *_signed_as(status, reason, revoked_s)) for serial, status, reason, revoked_s in rows],
            now_s,
            self._staleness.spread_s[signer_index],
            until_s,
            self._staleness.signed_after_s,
        )

    def replaced(self, signer_index: int, rows: Sequence[Row], *, same: bool = False) -> Sequence[int]:
        """Return for each row the thisUpdate of the answer to replace where it says something else, or 0.

        With `same` also of one that says the same, less a second: what replaces it out of turn must not be
        older. Nothing for all rows where there is none.
        """
        if not self._index.entries:
            return ()
        found = replaced(
            self._index,
            self._staleness.keys[signer_index],
            [(serial, *_signed_as(status, reason, revoked_s)) for serial, status, reason, revoked_s in rows],
            same or bool(self._staleness.signed_after_s),
        )
        return found if any(found) else ()

    def find(self, signer_index: int, certid_hash: int, serial: int) -> StoredResponse | None:
        """Return the answer of a signer under its CertID hash of that place."""
        return self._index.lookup(*self._staleness.keys[signer_index][certid_hash], serial)


def _signed_as(status: int, reason: int, revoked_s: float | None) -> tuple[int, int, bytes | None]:
    """Return status, reason and revocation time as a response has them."""
    if status != CertStatus.REVOKED:
        return status, 0, None
    moment = datetime.fromtimestamp(revoked_s or 0, UTC)
    return status, reason if known_reason(reason) else 0, f"{moment:%Y%m%d%H%M%S}Z".encode()
