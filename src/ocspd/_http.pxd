# Declarations of the HTTP request reader for _fastpath; documented in _http.pyx.

from libc.stdint cimport uint8_t

from ocspd._der cimport Span

cdef enum:
    HEAD_LIMIT = 8192
    TARGET_LIMIT = 4096
    BODY_LIMIT = 10000

cdef enum Method:
    GET = 0
    POST = 1
    HEAD_METHOD = 2
    OTHER = 3

# Why a request is not for the fast path, as positions in metrics.SLOW_CAUSES. `_http` alone decides it.
cdef enum Cause:
    C_NONE = -1
    C_METHOD = 0
    C_TARGET = 1
    C_VERSION = 2
    C_HEADER = 3
    C_CHUNKED = 4
    C_EXPECT = 5
    C_FRAMING = 6
    C_SIZE = 7

cdef struct Request:
    Method method
    int minor
    bint keep_alive
    Span target
    Span if_none_match
    Py_ssize_t head_size
    Py_ssize_t content_length
    bint chunked
    bint ambiguous
    Cause cause

cdef int read_head(const uint8_t *data, Py_ssize_t size, Request *out) noexcept nogil
cdef Py_ssize_t read_target(
    Request *request, const uint8_t *prefix, Py_ssize_t prefix_size, uint8_t *out
) noexcept nogil
cdef bint is_listed(Span if_none_match, const char *etag, Py_ssize_t size) noexcept nogil

cdef struct Chunks:
    int state
    Py_ssize_t left
    int line

cdef Py_ssize_t skip_chunks(Chunks *chunks, const uint8_t *data, Py_ssize_t size) noexcept nogil
