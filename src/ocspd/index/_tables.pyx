# cython: language_level=3
"""Issuer keys and templates of a segment that is being written.

A template is shared only after every byte outside its holes has been compared, so what is read back
is what was added. Values below zero are codes of _write_error.pxd.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from ocspd._der cimport CertID, Cursor, ResponseView, SingleView, Span, cursor_over, end, enter, take
from ocspd._index cimport (
    ETAG_BYTES,
    MAX_DER,
    MAX_HASH,
    MAX_ISSUERS,
    MAX_SERIAL,
    MAX_TEMPLATES,
    Hole,
    IssuerKey,
    Template,
)
from ocspd._text cimport format_time
from ocspd.index._write_error cimport (
    E_HASH_SIZE,
    E_ISSUERS,
    E_MEMORY,
    E_RESPONSE_SIZE,
    E_SERIAL_SIZE,
    E_TEMPLATES,
)

cdef int64_t FIRST_TIME = -62167219200  # year 0, where HTTP dates begin


cdef uint64_t hash_gap(uint64_t h, const uint8_t *p, Py_ssize_t n) noexcept nogil:
    cdef uint64_t word
    while n >= 8:
        memcpy(&word, p, 8)
        h = (h ^ word) * 0x9FB21C651E98DF25u
        h ^= h >> 35
        p += 8
        n -= 8
    if n:
        word = 0
        memcpy(&word, p, <size_t> n)
        h = (h ^ word ^ <uint64_t> n) * 0x9FB21C651E98DF25u
        h ^= h >> 35
    return h


cdef bint ecdsa_parts(Span signature, Span *r, Span *s) noexcept nogil:
    """Whether the signature is ECDSA-Sig-Value (RFC 3279 §2.2.3) of two positive minimal integers."""
    cdef int failure = 0
    cdef Cursor cursor = cursor_over(signature, &failure)
    cdef Cursor body
    if signature.n > 200 or signature.p[0] != 0x30:
        return False
    enter(&cursor, 0x30, &body)
    end(&cursor)
    take(&body, 0x02, r)
    take(&body, 0x02, s)
    end(&body)
    return failure == 0 and drop_sign(r) and drop_sign(s)


cdef bint drop_sign(Span *integer) noexcept nogil:
    """Drop the zero byte before a high bit; False unless the integer is positive and minimal."""
    if integer.n == 0 or integer.p[0] & 0x80:
        return False
    if integer.p[0] == 0 and integer.n > 1:
        if not integer.p[1] & 0x80:
            return False
        integer.p += 1
        integer.n -= 1
    return True


cdef int unusable(const ResponseView *view, const SingleView *single, Py_ssize_t size) noexcept nogil:
    """Why a response cannot be stored in a segment, or 0."""
    cdef const CertID *cert_id = &single.cert_id
    if cert_id.serial.n > MAX_SERIAL or cert_id.serial.p[0] & 0x80:
        return E_SERIAL_SIZE
    if cert_id.key_hash.n > MAX_HASH or cert_id.name_hash.n > MAX_HASH or cert_id.key_hash.n < 4:
        return E_HASH_SIZE
    if view.signature.n < ETAG_BYTES or size > MAX_DER:
        return E_RESPONSE_SIZE
    return 0


cdef class TemplateTable:
    """The tables, growing."""

    def __cinit__(self):
        self._issuer_room = 8
        self.issuers = <IssuerKey *> PyMem_Malloc(self._issuer_room * sizeof(IssuerKey))
        self._template_room = 256
        self.templates = <Template *> PyMem_Malloc(self._template_room * sizeof(Template))
        self._hashes = <uint64_t *> PyMem_Malloc(self._template_room * sizeof(uint64_t))
        self._table_mask = 1023
        self._table = <uint32_t *> PyMem_Malloc((self._table_mask + 1) * sizeof(uint32_t))
        self._blobs_room = 1 << 16
        self.blobs = <uint8_t *> PyMem_Malloc(self._blobs_room)
        if not (self.issuers and self.templates and self._hashes and self._table and self.blobs):
            raise MemoryError
        memset(self._table, 0, (self._table_mask + 1) * sizeof(uint32_t))

    def __dealloc__(self):
        PyMem_Free(self.issuers)
        PyMem_Free(self.templates)
        PyMem_Free(self._hashes)
        PyMem_Free(self._table)
        PyMem_Free(self.blobs)

    cdef int64_t issuer(self, int hash_id, Span name_hash, Span key_hash) noexcept nogil:
        """The position of a CertID prefix, which is added when new."""
        cdef IssuerKey *issuer
        cdef uint32_t step, issuer_id
        cdef IssuerKey *grown
        for step in range(self.issuer_count):
            issuer_id = (self._issuer_last + step) % self.issuer_count
            issuer = &self.issuers[issuer_id]
            if (
                issuer.hash_id == <uint32_t> hash_id
                and issuer.key_size == key_hash.n
                and issuer.name_size == name_hash.n
                and memcmp(issuer.key_hash, key_hash.p, <size_t> key_hash.n) == 0
                and memcmp(issuer.name_hash, name_hash.p, <size_t> name_hash.n) == 0
            ):
                self._issuer_last = issuer_id
                return issuer_id
        if self.issuer_count == MAX_ISSUERS:
            return E_ISSUERS
        if self.issuer_count == self._issuer_room:
            with gil:
                grown = <IssuerKey *> PyMem_Realloc(self.issuers, 2 * self._issuer_room * sizeof(IssuerKey))
            if grown == NULL:
                return E_MEMORY
            self.issuers = grown
            self._issuer_room *= 2
        issuer = &self.issuers[self.issuer_count]
        memset(issuer, 0, sizeof(IssuerKey))
        issuer.hash_id = <uint32_t> hash_id
        issuer.name_size = <uint16_t> name_hash.n
        issuer.key_size = <uint16_t> key_hash.n
        memcpy(issuer.name_hash, name_hash.p, <size_t> name_hash.n)
        memcpy(issuer.key_hash, key_hash.p, <size_t> key_hash.n)
        self._issuer_last = self.issuer_count
        self.issuer_count += 1
        return self._issuer_last

    cdef bint _same(self, const Template *known, const Template *template, const uint8_t *der) noexcept nogil:
        """Whether the known template is this one, byte by byte outside the holes."""
        cdef const uint8_t *blob
        cdef uint32_t at = 0
        cdef int i
        if (
            known.der_size != template.der_size
            or known.issuer_key != template.issuer_key
            or known.refresh_at != template.refresh_at
            or known.next_update != template.next_update
            or known.this_update != template.this_update
            or known.status != template.status
            or known.serial_size != template.serial_size
            or known.data_size != template.data_size
            or known.hole_count != template.hole_count
            or memcmp(known.holes, template.holes, template.hole_count * sizeof(Hole)) != 0
        ):
            return False
        blob = self.blobs + known.blob_offset
        for i in range(template.hole_count):
            if memcmp(blob + at, der + at, template.holes[i].target - at) != 0:
                return False
            at = template.holes[i].target + template.holes[i].size
        return memcmp(blob + at, der + at, template.der_size - at) == 0

    cdef int64_t intern(self, const Template *template, const uint8_t *der) noexcept nogil:
        """The position of a template, which is added when new."""
        cdef uint64_t h = (<uint64_t> template.issuer_key << 32) ^ <uint64_t> template.refresh_at
        cdef uint32_t at = 0, template_id, slot
        cdef uint8_t *blob
        cdef int i
        for i in range(template.hole_count):
            h = hash_gap(h ^ template.holes[i].target, der + at, template.holes[i].target - at)
            at = template.holes[i].target + template.holes[i].size
        h = hash_gap(h, der + at, template.der_size - at)
        slot = <uint32_t> (h >> 20) & self._table_mask
        while True:
            template_id = self._table[slot]
            if template_id == 0:
                break
            if self._hashes[template_id - 1] == h and self._same(&self.templates[template_id - 1], template, der):
                return template_id - 1
            slot = (slot + 1) & self._table_mask
        if self.template_count == MAX_TEMPLATES:
            return E_TEMPLATES
        if self._grow(template.der_size):
            return E_MEMORY
        template_id = self.template_count
        self.templates[template_id] = template[0]
        self.templates[template_id].count = 0
        self.templates[template_id].blob_offset = self.blobs_size
        self._hashes[template_id] = h
        blob = self.blobs + self.blobs_size
        memcpy(blob, der, template.der_size)
        for i in range(template.hole_count):
            memset(blob + template.holes[i].target, 0, template.holes[i].size)
        self.blobs_size += template.der_size
        self.template_count += 1
        slot = <uint32_t> (h >> 20) & self._table_mask
        while self._table[slot]:
            slot = (slot + 1) & self._table_mask
        self._table[slot] = template_id + 1
        return template_id

    cdef int _grow(self, uint32_t der_size) noexcept nogil:
        """Make room for one more template."""
        cdef void *grown
        cdef uint32_t template_id, slot
        with gil:
            if self.template_count == self._template_room:
                grown = PyMem_Realloc(self.templates, 2 * <size_t> self._template_room * sizeof(Template))
                if grown == NULL:
                    return E_MEMORY
                self.templates = <Template *> grown
                grown = PyMem_Realloc(self._hashes, 2 * <size_t> self._template_room * sizeof(uint64_t))
                if grown == NULL:
                    return E_MEMORY
                self._hashes = <uint64_t *> grown
                self._template_room *= 2
            if self.blobs_size + der_size > self._blobs_room:
                grown = PyMem_Realloc(self.blobs, 2 * self._blobs_room + der_size)
                if grown == NULL:
                    return E_MEMORY
                self.blobs = <uint8_t *> grown
                self._blobs_room = 2 * self._blobs_room + der_size
            if self.template_count * 2 > self._table_mask:
                grown = PyMem_Malloc(2 * (<size_t> self._table_mask + 1) * sizeof(uint32_t))
                if grown == NULL:
                    return E_MEMORY
                PyMem_Free(self._table)
                self._table = <uint32_t *> grown
                self._table_mask = 2 * self._table_mask + 1
                memset(self._table, 0, (<size_t> self._table_mask + 1) * sizeof(uint32_t))
                for template_id in range(self.template_count):
                    slot = <uint32_t> (self._hashes[template_id] >> 20) & self._table_mask
                    while self._table[slot]:
                        slot = (slot + 1) & self._table_mask
                    self._table[slot] = template_id + 1
        return 0

    cdef int64_t template_for(
        self, const uint8_t *der, Py_ssize_t size, const ResponseView *view, const SingleView *single,
        int64_t refresh_at, bint refresh_known, Span *parts, int *count
    ) noexcept nogil:
        """The position of a response's template, and in parts (MAX_HOLES) what its record holds behind the serial."""
        cdef Template template
        cdef Span r, s
        cdef const uint8_t *tag = view.signature.p + (view.signature.n - ETAG_BYTES)  # `unusable` has looked
        cdef int64_t issuer_id
        cdef int i
        cdef const CertID *cert_id = &single.cert_id
        count[0] = 0
        memset(&template, 0, sizeof(Template))
        issuer_id = self.issuer(cert_id.hash_id, cert_id.name_hash, cert_id.key_hash)
        if issuer_id < 0:
            return issuer_id
        template.issuer_key = <uint32_t> issuer_id
        template.der_size = <uint32_t> size
        template.produced_at = view.produced_at
        template.this_update = single.this_update
        template.next_update = single.next_update if single.has_next_update else INT64_MAX
        template.refresh_at = max(FIRST_TIME, min(refresh_at, template.next_update)) if refresh_known else template.next_update
        template.status = <uint8_t> single.status
        template.serial_size = <uint8_t> cert_id.serial.n
        template.etag_offset = <uint32_t> (tag - der)
        format_time(template.this_update, template.last_modified)
        if single.has_next_update:
            format_time(template.next_update, template.expires)
        if view.count == 1:
            # the serial comes first in a response, the signature last: holes are in order
            if single.revoked_at_text.n:
                parts[count[0]] = single.revoked_at_text
                count[0] += 1
            if single.reason_byte.n:
                parts[count[0]] = single.reason_byte
                count[0] += 1
            if ecdsa_parts(view.signature, &r, &s):
                parts[count[0]] = r
                parts[count[0] + 1] = s
                count[0] += 2
            elif view.signature.n < 0x8000:
                parts[count[0]] = view.signature
                count[0] += 1
            template.hole_count = <uint8_t> (count[0] + 1)
            template.holes[0].target = <uint32_t> (cert_id.serial.p - der)
            template.holes[0].source = 0
            template.holes[0].size = <uint16_t> cert_id.serial.n
            for i in range(count[0]):
                template.holes[i + 1].target = <uint32_t> (parts[i].p - der)
                template.holes[i + 1].source = <uint16_t> (cert_id.serial.n + template.data_size)
                template.holes[i + 1].size = <uint16_t> parts[i].n
                template.data_size = <uint16_t> (template.data_size + parts[i].n)
        return self.intern(&template, der)
