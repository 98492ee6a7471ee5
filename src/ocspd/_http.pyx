# cython: language_level=3
"""Reading HTTP/1.x request heads (RFC 9112) as narrowly as the common OCSP shapes allow.

Rules of this file
1. Everything is `noexcept nogil`; spans point into the caller's buffer.
2. Nothing here decides what a strange request means. `read_head` finds where the request ends when
   the framing is beyond doubt, and sets `ambiguous` when it is not; aiohttp answers either.
   `cause` says why a request is for aiohttp; only this file writes it.
3. What is accepted here means the same to aiohttp: a property test holds both to it.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp, memmove

from ocspd._der cimport Span
from ocspd._text cimport decode_base64

cdef enum:
    LONG_TARGET = 2048  # above, every character is looked at although the target decodes

# 1 token character (RFC 9110 §5.6.2), 2 allowed in a request target, 4 hexadecimal digit
cdef uint8_t[256] KIND
cdef int _byte
for _byte in range(256):
    KIND[_byte] = 0
for _byte in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
    KIND[_byte] |= 1
for _byte in b"/?:@!$&'()*+,;=%-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
    KIND[_byte] |= 2
for _byte in b"0123456789abcdefABCDEF":
    KIND[_byte] |= 4


cdef inline bint same(const uint8_t *p, const char *lower, Py_ssize_t size) noexcept nogil:
    """Compare with a lower-case ASCII word, ignoring case."""
    cdef Py_ssize_t i
    for i in range(size):
        if (p[i] | 0x20) != <uint8_t> lower[i]:
            return False
    return True


cdef inline void note(Request *out, Cause cause) noexcept nogil:
    if out.cause == C_NONE:
        out.cause = cause


cdef enum:
    S_HOST = 1
    S_LENGTH = 2
    S_TYPE = 4
    S_AGENT = 8
    S_CONNECTION = 16


cdef inline void once(Request *out, int *seen, int field) noexcept nogil:
    if seen[0] & field:
        note(out, C_HEADER)
    seen[0] |= field


cdef inline int doubtful(Request *out, Cause cause) noexcept nogil:
    """The request's end cannot be known."""
    note(out, cause)
    out.ambiguous = True
    return 1


cdef int read_field(const uint8_t *line, const uint8_t *end, Request *out, int *seen) noexcept nogil:
    """One header line. Fields without influence on framing, connection or conditions are ignored.

    Fields that aiohttp refuses to see twice are remembered in `seen`.
    """
    cdef const uint8_t *colon = <const uint8_t *> memchr(line, c":", <size_t> (end - line))
    cdef const uint8_t *p
    cdef Py_ssize_t name, value
    if colon == NULL or colon == line:
        return -1
    p = line
    while p < colon:
        if not KIND[p[0]] & 1:
            return -1
        p += 1
    name = colon - line
    p = colon + 1
    while p < end and (p[0] == c" " or p[0] == c"\t"):
        p += 1
    while end > p and ((end - 1)[0] == c" " or (end - 1)[0] == c"\t"):
        end -= 1
    value = end - p
    if name == 4:
        if same(line, "host", 4):
            once(out, seen, S_HOST)
        elif same(line, "etag", 4):
            note(out, C_HEADER)
    elif name == 6:
        if same(line, "expect", 6):
            note(out, C_EXPECT)
        elif same(line, "server", 6):
            note(out, C_HEADER)
    elif name == 7:
        if same(line, "upgrade", 7) or same(line, "trailer", 7):
            note(out, C_HEADER)
    elif name == 8:
        if same(line, "if-match", 8) or same(line, "if-range", 8) or same(line, "location", 8):
            note(out, C_HEADER)
    elif name == 10:
        if same(line, "connection", 10):
            once(out, seen, S_CONNECTION)
            if value == 5 and same(p, "close", 5):
                out.keep_alive = False
            elif value == 10 and same(p, "keep-alive", 10):
                out.keep_alive = True
            else:
                note(out, C_HEADER)
        elif same(line, "user-agent", 10):
            once(out, seen, S_AGENT)
    elif name == 12 and same(line, "content-type", 12):
        once(out, seen, S_TYPE)
    elif name == 13:
        if same(line, "if-none-match", 13):
            if out.if_none_match.p != NULL:
                note(out, C_HEADER)
            out.if_none_match.p = p
            out.if_none_match.n = value
    elif name == 14:
        if same(line, "content-length", 14):
            if seen[0] & S_LENGTH or value == 0 or value > 9:
                return -1
            seen[0] |= S_LENGTH
            out.content_length = 0
            while p < end:
                if not c"0" <= p[0] <= c"9":
                    return -1
                out.content_length = out.content_length * 10 + (p[0] - c"0")
                p += 1
    elif name == 16:
        if (
            same(line, "content-encoding", 16)
            or same(line, "content-location", 16)
            or same(line, "proxy-connection", 16)  # taken for Connection by aiohttp
        ):
            note(out, C_HEADER)
    elif name == 17:
        if same(line, "transfer-encoding", 17):
            if out.chunked or value != 7 or not same(p, "chunked", 7):
                return -1
            out.chunked = True
    elif name == 19:
        if same(line, "if-unmodified-since", 19):
            note(out, C_HEADER)
    elif name > 5 and (same(line, "sec-w", 5) or same(line, "conte", 5) or same(line, "max-f", 5)):
        # WebSocket keys, and what does not belong on a request
        note(out, C_HEADER)
    return 0


