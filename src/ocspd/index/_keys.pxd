# The keys of a segment in the making; documented in _keys.pyx.

from libc.stdint cimport uint32_t, uint64_t, uint8_t

cdef enum:
    KEY_PARTS = 256

cdef struct Pair:
    uint64_t key_hash
    uint64_t offset

cdef class SlotKeys:
    cdef uint64_t count
    cdef bint spilled
    cdef bint torn
    cdef int _file
    cdef const bint *_paced
    cdef const bint *_stopped
    cdef uint8_t *_buffers
    cdef uint32_t *_buffered
    cdef uint64_t *_last
    cdef uint8_t *_owners
    cdef uint64_t _blocks
    cdef uint64_t _room
    cdef uint8_t *_stream
    cdef uint64_t _stream_room
    cdef const uint8_t *_next
    cdef const uint8_t *_end
    cdef Pair _pair
    cdef void watch(self, const bint *paced, const bint *stopped) noexcept
    cdef int add(self, uint64_t key_hash, uint64_t offset) noexcept nogil
    cdef int open(self, int part) noexcept nogil
    cdef const Pair *next(self) noexcept nogil
    cdef void release(self, int part) noexcept nogil
    cdef int _spill(self, int part) noexcept nogil
