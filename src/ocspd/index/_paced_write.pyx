# cython: language_level=3
"""Bytes to files, without the interpreter. Nothing here is called from Python."""

from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport int64_t, uint8_t
from posix.time cimport nanosleep, timespec
from posix.unistd cimport pwrite, write

from ocspd.index._write_error cimport E_IO, E_STOPPED

cdef enum:
    PIECE = 1 << 14
    PIECE_PAUSE_NS = 1_000_000  # docs/decisions/0007


cdef int damaged() noexcept nogil:
    """The code for bytes that did not come back from a file as they were written."""
    global errno
    errno = EIO
    return E_IO


cdef int write_all(int descriptor, const uint8_t *data, size_t size, int64_t offset) noexcept nogil:
    """Write everything, at an offset or (-1) at the end; 0 or E_IO with errno set."""
    cdef Py_ssize_t wrote
    while size:
        wrote = write(descriptor, data, size) if offset < 0 else pwrite(descriptor, data, size, offset)
        if wrote < 0 and errno == EINTR:
            continue
        if wrote <= 0:
            return E_IO
        data += wrote
        size -= <size_t> wrote
        if offset >= 0:
            offset += wrote
    return 0


cdef int write_until(
    int descriptor, const uint8_t *data, size_t size, int64_t offset, const bint *paced, const bint *stopped
) noexcept nogil:
    """`write_all`, in small pieces with a pause after each while `paced`; E_STOPPED once `stopped`.

    Other threads may change both meanwhile.
    """
    cdef timespec pause
    cdef size_t part
    pause.tv_sec = 0
    pause.tv_nsec = PIECE_PAUSE_NS
    while size:
        if stopped[0]:
            return E_STOPPED
        part = min(size, <size_t> PIECE) if paced[0] else size
        if write_all(descriptor, data, part, offset):
            return E_IO
        data += part
        size -= part
        if offset >= 0:
            offset += <int64_t> part
        if paced[0]:
            nanosleep(&pause, NULL)
    return 0
