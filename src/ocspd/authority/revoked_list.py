"""The entries of a CRL, encoded, in about as much memory as the CRL itself has bytes.

Entries are kept in buckets by serial number, each a run of encoded entries beside their times of expiry: a
change touches one bucket, and a CRL is all of them one after the other. (An object for each entry would take
five times the memory: 250 MB for a million.)
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ocspd.pki import crl_writer
from ocspd.pki.der_reader import span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocspd.authority.revocations import Revocation

BUCKETS = 4096


class _Bucket:
    __slots__ = ("entries", "expiries")

    def __init__(self) -> None:
        self.entries = bytearray()
        self.expiries = array("Q")
        """When each certificate expires, seconds since the epoch, in the order of entries."""

    def find(self, serial: int) -> tuple[int, int, int] | None:
        """Return the position of a certificate among the entries, and start and end of its entry."""
        number = crl_writer.serial_of(serial)
        if number not in self.entries:  # nearly always so for a new one, and much faster than the walk
            return None
        for position, (start, content, end) in enumerate(self.walk()):
            if self.entries.startswith(number, content):
                return position, start, end
        return None

    def walk(self) -> Iterator[tuple[int, int, int]]:
        """Yield where each entry begins, where its content does, and where it ends."""
        data = bytes(self.entries)
        start = 0
        while start < len(data):
            _, content, end = span(data, start, len(data))
            yield start, content, end
            start = end

    def cut(self, position: int, start: int, end: int) -> None:
        del self.entries[start:end]
        del self.expiries[position]


class RevokedList:
    """The revoked certificates of one CA. Not thread-safe; `runs` is a copy that is."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, serial: int) -> bool:
        bucket = self._buckets.get(serial % BUCKETS)
        return bucket is not None and bucket.find(serial) is not None

    def entry(self, serial: int) -> bytes | None:
        """Return the encoded entry of a certificate, None if it is not revoked."""
        bucket = self._buckets.get(serial % BUCKETS)
        found = None if bucket is None else bucket.find(serial)
        if bucket is None or found is None:
            return None
        _, start, end = found
        return bytes(bucket.entries[start:end])

    def put(self, revoked: Revocation) -> bool:
        """Add or replace a certificate; return whether its entry is another than before."""
        encoded = crl_writer.entry(revoked.serial, revoked.revoked_s, revoked.reason)
        bucket = self._buckets.setdefault(revoked.serial % BUCKETS, _Bucket())
        found = bucket.find(revoked.serial)
        if found is not None:
            position, start, end = found
            if bucket.entries[start:end] == encoded:
                bucket.expiries[position] = revoked.expiry_s
                return False
            bucket.cut(*found)
            self._count -= 1
            self._bytes -= end - start
        bucket.entries += encoded
        bucket.expiries.append(max(revoked.expiry_s, 0))
        self._count += 1
        self._bytes += len(encoded)
        return True

    def remove(self, serial: int) -> bool:
        """Remove a certificate; return whether it was there."""
        bucket = self._buckets.get(serial % BUCKETS)
        found = None if bucket is None else bucket.find(serial)
        if bucket is None or found is None:
            return False
        _, start, end = found
        bucket.cut(*found)
        self._count -= 1
        self._bytes -= end - start
        return True

    def expiry_s(self, serial: int) -> int | None:
        """Return when a certificate on the list expires, None for one that is not on it."""
        bucket = self._buckets.get(serial % BUCKETS)
        found = None if bucket is None else bucket.find(serial)
        return None if bucket is None or found is None else bucket.expiries[found[0]]

    def keep_from(self, other: RevokedList, after_s: float, until_s: float) -> int:
        """Add what only another list has, if it expires after one time and until another; return how many."""
        kept = 0
        for key, theirs in other._buckets.items():
            mine = self._buckets.setdefault(key, _Bucket())
            there = _by_serial(mine)
            for (serial, encoded), expiry_s in zip(_by_serial(theirs).items(), theirs.expiries, strict=True):
                if serial not in there and after_s < expiry_s <= until_s:
                    mine.entries += encoded
                    mine.expiries.append(expiry_s)
                    self._bytes += len(encoded)
                    kept += 1
        self._count += kept
        return kept

    def differences(self, other: RevokedList) -> Iterator[int]:
        """Yield the serial numbers of all certificates whose entries differ between two lists."""
        for key in self._buckets.keys() | other._buckets.keys():
            mine, theirs = _by_serial(self._buckets.get(key)), _by_serial(other._buckets.get(key))
            for serial in mine.keys() | theirs.keys():
                if mine.get(serial) != theirs.get(serial):
                    yield serial

    def runs(self) -> tuple[list[bytes], int]:
        """Return a copy of all entries, as runs, and their total size in bytes."""
        return [bytes(bucket.entries) for bucket in self._buckets.values()], self._bytes


def _by_serial(bucket: _Bucket | None) -> dict[int, bytes]:
    if bucket is None:
        return {}
    data = bytes(bucket.entries)
    found = {}
    for start, content, end in bucket.walk():
        _, number, number_end = span(data, content, end)
        found[int.from_bytes(data[number:number_end], "big", signed=True)] = data[start:end]
    return found