cdef bint plain_target(Span target) noexcept nogil:
    """Whether a request target has only characters that every parser takes."""
    cdef Py_ssize_t i
    for i in range(target.n):
        if not KIND[target.p[i]] & 2:
            return False
    return True


cdef int read_head(const uint8_t *data, Py_ssize_t size, Request *out) noexcept nogil:
    """Read a request's head: 1 when it is complete, 0 when more bytes are needed.

    `cause` is C_NONE for a request the fast path may answer. `ambiguous` means that its end cannot be
    known: only closing the connection is safe (RFC 9112 §6.3). Of the characters of a GET or HEAD
    target only controls are looked at: `read_target` sees to the others.
    """
    cdef const uint8_t *limit = data + (size if size < HEAD_LIMIT else HEAD_LIMIT)
    cdef const uint8_t *line
    cdef const uint8_t *stop
    cdef const uint8_t *p
    cdef Py_ssize_t i
    cdef int controls = 0, tabs = 0, lines = 1, seen = 0
    out.cause = C_NONE
    out.ambiguous = False
    out.chunked = False
    out.content_length = -1
    out.if_none_match.p = NULL
    out.if_none_match.n = 0
    out.method = OTHER
    out.minor = 1
    out.keep_alive = True
    if size and not c"A" <= data[0] <= c"Z":
        return doubtful(out, C_FRAMING)
    stop = <const uint8_t *> memchr(data, c"\n", <size_t> (limit - data))
    if stop == NULL:
        return 0 if size < HEAD_LIMIT else doubtful(out, C_SIZE)
    line = stop + 1
    stop -= 1  # request line: METHOD SP target SP HTTP/1.x CR LF
    if stop - data < 14 or stop[0] != c"\r" or memcmp(stop - 9, b" HTTP/1.", 8) != 0:
        return doubtful(out, C_VERSION)
    out.minor = (stop - 1)[0] - c"0"
    if out.minor != 0 and out.minor != 1:
        out.minor = 1
        return doubtful(out, C_VERSION)
    out.keep_alive = out.minor
    stop -= 9
    if memcmp(data, b"GET ", 4) == 0:
        out.method = GET
        p = data + 4
    elif memcmp(data, b"POST ", 5) == 0:
        out.method = POST
        p = data + 5
    elif memcmp(data, b"HEAD ", 5) == 0:
        out.method = HEAD_METHOD
        p = data + 5
    else:
        note(out, C_METHOD)
        # what follows is no HTTP/1.x (RFC 9110 §9.3.6, RFC 9113 §3.4)
        if memcmp(data, b"CONNECT ", 8) == 0 or memcmp(data, b"PRI ", 4) == 0:
            return doubtful(out, C_METHOD)
        p = data
        while p < stop and KIND[p[0]] & 1:
            p += 1
        if p == stop or p[0] != c" ":
            return doubtful(out, C_FRAMING)
        p += 1
    out.target.p = p
    out.target.n = stop - p
    if p >= stop or p[0] != c"/" or memchr(p, c" ", <size_t> (stop - p)) != NULL:
        note(out, C_TARGET)
    elif out.target.n > TARGET_LIMIT:
        note(out, C_SIZE)
    elif out.method != GET and not plain_target(out.target):
        note(out, C_TARGET)
    while True:
        stop = <const uint8_t *> memchr(line, c"\n", <size_t> (limit - line))
        if stop == NULL:
            return 0 if size < HEAD_LIMIT else doubtful(out, C_SIZE)
        if (stop - 1)[0] != c"\r":
            return doubtful(out, C_FRAMING)
        lines += 1
        if stop - line == 1:
            break
        if read_field(line, stop - 1, out, &seen):
            return doubtful(out, C_FRAMING)
        line = stop + 1
    out.head_size = stop + 1 - data
    for i in range(out.head_size):
        controls += (data[i] < 0x20) | (data[i] == 0x7F)
        tabs += data[i] == 0x09
    if tabs:  # allowed in a field's value; rare enough to leave it to aiohttp
        note(out, C_HEADER)
    if controls != 2 * lines + tabs or (out.chunked and (seen & S_LENGTH or out.minor == 0)):
        return doubtful(out, C_FRAMING)
    if not seen & S_HOST and out.minor == 1:
        note(out, C_HEADER)
    if out.chunked:
        note(out, C_CHUNKED)
    elif out.method == POST:
        if out.content_length < 0:
            note(out, C_FRAMING)
        elif out.content_length > BODY_LIMIT:
            note(out, C_SIZE)
    elif out.content_length > 0:
        note(out, C_FRAMING)
    if out.if_none_match.p != NULL and not is_common(out.if_none_match):
        note(out, C_HEADER)
    return 1


