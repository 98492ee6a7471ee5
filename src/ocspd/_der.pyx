# cython: language_level=3
"""Tolerant DER reading of OCSP requests and stored responses; see _der.pyi for the public surface.

Rules of this file
1. The readers are `noexcept nogil`: no Python object, no allocation, no copy; spans point into the
   caller's buffer and live as long as it does.
2. Every read goes through `read_tlv`, which alone moves a cursor and alone compares lengths; a
   length is definite, minimal (X.690 §10.1) and never beyond its container.
3. A reader returns 0 or one of the E_ codes; `reason_text` is the one mapping to words.
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
    "the data end inside an element",
    "a length is indefinite, not minimal or too large",
    "an element has another tag than the structure asks for",
    "bytes follow the end of the structure",
    "the CertID hash algorithm is not SHA-1, SHA-256, SHA-384 or SHA-512",
    "the serial number is empty",
    "no certificate is asked about",
    "an extension stands twice",
    "a time is not a GeneralizedTime of the form YYYYMMDDHHMMSSZ",
    "the response status is not successful",
    "the response is not a basic response",
    "there are too many extensions",
    "the signature is not whole octets",
    "an extension has no identifier",
)

_HASH_NAMES = ("sha1", "sha256", "sha384", "sha512")

cdef const uint8_t *OID_SHA1 = b"\x2b\x0e\x03\x02\x1a"
cdef const uint8_t *OID_SHA2 = b"\x60\x86\x48\x01\x65\x03\x04\x02"
cdef const uint8_t *OID_BASIC = b"\x2b\x06\x01\x05\x05\x07\x30\x01\x01"
cdef const uint8_t *OID_NONCE = b"\x2b\x06\x01\x05\x05\x07\x30\x01\x02"


if sizeof(Py_ssize_t) < 8:  # a DER length of four octets, and every sum of two lengths, fits
    raise ImportError("ocspd needs a 64-bit system")


cdef str reason_text(int code):
    return _REASONS[code]


cdef str hash_name(int hash_id):
    return _HASH_NAMES[hash_id]


cdef int hash_number(str name) except -1:
    """The number of a CertID hash algorithm; ValueError for a name that is none."""
    if name not in _HASH_NAMES:
        raise ValueError(f"{name!r} is not a CertID hash algorithm: use one of {', '.join(_HASH_NAMES)}")
    return _HASH_NAMES.index(name)


cdef int read_tlv(Span *cursor, int *tag, Span *content) noexcept nogil:
    """Take one element off the cursor. Single-octet tags only: OCSP has no others."""
    cdef const uint8_t *p = cursor.p
    cdef Py_ssize_t left = cursor.n
    cdef Py_ssize_t length
    cdef int octets, i
    if left < 2:
        return E_TRUNCATED
    tag[0] = p[0]
    if (p[0] & 0x1F) == 0x1F:
        return E_TAG
    length = p[1]
    p += 2
    left -= 2
    if length >= 0x80:
        octets = <int> (length & 0x7F)
        if octets == 0 or octets > 4:
            return E_LENGTH
        if left < octets:
            return E_TRUNCATED
        if p[0] == 0:
            return E_LENGTH
        length = 0
        for i in range(octets):
            length = (length << 8) | p[i]
        if length < 0x80:
            return E_LENGTH
        p += octets
        left -= octets
    if length > left:
        return E_TRUNCATED
    content.p = p
    content.n = length
    cursor.p = p + length
    cursor.n = left - length
    return 0


cdef int expect(Span *cursor, int tag, Span *content) noexcept nogil:
    """Take one element that must have this tag."""
    cdef int found, code
    code = read_tlv(cursor, &found, content)
    if code:
        return code
    return 0 if found == tag else E_TAG


cdef inline bint next_is(const Span *cursor, int tag) noexcept nogil:
    return cursor.n > 0 and cursor.p[0] == tag


cdef int read_hash(Span *cursor, int *hash_id) noexcept nogil:
    """AlgorithmIdentifier of a CertID; parameters absent or NULL."""
    cdef Span algorithm, oid, parameters
    cdef int code
    code = expect(cursor, 0x30, &algorithm)
    if code:
        return code
    code = expect(&algorithm, 0x06, &oid)
    if code:
        return code
    if algorithm.n:
        code = expect(&algorithm, 0x05, &parameters)
        if code:
            return code
        if parameters.n or algorithm.n:
            return E_TRAILING
    if oid.n == 5 and memcmp(oid.p, OID_SHA1, 5) == 0:
        hash_id[0] = 0
        return 0
    if oid.n == 9 and memcmp(oid.p, OID_SHA2, 8) == 0 and 1 <= oid.p[8] <= 3:
        hash_id[0] = oid.p[8]  # sha256 1, sha384 2, sha512 3
        return 0
    return E_HASH


cdef int read_cert_id(Span *cursor, CertID *out) noexcept nogil:
    """CertID (RFC 6960 §4.1.1). The serial keeps its octets; leading zeros and signs are the caller's."""
    cdef Span body
    cdef int code
    code = expect(cursor, 0x30, &body)
    if code:
        return code
    code = read_hash(&body, &out.hash_id)
    if code:
        return code
    code = expect(&body, 0x04, &out.name_hash)
    if code:
        return code
    code = expect(&body, 0x04, &out.key_hash)
    if code:
        return code
    code = expect(&body, 0x02, &out.serial)
    if code:
        return code
    if out.serial.n == 0:
        return E_SERIAL
    return E_TRAILING if body.n else 0


