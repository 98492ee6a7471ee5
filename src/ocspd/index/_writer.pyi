"""Writing segments: responses in, one immutable file out (layout in `_opening.pyx`)."""

from types import TracebackType
from typing import final

from ocspd._index import Index, Segment
from ocspd.machine import Machine

@final
class SegmentWriter:
    """Write one segment; the file appears under its name only when `finish` has succeeded.

    Later responses for the same key replace earlier ones. Records and keys are spilled to files,
    so memory does not grow with the number of responses but with that of their different
    templates: responses that share nothing stay in memory whole until the segment is finished.
    """

    def __init__(self, path: str, *, created_at: int, paced: bool = False, machine: Machine = ...) -> None:
        """Start a segment at path; `created_at` in seconds since the epoch goes into its header.

        A paced writer writes pieces of 16 KiB with a pause of a millisecond after each, so that the kernel's
        work for the disk does not hold up others on the CPU.
        """
    @property
    def paced(self) -> bool:
        """Whether it writes with pauses."""
    def full_speed(self) -> None:
        """Write as fast as possible from now on; any thread may call this while another one writes."""
    def order_by_time(self) -> None:
        """Of what was added so far let the response with the newest thisUpdate count for each key.

        What is added afterwards replaces it as always.
        """
    def stop(self) -> None:
        """Have the next write fail with IndexFileError; any thread may call this while another one writes."""
    @property
    def path(self) -> str:
        """Where the segment will be."""
    def add(self, der: bytes, refresh_at: int | None = None) -> None:
        """Add a successful OCSPResponse under each CertID it answers.

        Without refresh_at the response is due at its nextUpdate. DERError when the bytes are not a
        successful basic response, or its serial number is negative.
        """
    def add_base64(self, data: bytes) -> tuple[int, list[tuple[int, str]]]:
        """Add whitespace-separated base64 responses (CFSSL's and Boulder's dump format).

        Returns how many were added and, for at most the first 1 000 bad tokens, their number
        (from 1) and what is wrong; bad tokens are skipped.
        """
    @property
    def added(self) -> int:
        """How many responses were added so far, replaced ones included."""
    @property
    def skipped(self) -> int:
        """How many tokens `add_base64` has skipped so far."""
    def add_segment(
        self, segment: Segment, newer: Index | None = None, keep_after: int = ...
    ) -> tuple[int, int, int]:
        """Copy a segment's responses, but those that `newer` has or whose nextUpdate is before keep_after.

        An expired response still hides what elder segments hold: give keep_after only where there are none.

        Returns how many were copied, superseded and expired. To merge, add the newest segment first
        and name those already added as `newer`.
        """
    def finish(self) -> None:
        """Write hash slots, tables and header, fsync, and move the file to its path."""
    def abort(self) -> None:
        """Drop everything written so far; harmless after finish."""
    def __enter__(self) -> SegmentWriter: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
