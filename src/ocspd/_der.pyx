# cython: language_level=3
"""Tolerant DER reading of OCSP requests and stored responses; see _der.pyi for the public surface.

Rules of this file
1. The readers are `noexcept nogil`: no Python object, no allocation, no copy; spans point into the
   caller's buffer and live as long as it does.
2. Every read goes through `take_any`, which alone moves a cursor and alone compares lengths; a
   length is definite, minimal (X.690 §10.1) and never beyond its container.
3. A cursor that has failed stays failed: it is empty, and so is all that is taken from it. The first
   failure of a reader is kept, so it reads straight on as if all were well and looks once, at its
   end. It must not follow a pointer before it has looked at the size.
4. A reader returns 0 or one of the E_ codes; `reason_text` is the one mapping to words.
"""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp

from ocspd._text cimport read_time

from ocspd.errors import DERError

cdef enum:
    E_TRUNCATED = 1
    E_LENGTH = 2
    E_TAG = 3
    E_TRAILING = 4
    E_HASH = 5
    E_SERIAL = 6
    E_EMPTY = 7
    E_DUPLICATE = 8
    E_TIME = 9
    E_STATUS = 10
    E_TYPE = 11
    E_MANY = 12
    E_SIGNATURE = 13
    E_OID = 14

cdef enum:
    MAX_EXTENSIONS = 32

_REASONS = (
    "no error",
    "the data ends inside an element",
    "indefinite, non-minimal or oversized ASN.1 length",
    "unexpected ASN.1 tag",
    "trailing data after the end of a structure",
    "the CertID hash algorithm is not SHA-1, SHA-256, SHA-384 or SHA-512",
    "the serial number is empty",
    "the list of certificates is empty",
    "duplicate extension",
    "a time is not a GeneralizedTime of the form YYYYMMDDHHMMSSZ",
    "the response status is not successful",
    "the response is not a basic response",
    "too many extensions",
    "the signature is not a whole number of bytes",
    "an extension has an empty identifier",
)

_HASH_NAMES = ("sha1", "sha256", "sha384", "sha512")

cdef const uint8_t *OID_SHA1 = b"\x2b\x0e\x03\x02\x1a"
cdef const uint8_t *OID_SHA2 = b"\x60\x86\x48\x01\x65\x03\x04\x02"
cdef const uint8_t *OID_BASIC = b"\x2b\x06\x01\x05\x05\x07\x30\x01\x01"
cdef const uint8_t *OID_NONCE = b"\x2b\x06\x01\x05\x05\x07\x30\x01\x02"


if sizeof(Py_ssize_t) < 8:  # a DER length of four bytes, and every sum of two lengths, fits
    raise ImportError("ocspd needs a 64-bit system")


cdef str reason_text(int code):
    return _REASONS[code]


cdef str hash_name(int hash_id):
    return _HASH_NAMES[hash_id]


cdef int hash_id_of(str name) except -1:
    """The hash_id of a CertID hash algorithm; ValueError for an unknown name."""
    if name not in _HASH_NAMES:
        raise ValueError(f"{name!r} is not a CertID hash algorithm: use one of {', '.join(_HASH_NAMES)}")
    return _HASH_NAMES.index(name)


cdef inline Span span(const uint8_t *data, Py_ssize_t size) noexcept nogil:
    cdef Span found
    found.p = data
    found.n = size
    return found


cdef Cursor cursor_over(Span data, int *failure) noexcept nogil:
    """A cursor over these bytes. `failure` must be 0; it gets the code of what goes wrong first."""
    cdef Cursor cursor
    cursor.left = data
    cursor.failure = failure
    return cursor


cdef void fail(Cursor *cursor, int code) noexcept nogil:
    """Fail: nothing is left in the cursor. Of several failures of a reader the first counts."""
    cursor.left.n = 0
    if cursor.failure[0] == 0:
        cursor.failure[0] = code


cdef int take_nothing(Cursor *cursor, Span *content, int code) noexcept nogil:
    """Fail while taking: -1, and nothing is taken."""
    content.p = cursor.left.p
    content.n = 0
    fail(cursor, code)
    return -1


