# cython: language_level=3
"""Segments: pre-signed OCSP responses in one mapped, immutable file. Public surface in _index.pyi,
layout in _opening.pyx.

Lookup: the key's hash chooses one page of slots and a slot in it; probing wraps inside the page, so
a lookup reads one slot page and one record whatever is asked. The record's serial and the
template's CertID prefix are compared in full.

Trust: a segment may come from anywhere. `Segment` checks header and tables on open (CRC and every
offset in them); `read_record` checks every record against the file before it is used. Contents are
covered by the manifest's SHA-256 and by the signatures in the responses themselves.

A mapped file may change after it was checked: a disk fails, somebody writes into it. So nothing that
says where to read or how much is used as it lies in the map. Header and issuers are copied out; of each
template a sum is kept, and one is used only as a copy that still has it. A key whose slot leads to a
record of another key is damaged: no segment replies for it, as an older one might still have it as good.
Small segments, where the newest changes are, are not mapped but read: what happens to their files then
changes nothing.

This file must not write, verify signatures or know of HTTP.
"""

import os
import sys
import zlib

cimport cython
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport munmap

from ocspd._der cimport CertID, Span, hash_id_of, hash_name
from ocspd._opening cimport contents, header_fault, issuer_good, issuer_table, template_good
from ocspd.errors import IndexFileError

cdef Header NO_HEADER
cdef uint32_t[1] NO_ISSUERS
memset(&NO_HEADER, 0, sizeof(Header))
NO_ISSUERS[0] = 0

if sizeof(Template) != TEMPLATE_WORDS * 4:
    raise ImportError("a template has another size than the format says")

# Random in each process, so that nobody can make another template with the same sum.
cdef uint64_t[TEMPLATE_WORDS] SUM_KEYS
cdef bytes random_bytes = os.urandom(sizeof(SUM_KEYS))
memcpy(SUM_KEYS, <const char *> random_bytes, sizeof(SUM_KEYS))

cdef uint64_t OFFSET_MASK = ((<uint64_t> 1) << 40) - 1
NO_NEXT_UPDATE = (1 << 63) - 1
"""`next_update` of a response that has none: it never expires (RFC 6960 §2.4)."""


cdef Span magnitude(Span serial) noexcept nogil:
    """A non-negative INTEGER's bytes without leading zeros: serials compare as integers."""
    while serial.n > 1 and serial.p[0] == 0:
        serial.p += 1
        serial.n -= 1
    return serial


cdef uint32_t template_sum(const Template *template) noexcept nogil:
    """Multilinear hash of a template: 32-bit words, 64-bit keys, of the sum the upper half.

    Any change goes unnoticed with a probability of 2**-32.
    """
    cdef uint32_t words[TEMPLATE_WORDS]
    cdef uint64_t total = 0
    cdef int i
    memcpy(words, template, sizeof(Template))
    for i in range(TEMPLATE_WORDS):
        total += words[i] * SUM_KEYS[i]
    return <uint32_t> (total >> 32)


cdef bint copy_template(const SegmentView *view, uint64_t template_id, Template *out) noexcept nogil:
    """Copy a template, which must exist; False when it is no longer what was checked on opening."""
    memcpy(out, &view.templates[template_id], sizeof(Template))
    return template_sum(out) == view.template_sums[template_id]


cdef Py_ssize_t read_record(const SegmentView *view, uint64_t offset, Found *out) noexcept nogil:
    """Read the record at an offset; its size, or -1 when it does not lie inside the file or is damaged."""
    cdef const Header *header = view.header
    cdef const uint8_t *record
    cdef uint32_t template_id
    cdef uint64_t size
    if offset + RECORD_HEAD > header.records_size:  # an offset has 40 bits
        return -1
    record = view.records + offset
    template_id = record[1] | (<uint32_t> record[2] << 8) | (<uint32_t> record[3] << 16)
    if template_id >= header.template_count:
        return -1
    if not copy_template(view, template_id, &out.template):
        return -1
    size = RECORD_HEAD + <uint64_t> out.template.serial_size + out.template.data_size
    if offset + size > header.records_size or (record[0] & ~RECORD_DEAD) != out.template.serial_size:
        return -1
    out.segment = view
    out.template_id = template_id
    out.payload = record + RECORD_HEAD
    return <Py_ssize_t> size


