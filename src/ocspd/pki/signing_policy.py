"""The policy for an issuer's responses, and the times that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ocspd.errors import ConfigError
from ocspd.pki.certid import HASHES, check_hash_name

DEFAULT_HASHES = ("sha1", "sha256")
"""A client accepts only the CertID it requested, and both kinds are in use."""
SECOND = timedelta(seconds=1)
MAX_AHEAD = timedelta(minutes=1)
"""How far in the future a thisUpdate may lie if necessary (`change_time`); clients tolerate minutes."""

_SHORT = timedelta(hours=16)
_MARGIN = timedelta(hours=8)
_MAX_AGE = timedelta(days=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningPolicy:
    """An operator's decisions about the responses of an issuer. ConfigError if no response can meet them."""

    validity: timedelta = timedelta(hours=96)
    """nextUpdate - thisUpdate with its last second counted; by default CFSSL's `-interval`."""
    certid_hashes: tuple[str, ...] = DEFAULT_HASHES
    """The CertID hashes presigned."""
    responder_id: str = ""
    """How a response identifies its signer: "key" or "name".

    "" is key (RFC 9919 §3.2.2), but name for a CA that signs its own: GnuTLS and dirmngr find it by
    nothing else, as no certificate is embedded.
    """
    embed_ca: bool = False
    """Whether the CA certificate is embedded as well, for clients that cannot get it otherwise."""
    this_update_step: timedelta = timedelta(hours=1)
    """The step to which thisUpdate is truncated, by default CFSSL's."""
    refresh_after: float = 0.5
    """The share of its validity after which a response is due for renewal."""

    def __post_init__(self) -> None:
        if self.responder_id not in {"", "key", "name"}:
            raise ConfigError(f"unknown responder id {self.responder_id!r}: use key or name")
        if not self.certid_hashes:
            raise ConfigError(f"no CertID hash given: use one or more of {', '.join(HASHES)}")
        for name in self.certid_hashes:
            check_hash_name(name)
        object.__setattr__(self, "certid_hashes", tuple(dict.fromkeys(self.certid_hashes)))
        if self.validity <= self.this_update_step:
            raise ConfigError(
                f"a validity of {self.validity} is over before it starts, as thisUpdate is truncated to "
                f"{self.this_update_step}: use a longer interval, such as 96h"
            )

    def due_s(self, this_update: datetime, next_update: datetime) -> int:
        """Return when a response with these times is due for renewal, in seconds since the epoch."""
        return int(refresh_at(this_update, next_update, life=self.refresh_after).timestamp())


def refresh_at(this_update: datetime, next_update: datetime, *, life: float = 0.5) -> datetime:
    """Return when a response is due for renewal: after the share `life` of its validity.

    Never later than the Baseline Requirements allow (§4.9.9; the interval counts its last second):
    with less than 16 h of validity before half of it is left, otherwise 8 h before nextUpdate and at most
    4 days after thisUpdate.
    """
    interval = next_update - this_update + SECOND
    due = this_update + interval * life
    if interval < _SHORT:
        return min(due, this_update + interval / 2)
    return min(due, next_update - _MARGIN, this_update + _MAX_AGE)


def change_time(now: datetime, replaced_s: int = 0) -> datetime:
    """Return the thisUpdate of a response signed because of a change: the one rule for every path.

    The second of `now`, so that it is not before the revocation it reports (`ResponseBatch` writes no later
    revocationTime), and later than `replaced_s`, the thisUpdate of the response it replaces (0: none), so
    that no two responses that differ have the same times. For that it may lie up to MAX_AHEAD in the future,
    where several changes meet in one second or the clock was set back a little; clients would not
    accept a response from further ahead either, and nothing that far in the future is signed.
    """
    moment = now.replace(microsecond=0)
    after_s = replaced_s + 1
    ahead = after_s - moment.timestamp()
    return datetime.fromtimestamp(after_s, UTC) if 0 < ahead <= MAX_AHEAD.total_seconds() else moment


def truncate(instant: datetime, step: timedelta) -> datetime:
    """Truncate an instant to a multiple of step since midnight UTC."""
    midnight = instant.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (instant - midnight) // step * step