cdef inline int take_any(Cursor *cursor, Span *content) noexcept nogil:
    """Take one element: its tag, -1 after a failure. Single-byte tags only: OCSP has no others."""
    cdef const uint8_t *p = cursor.left.p
    cdef Py_ssize_t left = cursor.left.n
    cdef Py_ssize_t length
    cdef int tag, size, i
    if left < 2:
        return take_nothing(cursor, content, E_TRUNCATED)
    tag = p[0]
    if (tag & 0x1F) == 0x1F:
        return take_nothing(cursor, content, E_TAG)
    length = p[1]
    p += 2
    left -= 2
    if length >= 0x80:
        size = <int> (length & 0x7F)
        if size == 0 or size > 4:
            return take_nothing(cursor, content, E_LENGTH)
        if left < size:
            return take_nothing(cursor, content, E_TRUNCATED)
        if p[0] == 0:
            return take_nothing(cursor, content, E_LENGTH)
        length = 0
        for i in range(size):
            length = (length << 8) | p[i]
        if length < 0x80:
            return take_nothing(cursor, content, E_LENGTH)
        p += size
        left -= size
    if length > left:
        return take_nothing(cursor, content, E_TRUNCATED)
    content.p = p
    content.n = length
    cursor.left.p = p + length
    cursor.left.n = left - length
    return tag


cdef inline void take(Cursor *cursor, int tag, Span *content) noexcept nogil:
    """Take one element that must have this tag; empty after a failure."""
    if take_any(cursor, content) != tag:
        take_nothing(cursor, content, E_TAG)


cdef inline void enter(Cursor *cursor, int tag, Cursor *inside) noexcept nogil:
    """Take one element that must have this tag, to take from it what is inside."""
    inside.failure = cursor.failure
    take(cursor, tag, &inside.left)


cdef inline void end(Cursor *cursor) noexcept nogil:
    """Fail if anything is left."""
    if cursor.left.n:
        fail(cursor, E_TRAILING)


cdef inline bint more(const Cursor *cursor) noexcept nogil:
    """Whether there is another element and nothing has failed: what every loop asks."""
    return cursor.left.n > 0 and cursor.failure[0] == 0


cdef inline bint next_is(const Cursor *cursor, int tag) noexcept nogil:
    return cursor.left.n > 0 and cursor.left.p[0] == tag


cdef int64_t take_time(Cursor *cursor) noexcept nogil:
    """Take a GeneralizedTime: seconds since the epoch, 0 after a failure."""
    cdef Span text
    cdef int64_t seconds = 0
    take(cursor, 0x18, &text)
    if read_time(text.p, text.n, &seconds):
        fail(cursor, E_TIME)
    return seconds


cdef int take_hash(Cursor *cursor) noexcept nogil:
    """Take the AlgorithmIdentifier of a CertID: its hash_id. Parameters are absent or NULL."""
    cdef Cursor algorithm
    cdef Span oid, parameters
    enter(cursor, 0x30, &algorithm)
    take(&algorithm, 0x06, &oid)
    if algorithm.left.n:
        take(&algorithm, 0x05, &parameters)
        if parameters.n:
            fail(&algorithm, E_TRAILING)
        end(&algorithm)
    if oid.n == 5 and memcmp(oid.p, OID_SHA1, 5) == 0:
        return 0
    if oid.n == 9 and memcmp(oid.p, OID_SHA2, 8) == 0 and 1 <= oid.p[8] <= 3:
        return oid.p[8]  # sha256 1, sha384 2, sha512 3
    fail(cursor, E_HASH)
    return 0


cdef void take_cert_id(Cursor *cursor, CertID *out) noexcept nogil:
    """CertID (RFC 6960 §4.1.1). The serial keeps its bytes; leading zeros and signs are the caller's."""
    cdef Cursor body
    enter(cursor, 0x30, &body)
    out.hash_id = take_hash(&body)
    take(&body, 0x04, &out.name_hash)
    take(&body, 0x04, &out.key_hash)
    take(&body, 0x02, &out.serial)
    if out.serial.n == 0:
        fail(&body, E_SERIAL)
    end(&body)