cdef int next_record(const SegmentView *view, uint64_t *place, Found *out) noexcept nogil:
    """Read the first record at or behind a place that no later one of the file replaces.

    1 and the place behind it, 0 when there is none, -1 and the place of a record that is damaged. The first
    place is RECORD_HEAD.
    """
    cdef uint64_t at = place[0]
    cdef Py_ssize_t size
    cdef uint8_t head
    while at < view.header.records_size:
        head = view.records[at] if at % PAGE + RECORD_HEAD <= PAGE else 0
        if head == 0:
            at += PAGE - at % PAGE
            continue
        place[0] = at
        size = read_record(view, at, out)
        if size < 0:
            return -1
        at += <uint64_t> size
        if not head & RECORD_DEAD:
            place[0] = at
            return 1
    place[0] = at
    return 0


cdef CertID cert_id_of(const Found *found) noexcept nogil:
    """The CertID of a record; its serial has the bytes of the INTEGER, as `Index.find` takes them."""
    cdef CertID cert_id
    cdef const IssuerKey *issuer = &found.segment.issuers[found.template.issuer_key]
    cert_id.hash_id = <int> issuer.hash_id
    cert_id.name_hash.p = &issuer.name_hash[0]
    cert_id.name_hash.n = issuer.name_size
    cert_id.key_hash.p = &issuer.key_hash[0]
    cert_id.key_hash.n = issuer.key_size
    cert_id.serial.p = found.payload
    cert_id.serial.n = found.template.serial_size
    return cert_id


cdef inline int64_t find_issuer(const SegmentView *view, int hash_id, Span name_hash, Span key_hash) noexcept nogil:
    cdef uint32_t at, position
    cdef const IssuerKey *issuer
    if key_hash.n < 4 or key_hash.n > MAX_HASH or name_hash.n > MAX_HASH:
        return -1
    memcpy(&at, key_hash.p, 4)
    at = (at + <uint32_t> hash_id) & view.issuer_mask
    while True:
        position = view.issuer_table[at]
        if position == 0:
            return -1
        issuer = &view.issuers[position - 1]
        if (
            issuer.hash_id == <uint32_t> hash_id
            and issuer.key_size == key_hash.n
            and issuer.name_size == name_hash.n
            and memcmp(issuer.key_hash, key_hash.p, <size_t> key_hash.n) == 0
            and memcmp(issuer.name_hash, name_hash.p, <size_t> name_hash.n) == 0
        ):
            return position - 1
        at = (at + 1) & view.issuer_mask


cdef Lookup find_in_segment(
    const SegmentView *view, int hash_id, Span name_hash, Span key_hash, Span serial, Found *out
) noexcept nogil:
    """Find a key; `serial` must be a magnitude. DAMAGED when the segment may have it, but cannot be read."""
    cdef int64_t issuer = find_issuer(view, hash_id, name_hash, key_hash)
    cdef uint64_t h, slot, fingerprint
    cdef const uint64_t *page
    cdef Span stored
    cdef int i
    if issuer < 0:
        return Lookup.UNKNOWN_ISSUER
    if serial.n > MAX_SERIAL:
        return Lookup.UNKNOWN_SERIAL
    h = key_hash64(view.header.seed, <uint32_t> issuer, serial.p, serial.n)
    page = view.slots + slot_page(h, view.header.slot_pages) * SLOTS_PER_PAGE
    fingerprint = h & 0xFFFFFF
    for i in range(SLOTS_PER_PAGE):
        slot = page[((h >> 24) + <uint64_t> i) & (SLOTS_PER_PAGE - 1)]
        if slot == 0:
            return Lookup.UNKNOWN_SERIAL
        if slot >> 40 != fingerprint:
            continue
        if read_record(view, slot & OFFSET_MASK, out) < 0:
            return Lookup.DAMAGED
        stored.p = out.payload
        stored.n = out.template.serial_size
        stored = magnitude(stored)
        if (
            out.template.issuer_key == <uint32_t> issuer
            and stored.n == serial.n
            and memcmp(stored.p, serial.p, <size_t> serial.n) == 0
        ):
            return Lookup.FOUND
        # another key with this fingerprint, one of 16 million, or not what the slot was made for
        if key_hash64(view.header.seed, out.template.issuer_key, stored.p, stored.n) & 0xFFFFFF != fingerprint:
            return Lookup.DAMAGED
    return Lookup.UNKNOWN_SERIAL


cdef void assemble(const Found *found, uint8_t *out) noexcept nogil:
    """Write the response's `template.der_size` bytes."""
    cdef const Template *template = &found.template
    cdef const Hole *hole
    cdef int i
    memcpy(out, found.segment.blobs + template.blob_offset, template.der_size)
    for i in range(template.hole_count):
        hole = &template.holes[i]
        memcpy(out + hole.target, found.payload + hole.source, hole.size)


