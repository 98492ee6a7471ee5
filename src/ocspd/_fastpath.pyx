# cython: language_level=3
"""Client connections: HTTP bytes in, HTTP bytes out. Public surface in _fastpath.pyi.

The way of a connection; `_reactor` has the descriptors, `_responder` says what to reply:

    state       what it is                       bytes come                 socket writable
    ----------  -------------------------------  -------------------------  ---------------------------
    FAST        requests are answered here       cut and answered           goes on with what was kept
    SLOW        one request, whose end is        its own are aiohttp's,     aiohttp may write again
                known, is with aiohttp           the rest is kept
    HANDED_OFF  the framing is in doubt:         aiohttp's                  aiohttp may write again
                aiohttp has the connection,
                and ends it with its reply
                (RFC 9112 §6.3)
    CLOSING     the last reply is being written  not read                   writes
    LINGERING   our side is closed; closing all  thrown away                -
                now would reset the connection
                before the client has read
    DONE        over                             -                          -
    FREE        the slot belongs to nobody       -                          -

    from        to          when
    ----------  ----------  ------------------------------------------------------------------
    FREE        FAST        a client is accepted or adopted
    FAST        SLOW        a request is for aiohttp
    FAST        HANDED_OFF  a request is for aiohttp, and its framing is in doubt
    FAST        CLOSING     the reply is the last, the client has ended, time is up, or draining
    SLOW        FAST        aiohttp has had the whole request and written the whole reply
    SLOW        HANDED_OFF  the chunks of the request turn out to be none
    SLOW        CLOSING     aiohttp closes, or time is up
    HANDED_OFF  CLOSING     aiohttp closes, or time is up
    CLOSING     LINGERING   all is written, and the client may still be sending
    CLOSING     DONE        all is written
    LINGERING   DONE        the client has ended, has sent too much, or LINGER_S are over
    *           DONE        it broke: a reset, a request cut short, the write time-out, an abort
    DONE        FREE        at the end of the way in (`_settle`)

Deadlines, looked at once a second by `tick`: a reply has to
be taken within the write time-out in any state; FAST without a byte of a request waits for the idle time-out,
begun requests (FAST, SLOW, HANDED_OFF) for the header time-out from their first byte on, whatever dribbles in.
Empty lines are no request and move no deadline, but more than BLANK_ROOM bytes of them begin one. LINGERING
ends after LINGER_S.

Rules of this file
1. What to reply is `_responder`'s; here requests are cut out of what was read, and replies written.
2. No bytes whose meaning is in doubt are ever taken for a request, and no connection stays slow.
3. Everything kept for a client is bounded: one request's bytes, plus what one read delivers; and no further
   request is answered while the client has not taken the reply before.
4. All replies to one read go out in one system call.
"""

import asyncio

cimport cython
from cpython.ref cimport PyObject, Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ocspd._http cimport (
    BODY_LIMIT,
    C_NONE,
    HEAD_LIMIT,
    POST,
    Chunks,
    Request,
    read_head,
    skip_chunks,
)
from ocspd._reactor cimport (
    CLOSING,
    DONE,
    FAST,
    FREE,
    HANDED_OFF,
    HIGH_WATER,
    KEPT_LIMIT,
    LINGERING,
    OUT_ROOM,
    SLOW,
    Connection,
    Reactor,
)
from ocspd._responder cimport HEAD_ROOM, Responder, Decision

from ocspd import metrics

cdef enum:
    SAMPLE = 16  # every 16th read is timed
    LINGER_S = 5
    BLANK_ROOM = 2  # bytes of empty lines that do not begin a request: some clients send CRLF after a body

_POSITION = {name: position for position, name in enumerate(metrics.COUNTERS)}

cdef int N_SLOW = _POSITION["slow_" + metrics.SLOW_CAUSES[0]]
cdef int N_RECEIVED = _POSITION["received_bytes"]
cdef int N_LATENCY = _POSITION["latency_bucket_0"]
cdef int N_LATENCY_SUM = _POSITION["latency_sum_ns"]
cdef int N_TIMEOUT_HEADER = _POSITION["timeout_header"]
cdef int N_TIMEOUT_IDLE = _POSITION["timeout_idle"]
cdef int N_TIMEOUT_WRITE = _POSITION["timeout_write"]
cdef int N_BOUNDS = len(metrics.LATENCY_BOUNDS_NS)
cdef int64_t[16] BOUNDS
cdef int _bound
if N_BOUNDS > 16:
    raise ImportError("metrics.LATENCY_BOUNDS_NS has no room in _fastpath")
