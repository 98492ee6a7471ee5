"""The results for rows: counted where they are signed, added up in the report of a pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A certificate without a response, or with one that differs from its row.

    `cause` is `foreign issuer`, `bad serial`, `cannot be signed`, `signer fails: …`, or what is unreadable.
    """

    serial: int | str
    aki: str
    cause: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a pass."""

    certificates: int
    """Rows that are done, including skipped ones."""
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
    """Certificates of issuers without a signer, by key identifier."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Certificates of our issuers that could not be signed, by cause."""
    unreadable: int = 0
    """Certificates signed as unknown, or revoked, because their rows cannot be fully read."""
    failed: dict[int, tuple[int, str]] = field(default_factory=dict)
    """By index of a signer that cannot sign: how many certificates were left out, and why."""
    reasons_dropped: int = 0
    """Revoked certificates whose stored reason is undefined; they were signed without a reason, as a
    revocation must not be held back for a detail."""
    held: int = 0
    """Certificates that stay revoked although their rows are not (`run_pass`, `hold`)."""
    fresh: int = 0
    """Certificates that were left out because their response is still fresh."""
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
        self.held += other.held
        self.fresh += other.fresh
        moments = [moment for moment in (self.next_update, other.next_update) if moment is not None]
        self.next_update = min(moments, default=None)
        return self

    @classmethod
    def of_failure(cls, signer_index: int, count: int, why: str) -> Tally:
        """Return the tally of certificates that a failing signer leaves out."""
        return cls(skipped=Counter({"signer fails": count}), failed={signer_index: (count, why)})

    @property
    def progress(self) -> Progress:
        """Return the progress so far."""
        skipped = self.foreign.total() + self.skipped.total()
        return Progress(self.signed + self.fresh + skipped, self.signed)
