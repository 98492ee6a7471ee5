# cython: language_level=3
"""Writing segments: responses in, one immutable file out. Public surface in _writer.pyi, layout in `_opening.pyx`.

A response is split into what varies from one certificate to the next (serial, revocation time and
reason, signature) and the rest, its template. Answers of one signing batch share a handful of
templates, so a response costs its serial, its signature and a few bytes. ECDSA signatures are kept
as bare r and s. Nothing is guessed: a template is shared only after every byte outside the holes
has been compared, so what is read back is what was added.

Records go to the file as they come, their keys to `_keys`; `finish` fills the slot table part after
part. Memory is the templates plus fixed buffers and a 256th of the table.
"""

import os
import tempfile
import zlib
from pathlib import Path

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport errno
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport pread, pwrite

from ocspd._der cimport CertID, ResponseView, SingleView, Span, read_response, read_single, reason_text
from ocspd._text cimport decode_base64
from ocspd._index cimport (
    MAX_HOLES,
    MAX_ISSUERS,
    MAX_SERIAL,
    MAX_TEMPLATES,
    PAGE,
    RECORD_DEAD,
    RECORD_HEAD,
    SLOTS_PER_PAGE,
    STRADDLE_LIMIT,
    VERSION,
    Found,
    Header,
    Index,
    IssuerKey,
    Lookup,
    Segment,
    SegmentView,
    Template,
    cert_id_of,
    key_hash64,
    magnitude,
    next_record,
    slot_page,
)
from ocspd.index._keys cimport KEY_PARTS, SlotKeys, Pair
from ocspd.index._paced_write cimport damaged, write_until
from ocspd.index._tables cimport TemplateTable, unusable
from ocspd.index._write_error cimport (
    E_BASE64, E_HASH_SIZE, E_IO, E_ISSUERS, E_NEWER, E_RECORD, E_RESPONSE_SIZE, E_SERIAL_SIZE, E_SIZE, E_STOPPED,
    E_TEMPLATES,
)

from ocspd.errors import DERError, IndexFileError
from ocspd.machine import MACHINE

cdef enum:
    BUFFER = 1 << 16
    ENTRIES_PER_PAGE = 384  # mean fill of 3/4: no page of 512 overflows in practice, and finish checks
    REPORTED_TOKENS = 1000

cdef uint64_t RECORDS_LIMIT = (<uint64_t> 1 << 40) - (1 << 21)  # a slot has 40 bits for an offset


_FATAL = {
    E_STOPPED: "abandoned before it was finished",
    E_TEMPLATES: f"the responses need more than {MAX_TEMPLATES} templates",
    E_ISSUERS: f"the responses have more than {MAX_ISSUERS} issuers",
    E_SIZE: "the responses fill more than 1 TiB; write several segments",
}
_UNUSABLE = {
    E_BASE64: "not base64",
    E_SERIAL_SIZE: f"the serial number is negative or longer than {MAX_SERIAL} bytes",
    E_HASH_SIZE: "a CertID hash is shorter than 4 or longer than 64 bytes",
    E_RESPONSE_SIZE: "the signature is shorter than 16 bytes or the response longer than 1 MiB",
}


cdef str reason(int code):
    """Why a response was left out."""
    return _UNUSABLE[code] if code in _UNUSABLE else reason_text(code)


