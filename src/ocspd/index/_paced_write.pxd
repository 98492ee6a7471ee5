# cython: language_level=3
"""See _paced_write.pyx."""

from libc.stdint cimport int64_t, uint8_t

cdef int damaged() noexcept nogil
cdef int write_all(int descriptor, const uint8_t *data, size_t size, int64_t offset) noexcept nogil
cdef int write_until(
    int descriptor, const uint8_t *data, size_t size, int64_t offset, const bint *paced, const bint *stopped
) noexcept nogil
