"""Joining the statements of several files about the same serials in bounded memory, whatever their number.

Statements are put into buckets by their serial; a full buffer goes to a temporary file without a name.
Each bucket is then small enough to be joined in memory. Within a bucket the order of arrival is kept.
"""

from __future__ import annotations

import tempfile
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Self

from ocspd.errors import OCSPDError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import IO

BUCKETS = 251
BUFFER_BYTES = 1 << 16
"""A bucket keeps less than this in memory."""
_RECORD = Struct("<21sBBq")
_NO_TIME = -(1 << 63)


class Claim(IntEnum):
    """A statement about a serial. Of those up to EXPIRED the highest counts."""

    ISSUED = 0
    VALID = 1
    UNUSABLE = 2
    """It is in a line that cannot be used: it is not good."""
    REVOKED = 3
    EXPIRED = 4
    LISTED = 5
    """Revoked by a CRL; a later LISTED or REMOVED of a delta CRL replaces it."""
    REMOVED = 6


Statement = tuple[bytes, int, int, int]
"""Key (issuer index and serial), Claim, reason, revocation time in seconds since the epoch."""


class SerialBuckets:
    """Use as `with`; OCSPDError when the temporary file cannot be written."""

    def __init__(self, folder: Path, buffer_bytes: int = BUFFER_BYTES) -> None:
        """`folder` is the directory of the temporary file, if one is needed."""
        self._folder = folder
        self._buffer_bytes = buffer_bytes
        self._buffers = [bytearray() for _ in range(BUCKETS)]
        self._blocks: list[list[tuple[int, int]]] = [[] for _ in range(BUCKETS)]
        self._file: IO[bytes] | None = None
        self._end = 0

    def put(
        self, issuer: int, serial: int, claim: Claim, reason: int = 0, moment_s: int | None = None
    ) -> None:
        """Add a statement. The serial has at most 160 bits, the issuer is below 256."""
        bucket = hash(serial) % BUCKETS
        buffer = self._buffers[bucket]
        buffer += _RECORD.pack(
            (issuer << 160 | serial).to_bytes(21, "big"),
            claim,
            reason,
            _NO_TIME if moment_s is None else moment_s,
        )
        if len(buffer) >= self._buffer_bytes:
            self._spill(bucket, buffer)

    def _spill(self, bucket: int, buffer: bytearray) -> None:
        try:
            if self._file is None:
                # closed by __exit__
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._file.write(buffer)
        except OSError as err:
            raise OCSPDError(f"{self._folder}: cannot write a temporary file: {err.strerror}") from err
        self._blocks[bucket].append((self._end, len(buffer)))
        self._end += len(buffer)
        buffer.clear()

    def bucket(self, bucket: int) -> Iterator[Statement]:
        """Yield the statements of one of the BUCKETS, in the order they were put."""
        for offset, size in self._blocks[bucket]:
            assert self._file is not None
            self._file.seek(offset)
            yield from _RECORD.iter_unpack(self._file.read(size))
        yield from _RECORD.iter_unpack(bytes(self._buffers[bucket]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def split_key(key: bytes) -> tuple[int, int]:
    """Return issuer index and serial of a statement's key."""
    return key[0], int.from_bytes(key[1:], "big")


def moment_of(seconds: int) -> int | None:
    """Return a statement's time, None when it has none."""
    return None if seconds == _NO_TIME else seconds