for _bound in range(N_BOUNDS):
    BOUNDS[_bound] = metrics.LATENCY_BOUNDS_NS[_bound]
if metrics.SLOW_CAUSES != ("method", "target", "version", "header", "chunked", "expect", "framing", "size"):
    raise ImportError("metrics.SLOW_CAUSES and _http.Cause disagree")
if HEAD_LIMIT + BODY_LIMIT > KEPT_LIMIT:
    raise ImportError("_reactor.KEPT_LIMIT does not hold a whole request")


@cython.final
cdef class Connections(Reactor):
    """See _fastpath.pyi."""
    cdef Responder _responder
    cdef object _slow_factory
    cdef int _header_timeout
    cdef int _idle_timeout
    cdef int _write_timeout
    cdef bint _draining
    cdef uint64_t _reads
    cdef object __weakref__

    def __init__(
        self, Responder responder not None, *, slow_factory, header_timeout_s=10, idle_timeout_s=75,
        write_timeout_s=30, max_connections=50_000
    ):
        if min(header_timeout_s, idle_timeout_s, write_timeout_s, max_connections) < 1:
            raise ValueError("limits of connections are positive")
        self._begin(max_connections)
        self._responder = responder
        self._counters = responder._counters
        self._slow_factory = slow_factory
        self._header_timeout = header_timeout_s
        self._idle_timeout = idle_timeout_s
        self._write_timeout = write_timeout_s

    @property
    def buffered_bytes(self):
        cdef uint32_t slot
        cdef Connection *c
        cdef Py_ssize_t total = 0
        for slot in range(self._slots()):
            c = self._at(slot)
            total += c.kept_size + c.unsent_room
        return total

    def tick(self, now_s):
        cdef uint32_t slot, generation
        cdef Connection *c
        self._check()
        self._responder.set_time(now_s)
        self._ticks += 1
        self._accept_again()
        for slot in range(self._slots()):
            c = self._at(slot)
            if c.state != FREE:
                generation = c.generation
                self._expire(c)
                self._settle(c, generation)

    cdef int _expire(self, Connection *c) except -1:
        """End a connection whose time is up."""
        if c.unsent != NULL:
            if self._ticks > c.unsent_since + self._write_timeout:
                self._counters[N_TIMEOUT_WRITE] += 1
                self._reset(c)
                self._lost(c)
        elif c.state == LINGERING:
            if self._ticks > c.since + LINGER_S:
                c.state = DONE
        elif c.state == FAST and not c.begun:
            if self._ticks > c.since + self._idle_timeout:
                self._counters[N_TIMEOUT_IDLE] += 1
                c.state = CLOSING
        elif self._ticks > c.since + self._header_timeout:
            self._counters[N_TIMEOUT_HEADER] += 1
            c.state = CLOSING
            self._drop_slow(c, None)
        return 0

    def drain(self):
        cdef uint32_t slot, generation
        cdef Connection *c
        self._check()
        self._draining = True
        self._wake()
        for slot in range(self._slots()):
            c = self._at(slot)
            if c.state == FAST and c.unsent == NULL:
                generation = c.generation
                self._read_now(c)  # its next request may be here already
                if c.generation == generation:
                    self._rest(c)
                self._settle(c, generation)

    def abort(self):
        cdef uint32_t slot, generation
        cdef Connection *c
        self._check()
        for slot in range(self._slots()):
            c = self._at(slot)
            if c.state != FREE:
                generation = c.generation
                self._reset(c)
                self._lost(c)
                self._settle(c, generation)

    # -- what the reactor tells --------------------------------------------------------------------

    cdef int _readable(self, Connection *c) except -1:
        cdef Py_ssize_t size, before = 0
        cdef uint8_t *data = self._in
        if c.state == LINGERING:
            return self._discard(c)
        if c.state == FAST and c.unsent == NULL:
            before = c.kept_size  # of an unfinished request
        elif c.state != HANDED_OFF and not (c.state == SLOW and c.kept == NULL):
            return 0  # told of before the last event changed what is wanted
        size = self._receive(c, before)
        if size < 0:
            return self._lost(c)
        self._counters[N_RECEIVED] += <uint64_t> size
        if size:
            if c.state == FAST:
                if before:
                    memcpy(data, c.kept, <size_t> before)
                    self._forget_kept(c)
                self._reply_to(c, data, before + size)
            elif c.state == SLOW:
                self._feed_rest(c, data, size)
            elif c.state == HANDED_OFF:
                (<SlowTransport> <object> c.slow)._protocol.data_received(<bytes> (<const char *> data)[:size])
        if c.ended:
            self._end(c)
        return 0

    cdef int _end(self, Connection *c) except -1:
        """The client has sent its last byte; what it has asked for is still owed to it."""
        if c.state == FAST and c.unsent == NULL:
            c.state = CLOSING
        elif c.state == SLOW and (<SlowTransport> <object> c.slow)._owed:
            self._lost(c)  # the rest of its request will never come
        return 0

    cdef int _writable(self, Connection *c) except -1:
        cdef SlowTransport slow
        self._flush(c)
        if c.slow != NULL and c.state != DONE:
            slow = <SlowTransport> <object> c.slow
            if slow._paused and c.unsent_left <= HIGH_WATER // 4:
                slow._paused = False
                slow._protocol.resume_writing()
        elif c.state == FAST and c.unsent == NULL:
            c.since = self._ticks
            self._go_on(c)
        return 0

    cdef int _lost(self, Connection *c) except -1:
        """The connection is broken: nothing can be read or written any more."""
        c.state = DONE
        self._forget_unsent(c)
        self._drop_slow(c, ConnectionResetError("connection lost"))
        return 0

    # -- requests ----------------------------------------------------------------------------------

    cdef int _reply_to(self, Connection *c, const uint8_t *data, Py_ssize_t size) except -1:
        """Answer the requests among these bytes of a FAST connection and keep the rest."""
        cdef Py_ssize_t used
        cdef bint replied = False
        self._reads += 1
        used = self._process(c, data, size, &replied)
        if replied:
            c.since = self._ticks
            c.begun = False
            if self._reads % SAMPLE == 0 and c.state != SLOW and c.state != HANDED_OFF:
                self._record()
        if c.state == FAST or c.state == SLOW:
            self._keep(c, data + used, size - used)
            if c.state == FAST and not c.begun and (used < size or c.blank > BLANK_ROOM):
                c.begun = True
                c.since = self._ticks
        elif used < size:
            c.lingers = True
        return 0

    cdef int _go_on(self, Connection *c) except -1:
        """Go on with a FAST connection, and the bytes kept of it, that could not be answered at once."""
        cdef uint8_t *taken = c.kept
        cdef Py_ssize_t size = c.kept_size
        if taken != NULL:
            c.kept = NULL
            c.kept_size = 0
            try:
                self._reply_to(c, taken, size)
            finally:
                free(taken)
        if c.ended:
            self._end(c)
        if self._draining:
            self._rest(c)
        return 0

    cdef int _rest(self, Connection *c) except -1:
        """While draining, end a connection that has nothing to wait for."""
        if c.state == FAST and not c.begun and c.unsent == NULL:
            c.state = CLOSING
        return 0

    cdef Py_ssize_t _process(
        self, Connection *c, const uint8_t *p, Py_ssize_t size, bint *replied
    ) except -1:
        """Answer the requests in p; the bytes used up. The rest has to wait for more, or for the client."""
        cdef Request request
        cdef Decision decision
        cdef uint8_t *out = self._out
        cdef Py_ssize_t used = 0, filled = 0, total
        cdef bytes large
        while used < size and c.state == FAST and c.unsent == NULL:
            if p[used] == c"\r" or p[used] == c"\n":  # empty lines before a request (RFC 9112 §2.2)
                used += 1
                c.blank += c.blank <= BLANK_ROOM
                continue
            if not read_head(p + used, size - used, &request):
                break
            if request.cause == C_NONE:
                total = request.head_size
                if request.method == POST:
                    total += request.content_length
                    if used + total > size:
                        break
                if self._draining:
                    request.keep_alive = 0
                if self._responder._decide_http(&request, p + used + request.head_size, &decision):
                    replied[0] = True
                    c.blank = 0
                    if <size_t> filled + HEAD_ROOM + decision.body_size > OUT_ROOM:
                        self._send(c, out, filled)
                        filled = 0
                        if c.state != FAST:
                            break
                    used += total  # decided and counted: it goes out, be it behind what the client has not taken
                    if HEAD_ROOM + decision.body_size > OUT_ROOM:
                        large = self._responder._render_large(&request, &decision)
                        self._send(c, <const uint8_t *> <const char *> large, len(large))
                    else:
                        filled += self._responder._render(&request, &decision, out + filled)
                    if not request.keep_alive:
                        self._send(c, out, filled)
                        filled = 0
                        if c.state == FAST:
                            c.state = CLOSING
                    continue
            if filled:
                self._send(c, out, filled)
                filled = 0
                if c.state != FAST or c.unsent != NULL:
                    break
            used += self._hand_over(c, &request, p + used, size - used)
        self._send(c, out, filled)
        return used

    cdef int _record(self) except -1:
        """Put the time since the kernel told of the data into its bucket."""
        cdef timespec end
        cdef int64_t elapsed_ns
        cdef int bucket = 0
        clock_gettime(CLOCK_MONOTONIC, &end)
        elapsed_ns = end.tv_sec * 1_000_000_000 + end.tv_nsec - self._woken_ns
        while bucket < N_BOUNDS and elapsed_ns > BOUNDS[bucket]:
            bucket += 1
        self._counters[N_LATENCY + bucket] += 1
        self._counters[N_LATENCY_SUM] += <uint64_t> elapsed_ns
        return 0

    cdef int _close(self, Connection *c) except -1:
        """aiohttp ends the connection: write what is waiting, then close."""
        if c.state == SLOW or c.state == HANDED_OFF:
            c.lingers = c.state == HANDED_OFF or c.kept != NULL or (<SlowTransport> <object> c.slow)._owed
            c.state = CLOSING
            self._drop_slow(c, None)
        return 0

    # -- handing a request to aiohttp --------------------------------------------------------------

    cdef Py_ssize_t _hand_over(
        self, Connection *c, const Request *request, const uint8_t *p, Py_ssize_t size
    ) except -1:
        """Give aiohttp a request, or the connection when its framing is in doubt; the bytes taken."""
        cdef SlowTransport slow = SlowTransport.__new__(SlowTransport)
        self._counters[N_SLOW + <int> request.cause] += 1
        slow._connections = self
        slow._slot = c.slot
        slow._generation = c.generation
        slow._chunked = request.chunked
        slow._left = request.head_size
        if not request.chunked and request.content_length > 0:
            slow._left += request.content_length
        slow._owed = not request.ambiguous
        slow._protocol = self._slow_factory()
        Py_INCREF(slow)
        c.slow = <PyObject *> slow
        c.state = HANDED_OFF if request.ambiguous else SLOW
        c.blank = 0
        if not c.begun:
            c.begun = True
            c.since = self._ticks
        slow._protocol.connection_made(slow)
        if request.ambiguous:
            slow._protocol.data_received(<bytes> (<const char *> p)[:size])
            return size
        return self._feed(c, slow, p, size)

    cdef int _feed_rest(self, Connection *c, const uint8_t *p, Py_ssize_t size) except -1:
        """Pass on what came while aiohttp has a request, and keep what belongs to the next ones."""
        cdef Py_ssize_t used = self._feed(c, <SlowTransport> <object> c.slow, p, size)
        if c.state == SLOW or c.state == FAST:
            self._keep(c, p + used, size - used)
        return 0

    cdef Py_ssize_t _feed(
        self, Connection *c, SlowTransport slow, const uint8_t *p, Py_ssize_t size
    ) except -1:
        """Pass on the bytes of aiohttp's request; those taken. What follows is the next request."""
        cdef Py_ssize_t taken = min(slow._left, size)
        cdef Py_ssize_t body
        if not slow._owed:
            return 0
        slow._left -= taken
        if slow._chunked and slow._left == 0:
            body = skip_chunks(&slow._chunks, p + taken, size - taken)
            if body < 0:  # aiohttp will say so
                c.state = HANDED_OFF
                slow._owed = False
                taken = size
            else:
                taken += body
                slow._owed = slow._chunks.state != 10
        else:
            slow._owed = slow._left > 0
        slow._protocol.data_received(<bytes> (<const char *> p)[:taken])
        if slow._replied and not slow._owed:
            self._slow_done(c, slow)
        return taken

    cdef int _drop_slow(self, Connection *c, object exc) except -1:
        """Take the connection back from aiohttp, which hears of it when it has come to rest."""
        cdef SlowTransport slow
        if c.slow != NULL:
            slow = <SlowTransport> <object> c.slow
            c.slow = NULL
            Py_DECREF(slow)
            slow._connections = None
            c.held = False
            asyncio.get_running_loop().call_soon(slow._protocol.connection_lost, exc)
        return 0

    cdef int _slow_done(self, Connection *c, SlowTransport slow) except -1:
        """aiohttp has written its whole reply and had the whole request: be fast again, soon."""
        if c.state == SLOW:
            asyncio.get_running_loop().call_soon(self._take_back, slow)
        return 0

    def _take_back(self, SlowTransport slow):
        """Be fast again (scheduled, so that aiohttp's task has come to rest)."""
        cdef Connection *c = slow._find()
        if c == NULL or c.state != SLOW:
            return
        c.state = FAST
        c.begun = False
        c.since = self._ticks
        self._drop_slow(c, None)
        try:
            if c.unsent == NULL:
                self._go_on(c)
        except Exception as err:
            self._failed(c, slow._generation, err)
        self._settle(c, slow._generation)


