# The tables a segment writer fills; documented in _tables.pyx.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ocspd._der cimport ResponseView, SingleView, Span
from ocspd._index cimport IssuerKey, Template

cdef int unusable(const ResponseView *view, const SingleView *single, Py_ssize_t size) noexcept nogil


cdef class TemplateTable:
    cdef IssuerKey *issuers
    cdef uint32_t issuer_count
    cdef Template *templates
    cdef uint32_t template_count
    cdef uint8_t *blobs
    cdef uint64_t blobs_size
    cdef uint32_t _issuer_room
    cdef uint32_t _issuer_last
    cdef uint64_t *_hashes
    cdef uint32_t _template_room
    cdef uint32_t *_table
    cdef uint32_t _table_mask
    cdef uint64_t _blobs_room
    cdef int64_t issuer(self, int hash_id, Span name_hash, Span key_hash) noexcept nogil
    cdef int64_t intern(self, const Template *template, const uint8_t *der) noexcept nogil
    cdef int64_t template_for(
        self, const uint8_t *der, Py_ssize_t size, const ResponseView *view, const SingleView *single,
        int64_t refresh_at, bint refresh_known, Span *parts, int *count
    ) noexcept nogil
    cdef bint _same(self, const Template *known, const Template *template, const uint8_t *der) noexcept nogil
    cdef int _grow(self, uint32_t der_size) noexcept nogil