cdef inline int nibble(uint8_t c) noexcept nogil:
    return c - c"0" if c <= c"9" else (c | 0x20) - c"a" + 10


cdef Py_ssize_t unescape(const uint8_t *text, Py_ssize_t size, uint8_t *out, bint *special) noexcept nogil:
    """Percent-decode once, in place if wanted; -1 for an incomplete escape.

    `special` is set when an escape stood for a byte that needs a second look: `%`, space or a control.
    """
    cdef const uint8_t *end = text + size
    cdef const uint8_t *escape
    cdef uint8_t *at = out
    cdef uint8_t c
    while True:
        escape = <const uint8_t *> memchr(text, c"%", <size_t> (end - text))
        if escape == NULL:
            memmove(at, text, <size_t> (end - text))
            return at + (end - text) - out
        memmove(at, text, <size_t> (escape - text))
        at += escape - text
        if end - escape < 3 or not KIND[escape[1]] & 4 or not KIND[escape[2]] & 4:
            return -1
        c = <uint8_t> (nibble(escape[1]) << 4 | nibble(escape[2]))
        if c <= 0x20 or c == c"%":
            special[0] = True
        at[0] = c
        at += 1
        text = escape + 3


cdef Py_ssize_t decode_target(
    const uint8_t *target, Py_ssize_t size, const uint8_t *prefix, Py_ssize_t prefix_size, uint8_t *out
) noexcept nogil:
    """The DER in a GET target (RFC 6960 App. A.1): its size, -1 when malformed, -2 when it is for aiohttp
    to say: outside the prefix, or with a query that not every parser takes.

    Percent-decoded, a second time when an escape is left; leading slashes dropped, no other ever; CR
    and LF dropped; a space means `+`; both base64 alphabets, padding optional. `out` holds TARGET_LIMIT.
    """
    cdef uint8_t text[TARGET_LIMIT]
    cdef const uint8_t *query = <const uint8_t *> memchr(target, c"?", <size_t> size)
    cdef Py_ssize_t i, written
    cdef bint special = False
    cdef Span ignored
    if query != NULL:
        ignored.p = query
        ignored.n = target + size - query
        if not plain_target(ignored):
            return -2
        size = query - target
    while size and target[0] == c"/":
        target += 1
        size -= 1
    if prefix_size:
        if size < prefix_size or memcmp(target, prefix, <size_t> prefix_size) != 0:
            return -2
        target += prefix_size
        size -= prefix_size
        if size and target[0] != c"/":
            return -2
    if size > TARGET_LIMIT:
        return -1
    if memchr(target, c"%", <size_t> size) != NULL:
        size = unescape(target, size, text, &special)
        if special and size >= 0 and memchr(text, c"%", <size_t> size) != NULL:
            size = unescape(text, size, text, &special)
        if size < 0:
            return -1
        target = text
    while size and target[0] == c"/":
        target += 1
        size -= 1
    if special:
        written = 0
        for i in range(size):
            if target[i] != c"\r" and target[i] != c"\n":
                text[written] = c"+" if target[i] == c" " else target[i]
                written += 1
        size = written
        target = text
    while size and target[size - 1] == c"=":
        size -= 1
    return decode_base64(target, size, out)