cdef int read_extensions(Span explicit, RequestView *out) noexcept nogil:
    """Extensions inside an explicit tag: well-formed, none twice; only the nonce is remembered."""
    cdef Span outer, extension, oid, value
    cdef Span seen[MAX_EXTENSIONS]
    cdef int count = 0, code, i
    code = expect(&explicit, 0x30, &outer)
    if code:
        return code
    if explicit.n:
        return E_TRAILING
    while outer.n:
        code = expect(&outer, 0x30, &extension)
        if code:
            return code
        code = expect(&extension, 0x06, &oid)
        if code:
            return code
        if oid.n == 0:
            return E_OID
        if next_is(&extension, 0x01):
            code = expect(&extension, 0x01, &value)
            if code:
                return code
        code = expect(&extension, 0x04, &value)
        if code:
            return code
        if extension.n:
            return E_TRAILING
        if count == MAX_EXTENSIONS:
            return E_MANY
        for i in range(count):
            if seen[i].n == oid.n and memcmp(seen[i].p, oid.p, <size_t> oid.n) == 0:
                return E_DUPLICATE
        seen[count] = oid
        count += 1
        if out != NULL and oid.n == 9 and memcmp(oid.p, OID_NONCE, 9) == 0:
            out.has_nonce = 1
            out.nonce = value
    return 0


cdef int read_request(const uint8_t *data, Py_ssize_t size, RequestView *out) noexcept nogil:
    """OCSPRequest (RFC 6960 §4.1.1); the first CertID is kept, further ones are checked and counted."""
    cdef Span cursor, request, tbs, element, requests, single
    cdef CertID further
    cdef int code
    cursor.p = data
    cursor.n = size
    out.count = 0
    out.has_nonce = 0
    out.nonce.p = NULL
    out.nonce.n = 0
    code = expect(&cursor, 0x30, &request)
    if code:
        return code
    if cursor.n:
        return E_TRAILING
    code = expect(&request, 0x30, &tbs)
    if code:
        return code
    if request.n:  # optionalSignature: ignored (RFC 9919 §3.1.2)
        code = expect(&request, 0xA0, &element)
        if code:
            return code
        if request.n:
            return E_TRAILING
    if next_is(&tbs, 0xA0):  # version, any value, also the explicitly encoded default
        code = expect(&tbs, 0xA0, &element)
        if code:
            return code
        code = expect(&element, 0x02, &single)
        if code:
            return code
        if element.n or single.n == 0:
            return E_TRAILING
    if next_is(&tbs, 0xA1):  # requestorName: handled as absent (RFC 9919 §3.1.2)
        code = expect(&tbs, 0xA1, &element)
        if code:
            return code
    code = expect(&tbs, 0x30, &requests)
    if code:
        return code
    if tbs.n:
        code = expect(&tbs, 0xA2, &element)
        if code:
            return code
        if tbs.n:
            return E_TRAILING
        code = read_extensions(element, out)
        if code:
            return code
    while requests.n:
        code = expect(&requests, 0x30, &single)
        if code:
            return code
        code = read_cert_id(&single, &out.cert_id if out.count == 0 else &further)
        if code:
            return code
        if single.n:
            code = expect(&single, 0xA0, &element)
            if code:
                return code
            if single.n:
                return E_TRAILING
            code = read_extensions(element, NULL)
            if code:
                return code
        out.count += 1
    return 0 if out.count else E_EMPTY


