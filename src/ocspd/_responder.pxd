# The responder's declarations for _fastpath; documented in _responder.pyx.

from libc.stdint cimport int64_t, uint8_t, uint64_t

from ocspd._http cimport Request
from ocspd._index cimport ETAG_BYTES, Found, Index, Template

cdef enum:
    HEAD_ROOM = 512

cdef enum Outcome:
    GOOD = 0
    REVOKED = 1
    UNKNOWN = 2
    UNKNOWN_SERIAL = 3
    UNKNOWN_ISSUER = 4
    MALFORMED = 5
    TRY_LATER = 6
    INTERNAL_ERROR = 7
    NOT_MODIFIED = 8
    HEALTH = 9

cdef struct Decision:
    Outcome outcome
    Found found
    const Template *template  # NULL when the body is not a signed response
    size_t body_size  # of the reply to a GET
    int64_t max_age_s
    uint8_t tag[ETAG_BYTES]

cdef class Responder:
    cdef Index _index
    cdef uint64_t *_counters
    cdef uint64_t *_own
    cdef Py_buffer _block
    cdef bint _shared
    cdef int64_t _now
    cdef char[32] _date
    cdef bytes _prefix
    cdef const char *_prefix_text
    cdef Py_ssize_t _prefix_size
    cdef int64_t _cap
    cdef int64_t _max_age(self, const Found *found, const uint8_t *tag) noexcept nogil
    cdef void _decide(self, const uint8_t *der, Py_ssize_t size, Decision *decision) noexcept nogil
    cdef bint _decide_http(self, Request *request, const uint8_t *body, Decision *decision) noexcept nogil
    cdef Py_ssize_t _render(self, const Request *request, const Decision *decision, uint8_t *out) noexcept nogil
    cdef bytes _render_large(self, const Request *request, const Decision *decision)
