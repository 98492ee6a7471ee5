# cython: language_level=3
"""Client connections: HTTP bytes in, HTTP bytes out. Public surface in _fastpath.pyi.

Rules of this file
1. What to answer is `_responder`'s; here requests are cut out of what was read, and answers written.
2. A connection is in one of three states. FAST: requests are answered here. SLOW: one request,
   whose end is known, is with aiohttp; FAST again when it is answered. FOREIGN: the framing is in
   doubt, aiohttp has the connection and ends it with its answer (RFC 9112 §6.3): so no octets whose
   meaning is in doubt are ever taken for a request, and no connection stays slow. Where a last answer
   leaves octets unread, the connection is LINGERING for a while before it is CLOSED.
3. Everything kept for a client is bounded: one request's octets, plus what one read delivers.
4. Responses go to the socket directly, all those to one read in one system call. What it does not take
   is the transport's, and while the transport has something to write, so is everything after it.
"""

import asyncio

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ocspd._http cimport (
    C_NONE,
    POST,
    Cause,
    Chunks,
    Request,
    read_head,
    skip_chunks,
)
from ocspd._index cimport Index
from ocspd._responder cimport HEAD_ROOM, Responder, Verdict, strange_condition

from ocspd import metrics

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t send(int descriptor, const void *data, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef enum:
    SAMPLE = 16  # every 16th read is timed
    OUT_ROOM = 1 << 14  # octets of responses in one system call
    KEPT_LIMIT = 1 << 22  # octets kept for a client; a transport that stops reading when told stays far below
    LINGER_S = 5  # how long, and how many octets, a client may go on sending after a last answer
    LINGER_OCTETS = 1 << 24
    BLANK_ROOM = 2  # octets of empty lines that do not begin a request: some clients send CRLF after a body

_POSITION = {name: position for position, name in enumerate(metrics.COUNTERS)}

cdef int N_SLOW = _POSITION["slow_" + metrics.SLOW_CAUSES[0]]
cdef int N_RECEIVED = _POSITION["received_bytes"]
cdef int N_LATENCY = _POSITION["latency_bucket_0"]
cdef int N_LATENCY_SUM = _POSITION["latency_sum_ns"]
cdef int N_OPENED = _POSITION["connections_opened"]
cdef int N_CLOSED = _POSITION["connections_closed"]
cdef int N_REFUSED = _POSITION["connections_refused"]
cdef int N_TIMEOUT_HEADER = _POSITION["timeout_header"]
cdef int N_TIMEOUT_IDLE = _POSITION["timeout_idle"]
cdef int N_TIMEOUT_WRITE = _POSITION["timeout_write"]
cdef int N_BOUNDS = len(metrics.LATENCY_BOUNDS_NS)
cdef int64_t[16] BOUNDS
cdef int _number
if N_BOUNDS > 16:
    raise ImportError("metrics.LATENCY_BOUNDS_NS has no room in _fastpath")
for _number in range(N_BOUNDS):
    BOUNDS[_number] = metrics.LATENCY_BOUNDS_NS[_number]
if metrics.SLOW_CAUSES != ("method", "target", "version", "header", "chunked", "expect", "framing", "size"):
    raise ImportError("metrics.SLOW_CAUSES and _http.Cause disagree")


# What _socket is until the connection's descriptor is known. Asking for it costs half a microsecond, and
# many connections carry one answer only.
cdef enum:
    NO_SOCKET = -1  # the transport alone can write, as with TLS
    NOT_USED = -2
    USED_ONCE = -3


cdef enum State:
    FAST = 0
    SLOW = 1
    FOREIGN = 2
    CLOSED = 3
    LINGERING = 4  # nothing more is answered; what the client still sends is dropped


cdef class Connections:
    """See _fastpath.pyi."""
    cdef Responder _responder
    cdef object _slow_factory
    cdef set _open
    cdef int _header_timeout
    cdef int _idle_timeout
    cdef int _write_timeout
    cdef Py_ssize_t _maximum
    cdef int64_t _ticks
    cdef bint _draining
    cdef uint8_t *_out  # where responses are put together; empty between two calls of a connection
    cdef object __weakref__

    def __cinit__(self):
        self._out = <uint8_t *> malloc(OUT_ROOM)
        if self._out == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._out)

    def __init__(
        self, Responder responder not None, *, slow_factory, header_timeout_s=10, idle_timeout_s=75,
        write_timeout_s=30, max_connections=50_000
    ):
        if min(header_timeout_s, idle_timeout_s, write_timeout_s, max_connections) < 1:
            raise ValueError("limits of connections are positive")
        self._responder = responder
        self._slow_factory = slow_factory
        self._open = set()
        self._header_timeout = header_timeout_s
        self._idle_timeout = idle_timeout_s
        self._write_timeout = write_timeout_s
        self._maximum = max_connections
        self._ticks = 0
        self._draining = False

    def protocol(self):
        if self._responder is None:
            raise TypeError("Connections is not initialised")
        cdef OCSPConnection connection = OCSPConnection.__new__(OCSPConnection)
        connection._pool = self
        connection._responder = self._responder
        connection._socket = NOT_USED
        return connection

    def tick(self, now_s):
        cdef OCSPConnection connection
        cdef int64_t waited
        if self._responder is None:
            raise TypeError("Connections is not initialised")
        self._responder.set_time(now_s)
        self._ticks += 1
        for connection in tuple(self._open):
            waited = self._ticks - connection._since
            if connection._paused or connection._state == CLOSED:  # the client has something to read
                if waited > self._write_timeout:
                    self._responder._counters[N_TIMEOUT_WRITE] += 1
                    connection._abort()
            elif connection._state == LINGERING:
                if waited > LINGER_S:
                    connection._state = CLOSED
                    connection._transport.close()
            elif connection._state == FAST and not connection._buffered and connection._blank <= BLANK_ROOM:
                if waited > self._idle_timeout:
                    self._responder._counters[N_TIMEOUT_IDLE] += 1
                    connection._close()
            elif waited > self._header_timeout:
                self._responder._counters[N_TIMEOUT_HEADER] += 1
                connection._close()

    @property
    def current(self):
        return len(self._open)

    def drain(self):
        cdef OCSPConnection connection
        self._draining = True
        for connection in tuple(self._open):
            if connection._state == FAST and not connection._buffered and not connection._paused:
                connection._close()

    def abort(self):
        cdef OCSPConnection connection
        for connection in tuple(self._open):
            connection._abort()


