# The reader's entry points for the request path; documented in _index.pyx.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ocspd._der cimport CertID, Span
from ocspd._opening cimport (
    ETAG_BYTES,
    MAX_DER,
    MAX_HASH,
    MAX_HOLES,
    MAX_ISSUERS,
    MAX_SERIAL,
    MAX_TEMPLATES,
    PAGE,
    RECORD_DEAD,
    RECORD_HEAD,
    SLOTS_PER_PAGE,
    STRADDLE_LIMIT,
    TEMPLATE_WORDS,
    VERSION,
    Header,
    Hole,
    IssuerKey,
    Template,
    key_hash64,
    slot_page,
)

cdef struct SegmentView:
    const uint8_t *base
    const Header *header
    const uint64_t *slots
    const uint8_t *records
    const IssuerKey *issuers
    const Template *templates
    const uint32_t *template_sums
    const uint8_t *blobs
    uint32_t *issuer_table
    uint32_t issuer_mask

cdef struct Found:
    const SegmentView *segment
    const uint8_t *payload
    uint32_t template_id
    Template template

cdef enum Lookup:
    FOUND = 0
    UNKNOWN_SERIAL = 1
    UNKNOWN_ISSUER = 2
    DAMAGED = 3

cdef Span magnitude(Span serial) noexcept nogil
cdef bint copy_template(const SegmentView *view, uint64_t template_id, Template *out) noexcept nogil
cdef Py_ssize_t read_record(const SegmentView *view, uint64_t offset, Found *out) noexcept nogil
cdef int next_record(const SegmentView *view, uint64_t *place, Found *out) noexcept nogil
cdef CertID cert_id_of(const Found *found) noexcept nogil
cdef Lookup find_in_segment(
    const SegmentView *view, int hash_id, Span name_hash, Span key_hash, Span serial, Found *out
) noexcept nogil
cdef Span span_of(bytes data)
cdef bytes serial_bytes(object serial)
cdef void assemble(const Found *found, uint8_t *out) noexcept nogil

cdef class Segment:
    cdef SegmentView view
    cdef readonly str path
    cdef void *_base
    cdef size_t _size
    cdef bint _opened
    cdef Header _header
    cdef IssuerKey *_issuers
    cdef uint32_t *_sums
    cdef uint32_t *_issuer_table
    cdef int _close_view(self) except -1
    cdef int _refuse(self, str why) except -1
    cdef int _check_header(self) except -1
    cdef int _check_tables(self) except -1

cdef class Index:
    cdef readonly tuple segments
    cdef readonly object generation
    cdef const SegmentView **_views
    cdef int _count
    cdef readonly bint out_of_service
    cdef int _forget_replaced(self, int own, int64_t **counts) except -1
    cdef int _count_served(self, int64_t **counts, dict stats) except -1
    cdef Lookup find(
        self, int hash_id, Span name_hash, Span key_hash, Span serial, Found *out
    ) noexcept nogil
