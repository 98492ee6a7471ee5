# cython: language_level=3
"""Descriptors and who is ready: accepting, reading, writing, closing. Public surface in _reactor.pyi.

Rules of this file
1. It knows descriptors and bytes; what a connection is for is `_fastpath`'s, in `_readable`, `_writable`
   and `_lost`. It makes no Python object for a connection.
2. A connection is released in one place, `_settle`, which ends every way in (an event, a tick, a call of
   aiohttp). Until then its memory stays its own, whatever happened to it on the way.
3. Nobody keeps a pointer to a connection beyond one way in. What is remembered (by epoll, by aiohttp's
   transport) is a slot and a generation, and the generation moves on when the slot is released: an event
   or a write for a connection that is gone finds nothing, although the kernel hands out its descriptor
   again at once.
4. epoll is level-triggered: what is left unread is told again, so a turn may stop anywhere. It is asked
   only for what will be acted on; a connection that is answered and closed at once is never registered.
5. Work in a turn is bounded: so many events, so many accepted connections, one read of each.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport PyObject
from libc.errno cimport (
    EAGAIN,
    EBADF,
    EINTR,
    EINVAL,
    EMFILE,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    ENOSPC,
    ENOTSOCK,
    EOPNOTSUPP,
    errno,
)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close

import asyncio
import os

from ocspd import metrics

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int maximum, int timeout_ms)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

cdef extern from "<sys/socket.h>" nogil:
    int accept4(int listener, void *address, void *size, int flags)
    Py_ssize_t recv(int descriptor, void *data, size_t size, int flags)
    Py_ssize_t send(int descriptor, const void *data, size_t size, int flags)
    int setsockopt(int descriptor, int level, int option, const void *value, unsigned int size)
    int shutdown(int descriptor, int how)
    int SOCK_NONBLOCK, SOCK_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, SOL_SOCKET, SO_LINGER
    struct linger:
        int l_onoff
        int l_linger

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef enum:
    EVENTS = 128  # of one epoll_wait
    ROUNDS = 4  # epoll_waits of one turn: more is ready than fits in one
    ACCEPTS = 64  # connections taken from a listener before others have their turn
    BLOCK = 512  # connections whose memory is allocated together
    LINGER_BYTES = 1 << 24  # read and thrown away before a connection is reset after all

cdef uint32_t LISTENER = 0xFFFFFFFF  # the slot of what is no connection
cdef uint32_t NEVER_ASKED = 0xFFFFFFFF

_POSITION = {name: position for position, name in enumerate(metrics.COUNTERS)}
cdef int N_OPENED = _POSITION["connections_opened"]
cdef int N_CLOSED = _POSITION["connections_closed"]
cdef int N_REFUSED = _POSITION["connections_refused"]


cdef class Reactor:
    """See _reactor.pyi."""

    def __cinit__(self, *args, **options):
        self._epoll = -1
        self._reserve = -1
        self._listeners = {}
        self._accepting = True
        self._in = <uint8_t *> malloc(KEPT_LIMIT + READ_ROOM)
        self._out = <uint8_t *> malloc(OUT_ROOM)
        if self._in == NULL or self._out == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t slot
        cdef Connection *c
        for slot in range(self._slots()):
            c = self._at(slot)
            if c.state != FREE:
                close(c.descriptor)
                free(c.kept)
                free(c.unsent)
        for slot in range(self._block_count):
            free(self._blocks[slot])
        free(self._blocks)
        free(self._in)
        free(self._out)
        if self._epoll >= 0:
            close(self._epoll)
        if self._reserve >= 0:
            close(self._reserve)

    # -- what the event loop and the worker call ---------------------------------------------------

    def fileno(self):
        self._check()
        return self._epoll

    def turn(self):
        cdef epoll_event events[EVENTS]
        cdef int count = EVENTS, at, rounds = 0
        self._check()
        while count == EVENTS and rounds < ROUNDS:
            rounds += 1
            count = epoll_wait(self._epoll, events, EVENTS, 0)
            if count < 0:
                if errno == EINTR:
                    return
                raise OSError(errno, os.strerror(errno))
            self._wake()
            for at in range(count):
                self._serve(events[at].events, events[at].data.u64)

    def listen(self, int descriptor):
        cdef int on = 1
        cdef epoll_event event
        self._check()
        if descriptor in self._listeners:
            return
        os.set_blocking(descriptor, False)
        # Inherited by what is accepted; a Unix socket does not know it, which does not matter.
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(int))
        event.events = EPOLLIN
        event.data.u64 = <uint64_t> descriptor << 32 | LISTENER
        if self._accepting and epoll_ctl(self._epoll, EPOLL_CTL_ADD, descriptor, &event):
            raise OSError(errno, os.strerror(errno))
        self._listeners[descriptor] = True

    def unlisten(self, int descriptor):
        cdef epoll_event event
        self._check()
        if self._listeners.pop(descriptor, None) is not None:
            # closing is not enough: another process may hold the same socket
            epoll_ctl(self._epoll, EPOLL_CTL_DEL, descriptor, &event)

    def adopt(self, int descriptor):
        self._check()
        os.set_blocking(descriptor, False)
        self._wake()
        self._admit(descriptor)

    @property
    def current(self):
        return self._open

    @property
    def starved_by(self):
        return self._starved_by

    cdef int _wake(self) noexcept nogil:
        """Note the time from which on the latency of what is read now counts."""
        cdef timespec now
        clock_gettime(CLOCK_MONOTONIC, &now)
        self._woken_ns = now.tv_sec * 1_000_000_000 + now.tv_nsec
        return 0

    cdef int _check(self) except -1:
        if self._epoll < 0:
            raise TypeError("the reactor is not initialised")
        return 0

    cdef int _begin(self, uint32_t maximum) except -1:
        """Open what is needed; called once by `Connections.__init__`."""
        if self._epoll >= 0:
            raise TypeError("a reactor is initialised once")
        self._maximum = maximum
        self._reserve = _open_reserve()
        if self._reserve < 0:
            raise OSError(errno, os.strerror(errno))
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    # -- events ------------------------------------------------------------------------------------

    cdef int _serve(self, uint32_t events, uint64_t data) except -1:
        """Act on one event; a failure ends that connection and nothing else."""
        cdef uint32_t slot = <uint32_t> (data & 0xFFFFFFFF), generation = <uint32_t> (data >> 32)
        cdef Connection *c
        if slot == LISTENER:
            return self._accept(<int> generation)
        c = self._find(slot, generation)
        if c == NULL:
            return 0
        try:
            if events & (EPOLLERR | EPOLLHUP) and not (c.state == FAST and c.unsent == NULL):
                self._lost(c)  # reset, or both sides have ended: nothing can be read or written any more
            else:
                if events & EPOLLOUT:
                    self._writable(c)
                if events & (EPOLLIN | EPOLLERR | EPOLLHUP) and c.generation == generation:
                    self._readable(c)
        except Exception as err:
            self._failed(c, generation, err)
        self._settle(c, generation)
        return 0

    cdef int _failed(self, Connection *c, uint32_t generation, object err) except -1:
        """Report a failure of our own and give up the connection it happened on."""
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a connection could not be served", "exception": err}
        )
        if c.generation == generation:
            self._lost(c)
        return 0

    cdef int _settle(self, Connection *c, uint32_t generation) except -1:
        """End a way in: release the connection if it is over, otherwise ask epoll for what it waits for."""
        if c.generation != generation:
            return 0
        if c.state == CLOSING and c.unsent == NULL:
            if c.lingers and not c.ended:
                shutdown(c.descriptor, SHUT_WR)
                c.state = LINGERING
                c.since = self._ticks
            else:
                c.state = DONE
        if c.state == DONE:
            return self._release(c)
        return self._arm(c)

    cdef uint32_t _wanted(self, const Connection *c) noexcept nogil:
        """What epoll shall tell of a connection; that it is broken is told in any case."""
        cdef uint32_t wanted = 0
        if c.unsent != NULL:
            wanted = EPOLLOUT
        if c.ended or c.held or c.state == CLOSING:
            return wanted
        if c.state == HANDED_OFF or c.state == LINGERING or (c.state == SLOW and c.kept == NULL):
            wanted |= EPOLLIN
        elif c.state == FAST and c.unsent == NULL:  # the next request has to wait for this reply
            wanted |= EPOLLIN
        return wanted

    cdef int _arm(self, Connection *c) except -1:
        cdef epoll_event event
        cdef uint32_t wanted = self._wanted(c)
        if wanted == c.asked:
            return 0
        event.events = wanted
        event.data.u64 = <uint64_t> c.generation << 32 | c.slot
        if epoll_ctl(
            self._epoll, EPOLL_CTL_ADD if c.asked == NEVER_ASKED else EPOLL_CTL_MOD, c.descriptor, &event
        ):  # no memory, or no watches left: better no connection than one that is never heard again
            self._counters[N_REFUSED] += 1
            self._lost(c)
            return self._release(c)
        c.asked = wanted
        return 0

    # -- accepting ---------------------------------------------------------------------------------

    cdef int _accept(self, int listener) except -1:
        """Take what waits on a listener, answer it at once where the request is there already."""
        cdef int descriptor, count
        for count in range(ACCEPTS):
            descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if descriptor >= 0:
                self._admit(descriptor)
            elif errno == EAGAIN:
                break
            elif errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
                if self._starve(listener):
                    break
            elif errno == EBADF or errno == EINVAL or errno == ENOTSOCK or errno == EOPNOTSUPP:
                self.unlisten(listener)  # closed by its owner
                break
            # anything else is about the one connection (accept(2)): its client has gone, say
        return 0

    cdef int _admit(self, int descriptor) except -1:
        cdef Connection *c
        cdef uint32_t generation
        if self._open >= self._maximum:
            self._counters[N_REFUSED] += 1
            close(descriptor)
            return 0
        c = self._take(descriptor)
        if c == NULL:
            self._counters[N_REFUSED] += 1
            close(descriptor)
            return 0
        generation = c.generation
        self._read_now(c)
        return self._settle(c, generation)

    cdef int _read_now(self, Connection *c) except -1:
        """Read without being told that there is something to read."""
        cdef uint32_t generation = c.generation
        try:
            self._readable(c)
        except Exception as err:
            self._failed(c, generation, err)
        return 0

    cdef int _starve(self, int listener) except -1:
        """No descriptor is left: refuse the client instead of leaving it in the queue, with the one kept for
        that. True when nobody is left there, or when not even this is possible; then nothing is
        accepted until the next tick."""
        cdef int descriptor
        cdef bint nobody
        self._starved_by = errno
        if self._reserve >= 0:
            close(self._reserve)
            descriptor = accept4(listener, NULL, NULL, SOCK_CLOEXEC)
            nobody = descriptor < 0 and errno == EAGAIN
            if descriptor >= 0:
                close(descriptor)
                self._counters[N_REFUSED] += 1
            self._reserve = _open_reserve()
            if self._reserve >= 0 and (descriptor >= 0 or nobody):
                return nobody
        self._stop_accepting()
        return 1

    cdef int _stop_accepting(self) except -1:
        cdef epoll_event event
        self._accepting = False
        for listener in self._listeners:
            epoll_ctl(self._epoll, EPOLL_CTL_DEL, <int> listener, &event)
        return 0

    cdef int _accept_again(self) except -1:
        """Once a second: end what `_starve` began as far as descriptors and watches are there again."""
        cdef epoll_event event
        cdef int descriptor
        cdef bint all_watched = True
        if not self._starved_by:
            return 0
        if self._reserve < 0:
            self._reserve = _open_reserve()
        descriptor = _open_reserve()
        if self._reserve < 0 or descriptor < 0:
            return 0
        close(descriptor)
        if not self._accepting:
            for listener in self._listeners:
                event.events = EPOLLIN
                event.data.u64 = <uint64_t> <int> listener << 32 | LISTENER
                if epoll_ctl(self._epoll, EPOLL_CTL_ADD, <int> listener, &event) and (
                    errno == ENOMEM or errno == ENOSPC
                ):
                    self._starved_by = errno
                    all_watched = False
            if not all_watched:  # a listener nobody watches would be deaf for good: the next tick tries again
                return 0
            self._accepting = True
        self._starved_by = 0
        return 0

    # -- memory ------------------------------------------------------------------------------------

    cdef uint32_t _slots(self) noexcept nogil:
        """How many slots there are, free ones included."""
        return self._block_count * BLOCK

    cdef Connection *_at(self, uint32_t slot) noexcept nogil:
        return &self._blocks[slot // BLOCK][slot % BLOCK]

    cdef Connection *_find(self, uint32_t slot, uint32_t generation) noexcept nogil:
        """The connection remembered by slot and generation; NULL when it is gone."""
        cdef Connection *c
        if slot >= self._block_count * BLOCK:
            return NULL
        c = self._at(slot)
        return c if c.generation == generation and c.state != FREE else NULL

    cdef Connection *_take(self, int descriptor) noexcept nogil:
        """A fresh connection; NULL without memory for it. Blocks of them are never moved nor given back."""
        cdef Connection **blocks
        cdef Connection *c
        cdef uint32_t at, generation
        if self._free == NULL:
            blocks = <Connection **> realloc(self._blocks, (<size_t> self._block_count + 1) * sizeof(Connection *))
            if blocks == NULL:
                return NULL
            self._blocks = blocks
            blocks[self._block_count] = <Connection *> calloc(BLOCK, sizeof(Connection))
            if blocks[self._block_count] == NULL:
                return NULL
            for at in range(<uint32_t> BLOCK):
                c = &blocks[self._block_count][at]
                c.slot = self._block_count * BLOCK + at
                c.generation = 1
                c.next_free = self._free
                self._free = c
            self._block_count += 1
        c = self._free
        self._free = c.next_free
        at = c.slot
        generation = c.generation
        memset(c, 0, sizeof(Connection))
        c.slot = at
        c.generation = generation
        c.descriptor = descriptor
        c.state = FAST
        c.asked = NEVER_ASKED
        c.since = self._ticks
        self._open += 1
        self._counters[N_OPENED] += 1
        return c

    cdef int _release(self, Connection *c) noexcept nogil:
        """Close the descriptor and free the slot. Only `_settle` and `_arm` call it."""
        close(c.descriptor)
        self._forget_kept(c)
        self._forget_unsent(c)
        c.state = FREE
        c.generation += 1
        c.next_free = self._free
        self._free = c
        self._open -= 1
        self._counters[N_CLOSED] += 1
        return 0

    # -- bytes -------------------------------------------------------------------------------------

    cdef Py_ssize_t _receive(self, Connection *c, Py_ssize_t offset) noexcept nogil:
        """Read once into `_in` behind `offset` bytes that are there: how many came, 0 for none now.

        `ended` is set at the end of the client's stream; -1 when the connection is broken.
        """
        cdef Py_ssize_t size
        if offset > KEPT_LIMIT:
            return -1
        while True:
            size = recv(c.descriptor, self._in + offset, READ_ROOM, MSG_DONTWAIT)
            if size > 0:
                return size
            if size == 0:
                c.ended = True
                return 0
            if errno == EAGAIN:
                return 0
            if errno != EINTR:
                return -1

    cdef int _keep(self, Connection *c, const uint8_t *data, Py_ssize_t size) except -1:
        """Keep these bytes of a connection, which has none kept, until they can be used."""
        if size == 0:
            return 0
        c.kept = <uint8_t *> malloc(<size_t> size)
        if c.kept == NULL:
            raise MemoryError
        memcpy(c.kept, data, <size_t> size)
        c.kept_size = size
        return 0

    cdef int _send(self, Connection *c, const uint8_t *data, Py_ssize_t size) except -1:
        """Give bytes to the socket; what it does not take now is written when it does."""
        cdef Py_ssize_t sent = 0, room
        cdef uint8_t *grown
        if size == 0 or c.state == DONE or c.state == FREE:
            return 0
        if c.unsent == NULL:
            sent = send(c.descriptor, data, <size_t> size, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent == size:
                return 0
            if sent < 0:
                if not is_passing(errno):
                    self._lost(c)
                    return 0
                sent = 0
            c.unsent_since = self._ticks
        elif c.unsent_begin:
            memmove(c.unsent, c.unsent + c.unsent_begin, <size_t> c.unsent_left)
            c.unsent_begin = 0
        data += sent
        size -= sent
        room = c.unsent_left + size
        if room > c.unsent_room:
            grown = <uint8_t *> realloc(c.unsent, <size_t> room)
            if grown == NULL:
                self._lost(c)  # part of a reply may be out: nothing may follow it, an error reply neither
                raise MemoryError
            c.unsent = grown
            c.unsent_room = room
        memcpy(c.unsent + c.unsent_left, data, <size_t> size)
        c.unsent_left += size
        return 0

    cdef int _flush(self, Connection *c) except -1:
        """Write what waits, as far as the socket takes it."""
        cdef Py_ssize_t sent
        if c.unsent == NULL:
            return 0
        sent = send(c.descriptor, c.unsent + c.unsent_begin, <size_t> c.unsent_left, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            if not is_passing(errno):
                self._lost(c)
            return 0
        c.unsent_begin += sent
        c.unsent_left -= sent
        if c.unsent_left == 0:
            self._forget_unsent(c)
        return 0

    cdef int _forget_kept(self, Connection *c) noexcept nogil:
        free(c.kept)
        c.kept = NULL
        c.kept_size = 0
        return 0

    cdef int _forget_unsent(self, Connection *c) noexcept nogil:
        free(c.unsent)
        c.unsent = NULL
        c.unsent_begin = c.unsent_left = c.unsent_room = 0
        return 0

    cdef int _discard(self, Connection *c) except -1:
        """Read and throw away what a client still sends to a connection whose reply was its last."""
        cdef Py_ssize_t size = self._receive(c, 0)
        if size > 0:
            c.discarded += size
        if size < 0 or c.ended or c.discarded > LINGER_BYTES:
            c.state = DONE
        return 0

    cdef int _reset(self, Connection *c) noexcept nogil:
        """Close at once; the client is told by a reset, and what it has not taken is lost."""
        cdef linger option
        option.l_onoff = 1
        option.l_linger = 0
        setsockopt(c.descriptor, SOL_SOCKET, SO_LINGER, &option, sizeof(linger))
        self._forget_unsent(c)
        c.state = DONE
        return 0

    # -- what a connection is for ------------------------------------------------------------------

    cdef int _readable(self, Connection *c) except -1:
        raise NotImplementedError

    cdef int _writable(self, Connection *c) except -1:
        raise NotImplementedError

    cdef int _lost(self, Connection *c) except -1:
        raise NotImplementedError


cdef bint is_passing(int error) noexcept nogil:
    """Whether a write may succeed later: the socket, or the kernel, has no room now."""
    return error == EAGAIN or error == EINTR or error == ENOBUFS or error == ENOMEM


cdef int _open_reserve() noexcept nogil:
    return open(b"/dev/null", O_RDONLY | O_CLOEXEC)
