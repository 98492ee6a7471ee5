# cython: language_level=3
"""Opening a segment: its file comes into memory, and its tables are checked. For `_index` alone.

Layout (little-endian, version 1)

    header      4096 bytes: struct Header, CRC-32 of itself with header_crc = 0
    records     packed, in the order they were added; none up to 512 bytes straddles a 4 KiB page
    slots       slot_pages pages of 512 u64: offset of a record (low 40 bits, relative to records,
                never 0) and 24 bits of the key's hash; 0 is an empty slot
    issuers     struct IssuerKey: a CertID prefix (hash algorithm, name hash, key hash)
    templates   struct Template
    blobs       the templates' DER, holes zeroed

A record is `u8 serial size (0x80: replaced, not reachable), u24 template, serial bytes, data`. A
zero first byte means: continue at the next page. Serial bytes and data together are the payload
from which the template's holes are filled; what is outside the holes is the template's DER. A
template without holes is a response stored verbatim.

What happens to the file of a small segment after it was opened changes nothing: it was read. The newest
changes lie in small segments, and what they say must not be lost to an older one. A larger one is mapped,
so that all processes share its pages.
"""

import os
import zlib

from cpython.mem cimport PyMem_Calloc
from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
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
    """Whether count units from offset lie behind the header and inside size bytes."""
    return PAGE <= offset <= size and count <= size // unit and offset + count * unit <= size


cdef str header_fault(const uint8_t *base, uint64_t size, Header *header):
    """Copy the header of a file of this size, a page or more; what is wrong with it, None if nothing is."""
    head = bytearray((<const char *> base)[:PAGE])
    memcpy(header, <const char *> head, sizeof(Header))
    if header.magic[:8] != b"OCSPDSEG":
        return "not a segment: wrong magic"
    if header.version != VERSION:
        return f"segment version {header.version} is not the version {VERSION} this ocspd reads"
    if header.file_size != size:
        return f"segment has {size} bytes instead of {header.file_size}: truncated or damaged"
    head[12:16] = bytes(4)
    if zlib.crc32(head) != header.header_crc:
        return "segment header is damaged: checksum mismatch"
    if not (
        inside(header.records_offset, header.records_size, 1, size)
        and inside(header.slots_offset, header.slot_pages, PAGE, size)
        and inside(header.issuers_offset, header.issuer_count, sizeof(IssuerKey), size)
        and inside(header.templates_offset, header.template_count, sizeof(Template), size)
        and inside(header.blobs_offset, header.blobs_size, 1, size)
        and header.slot_pages > 0
        and header.slots_offset % PAGE == 0
        and header.templates_offset % 8 == 0
        and header.issuers_offset % 8 == 0
        and header.issuer_count <= MAX_ISSUERS
        and header.template_count <= MAX_TEMPLATES
    ):
        return "segment header is damaged: a table lies outside the file"
    return None


cdef uint32_t *issuer_table(const IssuerKey *issuers, uint64_t count, uint32_t *mask) except NULL:
    """A hash table of CertID prefixes that are good: positions plus one, 0 where there is none.

    `PyMem_Free` gives it back. At most half of it is used, so looking for a prefix comes to an end.
    """
    cdef uint32_t size = 8
    cdef uint32_t at, issuer
    cdef uint32_t *table
    while size < count * 2:
        size *= 2
    table = <uint32_t *> PyMem_Calloc(size, sizeof(uint32_t))
    if table == NULL:
        raise MemoryError
    mask[0] = size - 1
    for issuer in range(<uint32_t> count):
        memcpy(&at, issuers[issuer].key_hash, 4)
        at = (at + issuers[issuer].hash_id) & mask[0]
        while table[at]:
            at = (at + 1) & mask[0]
        table[at] = issuer + 1
    return table


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
        and <uint64_t> template.etag_offset + ETAG_BYTES <= template.der_size
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