cdef void take_extensions(Cursor *explicit, RequestView *out) noexcept nogil:
    """Extensions inside an explicit tag: well-formed, none twice; only the nonce is remembered."""
    cdef Cursor outer, extension
    cdef Span oid, value
    cdef Span seen[MAX_EXTENSIONS]
    cdef int count = 0, i
    enter(explicit, 0x30, &outer)
    end(explicit)
    while more(&outer):
        enter(&outer, 0x30, &extension)
        take(&extension, 0x06, &oid)
        if oid.n == 0:
            fail(&extension, E_OID)
        if next_is(&extension, 0x01):
            take(&extension, 0x01, &value)
        take(&extension, 0x04, &value)
        end(&extension)
        if count == MAX_EXTENSIONS:
            fail(&outer, E_MANY)
            return
        for i in range(count):
            if seen[i].n == oid.n and memcmp(seen[i].p, oid.p, <size_t> oid.n) == 0:
                fail(&outer, E_DUPLICATE)
        seen[count] = oid
        count += 1
        if out != NULL and oid.n == 9 and memcmp(oid.p, OID_NONCE, 9) == 0:
            out.has_nonce = 1
            out.nonce = value


cdef int read_request(const uint8_t *data, Py_ssize_t size, RequestView *out) noexcept nogil:
    """OCSPRequest (RFC 6960 §4.1.1); the first CertID is kept, further ones are checked and counted."""
    cdef int failure = 0
    cdef Cursor cursor = cursor_over(span(data, size), &failure)
    cdef Cursor request, tbs, inside, requests, single
    cdef Span ignored
    cdef CertID further
    out.count = 0
    out.has_nonce = 0
    out.nonce.p = NULL
    out.nonce.n = 0
    enter(&cursor, 0x30, &request)
    end(&cursor)
    enter(&request, 0x30, &tbs)
    if request.left.n:  # optionalSignature: ignored (RFC 9919 §3.1.2)
        take(&request, 0xA0, &ignored)
        end(&request)
    if next_is(&tbs, 0xA0):  # version, any value, also the explicitly encoded default
        enter(&tbs, 0xA0, &inside)
        take(&inside, 0x02, &ignored)
        if ignored.n == 0:
            fail(&inside, E_TRAILING)
        end(&inside)
    if next_is(&tbs, 0xA1):  # requestorName: handled as absent (RFC 9919 §3.1.2)
        take(&tbs, 0xA1, &ignored)
    enter(&tbs, 0x30, &requests)
    if tbs.left.n:
        enter(&tbs, 0xA2, &inside)
        end(&tbs)
        take_extensions(&inside, out)
    while more(&requests):
        enter(&requests, 0x30, &single)
        take_cert_id(&single, &out.cert_id if out.count == 0 else &further)
        if single.left.n:
            enter(&single, 0xA0, &inside)
            end(&single)
            take_extensions(&inside, NULL)
        out.count += 1
    if out.count == 0:
        fail(&requests, E_EMPTY)
    return failure


cdef void take_single(Cursor *singles, SingleView *out) noexcept nogil:
    """Take one SingleResponse (RFC 6960 §4.2.1)."""
    cdef Cursor body, inside, status
    cdef Span content
    cdef int tag
    enter(singles, 0x30, &body)
    take_cert_id(&body, &out.cert_id)
    out.status = 0
    out.revoked_at_text.p = NULL
    out.revoked_at_text.n = 0
    out.reason_byte.p = NULL
    out.reason_byte.n = 0
    out.revoked_at = 0
    tag = take_any(&body, &content)
    if tag == 0xA1:
        out.status = 1
        status = cursor_over(content, body.failure)
        take(&status, 0x18, &out.revoked_at_text)
        if read_time(out.revoked_at_text.p, out.revoked_at_text.n, &out.revoked_at):
            fail(&status, E_TIME)
        if status.left.n:
            enter(&status, 0xA0, &inside)
            take(&inside, 0x0A, &out.reason_byte)
            if out.reason_byte.n != 1:
                fail(&inside, E_TRAILING)
            end(&inside)
            end(&status)
    elif tag == 0x82 and content.n == 0:
        out.status = 2
    elif tag != 0x80 or content.n:
        fail(&body, E_TAG)
    out.this_update = take_time(&body)
    out.has_next_update = next_is(&body, 0xA0)
    out.next_update = 0
    if out.has_next_update:
        enter(&body, 0xA0, &inside)
        out.next_update = take_time(&inside)
        end(&inside)
    if body.left.n:
        enter(&body, 0xA1, &inside)
        end(&body)
        take_extensions(&inside, NULL)


