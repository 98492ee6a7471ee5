# The segment format as C structures, and the reader's entry points for the request path.
# The layout is documented in _index.pyx.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ocspd._der cimport Span

cdef enum:
    VERSION = 1
    PAGE = 4096
    SLOTS_PER_PAGE = 512
    MAX_HOLES = 6
    MAX_SERIAL = 64
    MAX_HASH = 64
    MAX_ISSUERS = 1 << 16
    MAX_TEMPLATES = 1 << 24
    MAX_DER = 1 << 20
    ETAG_OCTETS = 16
    RECORD_HEAD = 4
    RECORD_DEAD = 0x80
    STRADDLE_LIMIT = 512

cdef struct Header:
    uint8_t magic[8]
    uint32_t version
    uint32_t header_crc
    uint64_t file_size
    int64_t created_at
    uint64_t entries
    uint64_t seed
    uint64_t records_offset
    uint64_t records_size
    uint64_t slots_offset
    uint64_t slot_pages
    uint64_t issuers_offset
    uint64_t issuer_count
    uint64_t templates_offset
    uint64_t template_count
    uint64_t blobs_offset
    uint64_t blobs_size
    uint32_t tables_crc
    uint32_t reserved

cdef struct IssuerKey:
    uint32_t hash_id
    uint16_t name_size
    uint16_t key_size
    uint8_t name_hash[MAX_HASH]
    uint8_t key_hash[MAX_HASH]

cdef struct Hole:
    uint32_t target
    uint16_t source
    uint16_t size

cdef struct Template:
    uint64_t blob_offset
    uint32_t der_size
    uint32_t issuer_key
    int64_t produced_at
    int64_t this_update
    int64_t next_update
    int64_t refresh_at
    uint64_t count
    uint32_t etag_offset
    uint16_t data_size
    uint8_t status
    uint8_t hole_count
    uint8_t serial_size
    uint8_t reserved[7]
    Hole holes[MAX_HOLES]
    char last_modified[32]
    char expires[32]

cdef struct SegmentView:
    const uint8_t *base
    const Header *header
    const uint64_t *slots
    const uint8_t *records
    const IssuerKey *issuers
    const Template *templates
    const uint8_t *blobs
    uint32_t *issuer_table
    uint32_t issuer_mask

cdef struct Found:
    const SegmentView *segment
    const Template *template
    const uint8_t *payload

cdef enum Lookup:
    FOUND = 0
    UNKNOWN_SERIAL = 1
    UNKNOWN_ISSUER = 2

cdef uint64_t key_hash64(uint64_t seed, uint32_t issuer_key, const uint8_t *p, Py_ssize_t n) noexcept nogil
cdef uint64_t slot_page(uint64_t key_hash, uint64_t slot_pages) noexcept nogil
cdef Span magnitude(Span serial) noexcept nogil
cdef Py_ssize_t read_record(const SegmentView *view, uint64_t offset, Found *out) noexcept nogil
cdef bint find_in_segment(
    const SegmentView *view, int hash_id, Span name_hash, Span key_hash, Span serial, Found *out, bint *issuer_known
) noexcept nogil
cdef Span span_of(bytes data)
cdef bytes serial_octets(object serial)
cdef void assemble(const Found *found, uint8_t *out) noexcept nogil

cdef class Segment:
    cdef SegmentView view
    cdef readonly str path
    cdef void *_base
    cdef size_t _size
    cdef bint _opened
    cdef int _acquire(self, int descriptor, size_t size) except -1
    cdef int _close_view(self) except -1
    cdef int _refuse(self, str why) except -1
    cdef int _check_header(self) except -1
    cdef int _check_tables(self) except -1
    cdef bint _template_good(self, const Template *template) noexcept nogil
    cdef int _index_issuers(self) except -1

cdef class Index:
    cdef readonly tuple segments
    cdef readonly object generation
    cdef const SegmentView **_views
    cdef int _count
    cdef Lookup find(
        self, int hash_id, Span name_hash, Span key_hash, Span serial, Found *out
    ) noexcept nogil
