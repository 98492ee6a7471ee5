"""What has changed since the complete CRLs in force: the content of delta CRLs (RFC 5280 §5.2.4)."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_CHANGES = 100_000
"""Delta CRLs are at most as long as this; older changes are then only on complete CRLs."""
_SPACING_S = 60.0


class Journal:
    """Changes by the complete CRL that was the first to have them.

    The base of a delta CRL is a complete CRL issued as long ago as one is valid, so that every complete
    CRL in force can be brought up to date with it.
    """

    def __init__(self, validity_s: float) -> None:
        self._validity_s = validity_s
        self._changes: dict[int, tuple[int, bytes]] = {}
        self._issued: deque[tuple[int, float]] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether no complete CRL was recorded yet."""
        return not self._issued

    @property
    def base(self) -> int:
        """The number of the complete CRL that deltas start from."""
        return self._issued[0][0]

    def note(self, number: int, issued_s: float, changes: Mapping[int, bytes] | None) -> None:
        """Record a complete CRL, and by serial number the entries of delta CRLs for what it changed.

        None: the changes are not known, or are too many. Delta CRLs then start from this CRL.
        """
        if changes is None or len(changes) > MAX_CHANGES:
            self._changes.clear()
            self._issued = deque([(number, issued_s)])
            return
        if not self._issued or issued_s - self._issued[-1][1] >= _SPACING_S:
            self._issued.append((number, issued_s))
        for serial, encoded in changes.items():
            self._changes.pop(serial, None)  # so that the order is that of numbers
            self._changes[serial] = (number, encoded)
        while len(self._issued) > 1 and self._issued[1][1] <= issued_s - self._validity_s:
            self._issued.popleft()
        while len(self._issued) > 1 and len(self._changes) > MAX_CHANGES:
            self._issued.popleft()
            self._forget()
        if len(self._changes) > MAX_CHANGES:
            self._issued[0] = (number, issued_s)
        self._forget()

    def entries(self) -> Iterable[bytes]:
        """Return the entries of the delta CRL that goes with the complete CRL recorded last."""
        return [encoded for _, encoded in self._changes.values()]

    def _forget(self) -> None:
        """Remove what the base has, which is in front."""
        count = 0
        for number, _ in self._changes.values():
            if number > self.base:
                break
            count += 1
        for serial in list(islice(self._changes, count)):
            del self._changes[serial]