cdef Py_ssize_t read_target(
    Request *request, const uint8_t *prefix, Py_ssize_t prefix_size, uint8_t *out
) noexcept nogil:
    """Decode the DER in a GET or HEAD target: its size, 0 for none, -1 when it is malformed.

    `cause` is set for a target that is for aiohttp: outside the prefix, which is all that matters of a POST,
    or of characters that not every parser takes. `out` holds TARGET_LIMIT bytes.
    """
    cdef Py_ssize_t size = 0
    if request.method != POST or prefix_size:
        size = decode_target(request.target.p, request.target.n, prefix, prefix_size, out)
    if size == -2:
        note(request, C_TARGET)
    elif request.method != POST and (size <= 0 or request.target.n > LONG_TARGET) and not plain_target(request.target):
        note(request, C_TARGET)
    return size


cdef bint is_common(Span condition) noexcept nogil:
    """Whether If-None-Match is `*`, `"TAG"` or `W/"TAG"`, with neither quotes nor spaces in TAG."""
    cdef Py_ssize_t i
    if condition.n == 1 and condition.p[0] == c"*":
        return True
    if condition.n > 2 and condition.p[0] == c"W" and condition.p[1] == c"/":
        condition.p += 2
        condition.n -= 2
    if condition.n < 2 or condition.p[0] != c'"' or condition.p[condition.n - 1] != c'"':
        return False
    for i in range(1, condition.n - 1):
        if condition.p[i] == c'"' or condition.p[i] <= 0x20 or condition.p[i] >= 0x7F:
            return False
    return True


cdef bint is_listed(Span if_none_match, const char *etag, Py_ssize_t size) noexcept nogil:
    """Whether If-None-Match, which `is_common`, has this entity tag, written without quotes."""
    cdef const uint8_t *tag
    if if_none_match.n == 1:
        return True
    if if_none_match.n < size + 2:
        return False
    tag = if_none_match.p + (if_none_match.n - 1 - size)
    return (tag - 1)[0] == c'"' and memcmp(tag, etag, <size_t> size) == 0


cdef enum ChunkState:
    SIZE = 0
    EXTENSION = 1
    SIZE_LF = 2
    DATA = 3
    DATA_CR = 4
    DATA_LF = 5
    TRAILER = 6
    TRAILER_LINE = 7
    TRAILER_LF = 8
    END_LF = 9
    DONE = 10


cdef Py_ssize_t skip_chunks(Chunks *chunks, const uint8_t *data, Py_ssize_t size) noexcept nogil:
    """Find the end of a chunked body (RFC 9112 §7.1), any number of bytes at a time.

    Returns how many bytes belong to the body; `state` is DONE at its end. -1: not chunked coding.
    """
    cdef Py_ssize_t i = 0, part
    cdef uint8_t c
    while i < size and chunks.state != DONE:
        c = data[i]
        if chunks.state == DATA:
            part = chunks.left if i + chunks.left <= size else size - i
            chunks.left -= part
            i += part
            if chunks.left == 0:
                chunks.state = DATA_CR
            continue
        chunks.line += 1
        if chunks.line > HEAD_LIMIT:
            return -1
        if chunks.state == SIZE:
            if KIND[c] & 4:
                if chunks.left > 0xFFFFFF:
                    return -1
                chunks.left = chunks.left << 4 | nibble(c)
            elif chunks.line == 1:
                return -1
            elif c == c"\r":
                chunks.state = SIZE_LF
            elif c == c";":
                chunks.state = EXTENSION
            else:
                return -1
        elif chunks.state == EXTENSION:
            if c == c"\r":
                chunks.state = SIZE_LF
            elif c == c"\n":
                return -1
        elif chunks.state == SIZE_LF:
            if c != c"\n":
                return -1
            chunks.line = 0
            chunks.state = DATA if chunks.left else TRAILER
        elif chunks.state == DATA_CR:
            if c != c"\r":
                return -1
            chunks.state = DATA_LF
        elif chunks.state == DATA_LF:
            if c != c"\n":
                return -1
            chunks.line = 0
            chunks.state = SIZE
        elif c == c"\n" and (chunks.state == TRAILER or chunks.state == TRAILER_LINE):
            return -1
        elif chunks.state == TRAILER:
            chunks.state = END_LF if c == c"\r" else TRAILER_LINE
        elif chunks.state == TRAILER_LINE:
            if c == c"\r":
                chunks.state = TRAILER_LF
        elif chunks.state == TRAILER_LF:
            if c != c"\n":
                return -1
            chunks.state = TRAILER
        else:
            if c != c"\n":
                return -1
            chunks.state = DONE
        i += 1
    return i
