# Declarations of the DER reader for the other native modules; documented in _der.pyx.

from libc.stdint cimport int64_t, uint8_t

cdef struct Span:
    const uint8_t *p
    Py_ssize_t n

# What is left to read. The cursors of one reader share `failure`: the first E_ code, or 0.
cdef struct Cursor:
    Span left
    int *failure

cdef struct CertID:
    int hash_id
    Span name_hash
    Span key_hash
    Span serial

cdef struct RequestView:
    CertID cert_id
    int count
    int has_nonce
    Span nonce

cdef struct SingleView:
    CertID cert_id
    int status
    Span revoked_at_text
    Span reason_byte
    int64_t revoked_at
    int64_t this_update
    int64_t next_update
    int has_next_update

cdef struct ResponseView:
    Span tbs
    Span responder_id
    Span singles
    Span signature_algorithm
    Span signature
    Span certificates
    int64_t produced_at
    int count
    SingleView first

cdef int read_request(const uint8_t *data, Py_ssize_t size, RequestView *out) noexcept nogil
cdef int read_response(const uint8_t *data, Py_ssize_t size, ResponseView *out) noexcept nogil
cdef int read_single(Span *singles, SingleView *out) noexcept nogil
cdef Cursor cursor_over(Span data, int *failure) noexcept nogil
cdef void enter(Cursor *cursor, int tag, Cursor *inside) noexcept nogil
cdef void take(Cursor *cursor, int tag, Span *content) noexcept nogil
cdef void end(Cursor *cursor) noexcept nogil
cdef str reason_text(int code)
cdef str hash_name(int hash_id)
cdef int hash_id_of(str name) except -1
