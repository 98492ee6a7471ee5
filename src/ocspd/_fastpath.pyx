# cython: language_level=3
"""The request path: HTTP bytes in, HTTP bytes out. Public surface in _fastpath.pyi.

Rules of this file
1. On the hot path the only Python objects made are the response `bytes`; heads are rendered into
   a buffer on the stack, answers assembled straight into the response.
2. What is written equals what `web/ocsp.py` writes, octet for octet, Date aside.
3. A connection is in one of three states. FAST: requests are answered here. SLOW: one request,
   whose end is known, is with aiohttp; FAST again when it is answered. FOREIGN: the framing is in
   doubt, aiohttp has the connection and ends it with its answer (RFC 9112 §6.3): so no octets whose
   meaning is in doubt are ever taken for a request, and no connection stays slow.
4. Everything kept for a client is bounded: one request's octets, plus what one read delivers.
"""

import asyncio

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ocspd._der cimport RequestView, Span, format_time, read_request
from ocspd._http cimport (
    BODY_LIMIT,
    C_FRAMING,
    C_NONE,
    C_TARGET,
    GET,
    HEAD_METHOD,
    POST,
    TARGET_LIMIT,
    Cause,
    Chunks,
    Method,
    Request,
    decode_target,
    plain_target,
    read_head,
    skip_chunks,
)
from ocspd._index cimport ETAG_OCTETS, Found, Index, Lookup, Template, assemble

from ocspd import metrics

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

cdef enum:
    OVERDUE_MAX_AGE_S = 60  # max-age of an answer whose successor is late
    SAMPLE = 16  # every 16th read is timed
    HEAD_ROOM = 512

_OUTCOMES = metrics.OUTCOMES
COUNTERS = metrics.COUNTERS
COUNTER_BLOCK_BYTES = metrics.COUNTER_BLOCK_BYTES
_POSITION = {name: position for position, name in enumerate(COUNTERS)}
_BODIES = {
    UNKNOWN_SERIAL: bytes.fromhex("30030a0106"),
    UNKNOWN_ISSUER: bytes.fromhex("30030a0106"),
    MALFORMED: bytes.fromhex("30030a0101"),
    TRY_LATER: bytes.fromhex("30030a0103"),
    INTERNAL_ERROR: bytes.fromhex("30030a0102"),
}

cdef int N_OUTCOMES = len(metrics.OUTCOMES)
cdef int N_CERTID = _POSITION["certid_sha1"]
cdef int N_NONCE = _POSITION["request_nonce"]
cdef int N_MULTIPLE = _POSITION["request_multiple"]
cdef int N_SLOW = _POSITION["slow_" + metrics.SLOW_CAUSES[0]]
cdef int N_RECEIVED = _POSITION["received_bytes"]
cdef int N_SENT = _POSITION["sent_bytes"]
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
for _number in range(N_BOUNDS):
    BOUNDS[_number] = metrics.LATENCY_BOUNDS_NS[_number]
if metrics.SLOW_CAUSES != ("method", "target", "version", "header", "chunked", "expect", "framing", "size"):
    raise ImportError("metrics.SLOW_CAUSES and _http.Cause disagree")
if metrics.METHODS[:3] != ("get", "post", "head") or metrics.OUTCOMES[:10] != (
    "good", "revoked", "unknown", "unknown_serial", "unknown_issuer", "malformed", "try_later",
    "internal_error", "not_modified", "health",
):
    raise ImportError("metrics and _fastpath disagree on methods or outcomes")


cdef struct Verdict:
    Outcome outcome
    Found found
    int64_t max_age_s
    uint8_t tag[ETAG_OCTETS]


cdef inline char *put(char *at, const char *text, size_t size) noexcept nogil:
    memcpy(at, text, size)
    return at + size


cdef char *put_number(char *at, int64_t value) noexcept nogil:
    cdef char digits[20]
    cdef int count = 0
    while True:
        digits[count] = <char> (c"0" + value % 10)
        value = value // 10
        count += 1
        if value == 0:
            break
    while count:
        count -= 1
        at[0] = digits[count]
        at += 1
    return at


