# cython: language_level=3
"""Opening a segment: its file comes into memory, and its tables are checked. For `_index` alone.

What happens to the file of a small segment after it was opened changes nothing: it was read. The newest
changes lie in small segments, and what they say must not be lost to an older one. A larger one is mapped,
so that all processes share its pages.
"""

import os

from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    mmap,
    mprotect,
    munmap,
)
from posix.unistd cimport pread

from ocspd._text cimport format_time

READ_BYTES = 256 << 10

cdef int64_t FIRST_TIME = -62167219200  # year 0, where HTTP dates begin


cdef void *contents(int descriptor, size_t size) except NULL:
    """Read or map a file; `munmap` gives it back. OSError when that is impossible.

    Not by Python's mmap, which keeps a descriptor for as long as the mapping lives.
    """
    cdef bint small = size <= <size_t> READ_BYTES
    cdef void *base
    cdef int code = 0
    if small:
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    else:
        base = mmap(NULL, size, PROT_READ, MAP_SHARED, descriptor, 0)
    if base == MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    if small:
        with nogil:
            code = read_all(descriptor, <char *> base, size)
            if code == 0 and mprotect(base, size, PROT_READ):
                code = errno
        if code:
            munmap(base, size)
            raise OSError(code, os.strerror(code))
    return base


cdef int read_all(int descriptor, char *base, size_t size) noexcept nogil:
    """Read a whole file; 0 or the error number, EIO for one that has become shorter."""
    cdef size_t at = 0
    cdef Py_ssize_t got
    while at < size:
        got = pread(descriptor, base + at, size - at, <Py_ssize_t> at)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            return errno if got < 0 else EIO
        at += <size_t> got
    return 0


cdef bint inside(uint64_t offset, uint64_t count, uint64_t unit, uint64_t size) noexcept nogil:
    """Whether count units from offset lie behind the header and inside size octets."""
    return PAGE <= offset <= size and count <= size // unit and offset + count * unit <= size


cdef bint issuer_good(const IssuerKey *issuer) noexcept nogil:
    """Whether the sizes of a CertID prefix are those of its fields, and its hash algorithm is known."""
    return issuer.name_size <= MAX_HASH and 4 <= issuer.key_size <= MAX_HASH and issuer.hash_id < 4


cdef bint template_good(const Header *header, const Template *template) noexcept nogil:
    """Whether everything that is later done with a template stays inside the file and inside HTTP.

    Holes stand in order and apart, as the writer makes them: who copies what is between them relies
    on it. Times are such that no difference overflows. The two dates go into response heads.
    """
    cdef const Hole *hole
    cdef char date[29]
    cdef uint32_t at = 0
    cdef int i
    if not (
        template.blob_offset <= header.blobs_size
        and template.der_size <= MAX_DER
        and template.blob_offset + template.der_size <= header.blobs_size
        and template.count <= header.records_size
        and template.issuer_key < header.issuer_count
        and template.hole_count <= MAX_HOLES
        and 0 < template.serial_size <= MAX_SERIAL
        and <uint64_t> template.etag_offset + ETAG_OCTETS <= template.der_size
        and template.status <= 2
        and FIRST_TIME <= template.refresh_at <= template.next_update
    ):
        return False
    for i in range(template.hole_count):
        hole = &template.holes[i]
        if not (
            at <= hole.target <= template.der_size
            and <uint64_t> hole.target + hole.size <= template.der_size
            and <uint32_t> hole.source + hole.size <= <uint32_t> template.serial_size + template.data_size
        ):
            return False
        at = hole.target + hole.size
    if format_time(template.this_update, date) or memcmp(date, template.last_modified, 29) != 0:
        return False
    return template.next_update == INT64_MAX or (
        format_time(template.next_update, date) == 0 and memcmp(date, template.expires, 29) == 0
    )
