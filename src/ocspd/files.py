"""Files that are never seen half-written: temporary file, fsync, rename, fsync of the directory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from ocspd.errors import OCSPDError
from ocspd.machine import MACHINE, Machine

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = {b"\xff\xfe", b"\xfe\xff"}
"""Byte order marks, which Windows puts at the beginning of text."""

Stamp = tuple[int, int, int]


def stamp(path: str | Path) -> Stamp:
    """Return values that change when a file is replaced or rewritten: inode, size and time of change.

    OSError when there is no such file, or none that can be examined.
    """
    found = Path(path).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def write_atomic(path: str | Path, data: bytes, mode: int = 0o644, *, machine: Machine = MACHINE) -> None:
    """Replace path by data in one step, with exactly the permissions `mode`.

    A reader sees the old content or the new one; after a crash one of the two is there. Raises
    OCSPDError naming the path when the directory cannot be written to.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{machine.random_bytes(4).hex()}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise OCSPDError(f"{path}: cannot write: {err.strerror}") from err
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            machine.fsync(file.fileno())
        machine.replace(temporary, path)
        machine.fsync_directory(path.parent)
    except BaseException as err:
        with contextlib.suppress(OSError):
            machine.unlink(temporary)
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


def check_output(path: str | Path) -> None:
    """Refuse to write if a name given by a user leads elsewhere. Raises OCSPDError naming the path.

    Through a symbolic link a private key would go where the link's creator wants it, and replacing the
    link surprises those who rely on it. Replacing a device or a pipe breaks what uses it (/dev/stdout).
    """
    path = Path(path)
    try:
        kind = path.lstat().st_mode
    except OSError:
        return  # nothing is there, or writing will say what is wrong
    if stat.S_ISLNK(kind):
        raise OCSPDError(
            f"{path}: is a symbolic link to {path.readlink()}: remove it, or name the file it points to"
        )
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise OCSPDError(f"{path}: is not a regular file: choose another")