cdef class SegmentWriter:
    """See _writer.pyi."""
    cdef readonly str path
    cdef readonly object added
    cdef readonly object skipped
    cdef str _temporary
    cdef object _machine
    cdef int _file
    cdef SlotKeys _keys
    cdef readonly bint paced
    cdef bint _stopped
    cdef int64_t _created_at
    cdef uint64_t _seed
    cdef uint64_t _records_size
    cdef uint64_t _by_time  # records before this offset: of one key that with the newest thisUpdate counts
    cdef uint8_t *_buffer
    cdef size_t _buffered
    cdef TemplateTable _templates

    def __cinit__(self):
        self._file = -1
        self._buffer = NULL

    def __init__(self, str path not None, *, created_at, bint paced=False, machine not None=MACHINE):
        if self._buffer != NULL:
            raise TypeError("a SegmentWriter is initialised once")
        self.path = path
        self.added = 0
        self.skipped = 0
        self.paced = paced
        self._created_at = created_at
        self._machine = machine
        self._seed = int.from_bytes(machine.random_bytes(8), "little")
        directory, name = os.path.split(path)
        try:
            self._file, self._temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory or ".")
            self._keys = SlotKeys(directory or ".")
        except OSError as err:
            self.abort()
            raise IndexFileError(f"{path}: cannot write segment: {err.strerror}") from err
        self._records_size = RECORD_HEAD  # offset 0 marks an empty slot, so no record lies there
        self._buffer = <uint8_t *> PyMem_Malloc(BUFFER)
        self._templates = TemplateTable()
        if self._buffer == NULL:
            raise MemoryError
        self._keys.watch(&self.paced, &self._stopped)
        memset(self._buffer, 0, PAGE + RECORD_HEAD)
        self._buffered = PAGE + RECORD_HEAD  # the header is written last, into this room

    def __dealloc__(self):
        PyMem_Free(self._buffer)

    def __del__(self):
        self.abort()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.abort()

    def abort(self):
        if self._keys is not None:
            self._keys.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            try:
                self._machine.unlink(Path(self._temporary))
            except OSError:
                pass

    def full_speed(self):
        self.paced = False

    def order_by_time(self):
        self._by_time = self._records_size

    def stop(self):
        self._stopped = True

    cdef int _raise(self, int code) except -1:
        """Turn a negative code of the nogil half into its exception; nothing more can be added."""
        cdef int error = errno
        self.abort()
        if code == E_IO:
            raise IndexFileError(f"{self.path}: cannot write segment: {os.strerror(error)}")
        if code not in _FATAL:
            raise MemoryError
        raise IndexFileError(f"{self.path}: {_FATAL[code]}")

    cdef int _check_open(self) except -1:
        if self._file < 0:
            raise ValueError("the segment is finished or aborted")
        return 0

    # -- writing bytes ------------------------------------------------------------------------

    cdef int _write(self, int descriptor, const void *data, size_t size, int64_t offset) noexcept nogil:
        return write_until(descriptor, <const uint8_t *> data, size, offset, &self.paced, &self._stopped)

    cdef int _place(self, bytes data, uint64_t offset) except -1:
        cdef int code = self._write(self._file, <const char *> data, <size_t> len(data), <int64_t> offset)
        return self._raise(code) if code else 0

    cdef int _flush(self) noexcept nogil:
        cdef int code = self._write(self._file, self._buffer, self._buffered, -1)
        self._buffered = 0
        return code

    cdef int _put(self, const uint8_t *data, size_t size) noexcept nogil:
        cdef size_t part
        cdef int code
        while size:
            if self._buffered == BUFFER:
                code = self._flush()
                if code:
                    return code
            part = size if self._buffered + size <= BUFFER else BUFFER - self._buffered
            if data != NULL:
                memcpy(self._buffer + self._buffered, data, part)
                data += part
            else:
                memset(self._buffer + self._buffered, 0, part)
            self._buffered += part
            size -= part
        return 0

    # -- records -------------------------------------------------------------------------------

    cdef int _record(self, uint32_t template_id, const uint8_t *serial, const Span *data, int parts) noexcept nogil:
        """Append a record and its key."""
        cdef Template *template = &self._templates.templates[template_id]
        cdef size_t size = RECORD_HEAD + <size_t> template.serial_size + template.data_size
        cdef size_t left = PAGE - self._records_size % PAGE
        cdef uint8_t head[RECORD_HEAD]
        cdef Span key
        cdef int i, code = 0
        if self._records_size >= RECORDS_LIMIT:
            return E_SIZE
        if left < RECORD_HEAD or (size <= STRADDLE_LIMIT and size > left):
            code = self._put(NULL, left)
            self._records_size += left
        key.p = serial
        key.n = template.serial_size
        key = magnitude(key)
        if code == 0:
            code = self._keys.add(
                key_hash64(self._seed, template.issuer_key, key.p, key.n), self._records_size
            )
        if code:
            return code
        head[0] = template.serial_size
        head[1] = template_id & 0xFF
        head[2] = (template_id >> 8) & 0xFF
        head[3] = (template_id >> 16) & 0xFF
        code = self._put(head, RECORD_HEAD)
        if code == 0:
            code = self._put(serial, template.serial_size)
        for i in range(parts):
            if code == 0:
                code = self._put(data[i].p, <size_t> data[i].n)
        if code:
            return code
        self._records_size += size
        template.count += 1
        return 0

    cdef int _add_single(
        self, const uint8_t *der, Py_ssize_t size, const ResponseView *view, const SingleView *single,
        int64_t refresh_at, bint refresh_known
    ) noexcept nogil:
        """Add a usable response under one CertID; a negative code for a failure."""
        cdef Span parts[MAX_HOLES]
        cdef int count
        cdef int64_t template_id = self._templates.template_for(der, size, view, single, refresh_at, refresh_known, parts, &count)
        if template_id < 0:
            return <int> template_id
        return self._record(<uint32_t> template_id, single.cert_id.serial.p, parts, count)

    cdef int _add(
        self, const uint8_t *der, Py_ssize_t size, int64_t refresh_at, bint refresh_known
    ) noexcept nogil:
        cdef ResponseView view
        cdef SingleView single
        cdef Span singles
        cdef int code = read_response(der, size, &view)
        if code:
            return code
        if view.count == 1:
            code = unusable(&view, &view.first, size)
            return code if code else self._add_single(der, size, &view, &view.first, refresh_at, refresh_known)
        singles = view.singles
        while singles.n and code == 0:  # all or nothing
            code = read_single(&singles, &single)
            if code == 0:
                code = unusable(&view, &single, size)
        singles = view.singles
        while singles.n and code == 0:
            read_single(&singles, &single)
            code = self._add_single(der, size, &view, &single, refresh_at, refresh_known)
        return code

    def add(self, bytes der not None, refresh_at=None):
        cdef bint known = refresh_at is not None
        self._check_open()
        cdef int code = self._add(<const uint8_t *> <const char *> der, len(der), refresh_at if known else 0, known)
        if code < 0:
            self._raise(code)
        if code:
            raise DERError(f"OCSP response: {reason(code)}")
        self.added += 1

    def add_base64(self, bytes data not None):
        cdef const uint8_t *p = <const uint8_t *> <const char *> data
        cdef const uint8_t *end = p + len(data)
        cdef const uint8_t *start
        cdef uint8_t *der
        cdef Py_ssize_t size
        cdef int code
        cdef Py_ssize_t added = 0
        cdef object first = self.added + self.skipped
        cdef Py_ssize_t token = 0
        self._check_open()
        bad = []
        room = PyBytes_FromStringAndSize(NULL, (1 << 21) * 3 // 4 + 4)
        der = <uint8_t *> <char *> room
        while True:
            while p < end and (p[0] == c" " or 9 <= p[0] <= 13):
                p += 1
            if p == end:
                break
            start = p
            with nogil:
                while p < end and not (p[0] == c" " or 9 <= p[0] <= 13):
                    p += 1
                size = -1 if p - start > 1 << 21 else decode_base64(start, p - start, der)
                code = self._add(der, size, 0, False) if size >= 0 else E_BASE64
            token += 1
            if code < 0:
                self._raise(code)
            if code == 0:
                added += 1
                continue
            if len(bad) < REPORTED_TOKENS:
                bad.append((first + token, reason(code)))
        self.added += added
        self.skipped += token - added
        return added, bad

    cdef int64_t _adopt(self, const Found *found, const CertID *key, uint32_t *known) noexcept nogil:
        """The template of another segment's record among ours; `known` has, by theirs, ours plus one."""
        cdef Template template = found.template
        cdef int64_t ours
        if known[found.template_id]:
            return known[found.template_id] - 1
        ours = self._templates.issuer(key.hash_id, key.name_hash, key.key_hash)
        if ours >= 0:
            template.issuer_key = <uint32_t> ours
            ours = self._templates.intern(&template, found.segment.blobs + template.blob_offset)
        if ours >= 0:
            known[found.template_id] = <uint32_t> ours + 1
        return ours

    def add_segment(self, Segment segment not None, Index newer=None, int64_t keep_after=INT64_MIN):
        cdef const SegmentView *view = &segment.view
        cdef uint64_t offset = RECORD_HEAD
        cdef uint64_t copied = 0, superseded = 0, expired = 0
        cdef Found found, other
        cdef Lookup result
        cdef CertID key
        cdef Span data
        cdef int64_t template_id
        cdef uint32_t *known
        cdef int code = 0, more
        self._check_open()
        known = <uint32_t *> calloc(view.header.template_count + 1, sizeof(uint32_t))
        if known == NULL:
            raise MemoryError
        with nogil:
            while True:
                more = next_record(view, &offset, &found)
                if more <= 0:
                    code = E_RECORD if more < 0 else 0
                    break
                if found.template.next_update < keep_after:
                    expired += 1
                    continue
                key = cert_id_of(&found)
                if newer is not None:
                    result = newer.find(key.hash_id, key.name_hash, key.key_hash, key.serial, &other)
                    if result == Lookup.FOUND:
                        superseded += 1
                        continue
                    if result == Lookup.DAMAGED:
                        code = E_NEWER
                        break
                template_id = self._adopt(&found, &key, known)
                if template_id < 0:
                    code = <int> template_id
                    break
                data.p = found.payload + found.template.serial_size
                data.n = found.template.data_size
                code = self._record(<uint32_t> template_id, found.payload, &data, 1)
                if code:
                    break
                copied += 1
        free(known)
        if code < 0:
            self._raise(code)
        # what marks the rest of a page as unused may be the damage
        if code or copied + superseded + expired != view.header.entries:
            what = "a newer segment, which replaces responses of this one," if code == E_NEWER else f"segment record at {offset}"
            raise IndexFileError(f"{segment.path}: {what} is damaged")
        self.added += copied
        return copied, superseded, expired

    # -- finishing -----------------------------------------------------------------------------

    cdef int _place_key(self, uint64_t *page, const Pair *pair, uint64_t *entries) noexcept nogil:
        """Put a key into its page of slots; 1 when the page is full."""
        cdef uint64_t fingerprint = pair.key_hash & 0xFFFFFF
        cdef uint64_t *slot
        cdef int step, code
        for step in range(SLOTS_PER_PAGE):
            slot = &page[((pair.key_hash >> 24) + <uint64_t> step) & (SLOTS_PER_PAGE - 1)]
            if slot[0] == 0:
                slot[0] = fingerprint << 40 | pair.offset
                entries[0] += 1
                return 0
            if slot[0] >> 40 == fingerprint:
                code = self._replaces(slot[0] & ((<uint64_t> 1 << 40) - 1), pair.offset)
                if code == 0:
                    slot[0] = fingerprint << 40 | pair.offset
                if code != 1:
                    return 0 if code == 2 else code
        return 1

    cdef int _replaces(self, uint64_t old, uint64_t new) noexcept nogil:
        """0 when both records have the same key, and the old one is dead then; 2: the new one is; 1 when not."""
        cdef uint8_t a[RECORD_HEAD + MAX_SERIAL]
        cdef uint8_t b[RECORD_HEAD + MAX_SERIAL]
        cdef Template *one
        cdef Template *two
        cdef Span left, right
        cdef Py_ssize_t got_a = pread(self._file, a, sizeof(a), <Py_ssize_t> (PAGE + old))
        cdef Py_ssize_t got_b = pread(self._file, b, sizeof(b), <Py_ssize_t> (PAGE + new))
        cdef uint32_t id_a, id_b
        if got_a < RECORD_HEAD or got_b < RECORD_HEAD:
            return damaged()
        id_a = a[1] | (<uint32_t> a[2] << 8) | (<uint32_t> a[3] << 16)
        id_b = b[1] | (<uint32_t> b[2] << 8) | (<uint32_t> b[3] << 16)
        if id_a >= self._templates.template_count or id_b >= self._templates.template_count:
            return damaged()
        one = &self._templates.templates[id_a]
        two = &self._templates.templates[id_b]
        if got_a < RECORD_HEAD + one.serial_size or got_b < RECORD_HEAD + two.serial_size:
            return damaged()
        left.p = a + RECORD_HEAD
        left.n = one.serial_size
        right.p = b + RECORD_HEAD
        right.n = two.serial_size
        left = magnitude(left)
        right = magnitude(right)
        if one.issuer_key != two.issuer_key or left.n != right.n or memcmp(left.p, right.p, <size_t> left.n) != 0:
            return 1
        if new < self._by_time and two.this_update < one.this_update:
            return self._bury(b[0], two, new) or 2
        return self._bury(a[0], one, old)

    cdef int _bury(self, uint8_t head, Template *template, uint64_t offset) noexcept nogil:
        if not head & RECORD_DEAD:
            head = head | RECORD_DEAD
            if pwrite(self._file, &head, 1, <Py_ssize_t> (PAGE + offset)) != 1:
                return E_IO
            template.count -= 1
        return 0

    cdef int _are_crowded(self, uint64_t slot_pages) except? -99:
        """1 when pages may overflow: more keys than slots, though some may turn out to be the same."""
        cdef uint16_t *counts = <uint16_t *> calloc(slot_pages, sizeof(uint16_t))
        cdef const Pair *pair
        cdef uint64_t page
        cdef int part = 0, code = 0
        if counts == NULL:
            raise MemoryError
        with nogil:
            while part < KEY_PARTS and code == 0:
                code = self._keys.open(part)
                pair = self._keys.next() if code == 0 else NULL
                while pair != NULL and code == 0:
                    page = slot_page(pair.key_hash, slot_pages)
                    counts[page] += 1
                    code = counts[page] > SLOTS_PER_PAGE
                    pair = self._keys.next()
                if self._keys.torn and code == 0:
                    code = damaged()
                part += 1
        free(counts)
        return code

    cdef int _fill(self, uint64_t *window, uint64_t slot_pages, uint64_t slots_offset, bint releasing,
                   uint64_t *entries) noexcept nogil:
        """Write the slots; 1 when a page overflows."""
        cdef uint64_t first = 0, last
        cdef const Pair *pair
        cdef int part, code
        for part in range(KEY_PARTS):
            # the last page of a part may also be the first one of the next
            last = slot_page((<uint64_t> part << 56) | ((<uint64_t> 1 << 56) - 1), slot_pages)
            code = self._keys.open(part)
            if code:
                return code
            pair = self._keys.next()
            while pair != NULL:
                code = self._place_key(
                    window + (slot_page(pair.key_hash, slot_pages) - first) * SLOTS_PER_PAGE, pair, entries
                )
                if code:
                    return code
                pair = self._keys.next()
            if self._keys.torn:
                return damaged()
            if releasing:
                self._keys.release(part)
            if last > first:
                code = self._write(self._file, window, (last - first) * PAGE, <int64_t> (slots_offset + first * PAGE))
                if code:
                    return code
                memcpy(window, window + (last - first) * SLOTS_PER_PAGE, PAGE)
                memset(window + SLOTS_PER_PAGE, 0, (last - first) * PAGE)
                first = last
        return self._write(self._file, window, PAGE, <int64_t> (slots_offset + first * PAGE))

    cdef int _write_slots(self, uint64_t slot_pages, uint64_t slots_offset, uint64_t *entries) except? -99:
        cdef int crowded = self._are_crowded(slot_pages) if self._keys.spilled else 1
        if crowded < 0:
            return crowded
        cdef uint64_t *window = <uint64_t *> calloc(slot_pages // KEY_PARTS + 2, PAGE)
        if window == NULL:
            raise MemoryError
        with nogil:
            # keys can be given back as they are read where no page overflows, so that they are not read again
            code = self._fill(window, slot_pages, slots_offset, not crowded, entries)
        free(window)
        return code

    def finish(self):
        cdef Header header
        cdef uint64_t slot_pages, entries = 0
        cdef int code
        self._check_open()
        code = self._flush()
        if code:
            self._raise(code)
        memset(&header, 0, sizeof(Header))
        header.records_offset = PAGE
        header.records_size = self._records_size
        header.slots_offset = (PAGE + self._records_size + PAGE - 1) // PAGE * PAGE
        slot_pages = self._keys.count // ENTRIES_PER_PAGE + 1
        while True:
            entries = 0
            code = self._write_slots(slot_pages, header.slots_offset, &entries)
            if code < 0:
                self._raise(code)
            if code == 0:
                break
            slot_pages += slot_pages // 4 + 1
        memcpy(header.magic, <const char *> b"OCSPDSEG", 8)
        header.version = VERSION
        header.created_at = self._created_at
        header.entries = entries
        header.seed = self._seed
        header.slot_pages = slot_pages
        header.issuers_offset = header.slots_offset + slot_pages * PAGE
        header.issuer_count = self._templates.issuer_count
        header.templates_offset = header.issuers_offset + self._templates.issuer_count * sizeof(IssuerKey)
        header.template_count = self._templates.template_count
        header.blobs_offset = header.templates_offset + self._templates.template_count * sizeof(Template)
        header.blobs_size = self._templates.blobs_size
        header.file_size = header.blobs_offset + header.blobs_size
        issuers = <bytes> (<char *> self._templates.issuers)[:self._templates.issuer_count * sizeof(IssuerKey)]
        templates = <bytes> (<char *> self._templates.templates)[:self._templates.template_count * sizeof(Template)]
        blobs = <bytes> (<char *> self._templates.blobs)[:self._templates.blobs_size]
        header.tables_crc = zlib.crc32(blobs, zlib.crc32(templates, zlib.crc32(issuers)))
        head = bytearray(PAGE)
        head[:sizeof(Header)] = <bytes> (<char *> &header)[:sizeof(Header)]
        head[12:16] = zlib.crc32(head).to_bytes(4, "little")
        try:
            self._place(issuers, header.issuers_offset)
            self._place(templates, header.templates_offset)
            self._place(blobs, header.blobs_offset)
            os.ftruncate(self._file, header.file_size)
            self._place(bytes(head), 0)
            os.fchmod(self._file, 0o644)
            self._machine.fsync(self._file)
            self._machine.replace(self._temporary, self.path)
            directory = os.path.dirname(self.path) or "."
            os.close(self._file)
            self._file = -1
            self._keys.close()
            self._machine.fsync_directory(Path(directory))
        except OSError as err:
            self.abort()
            raise IndexFileError(f"{self.path}: cannot write segment: {err.strerror}") from err