cdef class StoredResponse:
    """See _index.pyi."""
    cdef readonly bytes der
    cdef readonly int status
    cdef readonly object produced_at
    cdef readonly object this_update
    cdef readonly object next_update
    cdef readonly object refresh_at
    cdef readonly str etag


cdef StoredResponse make_stored_response(const Found *found):
    cdef const Template *template = &found.template
    cdef bytes der = PyBytes_FromStringAndSize(NULL, template.der_size)
    cdef StoredResponse response = StoredResponse.__new__(StoredResponse)
    assemble(found, <uint8_t *> <char *> der)
    response.der = der
    response.status = template.status
    response.produced_at = template.produced_at
    response.this_update = template.this_update
    response.next_update = template.next_update
    response.refresh_at = template.refresh_at
    response.etag = der[template.etag_offset:template.etag_offset + ETAG_BYTES].hex().upper()
    return response


cdef Span span_of(bytes data):
    cdef Span span
    span.p = <const uint8_t *> <const char *> data
    span.n = len(data)
    return span


cdef bytes serial_bytes(object serial):
    """Magnitude of a serial; None for a negative one, which no segment holds."""
    if serial < 0:
        return None
    return serial.to_bytes((serial.bit_length() + 7) // 8 or 1, "big")


cdef dict no_counts():
    return {"entries": 0, "good": 0, "revoked": 0, "unknown": 0}


cdef int add_counts(dict counts, const Template *template, int64_t count) except -1:
    counts["entries"] += count
    counts[("good", "revoked", "unknown")[template.status]] += count
    for name, value in (("this_update", template.this_update), ("next_update", template.next_update)):
        counts[f"{name}_min"] = min(counts.get(f"{name}_min", value), value)
        counts[f"{name}_max"] = max(counts.get(f"{name}_max", value), value)
    return 0


@cython.no_gc  # nothing here can be part of a cycle
cdef class Segment:
    """See _index.pyi."""

    def __cinit__(self):
        self._base = NULL
        self._size = 0
        self._opened = False
        self._issuers = NULL
        self._sums = NULL
        self._issuer_table = NULL
        self._close_view()

    def __init__(self, str path not None):
        if self._base != NULL:
            raise TypeError("a Segment is opened once")
        self.path = path
        if sys.byteorder != "little":
            raise IndexFileError(f"{path}: segments are little-endian and cannot be used on this machine")
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as err:
            raise IndexFileError(f"{path}: cannot open segment: {err.strerror}") from err
        try:
            size = os.fstat(descriptor).st_size
            if size < PAGE:
                raise IndexFileError(f"{path}: not a segment: shorter than its header")
            self._base = contents(descriptor, size)
            self._size = size
        except OSError as err:
            raise IndexFileError(f"{path}: cannot map segment: {err.strerror or err}") from err
        finally:
            os.close(descriptor)
        try:
            self._check_header()
            self._check_tables()
            self._issuer_table = issuer_table(
                self._issuers, self._header.issuer_count, &self.view.issuer_mask
            )
            self.view.issuer_table = self._issuer_table
        except BaseException:
            self._close_view()
            raise
        self._opened = True

    def __dealloc__(self):
        PyMem_Free(self._issuers)
        PyMem_Free(self._sums)
        PyMem_Free(self._issuer_table)
        if self._base != NULL:
            with nogil:  # giving back the pages of a large one takes milliseconds
                munmap(self._base, self._size)

    cdef int _close_view(self) except -1:
        """Make the segment an empty one: what is not opened, or was refused, has nothing to read."""
        memset(&self.view, 0, sizeof(SegmentView))
        self.view.header = &NO_HEADER
        self.view.issuer_table = NO_ISSUERS
        return 0

    cdef int _refuse(self, str why) except -1:
        raise IndexFileError(f"{self.path}: {why}; restore it from its source or build it again")

    cdef int _check_header(self) except -1:
        cdef const uint8_t *base = <const uint8_t *> self._base
        cdef const Header *header = &self._header
        fault = header_fault(base, <uint64_t> self._size, &self._header)
        if fault is not None:
            self._refuse(fault)
        self.view.base = base
        self.view.header = header
        self.view.records = base + header.records_offset
        self.view.slots = <const uint64_t *> (base + header.slots_offset)
        self.view.templates = <const Template *> (base + header.templates_offset)
        self.view.blobs = base + header.blobs_offset
        return 0

    cdef int _check_tables(self) except -1:
        # Without the GIL: the tables of a base may have hundreds of megabytes.
        cdef const Header *header = self.view.header
        cdef uint64_t each
        cdef bint good = True
        cdef Template template
        cdef size_t issuers_size = header.issuer_count * sizeof(IssuerKey)
        self._issuers = <IssuerKey *> PyMem_Malloc(issuers_size)
        self._sums = <uint32_t *> PyMem_Malloc(header.template_count * sizeof(uint32_t))
        if self._issuers == NULL or self._sums == NULL:
            raise MemoryError
        self.view.issuers = self._issuers
        self.view.template_sums = self._sums
        cdef object raw = PyMemoryView_FromMemory(<char *> self._base, <Py_ssize_t> self._size, PyBUF_READ)
        tables = raw[header.issuers_offset:header.blobs_offset + header.blobs_size]
        if zlib.crc32(tables) != header.tables_crc:
            self._refuse("segment tables are damaged: checksum mismatch")
        with nogil:
            memcpy(self._issuers, self.view.base + header.issuers_offset, issuers_size)
            for each in range(header.issuer_count):
                good = good and issuer_good(&self._issuers[each])
            for each in range(header.template_count):
                memcpy(&template, &self.view.templates[each], sizeof(Template))
                if not template_good(header, &template):
                    good = False
                    break
                self._sums[each] = template_sum(&template)
        if not good:
            self._refuse("segment tables are damaged: an entry points outside its range")
        return 0

    @property
    def entries(self):
        return self.view.header.entries

    @property
    def size_bytes(self):
        return self.view.header.file_size

    @property
    def created_at(self):
        return self.view.header.created_at

    @property
    def templates(self):
        return self.view.header.template_count

    @property
    def issuer_keys(self):
        cdef const IssuerKey *issuer
        cdef uint64_t issuer_id
        keys = []
        for issuer_id in range(self.view.header.issuer_count):
            issuer = &self.view.issuers[issuer_id]
            keys.append((
                hash_name(<int> issuer.hash_id),
                (<const char *> issuer.name_hash)[:issuer.name_size],
                (<const char *> issuer.key_hash)[:issuer.key_size],
            ))
        return keys

    def issuer_stats(self):
        cdef Template template
        cdef uint64_t template_id
        stats = [no_counts() for _ in range(self.view.header.issuer_count)]
        for template_id in range(self.view.header.template_count):
            if not copy_template(&self.view, template_id, &template):
                self._refuse("segment tables have changed since it was opened")
            if template.count:
                add_counts(stats[template.issuer_key], &template, <int64_t> template.count)
        return stats

    def verify(self):
        cdef uint64_t slot, count = 0, at, h
        cdef uint64_t total = self.view.header.slot_pages * SLOTS_PER_PAGE
        cdef Found found
        cdef Span serial
        cdef bint good = True
        with nogil:
            for at in range(total):
                slot = self.view.slots[at]
                if slot == 0:
                    continue
                count += 1
                if read_record(&self.view, slot & OFFSET_MASK, &found) < 0:
                    good = False
                    break
                serial.p = found.payload
                serial.n = found.template.serial_size
                serial = magnitude(serial)
                h = key_hash64(self.view.header.seed, found.template.issuer_key, serial.p, serial.n)
                if slot_page(h, self.view.header.slot_pages) != at // SLOTS_PER_PAGE or h & 0xFFFFFF != slot >> 40:
                    good = False
                    break
        if not good or count != self.view.header.entries:
            self._refuse("segment slots are damaged: they do not agree with the records")

    def lookup(self, str hash_name not None, bytes name_hash not None, bytes key_hash not None, serial not None):
        cdef Found found
        cdef Lookup result
        raw = serial_bytes(serial)
        if raw is None:
            return None
        result = find_in_segment(
            &self.view, hash_id_of(hash_name), span_of(name_hash), span_of(key_hash), span_of(raw), &found
        )
        if result == Lookup.DAMAGED:
            self._refuse("a record of the segment is damaged")
        return make_stored_response(&found) if result == Lookup.FOUND else None

    def records(self):
        cdef uint64_t offset = RECORD_HEAD
        cdef Found found
        cdef int more = next_record(&self.view, &offset, &found)
        while more > 0:
            serial = int.from_bytes((<const char *> found.payload)[:found.template.serial_size], "big")
            yield found.template.issuer_key, serial, make_stored_response(&found)
            more = next_record(&self.view, &offset, &found)
        if more < 0:
            self._refuse(f"segment record at {offset} is damaged")


@cython.no_gc  # _views point into segments
cdef class Index:
    """See _index.pyi."""

    def __cinit__(self):
        self._views = NULL

    def __init__(self, segments not None, *, generation=0, bint out_of_service=False):
        cdef Segment segment
        cdef int i, count
        if self._views != NULL:
            raise TypeError("an Index is initialised once")
        self.segments = tuple(segments)
        self.generation = generation
        self.out_of_service = out_of_service
        count = len(self.segments)
        self._views = <const SegmentView **> PyMem_Malloc((<size_t> count + 1) * sizeof(SegmentView *))
        if self._views == NULL:
            raise MemoryError
        for i in range(count):
            segment = self.segments[i]
            if segment is None or not segment._opened:
                raise TypeError("a Segment of the index was not opened")
            self._views[i] = &segment.view
            self._count = i + 1  # never more than there is, whatever is made of an index that was refused

    def __dealloc__(self):
        PyMem_Free(self._views)

    cdef Lookup find(
        self, int hash_id, Span name_hash, Span key_hash, Span serial, Found *out
    ) noexcept nogil:
        """Ask every segment, newest first. `serial` as in the request: sign and zeros are handled here.

        DAMAGED in one ends the search: the response of an older segment may have been replaced by it.
        """
        cdef Lookup result, worst = Lookup.UNKNOWN_ISSUER
        cdef bint negative = serial.n > 0 and (serial.p[0] & 0x80) != 0
        cdef int i
        if self.out_of_service:
            return Lookup.DAMAGED
        serial = magnitude(serial)
        for i in range(self._count):
            result = find_in_segment(self._views[i], hash_id, name_hash, key_hash, serial, out)
            if result == Lookup.UNKNOWN_ISSUER:
                continue
            if result != Lookup.UNKNOWN_SERIAL and not negative:
                return result
            worst = Lookup.UNKNOWN_SERIAL
        return worst

    @property
    def entries(self):
        return sum(segment.entries for segment in self.segments)

    def lookup(self, str hash_name not None, bytes name_hash not None, bytes key_hash not None, serial not None):
        cdef Segment segment
        for segment in self.segments:
            found = segment.lookup(hash_name, name_hash, key_hash, serial)
            if found is not None:
                return found
        return None

    cdef int _forget_replaced(self, int own, int64_t **counts) except -1:
        """Take from the counts of older segments what the responses of one replace there."""
        cdef Found found, old
        cdef CertID key
        cdef uint64_t place = RECORD_HEAD
        cdef int other
        with nogil:
            while next_record(self._views[own], &place, &found) > 0:  # damage is for `verify` to report
                key = cert_id_of(&found)
                key.serial = magnitude(key.serial)
                for other in range(own + 1, self._count):
                    if find_in_segment(
                        self._views[other], key.hash_id, key.name_hash, key.key_hash, key.serial, &old
                    ) == Lookup.FOUND:
                        counts[other][old.template_id] -= 1
                        break
        return 0

    cdef int _count_served(self, int64_t **counts, dict stats) except -1:
        cdef Template template
        cdef const SegmentView *view
        cdef uint64_t template_id
        cdef int own
        for own in range(self._count):
            view = self._views[own]
            counts[own] = <int64_t *> calloc(view.header.template_count + 1, sizeof(int64_t))
            if counts[own] == NULL:
                raise MemoryError
            for template_id in range(view.header.template_count):
                if copy_template(view, template_id, &template):
                    counts[own][template_id] = <int64_t> template.count
        for own in range(self._count - 1):
            self._forget_replaced(own, counts)
        for own in range(self._count):
            view = self._views[own]
            keys = self.segments[own].issuer_keys
            for template_id in range(view.header.template_count):
                if counts[own][template_id] <= 0 or not copy_template(view, template_id, &template):
                    continue  # damaged since it was checked: its responses are not served either
                row = stats.setdefault(keys[template.issuer_key], no_counts() | {"expiries": {}})
                add_counts(row, &template, counts[own][template_id])
                expiries = row["expiries"]
                expiries[template.next_update] = expiries.get(template.next_update, 0) + counts[own][template_id]
        return 0

    def live_stats(self):
        cdef int64_t **counts = <int64_t **> calloc(<size_t> self._count + 1, sizeof(void *))
        cdef dict stats = {}
        cdef int own
        if counts == NULL:
            raise MemoryError
        try:
            self._count_served(counts, stats)
        finally:
            for own in range(self._count):
                free(counts[own])
            free(counts)
        return stats