cdef int read_single(Span *singles, SingleView *out) noexcept nogil:
    """Take one SingleResponse off the span."""
    cdef int failure = 0
    cdef Cursor cursor = cursor_over(singles[0], &failure)
    take_single(&cursor, out)
    singles[0] = cursor.left
    return failure


cdef void take_basic(Cursor *cursor, Cursor *basic) noexcept nogil:
    """Enter the BasicOCSPResponse of a successful OCSPResponse (RFC 6960 §4.2.1)."""
    cdef Cursor response, inside, wrapped
    cdef Span content
    enter(cursor, 0x30, &response)
    end(cursor)
    take(&response, 0x0A, &content)
    if content.n != 1 or content.p[0] != 0:
        fail(&response, E_STATUS)
    enter(&response, 0xA0, &inside)
    end(&response)
    enter(&inside, 0x30, &response)
    end(&inside)
    take(&response, 0x06, &content)
    if content.n != 9 or memcmp(content.p, OID_BASIC, 9) != 0:
        fail(&response, E_TYPE)
    enter(&response, 0x04, &wrapped)
    end(&response)
    enter(&wrapped, 0x30, basic)
    end(&wrapped)


cdef int read_response(const uint8_t *data, Py_ssize_t size, ResponseView *out) noexcept nogil:
    """A successful OCSPResponse that holds a BasicOCSPResponse (RFC 6960 §4.2.1)."""
    cdef int failure = 0
    cdef Cursor cursor = cursor_over(span(data, size), &failure)
    cdef Cursor basic, body, inside, singles
    cdef Span content
    cdef SingleView further
    cdef int tag
    take_basic(&cursor, &basic)
    out.tbs.p = basic.left.p
    enter(&basic, 0x30, &body)
    out.tbs.n = basic.left.p - out.tbs.p
    out.signature_algorithm.p = basic.left.p
    take(&basic, 0x30, &content)
    out.signature_algorithm.n = basic.left.p - out.signature_algorithm.p
    take(&basic, 0x03, &out.signature)
    if out.signature.n < 2 or out.signature.p[0] != 0:  # the first byte counts unused bits
        fail(&basic, E_SIGNATURE)
    else:
        out.signature.p += 1
        out.signature.n -= 1
    out.certificates.p = NULL
    out.certificates.n = 0
    if basic.left.n:
        enter(&basic, 0xA0, &inside)
        end(&basic)
        take(&inside, 0x30, &out.certificates)
        end(&inside)

    if next_is(&body, 0xA0):  # version, the explicitly encoded default included
        take(&body, 0xA0, &content)
    out.responder_id.p = body.left.p
    tag = take_any(&body, &content)
    if tag != 0xA1 and tag != 0xA2:
        fail(&body, E_TAG)
    out.responder_id.n = body.left.p - out.responder_id.p
    out.produced_at = take_time(&body)
    take(&body, 0x30, &out.singles)
    if body.left.n:
        enter(&body, 0xA1, &inside)
        end(&body)
        take_extensions(&inside, NULL)
    out.count = 0
    singles = cursor_over(out.singles, &failure)
    while more(&singles):
        take_single(&singles, &out.first if out.count == 0 else &further)
        out.count += 1
    if out.count == 0:
        fail(&singles, E_EMPTY)
    return failure


cdef bytes span_bytes(Span span):
    return (<const char *> span.p)[:span.n]


