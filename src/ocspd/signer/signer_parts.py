"""A signer daemon's sources, settings and statistics: shared with the code that shows them."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ocspd.signer.health import Health
from ocspd.signer.pass_parts import StatusSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.certdb.feed import ChangeFeed
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.publishing import PublishStats
    from ocspd.signer.tally import SkippedRow

SKIPPED_KEPT = 1_000
"""How many skipped rows are kept by name."""


class RefreshSource(StatusSource, Protocol):
    """The source of certificates' statuses: any `certdb.base.CertDB`, or files (`importing.FileStatus`)."""

    @property
    def name(self) -> str:
        """The source for messages."""
        ...

    def change_feed(self) -> ChangeFeed:
        """Return a feed of changes; close it after use."""
        ...


class SignerSource(Protocol):
    """The source of the signers: files that may be replaced while the daemon runs."""

    def load(self) -> Sequence[OCSPSigner] | None:
        """Return the signers if they are new or have changed since the last call, otherwise None.

        Raises OCSPDError when the present files cannot be used; the old signers then stay in use.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSettings:
    """The settings of a signer. Durations in seconds."""

    processes: int = 0
    """Signing processes of a pass; 0 is one for each usable CPU."""
    pass_interval_s: float = 600.0
    """Pause between passes; at least nine times the length of the last pass is kept in any case."""
    blind_interval_s: float = 10.0
    """The same while the database does not record every change."""
    slice_responses: int = 1_000_000
    """A running pass publishes what it has after this many responses."""
    spread: float = 0.25
    """The share of a response's life by which its renewal may come early, by a hash of the serial."""
    merge_interval_s: float = 5.0
    signers_interval_s: float = 5.0
    trim_interval_s: float = 600.0
    retry_s: tuple[float, float] = (0.25, 30.0)
    """First and longest pause after a failure in a row."""
    table: bool = False
    """Whether responses are also written to certdb's `ocsp_responses`, as CFSSL's ocsprefresh does."""


@dataclass(slots=True)
class SignerStats:
    """The statistics of a signer, for metrics and tests."""

    health: Health = field(default_factory=Health)
    changes: int = 0
    """Changes signed; `responses` counts the signatures of changes and passes."""
    responses: int = 0
    passes: int = 0
    pass_certificates: int = 0
    """Certificates in the last pass, and its duration."""
    pass_seconds: float = 0.0
    pass_ended_at: float = 0.0
    foreign: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Rows the last pass, and changes since, could not sign, by cause; some of them in `skipped_rows`."""
    unreadable: int = 0
    """Rows of the last pass that were signed as unknown, or revoked, because they cannot be fully read."""
    held: int = 0
    """Certificates the last pass kept revoked although their rows are not."""
    skipped_rows: deque[SkippedRow] = field(default_factory=lambda: deque(maxlen=SKIPPED_KEPT))
    publish_latency_s: Counter[float] = field(default_factory=Counter)
    """Histogram of commit-to-published, by upper bound; the sum in `publish_latency_sum_s`."""
    publish_latency_sum_s: float = 0.0
    publishing: tuple[PublishStats, ...] = ()
    """The stores the index is also published to."""
    responder_not_after: dict[str, float] = field(default_factory=dict)
    """When each issuer's responder certificate expires, seconds since the epoch, by issuer subject."""
    failing: dict[str, str] = field(default_factory=dict)
    """Why the signer of an issuer cannot sign at present, by issuer subject."""
    behind_since: float | None = None
    """Since when (seconds since the epoch) changes have been waiting for a response; None: none are."""

    def lag_s(self, now_s: float) -> float:
        """Return how long changes may have been waiting for a response, in seconds."""
        return 0.0 if self.behind_since is None else max(now_s - self.behind_since, 0.0)

    def observe(self, seconds: float) -> None:
        """Count one change's latency from commit to publication."""
        seconds = max(seconds, 0.0)
        self.publish_latency_s[next(bound for bound in LATENCY_BOUNDS_S if seconds <= bound)] += 1
        self.publish_latency_sum_s += seconds


LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, float("inf"))