cdef char *put_hex(char *at, const uint8_t *data, int size) noexcept nogil:
    cdef int i
    cdef const char *digits = "0123456789ABCDEF"
    for i in range(size):
        at[0] = digits[data[i] >> 4]
        at[1] = digits[data[i] & 15]
        at += 2
    return at


cdef void etag_octets(const Found *found, uint8_t *out) noexcept nogil:
    """The 16 octets an entity tag is made of, without assembling the answer."""
    cdef const Template *template = found.template
    cdef uint64_t begin = template.etag_offset, end = begin + ETAG_OCTETS, low, high
    cdef int i
    memcpy(out, found.segment.blobs + template.blob_offset + begin, ETAG_OCTETS)
    for i in range(template.hole_count):
        low = max(begin, <uint64_t> template.holes[i].target)
        high = min(end, <uint64_t> template.holes[i].target + template.holes[i].size)
        if low < high:
            memcpy(
                out + (low - begin),
                found.payload + template.holes[i].source + (low - template.holes[i].target),
                high - low,
            )


cdef class Reply:
    """See _fastpath.pyi."""
    cdef readonly int http_status
    cdef readonly str outcome
    cdef readonly bytes body
    cdef readonly bint cacheable
    cdef readonly object this_update
    cdef readonly object next_update
    cdef readonly object max_age_s
    cdef readonly str etag


