# Declarations of the text forms for the other native modules; documented in _text.pyx.

from libc.stdint cimport int64_t, uint8_t

cdef Py_ssize_t decode_base64(const uint8_t *text, Py_ssize_t size, uint8_t *out) noexcept nogil
cdef int read_time(const uint8_t *text, Py_ssize_t size, int64_t *out) noexcept nogil
cdef int format_time(int64_t seconds, char *out) noexcept nogil
