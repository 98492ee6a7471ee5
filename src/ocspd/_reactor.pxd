# Declarations of the reactor for _fastpath; documented in _reactor.pyx.

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    READ_ROOM = 1 << 14  # bytes of one read
    KEPT_LIMIT = 1 << 15  # bytes of an unfinished request: more than HEAD_LIMIT + BODY_LIMIT
    OUT_ROOM = 1 << 14  # bytes of replies in one system call
    HIGH_WATER = 1 << 16  # bytes waiting for a client at which aiohttp is asked to stop writing

# See the table at the head of _fastpath.pyx.
cdef enum State:
    FREE = 0
    FAST = 1
    SLOW = 2
    HANDED_OFF = 3
    CLOSING = 4
    LINGERING = 5
    DONE = 6

cdef struct Connection:
    int descriptor
    uint32_t slot
    uint32_t generation  # of the slot: whoever remembers another one means a connection that is gone
    uint32_t asked  # what epoll has been asked for; NEVER_ASKED before the first time
    uint8_t state
    uint8_t blank  # bytes of empty lines since the last request, as far as they matter
    bint ended  # the client has sent its last byte
    bint begun  # bytes of a request have come that is not answered yet
    bint lingers  # it may still be sending: closing now would reset the connection under the reply
    bint held  # aiohttp does not want to read
    int64_t since  # the tick at which what is waited for began
    uint8_t *kept  # bytes read and not used yet
    Py_ssize_t kept_size
    uint8_t *unsent  # bytes the socket has not taken yet
    Py_ssize_t unsent_begin
    Py_ssize_t unsent_left
    Py_ssize_t unsent_room
    int64_t unsent_since
    Py_ssize_t discarded
    PyObject *slow  # the SlowTransport of a connection that aiohttp answers, an owned reference
    Connection *next_free

cdef class Reactor:
    cdef int _epoll
    cdef int _reserve
    cdef Connection **_blocks
    cdef uint32_t _block_count
    cdef Connection *_free
    cdef dict _listeners
    cdef bint _accepting
    cdef int _starved_by
    cdef uint8_t *_in  # where reads go, behind what was kept of the connection
    cdef uint8_t *_out  # where replies are put together; empty between two connections
    cdef uint64_t *_counters
    cdef uint32_t _open
    cdef uint32_t _maximum
    cdef int64_t _ticks
    cdef int64_t _woken_ns

    cdef int _check(self) except -1
    cdef int _wake(self) noexcept nogil
    cdef uint32_t _slots(self) noexcept nogil
    cdef int _begin(self, uint32_t maximum) except -1
    cdef int _serve(self, uint32_t events, uint64_t data) except -1
    cdef int _failed(self, Connection *c, uint32_t generation, object err) except -1
    cdef int _settle(self, Connection *c, uint32_t generation) except -1
    cdef uint32_t _wanted(self, const Connection *c) noexcept nogil
    cdef int _arm(self, Connection *c) except -1
    cdef int _accept(self, int listener) except -1
    cdef int _read_now(self, Connection *c) except -1
    cdef int _admit(self, int descriptor) except -1
    cdef int _starve(self, int listener) except -1
    cdef int _stop_accepting(self) except -1
    cdef int _accept_again(self) except -1
    cdef Connection *_at(self, uint32_t slot) noexcept nogil
    cdef Connection *_find(self, uint32_t slot, uint32_t generation) noexcept nogil
    cdef Connection *_take(self, int descriptor) noexcept nogil
    cdef int _release(self, Connection *c) noexcept nogil
    cdef Py_ssize_t _receive(self, Connection *c, Py_ssize_t offset) noexcept nogil
    cdef int _keep(self, Connection *c, const uint8_t *data, Py_ssize_t size) except -1
    cdef int _send(self, Connection *c, const uint8_t *data, Py_ssize_t size) except -1
    cdef int _flush(self, Connection *c) except -1
    cdef int _forget_kept(self, Connection *c) noexcept nogil
    cdef int _forget_unsent(self, Connection *c) noexcept nogil
    cdef int _discard(self, Connection *c) except -1
    cdef int _reset(self, Connection *c) noexcept nogil

    # What a connection is for: _fastpath.Connections.
    cdef int _readable(self, Connection *c) except -1
    cdef int _writable(self, Connection *c) except -1
    cdef int _lost(self, Connection *c) except -1