cdef class OCSPRequest:
    """See _der.pyi."""
    cdef readonly str hash_name
    cdef readonly bytes issuer_name_hash
    cdef readonly bytes issuer_key_hash
    cdef readonly object serial
    cdef readonly int count
    cdef readonly bytes nonce

    def __init__(self):
        raise TypeError("use parse_request")


def parse_request(bytes der not None):
    """Read an OCSPRequest; DERError (malformedRequest) when it is none."""
    cdef RequestView view
    cdef int code = read_request(<const uint8_t *> <const char *> der, len(der), &view)
    if code:
        raise DERError(f"OCSP request: {reason_text(code)}")
    cdef OCSPRequest request = OCSPRequest.__new__(OCSPRequest)
    request.hash_name = hash_name(view.cert_id.hash_id)
    request.issuer_name_hash = span_bytes(view.cert_id.name_hash)
    request.issuer_key_hash = span_bytes(view.cert_id.key_hash)
    request.serial = int.from_bytes(span_bytes(view.cert_id.serial), "big", signed=True)
    request.count = view.count
    request.nonce = span_bytes(view.nonce) if view.has_nonce else None
    return request


cdef class OCSPResponse:
    """See _der.pyi."""
    cdef readonly str hash_name
    cdef readonly bytes issuer_name_hash
    cdef readonly bytes issuer_key_hash
    cdef readonly object serial
    cdef readonly int count
    cdef readonly int status
    cdef readonly object produced_at
    cdef readonly object this_update
    cdef readonly object next_update
    cdef readonly object revoked_at
    cdef readonly object reason
    cdef readonly bytes tbs
    cdef readonly bytes signature
    cdef readonly bytes signature_algorithm
    cdef readonly bytes responder_id
    cdef readonly list certificates
    cdef readonly list singles

    def __init__(self):
        raise TypeError("use parse_response")


def parse_response(bytes der not None):
    """Read a successful OCSPResponse with a basic response; DERError otherwise."""
    cdef ResponseView view
    cdef Span content, start
    cdef Cursor certificates
    cdef SingleView single
    cdef int code = read_response(<const uint8_t *> <const char *> der, len(der), &view)
    if code:
        raise DERError(f"OCSP response: {reason_text(code)}")
    cdef OCSPResponse response = OCSPResponse.__new__(OCSPResponse)
    response.hash_name = hash_name(view.first.cert_id.hash_id)
    response.issuer_name_hash = span_bytes(view.first.cert_id.name_hash)
    response.issuer_key_hash = span_bytes(view.first.cert_id.key_hash)
    response.serial = int.from_bytes(span_bytes(view.first.cert_id.serial), "big", signed=True)
    response.count = view.count
    response.status = view.first.status
    response.produced_at = view.produced_at
    response.this_update = view.first.this_update
    response.next_update = view.first.next_update if view.first.has_next_update else None
    response.revoked_at = view.first.revoked_at if view.first.status == 1 else None
    response.reason = view.first.reason_byte.p[0] if view.first.reason_byte.n else None
    response.tbs = span_bytes(view.tbs)
    response.signature = span_bytes(view.signature)
    response.signature_algorithm = span_bytes(view.signature_algorithm)
    response.responder_id = span_bytes(view.responder_id)
    response.singles = []
    start = view.singles
    while start.n and read_single(&start, &single) == 0:  # `read_response` has read them once
        response.singles.append((
            hash_name(single.cert_id.hash_id),
            span_bytes(single.cert_id.name_hash),
            span_bytes(single.cert_id.key_hash),
            int.from_bytes(span_bytes(single.cert_id.serial), "big", signed=True),
            single.status,
            single.this_update,
            single.next_update if single.has_next_update else None,
            single.revoked_at if single.status == 1 else None,
        ))
    response.certificates = []
    certificates = cursor_over(view.certificates, &code)
    while more(&certificates):
        start.p = certificates.left.p
        take_any(&certificates, &content)
        start.n = certificates.left.p - start.p
        response.certificates.append(span_bytes(start))
    if code:
        raise DERError(f"OCSP response, embedded certificates: {reason_text(code)}")
    return response
