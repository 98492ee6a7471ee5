"""Which rows of a pass need a new response, decided by the index as it was when the pass began.

Rows that are not revoked although the index has revoked are returned separately: see `resolving`.
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
    """The basis of the decision. Cheap to pickle; every process maps the index for itself."""

    directory: Path
    segments: tuple[SegmentRef, ...]
    keys: tuple[list[tuple[str, bytes, bytes]], ...]
    """The CertID prefixes of each signer's issuer, by the signer's index."""
    spread_s: tuple[int, ...]
    """How many seconds early a renewal may come, by a hash of the serial."""
    signed_after_s: int = 0
    """Responses produced before this time (seconds since the epoch) are stale in any case."""

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
        """Take the segments, newest first, as the index; `spread` is a share of a response's life."""
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
    """Makes the decision, in one process."""

    def __init__(self, staleness: Staleness, index: Index) -> None:
        self._staleness = staleness
        self._index = index

    def __call__(
        self, signer_index: int, rows: Sequence[Row], now_s: int, until_s: int | None = None
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Return the positions of the rows of a signer to sign; the status is valid until `until_s`.

        The second list has the rows of certificates that are revoked in the index but not in the row.
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
        """Return for each row the thisUpdate of the response to replace if its status differs, or 0.

        With `same` also of one with the same status, minus a second: what replaces it early must not be
        older. An empty list if there is none for any row.
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
        """Return the response of a signer under its CertID hash at that position."""
        return self._index.lookup(*self._staleness.keys[signer_index][certid_hash], serial)

    def revoked(self, signer_index: int, serial: int) -> StoredResponse | None:
        """Return a response of a signer with status revoked, under any of its CertID hashes."""
        found = [self._index.lookup(*prefix, serial) for prefix in self._staleness.keys[signer_index]]
        return next((each for each in found if each is not None and each.status == CertStatus.REVOKED), None)


def _signed_as(status: int, reason: int, revoked_s: float | None) -> tuple[int, int, bytes | None]:
    """Return status, reason and revocation time as in a response."""
    if status != CertStatus.REVOKED:
        return status, 0, None
    moment = datetime.fromtimestamp(revoked_s or 0, UTC)
    return status, reason if known_reason(reason) else 0, f"{moment:%Y%m%d%H%M%S}Z".encode()