cdef class SlowTransport:
    """What aiohttp sees as its transport: the client's, for as long as it has the connection."""
    cdef Connections _connections  # None when the connection is gone, or fast again
    cdef uint32_t _slot
    cdef uint32_t _generation
    cdef object _protocol
    cdef Py_ssize_t _left  # bytes of the head, and of a body of known length, that aiohttp has not had
    cdef Chunks _chunks
    cdef bint _chunked
    cdef bint _owed  # aiohttp has not had all bytes of its request yet
    cdef bint _replied  # aiohttp has answered it all the same
    cdef bint _paused

    cdef Connection *_find(self) noexcept:
        """The connection; NULL when it is not aiohttp's any more."""
        if self._connections is None:
            return NULL
        return self._connections._find(self._slot, self._generation)

    cdef int _settle(self, Connection *c) except -1:
        if self._connections is not None:
            return self._connections._settle(c, self._generation)
        return 0

    @property
    def ends_connection(self):
        cdef Connection *c = self._find()
        return c != NULL and (c.state != SLOW or self._connections._draining)

    def request_done(self, keep_alive):
        cdef Connection *c = self._find()
        if c == NULL or not (c.state == SLOW or c.state == HANDED_OFF):
            return
        if not keep_alive or c.state == HANDED_OFF or self._connections._draining:
            self.close()
            return
        self._replied = True
        if not self._owed:  # else: answered before the request was whole; aiohttp reads the rest, or closes
            self._connections._slow_done(c, self)

    def write(self, data):
        cdef Connection *c = self._find()
        cdef Connections connections = self._connections
        cdef bytes raw
        if c == NULL or c.state == CLOSING or c.state == LINGERING or c.state == DONE:
            return
        raw = bytes(data)
        connections._send(c, <const uint8_t *> <const char *> raw, len(raw))
        if c.unsent_left > HIGH_WATER and not self._paused:
            self._paused = True
            self._protocol.pause_writing()
        connections._settle(c, self._generation)

    def writelines(self, data):
        self.write(b"".join(data))

    def close(self):
        cdef Connection *c = self._find()
        cdef Connections connections = self._connections
        if c != NULL:
            connections._close(c)
            connections._settle(c, self._generation)

    def abort(self):
        cdef Connection *c = self._find()
        cdef Connections connections = self._connections
        if c != NULL:
            connections._reset(c)
            connections._lost(c)
            connections._settle(c, self._generation)

    def is_closing(self):
        cdef Connection *c = self._find()
        return c == NULL or not (c.state == SLOW or c.state == HANDED_OFF)

    def get_extra_info(self, name, default=None):
        return default

    def can_write_eof(self):
        return False

    def pause_reading(self):
        self._hold(True)

    def resume_reading(self):
        self._hold(False)

    cdef int _hold(self, bint held) except -1:
        cdef Connection *c = self._find()
        if c != NULL:
            c.held = held
            self._settle(c)
        return 0

    def get_write_buffer_size(self):
        cdef Connection *c = self._find()
        return 0 if c == NULL else c.unsent_left

    def set_write_buffer_limits(self, high=None, low=None):
        pass
