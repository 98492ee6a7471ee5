"""Files that are never seen half-written: temporary file, fsync, rename, fsync of the directory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

from ocspd.errors import OCSPDError


def write_atomic(path: str | Path, data: bytes, mode: int = 0o644) -> None:
    """Replace path by data in one step, with exactly the permissions `mode`.

    A reader sees the old content or the new one; after a crash one of the two is there. Raises
    OCSPDError naming the path when the directory cannot be written to.
    """
    path = Path(path)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as err:
        raise OCSPDError(f"{path}: cannot write: {err.strerror}") from err
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        fsync_directory(path.parent)
    except BaseException as err:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        if isinstance(err, OSError):
            raise OCSPDError(f"{path}: cannot write: {err.strerror}") from err
        raise


def read_bounded(path: str | Path, limit: int) -> bytes:
    """Return at most `limit` bytes of a regular file; OSError for anything else, such as a pipe.

    Opening a pipe would wait for a writer, and a file may have any size.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(limit)


def fsync_directory(path: Path) -> None:
    """Make renames and new names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
