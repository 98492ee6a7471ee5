# cython: language_level=3
"""Deciding: from an HTTP request to the bytes of its reply. Public surface in _responder.pyi.

Rules of this file
1. The hot path is `nogil`: `_decide_http` decides, `_render` writes head and body where the caller wants them.
2. What is written equals what `responder/ocsp.py` writes, byte for byte, Date aside.
3. Connections are `_fastpath`'s: nothing here waits, keeps or closes.
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from ocspd._der cimport RequestView, read_request
from ocspd._text cimport format_time
from ocspd._http cimport C_NONE, HEAD_METHOD, POST, TARGET_LIMIT, Request, is_listed, read_head, read_target
from ocspd._index cimport ETAG_BYTES, Found, Index, Lookup, Template, assemble

from ocspd import metrics

cdef enum:
    OVERDUE_MAX_AGE_S = 60  # max-age of a response whose successor is late

_OUTCOMES = metrics.OUTCOMES
COUNTERS = metrics.COUNTERS
COUNTER_BLOCK_BYTES = metrics.COUNTER_BLOCK_BYTES
_POSITION = {name: position for position, name in enumerate(COUNTERS)}

cdef enum:
    ERROR_SIZE = 5

# The OCSPResponse of each outcome that has no signed one (RFC 6960 §4.2.1).
cdef const uint8_t *ERROR_BODIES = (
    b"\x30\x03\x0a\x01\x06"  # UNKNOWN_SERIAL: unauthorized
    b"\x30\x03\x0a\x01\x06"  # UNKNOWN_ISSUER: unauthorized
    b"\x30\x03\x0a\x01\x01"  # MALFORMED: malformedRequest
    b"\x30\x03\x0a\x01\x03"  # TRY_LATER: tryLater
    b"\x30\x03\x0a\x01\x02"  # INTERNAL_ERROR: internalError
)

cdef int N_OUTCOMES = len(metrics.OUTCOMES)
cdef int N_CERTID = _POSITION["certid_sha1"]
cdef int N_NONCE = _POSITION["request_nonce"]
cdef int N_MULTIPLE = _POSITION["request_multiple"]
cdef int N_SENT = _POSITION["sent_bytes"]
if metrics.METHODS[:3] != ("get", "post", "head") or metrics.OUTCOMES[:10] != (
    "good", "revoked", "unknown", "unknown_serial", "unknown_issuer", "malformed", "try_later",
    "internal_error", "not_modified", "health",
):
    raise ImportError("metrics and _responder disagree on methods or outcomes")


cdef const uint8_t *error_body(Outcome outcome) noexcept nogil:
    if outcome < UNKNOWN_SERIAL or outcome > INTERNAL_ERROR:
        outcome = INTERNAL_ERROR
    return ERROR_BODIES + (<int> outcome - <int> UNKNOWN_SERIAL) * ERROR_SIZE


cdef inline char *put(char *at, const char *text, size_t size) noexcept nogil:
    memcpy(at, text, size)
    return at + size


cdef char *put_decimal(char *at, int64_t value) noexcept nogil:
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


cdef void copy_etag(const Found *found, uint8_t *out) noexcept nogil:
    """The 16 bytes an entity tag is made of, without assembling the response."""
    cdef const Template *template = &found.template
    cdef uint64_t begin = template.etag_offset, end = begin + ETAG_BYTES, low, high
    cdef int i
    memcpy(out, found.segment.blobs + template.blob_offset + begin, ETAG_BYTES)
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
    """See _responder.pyi."""
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
    """See _responder.pyi."""

    def __cinit__(self):
        self._shared = False
        self._own = <uint64_t *> PyMem_Malloc(COUNTER_BLOCK_BYTES)
        if self._own == NULL:
            raise MemoryError
        memset(self._own, 0, COUNTER_BLOCK_BYTES)
        self._counters = self._own
        self._index = Index(())
        self._prefix = b""
        self._prefix_text = self._prefix
        self._prefix_size = 0

    def __init__(self, Index index not None, *, path="/", counters=None, max_age_cap_s=0):
        if self._shared:
            raise TypeError("a Responder is initialised once")
        if counters is not None:
            PyObject_GetBuffer(counters, &self._block, PyBUF_CONTIG)
            self._shared = True
            if self._block.len < COUNTER_BLOCK_BYTES or <size_t> self._block.buf % 8:
                raise ValueError(f"counters need {COUNTER_BLOCK_BYTES} bytes, aligned to 8")
            self._counters = <uint64_t *> self._block.buf
        self._index = index
        self._prefix = path.strip("/").encode()
        self._prefix_text = self._prefix
        self._prefix_size = len(self._prefix)
        if max_age_cap_s < 0:
            raise ValueError(f"max_age_cap_s {max_age_cap_s} is negative")
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

    def count(self, str counter not None, int64_t amount=1):
        if amount < 0:
            raise ValueError(f"{counter}: counters never go down")
        self._counters[<int> _POSITION[counter]] += <uint64_t> amount

    cdef int64_t _max_age(self, const Found *found, const uint8_t *tag) noexcept nogil:
        """Seconds until the response is due for refresh, up to a sixteenth less so that caches do not all come at once.

        Never beyond nextUpdate (RFC 9919 §7.1); a response whose refresh is late is kept for a minute.
        """
        cdef const Template *template = &found.template
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

    cdef void _decide(self, const uint8_t *der, Py_ssize_t size, Decision *decision) noexcept nogil:
        """Decide on a DER request, below HTTP."""
        cdef RequestView view
        cdef Lookup result
        if read_request(der, size, &view):
            decision.outcome = MALFORMED
            return
        self._counters[N_CERTID + view.cert_id.hash_id] += 1
        self._counters[N_NONCE] += <uint64_t> view.has_nonce
        self._counters[N_MULTIPLE] += view.count > 1
        result = self._index.find(
            view.cert_id.hash_id, view.cert_id.name_hash, view.cert_id.key_hash, view.cert_id.serial, &decision.found
        )
        if result == Lookup.UNKNOWN_SERIAL:
            decision.outcome = UNKNOWN_SERIAL
        elif result == Lookup.UNKNOWN_ISSUER:
            decision.outcome = UNKNOWN_ISSUER
        elif result == Lookup.DAMAGED:
            decision.outcome = TRY_LATER
        elif decision.found.template.next_update <= self._now:
            decision.outcome = TRY_LATER
        else:
            decision.outcome = <Outcome> decision.found.template.status
            copy_etag(&decision.found, decision.tag)
            decision.max_age_s = self._max_age(&decision.found, decision.tag)

    cdef bint _decide_http(self, Request *request, const uint8_t *body, Decision *decision) noexcept nogil:
        """Decide on a complete request; False, with its cause set, when it is not for the fast path."""
        cdef uint8_t der[TARGET_LIMIT]
        cdef const uint8_t *prefix = <const uint8_t *> self._prefix_text
        cdef Py_ssize_t size
        cdef char hexed[2 * ETAG_BYTES]
        decision.body_size = ERROR_SIZE
        size = read_target(request, prefix, self._prefix_size, der)
        if request.cause != C_NONE:
            return False
        if request.method == POST:
            self._decide(body, request.content_length, decision)
        elif size < 0:
            decision.outcome = MALFORMED
        elif size == 0:
            decision.outcome = HEALTH
            decision.body_size = 0
        else:
            self._decide(der, size, decision)
        if decision.outcome <= UNKNOWN:
            decision.template = &decision.found.template
            decision.body_size = decision.template.der_size
            if request.if_none_match.p != NULL and request.method != POST:
                put_hex(hexed, decision.tag, ETAG_BYTES)
                if is_listed(request.if_none_match, hexed, 2 * ETAG_BYTES):
                    decision.outcome = NOT_MODIFIED
        else:
            decision.template = NULL
        return True

    cdef Py_ssize_t _render(self, const Request *request, const Decision *decision, uint8_t *out) noexcept nogil:
        """Write the HTTP reply to a request that was decided on, and count it; the bytes written.

        `out` has room for HEAD_ROOM and verdict.body_size bytes.
        """
        cdef char *at = <char *> out
        cdef const Template *template = decision.template
        cdef Py_ssize_t size
        at = put(at, "HTTP/1.", 7)
        at[0] = <char> (c"0" + request.minor)
        at += 1
        if decision.outcome == NOT_MODIFIED:
            at = put(at, " 304 Not Modified\r\n", 19)
        else:
            if decision.outcome == MALFORMED:
                at = put(at, " 400 Bad Request\r\n", 18)
            elif decision.outcome == INTERNAL_ERROR:
                at = put(at, " 500 Internal Server Error\r\n", 28)
            else:
                at = put(at, " 200 OK\r\n", 9)
            if decision.body_size:
                at = put(at, "Content-Type: application/ocsp-response\r\n", 41)
            at = put(at, "Content-Length: ", 16)
            at = put_decimal(at, <int64_t> decision.body_size)
            at = put(at, "\r\n", 2)
        if template != NULL:
            at = put(at, "Cache-Control: max-age=", 23)
            at = put_decimal(at, decision.max_age_s)
            at = put(at, ", public, no-transform, must-revalidate\r\nLast-Modified: ", 56)
            at = put(at, template.last_modified, 29)
            if template.next_update != INT64_MAX:
                at = put(at, "\r\nExpires: ", 11)
                at = put(at, template.expires, 29)
            at = put(at, "\r\nETag: \"", 9)
            at = put_hex(at, decision.tag, ETAG_BYTES)
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
        size = at - <char *> out
        if request.method != HEAD_METHOD and decision.outcome != NOT_MODIFIED and decision.body_size:
            if template != NULL:
                assemble(&decision.found, out + size)
            else:
                memcpy(out + size, error_body(decision.outcome), decision.body_size)
            size += <Py_ssize_t> decision.body_size
        self._counters[<int> request.method * N_OUTCOMES + <int> decision.outcome] += 1
        self._counters[N_SENT] += <uint64_t> size
        return size

    cdef bytes _render_large(self, const Request *request, const Decision *decision):
        """Return what `_render` writes, of any size."""
        cdef uint8_t small[2048]
        cdef uint8_t *out = small
        cdef size_t room = HEAD_ROOM + decision.body_size
        cdef bytes reply
        if room > sizeof(small):
            out = <uint8_t *> PyMem_Malloc(room)
            if out == NULL:
                raise MemoryError
        reply = (<char *> out)[:self._render(request, decision, out)]
        if out != small:
            PyMem_Free(out)
        return reply

    def reply_to(self, bytes request_der not None):
        cdef Decision decision
        cdef Reply reply = Reply.__new__(Reply)
        cdef char hexed[2 * ETAG_BYTES]
        cdef Index index = self._index  # kept until the end: a collection in between could run anything
        self._decide(<const uint8_t *> <const char *> request_der, len(request_der), &decision)
        reply.outcome = _OUTCOMES[<int> decision.outcome]
        reply.cacheable = decision.outcome <= UNKNOWN
        reply.http_status = {MALFORMED: 400, INTERNAL_ERROR: 500}.get(decision.outcome, 200)
        reply.this_update = reply.next_update = reply.max_age_s = 0
        reply.etag = ""
        if reply.cacheable:
            reply.body = PyBytes_FromStringAndSize(NULL, decision.found.template.der_size)
            assemble(&decision.found, <uint8_t *> <char *> reply.body)
            reply.this_update = decision.found.template.this_update
            reply.next_update = decision.found.template.next_update
            reply.max_age_s = decision.max_age_s
            put_hex(hexed, decision.tag, ETAG_BYTES)
            reply.etag = hexed[:2 * ETAG_BYTES].decode("ascii")
        else:
            reply.body = error_body(decision.outcome)[:ERROR_SIZE]
        return reply

    def respond(self, bytes data not None):
        cdef Request request
        cdef Decision decision
        cdef const uint8_t *p = <const uint8_t *> <const char *> data
        cdef Py_ssize_t total
        if not read_head(p, len(data), &request) or request.cause != C_NONE:
            return None
        total = request.head_size + (request.content_length if request.method == POST else 0)
        if total != len(data):
            return None
        if not self._decide_http(&request, p + request.head_size, &decision):
            return None
        return self._render_large(&request, &decision)