cdef class OCSPConnection:
    """One client connection: an `asyncio.Protocol` in the sense of its methods."""
    cdef Connections _pool
    cdef Responder _responder
    cdef object _transport
    cdef int _socket
    cdef bint _queued  # the transport had something to write when last looked at
    cdef State _state
    cdef bint _paused
    cdef bint _ended
    cdef bint _owed  # aiohttp has not had all octets of its request yet
    cdef bint _replied  # aiohttp has answered it all the same
    cdef int64_t _since  # the tick at which what is waited for began
    cdef uint64_t _reads
    cdef uint64_t _served  # requests answered here
    cdef Py_ssize_t _blank  # octets of empty lines since the last request
    cdef Py_ssize_t _linger_left
    cdef uint8_t *_buffer
    cdef Py_ssize_t _buffered
    cdef Py_ssize_t _room
    cdef object _slow
    cdef SlowTransport _slow_transport
    cdef Py_ssize_t _slow_left
    cdef Chunks _chunks
    cdef bint _chunked
    cdef object __weakref__

    def __init__(self):
        raise TypeError("use Connections.protocol")

    def __dealloc__(self):
        PyMem_Free(self._buffer)

    # -- asyncio.Protocol ----------------------------------------------------------------------

    cdef int _check(self) except -1:
        if self._pool is None:
            raise TypeError("use Connections.protocol")
        return 0

    def connection_made(self, transport):
        self._check()
        cdef uint64_t *counters = self._responder._counters
        self._transport = transport
        self._since = self._pool._ticks
        if len(self._pool._open) >= self._pool._maximum:
            counters[N_REFUSED] += 1
            self._state = CLOSED
            transport.abort()
            return
        counters[N_OPENED] += 1
        self._pool._open.add(self)

    def connection_lost(self, exc):
        self._check()
        if self in self._pool._open:
            self._pool._open.discard(self)
            self._responder._counters[N_CLOSED] += 1
        self._state = CLOSED
        self._socket = NO_SOCKET
        if self._slow is not None:
            self._slow_transport._connection = None
            # aiohttp's task may not have begun yet, and fails when the connection is lost before it has
            asyncio.get_running_loop().call_soon(self._slow.connection_lost, exc)
            self._slow = self._slow_transport = None

    def eof_received(self):
        self._ended = True
        # a client may half-close and still wait for what aiohttp is working on
        return self._state == FOREIGN or (self._state == SLOW and not self._owed)

    def pause_writing(self):
        self._check()
        self._paused = True
        self._since = self._pool._ticks
        if self._slow is not None:
            self._slow.pause_writing()
        self._pause_reading()

    def resume_writing(self):
        self._check()
        self._paused = False
        self._since = self._pool._ticks
        if self._slow is not None:
            self._slow.resume_writing()
        if self._state == FAST and self._buffered:
            self._process_buffer()
        self._resume_reading()

    def data_received(self, bytes data not None):
        cdef const uint8_t *p = <const uint8_t *> <const char *> data
        cdef Py_ssize_t size = len(data)
        cdef Py_ssize_t used
        cdef timespec begin, end
        cdef bint timed = False
        cdef uint64_t served = self._served
        self._check()
        cdef uint64_t *counters = self._responder._counters
        counters[N_RECEIVED] += <uint64_t> size
        if self._state == FAST and self._buffered == 0 and not self._paused:
            self._reads += 1
            if self._reads % SAMPLE == 1:
                timed = True
                clock_gettime(CLOCK_MONOTONIC, &begin)
            used = self._process(p, size)
            if timed and used == size and self._state == FAST and self._served != served:
                clock_gettime(CLOCK_MONOTONIC, &end)
                self._record((end.tv_sec - begin.tv_sec) * 1_000_000_000 + end.tv_nsec - begin.tv_nsec)
            if used < size:
                if self._blank <= BLANK_ROOM:  # a request begins, and its time limit
                    self._since = self._pool._ticks
                self._keep(p + used, size - used)
        elif self._state == LINGERING:
            if size >= self._linger_left:
                self._close()
            else:
                self._linger_left -= size
        elif self._state == FOREIGN:
            self._slow.data_received(data)
        elif self._state == SLOW and not self._buffered:
            used = self._feed(p, size)
            if used < size:
                self._keep(p + used, size - used)
        elif self._state != CLOSED:
            self._keep(p, size)
            if self._state == FAST and not self._paused:
                self._process_buffer()

    # -- requests ------------------------------------------------------------------------------

    cdef int _record(self, int64_t elapsed_ns) except -1:
        """Put a sampled latency into its bucket."""
        cdef uint64_t *counters = self._responder._counters
        cdef int bucket = 0
        while bucket < N_BOUNDS and elapsed_ns > BOUNDS[bucket]:
            bucket += 1
        counters[N_LATENCY + bucket] += 1
        counters[N_LATENCY_SUM] += <uint64_t> elapsed_ns
        return 0

    cdef int _keep(self, const uint8_t *p, Py_ssize_t size) except -1:
        """Keep octets that cannot be used yet; the reader is stopped while there are many."""
        cdef Py_ssize_t room = self._room or 1024
        cdef uint8_t *grown
        if self._state == CLOSED or self._state == LINGERING:
            return 0
        if self._buffered + size > KEPT_LIMIT:
            self._abort()
            return 0
        while room < self._buffered + size:
            room *= 2
        if room != self._room:
            grown = <uint8_t *> PyMem_Realloc(self._buffer, <size_t> room)
            if grown == NULL:
                raise MemoryError
            self._buffer = grown
            self._room = room
        memcpy(self._buffer + self._buffered, p, <size_t> size)
        self._buffered += size
        if self._state == SLOW:
            self._pause_reading()
        return 0

    cdef int _process_buffer(self) except -1:
        """Go on with the octets kept."""
        if self._transport.is_closing():  # its descriptor may be another connection's by now
            return 0
        cdef uint8_t *taken = self._buffer
        cdef Py_ssize_t size = self._buffered
        cdef Py_ssize_t used
        # taken away while it is read: answering may keep other octets meanwhile
        self._buffer = NULL
        self._buffered = 0
        self._room = 0
        try:
            used = self._process(taken, size)
            if used < size:
                self._keep(taken + used, size - used)
        finally:
            PyMem_Free(taken)
        return 0

    cdef Py_ssize_t _process(self, const uint8_t *p, Py_ssize_t size) except -1:
        """Answer the requests in p; the octets used up. The rest has to wait for more, or for the client."""
        cdef Request request
        cdef Verdict verdict
        cdef uint8_t *out = self._pool._out
        cdef Py_ssize_t used = 0, filled = 0
        cdef Py_ssize_t total
        cdef Index index
        while used < size and self._state == FAST and not self._paused:
            if p[used] == c"\r" or p[used] == c"\n":  # empty lines before a request (RFC 9112 §2.2)
                used += 1
                self._blank += 1
                if self._blank == BLANK_ROOM + 1:
                    self._since = self._pool._ticks
                continue
            if not read_head(p + used, size - used, &request):
                break
            if request.cause == C_NONE and strange_condition(&request):
                request.cause = Cause.C_HEADER
            if request.cause == C_NONE:
                total = request.head_size
                if request.method == POST:
                    total += request.content_length
                    if used + total > size:
                        break
                if self._pool._draining:
                    request.keep_alive = 0
                # a verdict points into the index, and whatever writing runs could replace that
                index = self._responder._index
                if self._responder._settle(&request, p + used + request.head_size, &verdict):
                    self._since = self._pool._ticks
                    self._blank = 0
                    self._served += 1
                    if <size_t> filled + HEAD_ROOM + verdict.body_size > OUT_ROOM:
                        self._send(out, filled)
                        filled = 0
                    used += total
                    if HEAD_ROOM + verdict.body_size > OUT_ROOM:
                        self._write(self._responder._response(&request, &verdict))
                    else:
                        filled += self._responder._render(&request, &verdict, out + filled)
                    if self._queued:  # the client reads slowly: it is paused with the first answer too many
                        self._send(out, filled)
                        filled = 0
                    if not request.keep_alive:
                        self._send(out, filled)
                        self._close()
                        return size
                    continue
            if filled:
                self._send(out, filled)
                filled = 0
                if self._state != FAST or self._paused:
                    break
            if self._transport.is_closing():  # nobody is there any more
                self._state = CLOSED
                break
            used += self._hand_over(&request, p + used, size - used)
        self._send(out, filled)
        return used

    cdef int _send(self, const uint8_t *data, Py_ssize_t size) except -1:
        """Give octets to the socket, and what it does not take now to the transport."""
        cdef Py_ssize_t sent = 0
        if size == 0:
            return 0
        if self._socket < NO_SOCKET:
            self._find_socket()
        if self._queued:
            if self._transport.is_closing():  # lost in writing: its descriptor may be another's by now
                if self._state != CLOSED:
                    self._state = CLOSED
                    self._since = self._pool._ticks
                return 0
            self._queued = self._transport.get_write_buffer_size() > 0
        if self._socket >= 0 and not self._queued:
            sent = send(self._socket, data, <size_t> size, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent == size:
                return 0
            if sent < 0:  # full, or broken: the transport finds out which
                sent = 0
        self._write((<const char *> data)[sent:size])
        return 0

    cdef int _find_socket(self) except -1:
        """Get to know the connection's descriptor when it is used a second time."""
        if self._socket == NOT_USED:
            self._socket = USED_ONCE
            return 0
        socket = self._transport.get_extra_info("socket")
        self._socket = NO_SOCKET
        if socket is not None and self._transport.get_extra_info("sslcontext") is None:
            self._socket = socket.fileno()
        return 0

    cdef int _write(self, bytes data) except -1:
        """Give octets to the transport."""
        self._queued = True
        self._transport.write(data)
        return 0

    cdef int _close(self) except -1:
        """Write what is waiting, then close; nothing more is read."""
        self._state = CLOSED
        self._since = self._pool._ticks
        self._transport.close()
        return 0

    cdef int _linger(self) except -1:
        """End the connection after a last answer whose request is not all read.

        Closing with octets unread resets the connection, and the answer is lost with it (RFC 9112 §9.6).
        """
        if self._ended or self._transport.is_closing() or not self._transport.can_write_eof():
            return self._close()
        self._state = LINGERING
        self._since = self._pool._ticks
        self._linger_left = LINGER_OCTETS
        PyMem_Free(self._buffer)
        self._buffer = NULL
        self._buffered = 0
        self._room = 0
        try:
            self._transport.write_eof()
        except OSError:  # uvloop: the client has reset the connection, and that is about to be said
            return self._close()
        return self._resume_reading()

    cdef int _abort(self) except -1:
        """Close at once; what the client has not taken is lost."""
        self._state = CLOSED
        self._since = self._pool._ticks
        self._transport.abort()
        return 0

    cdef int _pause_reading(self) except -1:
        if self._state != CLOSED and not self._transport.is_closing():  # uvloop raises on a lost transport
            self._transport.pause_reading()
        return 0

    cdef int _resume_reading(self) except -1:
        """Read on, unless there is something that has to happen before."""
        if self._state == CLOSED or self._paused or (self._state == SLOW and self._buffered):
            return 0
        if not self._transport.is_closing():
            self._transport.resume_reading()
        return 0

    # -- handing a request to aiohttp ----------------------------------------------------------

    cdef Py_ssize_t _hand_over(self, const Request *request, const uint8_t *p, Py_ssize_t size) except -1:
        """Give aiohttp a request, or the connection when its framing is in doubt; the octets taken."""
        self._responder._counters[N_SLOW + <int> request.cause] += 1
        self._since = self._pool._ticks
        self._blank = 0
        self._state = FOREIGN if request.ambiguous else SLOW
        self._slow_transport = SlowTransport.__new__(SlowTransport)
        self._slow_transport._connection = self
        self._slow = self._pool._slow_factory()
        self._slow.connection_made(self._slow_transport)
        if request.ambiguous:
            self._slow.data_received(<bytes> (<const char *> p)[:size])
            return size
        self._owed = True
        self._replied = False
        self._chunked = request.chunked
        memset(&self._chunks, 0, sizeof(Chunks))
        self._slow_left = request.head_size
        if not request.chunked and request.content_length > 0:
            self._slow_left += request.content_length
        return self._feed(p, size)

    cdef Py_ssize_t _feed(self, const uint8_t *p, Py_ssize_t size) except -1:
        """Pass on the octets of aiohttp's request; those taken. What follows is the next request."""
        cdef Py_ssize_t taken = min(self._slow_left, size)
        cdef Py_ssize_t body
        if not self._owed:  # the next request waits until this one is answered
            return 0
        self._slow_left -= taken
        if self._chunked and self._slow_left == 0:
            body = skip_chunks(&self._chunks, p + taken, size - taken)
            if body < 0:  # aiohttp will say so
                self._state = FOREIGN
                self._owed = False
                taken = size
            else:
                taken += body
                self._owed = self._chunks.state != 10
        else:
            self._owed = self._slow_left > 0
        self._slow.data_received(<bytes> (<const char *> p)[:taken])
        if self._replied and not self._owed and self._state == SLOW:
            self._answered(True)
        return taken

    cdef int _drop_slow(self, object exc) except -1:
        """Take the connection back from aiohttp."""
        slow, self._slow = self._slow, None
        if slow is not None:
            self._slow_transport._connection = None
            self._slow_transport = None
            slow.connection_lost(exc)
        return 0

    cdef int _answered(self, bint keep_alive) except -1:
        """aiohttp has written its whole answer."""
        if self._state != SLOW:
            return 0
        if not keep_alive or self._pool._draining:
            return self._linger() if self._owed else self._close()
        self._replied = True
        if self._owed:
            return 0  # answered before the request was whole: aiohttp reads the rest, or closes
        asyncio.get_running_loop().call_soon(self._take_back, self._slow)
        return 0

    def _take_back(self, object slow):
        """Be fast again (scheduled, so that aiohttp's task has come to rest)."""
        if self._slow is not slow or self._state != SLOW or self._transport.is_closing():
            return
        self._drop_slow(None)
        self._state = FAST
        self._since = self._pool._ticks
        if self._buffered:
            self._process_buffer()
        if self._ended and self._state == FAST and not self._paused:
            self._close()
        self._resume_reading()


cdef class SlowTransport:
    """What aiohttp sees as its transport: the client's, for as long as it has the connection."""
    cdef OCSPConnection _connection

    @property
    def ends_connection(self):
        return self._connection is not None and (
            self._connection._state != SLOW or self._connection._pool._draining
        )

    def request_done(self, keep_alive):
        """Say that the answer is written; called by the handler of the slow path."""
        if self._connection is not None:
            self._connection._answered(keep_alive)

    def write(self, data):
        if self._connection is not None and self._connection._state != LINGERING:
            self._connection._write(bytes(data))

    def writelines(self, data):
        self.write(b"".join(data))

    def close(self):
        cdef OCSPConnection connection = self._connection
        if connection is None or connection._state == LINGERING or connection._state == CLOSED:
            return
        if connection._state == FOREIGN or connection._owed:
            connection._linger()
        else:
            connection._close()

    def abort(self):
        if self._connection is not None:
            self._connection._abort()

    def is_closing(self):
        return self._connection is None or self._connection._transport.is_closing()

    def get_extra_info(self, name, default=None):
        if self._connection is None:
            return default
        return self._connection._transport.get_extra_info(name, default)

    def can_write_eof(self):
        return False

    def pause_reading(self):
        if self._connection is not None:
            self._connection._pause_reading()

    def resume_reading(self):
        if self._connection is not None:
            self._connection._resume_reading()

    def get_write_buffer_size(self):
        return 0 if self._connection is None else self._connection._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high=None, low=None):
        if self._connection is not None:
            self._connection._transport.set_write_buffer_limits(high, low)
