"""The machine as an argument: what a signer or a reader does to its disk, and what else it needs from one.

Every effect passes one seam, so that a whole daemon can run in one event loop that decides about all of
them (tests/simulation): time of day is a `clock.Clock`, pauses and threads are the event loop's, the
database is a `certdb.base.CertDB`, the object store an `index.store.ObjectStore`, signing processes are
made by a `signer.signing_pool.PoolFactory`, and everything else is here.

Reading files is not: what is read was written through here.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Machine:
    """The machine this process runs on. Keeps no state, and travels to other processes."""

    def monotonic(self) -> float:
        """Return the seconds of a clock that is never set."""
        return time.monotonic()

    def random_bytes(self, size: int) -> bytes:
        """Return random bytes, good enough for secrets."""
        return os.urandom(size)

    def fraction(self) -> float:
        """Return a random number from 0 up to, but not including, 1."""
        return int.from_bytes(self.random_bytes(6), "big") / (1 << 48)

    # -- the disk; each of these raises OSError --------------------------------------------------

    def fsync(self, descriptor: int) -> None:
        """Make the contents of an open file durable."""
        os.fsync(descriptor)

    def replace(self, source: str | Path, target: str | Path) -> None:
        """Rename a file, replacing the one with the new name."""
        os.replace(source, target)  # noqa: PTH105  (also called from native code, with plain text)

    def fsync_directory(self, path: Path) -> None:
        """Make names added to and removed from a directory durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Remove a file; a missing one is not an error."""
        path.unlink(missing_ok=True)

    def touch(self, path: Path) -> None:
        """Set a file's time of change to now."""
        os.utime(path)

    def changed_at(self, path: Path) -> float:
        """Return when a file, or its name, changed last, in seconds since the epoch."""
        return path.stat().st_ctime


MACHINE = Machine()
"""The machine everything except simulations runs on."""