@cython.no_gc  # no part of any cycle, and a collector that clears the exporter of a Py_buffer goes wrong
cdef class Responder:
    """See _fastpath.pyi."""
    cdef Index _index
    cdef uint64_t *_counters
    cdef uint64_t *_own
    cdef Py_buffer _block
    cdef bint _shared
    cdef int64_t _now
    cdef char[32] _date
    cdef bytes _prefix
    cdef int64_t _cap

    def __cinit__(self):
        self._shared = False
        self._own = <uint64_t *> PyMem_Malloc(COUNTER_BLOCK_BYTES)
        if self._own == NULL:
            raise MemoryError
        memset(self._own, 0, COUNTER_BLOCK_BYTES)
        self._counters = self._own
        self._index = Index(())
        self._prefix = b""

    def __init__(self, Index index not None, *, path="/", counters=None, max_age_cap_s=0):
        if self._shared:
            raise TypeError("a Responder is initialised once")
        if counters is not None:
            PyObject_GetBuffer(counters, &self._block, PyBUF_CONTIG)
            self._shared = True
            if self._block.len < COUNTER_BLOCK_BYTES or <size_t> self._block.buf % 8:
                raise ValueError(f"counters need {COUNTER_BLOCK_BYTES} octets, aligned to 8")
            self._counters = <uint64_t *> self._block.buf
        self._index = index
        self._prefix = path.strip("/").encode()
        self._cap = max_age_cap_s
        self.set_time(0)

    def __dealloc__(self):
        if self._shared:
            PyBuffer_Release(&self._block)
        PyMem_Free(self._own)

    @property
    def index(self):
        return self._index

    @index.setter
    def index(self, Index value not None):
        self._index = value

    def set_time(self, int64_t now_s):
        if now_s != self._now or self._date[0] == 0:
            if format_time(now_s, self._date):
                raise ValueError(f"{now_s} has no HTTP date")
            self._now = now_s

    def count(self, str counter not None, int amount=1):
        self._counters[<int> _POSITION[counter]] += <uint64_t> amount

    cdef int64_t _max_age(self, const Found *found, const uint8_t *tag) noexcept nogil:
        """Seconds until the answer is due for refresh, up to a sixteenth less so that caches do not all come at once.

        Never beyond nextUpdate (RFC 9919 §7.1); an answer whose refresh is late is kept for a minute.
        """
        cdef const Template *template = found.template
        cdef int64_t left, due
        if template.next_update == INT64_MAX:
            return 0
        left = template.next_update - self._now
        due = template.refresh_at - self._now
        if self._cap and left > self._cap:
            left = self._cap
        if due <= 0:
            return min(left, <int64_t> OVERDUE_MAX_AGE_S)
        if due > left:
            due = left
        return due - due * (tag[0] & 63) // 1024

    cdef void _decide(self, const uint8_t *der, Py_ssize_t size, Verdict *verdict) noexcept nogil:
        """Answer a DER request, below HTTP."""
        cdef RequestView view
        cdef Lookup result
        if read_request(der, size, &view):
            verdict.outcome = MALFORMED
            return
        self._counters[N_CERTID + view.cert_id.hash_id] += 1
        self._counters[N_NONCE] += <uint64_t> view.has_nonce
        self._counters[N_MULTIPLE] += view.count > 1
        result = self._index.find(
            view.cert_id.hash_id, view.cert_id.name_hash, view.cert_id.key_hash, view.cert_id.serial, &verdict.found
        )
        if result == Lookup.UNKNOWN_SERIAL:
            verdict.outcome = UNKNOWN_SERIAL
        elif result == Lookup.UNKNOWN_ISSUER:
            verdict.outcome = UNKNOWN_ISSUER
        elif verdict.found.template.next_update <= self._now:
            verdict.outcome = TRY_LATER
        else:
            verdict.outcome = <Outcome> verdict.found.template.status
            etag_octets(&verdict.found, verdict.tag)
            verdict.max_age_s = self._max_age(&verdict.found, verdict.tag)

    cdef bytes _render(self, const Request *request, Verdict *verdict):
        """The HTTP response to a request whose outcome is known."""
        cdef char head[HEAD_ROOM]
        cdef char *at = head
        cdef const Template *template = NULL
        cdef const char *error = NULL
        cdef size_t body = 0
        cdef size_t size
        cdef char hexed[2 * ETAG_OCTETS]
        cdef bytes response
        cdef Span condition
        cdef char *out
        if verdict.outcome <= UNKNOWN:
            template = verdict.found.template
            body = template.der_size
            put_hex(hexed, verdict.tag, ETAG_OCTETS)
            condition = request.if_none_match
            if condition.p != NULL and request.method != POST and matches(condition, hexed):
                verdict.outcome = NOT_MODIFIED
        elif verdict.outcome != HEALTH:
            error = error_body(verdict.outcome)
            body = 5
        at = put(at, "HTTP/1.", 7)
        at[0] = <char> (c"0" + request.minor)
        at += 1
        if verdict.outcome == NOT_MODIFIED:
            at = put(at, " 304 Not Modified\r\n", 19)
        else:
            if verdict.outcome == MALFORMED:
                at = put(at, " 400 Bad Request\r\n", 18)
            elif verdict.outcome == INTERNAL_ERROR:
                at = put(at, " 500 Internal Server Error\r\n", 28)
            else:
                at = put(at, " 200 OK\r\n", 9)
            if body:
                at = put(at, "Content-Type: application/ocsp-response\r\n", 41)
            at = put(at, "Content-Length: ", 16)
            at = put_number(at, <int64_t> body)
            at = put(at, "\r\n", 2)
        if template != NULL:
            at = put(at, "Cache-Control: max-age=", 23)
            at = put_number(at, verdict.max_age_s)
            at = put(at, ", public, no-transform, must-revalidate\r\nLast-Modified: ", 56)
            at = put(at, template.last_modified, 29)
            if template.next_update != INT64_MAX:
                at = put(at, "\r\nExpires: ", 11)
                at = put(at, template.expires, 29)
            at = put(at, "\r\nETag: \"", 9)
            at = put(at, hexed, 2 * ETAG_OCTETS)
            at = put(at, "\"\r\nDate: ", 9)
        else:
            at = put(at, "Cache-Control: max-age=0, no-cache\r\nDate: ", 42)
        at = put(at, self._date, 29)
        if request.keep_alive:
            if request.minor == 0:
                at = put(at, "\r\nConnection: keep-alive", 24)
        elif request.minor:
            at = put(at, "\r\nConnection: close", 19)
        at = put(at, "\r\n\r\n", 4)
        size = <size_t> (at - head)
        if request.method == HEAD_METHOD or verdict.outcome == NOT_MODIFIED:
            body = 0
        response = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (size + body))
        out = <char *> response
        memcpy(out, head, size)
        if body:
            if template != NULL:
                assemble(&verdict.found, <uint8_t *> out + size)
            else:
                memcpy(out + size, error, body)
        return response

    cdef bytes _respond(self, Request *request, const uint8_t *body):
        """Answer a complete request that the fast path knows; counts it."""
        cdef uint8_t der[TARGET_LIMIT]
        cdef Verdict verdict
        cdef Py_ssize_t size
        cdef bytes response
        if request.method == POST:
            if len(self._prefix) and decode_target(
                request.target.p, request.target.n, <const uint8_t *> <const char *> self._prefix,
                len(self._prefix), der
            ) == -2:
                request.cause = C_TARGET
                return None
            self._decide(body, request.content_length, &verdict)
        else:
            size = decode_target(
                request.target.p, request.target.n, <const uint8_t *> <const char *> self._prefix,
                len(self._prefix), der
            )
            if size == -2 or ((size <= 0 or request.target.n > 2048) and not plain_target(request.target)):
                request.cause = C_TARGET
                return None
            if size == -1:
                verdict.outcome = MALFORMED
            elif size == 0:
                verdict.outcome = HEALTH
            else:
                self._decide(der, size, &verdict)
        response = self._render(request, &verdict)
        self._counters[<int> request.method * N_OUTCOMES + <int> verdict.outcome] += 1
        self._counters[N_SENT] += <uint64_t> len(response)
        return response

    def answer(self, bytes request_der not None):
        cdef Verdict verdict
        cdef Reply reply = Reply.__new__(Reply)
        cdef char hexed[2 * ETAG_OCTETS]
        cdef Index index = self._index  # kept until the end: a collection in between could run anything
        self._decide(<const uint8_t *> <const char *> request_der, len(request_der), &verdict)
        reply.outcome = _OUTCOMES[<int> verdict.outcome]
        reply.cacheable = verdict.outcome <= UNKNOWN
        reply.http_status = {MALFORMED: 400, INTERNAL_ERROR: 500}.get(verdict.outcome, 200)
        reply.this_update = reply.next_update = reply.max_age_s = 0
        reply.etag = ""
        if reply.cacheable:
            reply.body = PyBytes_FromStringAndSize(NULL, verdict.found.template.der_size)
            assemble(&verdict.found, <uint8_t *> <char *> reply.body)
            reply.this_update = verdict.found.template.this_update
            reply.next_update = verdict.found.template.next_update
            reply.max_age_s = verdict.max_age_s
            put_hex(hexed, verdict.tag, ETAG_OCTETS)
            reply.etag = hexed[:2 * ETAG_OCTETS].decode("ascii")
        else:
            reply.body = _BODIES[verdict.outcome]
        return reply

    def respond(self, bytes data not None):
        cdef Request request
        cdef const uint8_t *p = <const uint8_t *> <const char *> data
        cdef Py_ssize_t total
        if not read_head(p, len(data), &request) or request.cause != C_NONE:
            return None
        if strange_condition(&request):
            return None
        total = request.head_size + (request.content_length if request.method == POST else 0)
        if total != len(data):
            return None
        return self._respond(&request, p + request.head_size)


