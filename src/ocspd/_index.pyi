"""Segments of pre-signed OCSP responses: written once, mapped read-only, looked up without parsing.

The byte layout is described in `_opening.pyx`. A segment is untrusted input: every offset read from it
is checked against the file before it is followed.
"""

from collections.abc import Iterator, Sequence
from typing import Any, final

NO_NEXT_UPDATE: int
"""`next_update` of a response that has none: it never expires (RFC 6960 §2.4)."""

@final
class StoredResponse:
    """One stored response, assembled."""

    @property
    def produced_at(self) -> int:
        """Seconds since the epoch."""
    @property
    def der(self) -> bytes:
        """The OCSPResponse, byte for byte as it was signed."""
    @property
    def status(self) -> int:
        """CertStatus tag (model.CertStatus)."""
    @property
    def this_update(self) -> int:
        """Seconds since the epoch."""
    @property
    def next_update(self) -> int:
        """Seconds since the epoch; 2**63 - 1 when the response has none."""
    @property
    def refresh_at(self) -> int:
        """When a newer response is due, seconds since the epoch: what max-age counts down to."""
    @property
    def etag(self) -> str:
        """Strong validator without quotes: upper-case hex of the signature's last 16 bytes."""

@final
class Segment:
    """A segment, mapped or (small ones) read. Structure is validated on open; `verify` checks all."""

    def __init__(self, path: str) -> None:
        """Map the file; IndexFileError naming it when it is truncated, foreign or of another version."""
    @property
    def path(self) -> str: ...
    @property
    def entries(self) -> int:
        """Number of keys that can be found."""
    @property
    def size_bytes(self) -> int: ...
    @property
    def created_at(self) -> int: ...
    @property
    def templates(self) -> int: ...
    @property
    def issuer_keys(self) -> list[tuple[str, bytes, bytes]]:
        """(hash name, issuer name hash, issuer key hash) of each CertID prefix, in order."""
    def issuer_stats(self) -> list[dict[str, int]]:
        """Per issuer key: entries, good, revoked, unknown, this_update_min/max, next_update_min/max."""
    def verify(self) -> None:
        """Check that every slot agrees with its record; IndexFileError naming the file otherwise.

        Contents are not covered: the manifest's SHA-256 and the responses' signatures are for that.
        """
    def lookup(self, hash_name: str, name_hash: bytes, key_hash: bytes, serial: int) -> StoredResponse | None:
        """Find a response by its CertID; IndexFileError when what should be it is damaged."""
    def records(self) -> Iterator[tuple[int, int, StoredResponse]]:
        """Yield (position in issuer_keys, serial, response) for every key, in file order."""

@final
class Index:
    """Several segments, newest first, asked as one."""

    def __init__(
        self, segments: Sequence[Segment], *, generation: int = 0, out_of_service: bool = False
    ) -> None:
        """Ask these segments; with `out_of_service` a responder says tryLater, as it knows nothing yet."""
    @property
    def out_of_service(self) -> bool: ...
    @property
    def generation(self) -> int: ...
    @property
    def entries(self) -> int:
        """Sum over the segments; a key that stands in several counts several times."""
    @property
    def segments(self) -> tuple[Segment, ...]: ...
    def lookup(self, hash_name: str, name_hash: bytes, key_hash: bytes, serial: int) -> StoredResponse | None:
        """Find the newest response for a CertID."""
    def live_stats(self) -> dict[tuple[str, bytes, bytes], dict[str, Any]]:
        """Return statistics of the responses that are served, by CertID prefix.

        As `Segment.issuer_stats`, but a response that a newer segment replaces does not count, and with
        `expiries`: how many responses expire at each moment (seconds since the epoch). Costs a lookup for
        every response in all segments but the last.
        """
