"""What came of rows: counted where they are signed, added up in the report of a pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A certificate that got no response, or not what its row says.

    `cause` is `foreign issuer`, `bad serial`, `cannot be signed`, `signer fails: …`, or what is unreadable.
    """

    serial: int | str
    aki: str
    cause: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pass is."""

    certificates: int
    """Rows that are done with, skipped ones included."""
    signed: int
    """Rows that have their responses."""


@dataclass(slots=True)
class Tally:
    """How many certificates were signed or left out, and why; tallies add up with `+=`."""

    certificates: int = 0
    """Unexpired certificates seen."""
    signed: int = 0
    """Certificates that got responses, and how many of them are revoked."""
    revoked: int = 0
    responses: int = 0
    """Signatures made: one for each certificate and CertID hash."""
    foreign: Counter[str] = field(default_factory=Counter)
    """Certificates of issuers no signer was given for, by key identifier."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Certificates of our issuers that could not be signed, by cause."""
    unreadable: int = 0
    """Certificates signed as unknown, or revoked, because their rows cannot be read whole."""
    failed: dict[int, tuple[int, str]] = field(default_factory=dict)
    """By index of a signer that cannot sign: how many certificates that left out, and why."""
    reasons_dropped: int = 0
    """Revoked certificates whose stored reason does not exist; they were signed without a reason, as a
    revocation must not stay unheard for a detail."""
    fresh: int = 0
    """Certificates that were not wanted, because they have a response that is good for longer."""
    next_update: datetime | None = None
    """When the first of the responses expires."""

    def __iadd__(self, other: Tally) -> Self:
        self.certificates += other.certificates
        self.signed += other.signed
        self.revoked += other.revoked
        self.responses += other.responses
        self.foreign.update(other.foreign)
        self.skipped.update(other.skipped)
        self.unreadable += other.unreadable
        for signer_index, (count, why) in other.failed.items():
            before, _ = self.failed.get(signer_index, (0, ""))
            self.failed[signer_index] = before + count, why
        self.reasons_dropped += other.reasons_dropped
        self.fresh += other.fresh
        moments = [moment for moment in (self.next_update, other.next_update) if moment is not None]
        self.next_update = min(moments, default=None)
        return self

    @classmethod
    def of_failure(cls, signer_index: int, count: int, why: str) -> Tally:
        """Return what a signer that cannot sign leaves of so many certificates."""
        return cls(skipped=Counter({"signer fails": count}), failed={signer_index: (count, why)})

    @property
    def progress(self) -> Progress:
        """How far that is."""
        skipped = self.foreign.total() + self.skipped.total()
        return Progress(self.signed + self.fresh + skipped, self.signed)
