# cython: language_level=3
"""The keys of a segment in the making: where each record lies, by the hash of its key.

A merge of a hundred million responses has as many keys, too many for memory, and beside the old
segments and the new one they must take as little of the disk as possible. So they are kept in 256
parts by the hash's first byte, each a stream of the other seven bytes and the distance to the
part's last record (LEB128): some 9.5 bytes a key. A part goes to an unlinked file block by block, and
what lies there only goes back to the file system as soon as the part has been read for the last time.
Slots are filled part after part, as `slot_page` is monotone in the hash.
"""

import os
import tempfile

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy
from posix.unistd cimport pread

from ocspd.index._paced_write cimport write_until
from ocspd.index._write_error cimport E_IO, E_MEMORY

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int descriptor, int mode, long offset, long size)
    enum:
        FALLOC_FL_KEEP_SIZE
        FALLOC_FL_PUNCH_HOLE

cdef enum:
    BLOCK = 1 << 14
    HASH_BYTES = 7  # the first one is the part
    LONGEST = HASH_BYTES + 10


cdef class SlotKeys:
    """See _keys.pyi; every operation that returns int returns a negative code for a failure.

    `watch` sets the flags its writes obey (`_paced_write`), `add` takes offsets in ascending order, `open`
    begins to read a part and `next` returns its keys in the order they were added, then NULL, with `torn`
    when what came back from the disk is no key; `release`
    gives the disk space of a part back: it can be read no more. `spilled` is whether there is any.
    """

    def __cinit__(self):
        self._file = -1

    def __init__(self, str directory not None):
        if self._file >= 0:
            raise TypeError("SlotKeys are initialised once")
        with tempfile.TemporaryFile(dir=directory) as file:
            self._file = os.dup(file.fileno())
        # bytes of memory that is not touched cost nothing: a segment of a few responses uses a few pages
        self._buffers = <uint8_t *> malloc(KEY_PARTS * BLOCK)
        self._buffered = <uint32_t *> calloc(KEY_PARTS, sizeof(uint32_t))
        self._last = <uint64_t *> calloc(KEY_PARTS, sizeof(uint64_t))
        if not (self._buffers and self._buffered and self._last):
            raise MemoryError

    def __dealloc__(self):
        free(self._buffers)
        free(self._buffered)
        free(self._last)
        free(self._owners)
        free(self._stream)

    def __del__(self):
        self.close()

    def close(self):
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    cdef void watch(self, const bint *paced, const bint *stopped) noexcept:
        self._paced = paced
        self._stopped = stopped

    cdef int add(self, uint64_t key_hash, uint64_t offset) noexcept nogil:
        cdef int part = <int> (key_hash >> 56)
        cdef uint64_t distance = offset - self._last[part]
        cdef uint8_t raw[LONGEST]
        cdef uint32_t size = HASH_BYTES, done
        cdef int code
        memcpy(raw, &key_hash, HASH_BYTES)  # little-endian: without the first byte of the hash
        while distance >= 0x80:
            raw[size] = 0x80 | (distance & 0x7F)
            distance >>= 7
            size += 1
        raw[size] = <uint8_t> distance
        size += 1
        done = size if self._buffered[part] + size <= BLOCK else BLOCK - self._buffered[part]
        memcpy(self._buffers + part * BLOCK + self._buffered[part], raw, done)
        self._buffered[part] += done
        if self._buffered[part] == BLOCK:
            code = self._spill(part)
            if code:
                return code
            memcpy(self._buffers + part * BLOCK, raw + done, size - done)
            self._buffered[part] = size - done
        self._last[part] = offset
        self.count += 1
        return 0

    cdef int _spill(self, int part) noexcept nogil:
        """Write a full block to the end of the file."""
        cdef void *grown
        cdef int code
        if self._blocks == self._room:
            grown = realloc(self._owners, self._room + (1 << 12))
            if grown == NULL:
                return E_MEMORY
            self._owners = <uint8_t *> grown
            self._room += 1 << 12
        code = write_until(
            self._file, self._buffers + part * BLOCK, BLOCK, -1, self._paced, self._stopped
        )
        if code:
            return code
        self._owners[self._blocks] = <uint8_t> part
        self._blocks += 1
        self._buffered[part] = 0
        self.spilled = True
        return 0

    cdef int open(self, int part) noexcept nogil:
        cdef uint64_t size = self._buffered[part], at = 0, block
        cdef void *grown
        for block in range(self._blocks):
            if self._owners[block] == part:
                size += BLOCK
        if size > self._stream_room:
            grown = realloc(self._stream, size)
            if grown == NULL:
                return E_MEMORY
            self._stream = <uint8_t *> grown
            self._stream_room = size
        for block in range(self._blocks):
            if self._owners[block] == part:
                if pread(self._file, self._stream + at, BLOCK, <long> (block * BLOCK)) != BLOCK:
                    return E_IO
                at += BLOCK
        if self._buffered[part]:
            memcpy(self._stream + at, self._buffers + part * BLOCK, self._buffered[part])
        self._next = self._stream
        self._end = self._stream + size
        self._pair.key_hash = <uint64_t> part << 56
        self._pair.offset = 0
        return 0

    cdef const Pair *next(self) noexcept nogil:
        cdef uint64_t distance = 0
        cdef int shift = 0
        if self._next == self._end:
            return NULL
        # what comes back from the disk may be damaged: every byte is compared with the end
        if self._next + HASH_BYTES >= self._end:
            self.torn = True
            return NULL
        memcpy(&self._pair.key_hash, self._next, HASH_BYTES)
        self._next += HASH_BYTES
        while self._next[0] & 0x80:
            distance |= <uint64_t> (self._next[0] & 0x7F) << shift
            shift += 7
            self._next += 1
            if self._next == self._end or shift > 56:
                self.torn = True
                return NULL
        distance |= <uint64_t> self._next[0] << shift
        self._next += 1
        self._pair.offset += distance
        return &self._pair

    cdef void release(self, int part) noexcept nogil:
        cdef uint64_t block
        for block in range(self._blocks):
            if self._owners[block] == part:
                # where the file system cannot, space stays taken until the segment is finished
                fallocate(
                    self._file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <long> (block * BLOCK), BLOCK
                )
