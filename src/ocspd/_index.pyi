"""Segments of pre-signed OCSP answers: written once, mapped read-only, looked up without parsing.

The byte layout is described in `_index.pyx`. A segment is untrusted input: every offset read from it
is checked against the file before it is followed.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import final

@final
class Answer:
    """One stored answer, assembled."""

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
        """Seconds since the epoch; 2**63 - 1 when the answer has none."""
    @property
    def refresh_at(self) -> int:
        """When a newer answer is due, seconds since the epoch: what max-age counts down to."""
    @property
    def etag(self) -> str:
        """Strong validator without quotes: upper-case hex of the signature's last 16 octets."""

@final
class SegmentWriter:
    """Write one segment; the file appears under its name only when `finish` has succeeded.

    Later answers for the same key replace earlier ones. Memory is bounded whatever the number of
    answers: records and keys are spilled to temporary files beside the target.
    """

    def __init__(self, path: str, *, created_at: int) -> None:
        """Start a segment at path; `created_at` in seconds since the epoch goes into its header."""
    def add(self, der: bytes, refresh_at: int | None = None) -> None:
        """Add a successful OCSPResponse under each CertID it answers.

        Without refresh_at the answer is due at its nextUpdate. DERError when the bytes are not a
        successful basic response, or its serial number is negative.
        """
    def add_base64(self, data: bytes) -> tuple[int, list[tuple[int, str]]]:
        """Add whitespace-separated base64 answers (CFSSL's and Boulder's dump format).

        Returns how many were added and, for at most the first 1 000 bad tokens, their number
        (from 1) and what is wrong; bad tokens are skipped.
        """
    @property
    def added(self) -> int:
        """How many answers were added so far, replaced ones included."""
    @property
    def skipped(self) -> int:
        """How many tokens `add_base64` has skipped so far."""
    def finish(self) -> None:
        """Write hash slots, tables and header, fsync, and move the file to its path."""
    def abort(self) -> None:
        """Drop everything written so far; harmless after finish."""
    def __enter__(self) -> SegmentWriter: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Segment:
    """A mapped segment. Structure is validated on open; `verify` checks every byte."""

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
        """Check the checksum over the whole file; IndexFileError naming the file otherwise."""
    def lookup(self, hash_name: str, name_hash: bytes, key_hash: bytes, serial: int) -> Answer | None:
        """Find an answer by its CertID."""
    def records(self) -> Iterator[tuple[int, int, Answer]]:
        """Yield (issuer key number, serial, answer) for every key, in file order."""

@final
class Index:
    """Several segments, newest first, asked as one."""

    def __init__(self, segments: Sequence[Segment], *, generation: int = 0) -> None: ...
    @property
    def generation(self) -> int: ...
    @property
    def entries(self) -> int:
        """Sum over the segments; a key that stands in several counts several times."""
    @property
    def segments(self) -> tuple[Segment, ...]: ...
    def lookup(self, hash_name: str, name_hash: bytes, key_hash: bytes, serial: int) -> Answer | None:
        """Find the newest answer for a CertID."""
    def knows_issuer(self, hash_name: str, name_hash: bytes, key_hash: bytes) -> bool:
        """Tell whether any segment has answers under this CertID prefix."""