cdef int read_single(Span *singles, SingleView *out) noexcept nogil:
    """Take one SingleResponse (RFC 6960 §4.2.1) off the cursor."""
    cdef Span body, element, inner
    cdef int code, tag
    code = expect(singles, 0x30, &body)
    if code:
        return code
    code = read_cert_id(&body, &out.cert_id)
    if code:
        return code
    out.revoked_at_text.p = NULL
    out.revoked_at_text.n = 0
    out.reason_octet.p = NULL
    out.reason_octet.n = 0
    out.revoked_at = 0
    code = read_tlv(&body, &tag, &element)
    if code:
        return code
    if tag == 0x80 and element.n == 0:
        out.status = 0
    elif tag == 0xA1:
        out.status = 1
        code = expect(&element, 0x18, &out.revoked_at_text)
        if code:
            return code
        if read_time(out.revoked_at_text.p, out.revoked_at_text.n, &out.revoked_at):
            return E_TIME
        if element.n:
            code = expect(&element, 0xA0, &inner)
            if code:
                return code
            code = expect(&inner, 0x0A, &out.reason_octet)
            if code:
                return code
            if inner.n or element.n or out.reason_octet.n != 1:
                return E_TRAILING
    elif tag == 0x82 and element.n == 0:
        out.status = 2
    else:
        return E_TAG
    code = expect(&body, 0x18, &element)
    if code:
        return code
    if read_time(element.p, element.n, &out.this_update):
        return E_TIME
    out.has_next_update = 0
    out.next_update = 0
    if next_is(&body, 0xA0):
        code = expect(&body, 0xA0, &element)
        if code:
            return code
        code = expect(&element, 0x18, &inner)
        if code:
            return code
        if element.n:
            return E_TRAILING
        if read_time(inner.p, inner.n, &out.next_update):
            return E_TIME
        out.has_next_update = 1
    if body.n:
        code = expect(&body, 0xA1, &element)
        if code:
            return code
        if body.n:
            return E_TRAILING
        return read_extensions(element, NULL)
    return 0


cdef int read_response(const uint8_t *data, Py_ssize_t size, ResponseView *out) noexcept nogil:
    """A successful OCSPResponse that holds a BasicOCSPResponse (RFC 6960 §4.2.1)."""
    cdef Span cursor, response, element, inner, basic, body, start
    cdef SingleView further
    cdef int code, tag
    cursor.p = data
    cursor.n = size
    code = expect(&cursor, 0x30, &response)
    if code:
        return code
    if cursor.n:
        return E_TRAILING
    code = expect(&response, 0x0A, &element)
    if code:
        return code
    if element.n != 1 or element.p[0] != 0:
        return E_STATUS
    code = expect(&response, 0xA0, &element)
    if code:
        return code
    if response.n:
        return E_TRAILING
    code = expect(&element, 0x30, &inner)
    if code:
        return code
    if element.n:
        return E_TRAILING
    code = expect(&inner, 0x06, &element)
    if code:
        return code
    if element.n != 9 or memcmp(element.p, OID_BASIC, 9) != 0:
        return E_TYPE
    code = expect(&inner, 0x04, &element)
    if code:
        return code
    if inner.n:
        return E_TRAILING
    code = expect(&element, 0x30, &basic)
    if code:
        return code
    if element.n:
        return E_TRAILING

    start = basic
    code = expect(&basic, 0x30, &body)
    if code:
        return code
    out.tbs.p = start.p
    out.tbs.n = basic.p - start.p
    start = basic
    code = expect(&basic, 0x30, &element)
    if code:
        return code
    out.signature_algorithm.p = start.p
    out.signature_algorithm.n = basic.p - start.p
    code = expect(&basic, 0x03, &element)
    if code:
        return code
    if element.n < 2 or element.p[0] != 0:
        return E_SIGNATURE
    out.signature.p = element.p + 1
    out.signature.n = element.n - 1
    out.certificates.p = NULL
    out.certificates.n = 0
    if basic.n:
        code = expect(&basic, 0xA0, &element)
        if code:
            return code
        if basic.n:
            return E_TRAILING
        code = expect(&element, 0x30, &out.certificates)
        if code:
            return code
        if element.n:
            return E_TRAILING

    if next_is(&body, 0xA0):  # version, the explicitly encoded default included
        code = expect(&body, 0xA0, &element)
        if code:
            return code
    start = body
    code = read_tlv(&body, &tag, &element)
    if code:
        return code
    if tag != 0xA1 and tag != 0xA2:
        return E_TAG
    out.responder_id.p = start.p
    out.responder_id.n = body.p - start.p
    code = expect(&body, 0x18, &element)
    if code:
        return code
    if read_time(element.p, element.n, &out.produced_at):
        return E_TIME
    code = expect(&body, 0x30, &out.singles)
    if code:
        return code
    if body.n:
        code = expect(&body, 0xA1, &element)
        if code:
            return code
        if body.n:
            return E_TRAILING
        code = read_extensions(element, NULL)
        if code:
            return code
    out.count = 0
    start = out.singles
    while start.n:
        code = read_single(&start, &out.first if out.count == 0 else &further)
        if code:
            return code
        out.count += 1
    return 0 if out.count else E_EMPTY


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
    cdef Span certificates, content, start
    cdef SingleView single
    cdef int tag
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
    response.reason = view.first.reason_octet.p[0] if view.first.reason_octet.n else None
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
    certificates = view.certificates
    while certificates.n:
        start = certificates
        code = read_tlv(&certificates, &tag, &content)
        if code:
            raise DERError(f"OCSP response, embedded certificates: {reason_text(code)}")
        start.n = certificates.p - start.p
        response.certificates.append(span_bytes(start))
    return response