cdef const char *error_body(Outcome outcome) noexcept nogil:
    """The OCSPResponse of an error, five octets (RFC 6960 §4.2.1)."""
    if outcome == UNKNOWN_SERIAL or outcome == UNKNOWN_ISSUER:
        return b"\x30\x03\x0a\x01\x06"
    if outcome == MALFORMED:
        return b"\x30\x03\x0a\x01\x01"
    if outcome == TRY_LATER:
        return b"\x30\x03\x0a\x01\x03"
    return b"\x30\x03\x0a\x01\x02"


cdef bint matches(Span condition, const char *tag) noexcept nogil:
    """If-None-Match of the forms `strange_condition` lets through: `*`, `"TAG"`, `W/"TAG"`."""
    if condition.n == 1:
        return True
    return condition.n >= 2 * ETAG_OCTETS + 2 and memcmp(
        condition.p + condition.n - 1 - 2 * ETAG_OCTETS, tag, 2 * ETAG_OCTETS
    ) == 0 and (condition.p + condition.n - 2 - 2 * ETAG_OCTETS)[0] == c'"'


cdef bint strange_condition(Request *request) noexcept nogil:
    """Whether If-None-Match is anything but `*` or one quoted tag without quotes or commas in it."""
    cdef Span text = request.if_none_match
    cdef Py_ssize_t i
    if text.p == NULL:
        return False
    if text.n == 1 and text.p[0] == c"*":
        return False
    if text.n > 2 and text.p[0] == c"W" and text.p[1] == c"/":
        text.p += 2
        text.n -= 2
    if text.n < 2 or text.p[0] != c'"' or text.p[text.n - 1] != c'"':
        return True
    for i in range(1, text.n - 1):
        if text.p[i] == c'"' or text.p[i] <= 0x20 or text.p[i] >= 0x7F:
            return True
    return False


cdef enum State:
    FAST = 0
    SLOW = 1
    FOREIGN = 2
    CLOSED = 3


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
    cdef object __weakref__

    def __init__(
        self, Responder responder not None, *, slow_factory, header_timeout_s=10, idle_timeout_s=75,
        write_timeout_s=30, max_connections=50_000
    ):
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
        return connection

    def tick(self, now_s):
        cdef OCSPConnection connection
        cdef int64_t waited
        self._responder.set_time(now_s)
        self._ticks += 1
        for connection in tuple(self._open):
            waited = self._ticks - connection._since
            if connection._paused or connection._state == CLOSED:  # the client has something to read
                if waited > self._write_timeout:
                    self._responder._counters[N_TIMEOUT_WRITE] += 1
                    connection._abort()
            elif connection._state == FAST and not connection._buffered:
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
    cdef object _write
    cdef State _state
    cdef bint _paused
    cdef bint _ended
    cdef bint _owed  # aiohttp has not had all octets of its request yet
    cdef bint _replied  # aiohttp has answered it all the same
    cdef int64_t _since  # the tick at which what is waited for began
    cdef uint64_t _reads
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

    def connection_made(self, transport):
        cdef uint64_t *counters = self._responder._counters
        self._transport = transport
        self._write = transport.write
        self._since = self._pool._ticks
        if len(self._pool._open) >= self._pool._maximum:
            counters[N_REFUSED] += 1
            self._state = CLOSED
            transport.abort()
            return
        counters[N_OPENED] += 1
        self._pool._open.add(self)

    def connection_lost(self, exc):
        if self in self._pool._open:
            self._pool._open.discard(self)
            self._responder._counters[N_CLOSED] += 1
        self._state = CLOSED
        self._drop_slow(exc)
        self._write = None

    def eof_received(self):
        self._ended = True
        # a client may half-close and still wait for what aiohttp is working on
        return self._state == FOREIGN or (self._state == SLOW and not self._owed)

    def pause_writing(self):
        self._paused = True
        self._since = self._pool._ticks
        if self._slow is not None:
            self._slow.pause_writing()
        if self._state != CLOSED:
            self._transport.pause_reading()

    def resume_writing(self):
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
        cdef uint64_t *counters = self._responder._counters
        counters[N_RECEIVED] += <uint64_t> size
        if self._state == FAST and self._buffered == 0 and not self._paused:
            self._reads += 1
            if self._reads % SAMPLE == 1:
                timed = True
                clock_gettime(CLOCK_MONOTONIC, &begin)
            self._since = self._pool._ticks
            used = self._process(p, size)
            if timed and used == size and self._state == FAST:
                clock_gettime(CLOCK_MONOTONIC, &end)
                self._record((end.tv_sec - begin.tv_sec) * 1_000_000_000 + end.tv_nsec - begin.tv_nsec)
            if used < size:
                self._keep(p + used, size - used)
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
        if self._state == CLOSED:
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
            self._transport.pause_reading()
        return 0

    cdef int _process_buffer(self) except -1:
        """Go on with the octets kept."""
        cdef uint8_t *taken = self._buffer
        cdef Py_ssize_t size = self._buffered
        cdef Py_ssize_t used
        # taken away while it is read: answering may keep other octets meanwhile
        self._buffer = NULL
        self._buffered = 0
        self._room = 0
        try:
            used = self._process(taken, size)
            if used:
                self._since = self._pool._ticks
            if used < size:
                self._keep(taken + used, size - used)
        finally:
            PyMem_Free(taken)
        return 0

    cdef Py_ssize_t _process(self, const uint8_t *p, Py_ssize_t size) except -1:
        """Answer the requests in p; the octets used up. The rest has to wait for more, or for the client."""
        cdef Request request
        cdef Py_ssize_t used = 0
        cdef Py_ssize_t total
        cdef bytes response
        while used < size and self._state == FAST and not self._paused:
            if p[used] == c"\r" or p[used] == c"\n":  # empty lines before a request (RFC 9112 §2.2)
                used += 1
                continue
            if not read_head(p + used, size - used, &request):
                return used
            if request.cause == C_NONE and strange_condition(&request):
                request.cause = Cause.C_HEADER
            if request.cause == C_NONE:
                total = request.head_size
                if request.method == POST:
                    total += request.content_length
                    if total > size - used:
                        return used
                if self._pool._draining:
                    request.keep_alive = 0
                response = self._responder._respond(&request, p + used + request.head_size)
                if response is not None:
                    used += total
                    self._write(response)
                    if not request.keep_alive:
                        self._close()
                        return size
                    continue
            used += self._hand_over(&request, p + used, size - used)
        return used

    cdef int _close(self) except -1:
        """Write what is waiting, then close; nothing more is read."""
        self._state = CLOSED
        self._since = self._pool._ticks
        self._transport.close()
        return 0

    cdef int _abort(self) except -1:
        """Close at once; what the client has not taken is lost."""
        self._state = CLOSED
        self._since = self._pool._ticks
        self._transport.abort()
        return 0

    cdef int _resume_reading(self) except -1:
        """Read on, unless there is something that has to happen before."""
        if self._state != CLOSED and not self._paused and not (self._state == SLOW and self._buffered):
            self._transport.resume_reading()
        return 0

    # -- handing a request to aiohttp ----------------------------------------------------------

    cdef Py_ssize_t _hand_over(self, const Request *request, const uint8_t *p, Py_ssize_t size) except -1:
        """Give aiohttp a request, or the connection when its framing is in doubt; the octets taken."""
        self._responder._counters[N_SLOW + <int> request.cause] += 1
        self._since = self._pool._ticks
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
        if not self._owed:
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
            self._close()
            return 0
        self._replied = True
        if self._owed:
            return 0  # answered before the request was whole: aiohttp reads the rest, or closes
        asyncio.get_running_loop().call_soon(self._take_back, self._slow)
        return 0

    def _take_back(self, object slow):
        """Be fast again (scheduled, so that aiohttp's task has come to rest)."""
        if self._slow is not slow or self._state != SLOW:
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
        if self._connection is not None:
            self._connection._transport.write(data)

    def writelines(self, data):
        self.write(b"".join(data))

    def close(self):
        if self._connection is not None:
            self._connection._close()

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
        if self._connection is not None and self._connection._state != CLOSED:
            self._connection._transport.pause_reading()

    def resume_reading(self):
        if self._connection is not None:
            self._connection._resume_reading()

    def get_write_buffer_size(self):
        return 0 if self._connection is None else self._connection._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high=None, low=None):
        if self._connection is not None:
            self._connection._transport.set_write_buffer_limits(high, low)
