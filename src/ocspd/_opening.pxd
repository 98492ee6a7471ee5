# The segment format in C, documented in _opening.pyx, and what opening a segment consists of.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    static inline unsigned long long ocspd_mulhi(unsigned long long a, unsigned long long b) {
        return (unsigned long long)(((unsigned __int128)a * b) >> 64);
    }
    """
    uint64_t ocspd_mulhi(uint64_t a, uint64_t b) noexcept nogil

cdef enum:
    VERSION = 1
    PAGE = 4096
    SLOTS_PER_PAGE = 512
    MAX_HOLES = 6
    MAX_SERIAL = 64
    MAX_HASH = 64
    MAX_ISSUERS = 1 << 16
    MAX_TEMPLATES = 1 << 24
    MAX_DER = 1 << 20
    ETAG_BYTES = 16
    RECORD_HEAD = 4
    RECORD_DEAD = 0x80
    STRADDLE_LIMIT = 512
    TEMPLATE_WORDS = 46

cdef struct Header:
    uint8_t magic[8]
    uint32_t version
    uint32_t header_crc
    uint64_t file_size
    int64_t created_at
    uint64_t entries
    uint64_t seed
    uint64_t records_offset
    uint64_t records_size
    uint64_t slots_offset
    uint64_t slot_pages
    uint64_t issuers_offset
    uint64_t issuer_count
    uint64_t templates_offset
    uint64_t template_count
    uint64_t blobs_offset
    uint64_t blobs_size
    uint32_t tables_crc
    uint32_t reserved

cdef struct IssuerKey:
    uint32_t hash_id
    uint16_t name_size
    uint16_t key_size
    uint8_t name_hash[MAX_HASH]
    uint8_t key_hash[MAX_HASH]

cdef struct Hole:
    uint32_t target
    uint16_t source
    uint16_t size

cdef struct Template:
    uint64_t blob_offset
    uint32_t der_size
    uint32_t issuer_key
    int64_t produced_at
    int64_t this_update
    int64_t next_update
    int64_t refresh_at
    uint64_t count
    uint32_t etag_offset
    uint16_t data_size
    uint8_t status
    uint8_t hole_count
    uint8_t serial_size
    uint8_t reserved[7]
    Hole holes[MAX_HOLES]
    char last_modified[32]
    char expires[32]

cdef inline uint64_t key_hash64(uint64_t seed, uint32_t issuer_key, const uint8_t *p, Py_ssize_t n) noexcept nogil:
    """Hash of a key. Not secret: probing is bounded by one page however keys collide."""
    cdef uint64_t h = seed ^ (<uint64_t> issuer_key * 0x9E3779B97F4A7C15u) ^ <uint64_t> n
    cdef uint64_t word
    while n >= 8:
        memcpy(&word, p, 8)
        h = (h ^ word) * 0xFF51AFD7ED558CCDu
        h ^= h >> 32
        p += 8
        n -= 8
    if n:
        word = 0
        memcpy(&word, p, <size_t> n)
        h = (h ^ word) * 0xFF51AFD7ED558CCDu
        h ^= h >> 32
    h *= 0xC4CEB9FE1A85EC53u
    return h ^ (h >> 29)


cdef inline uint64_t slot_page(uint64_t key_hash, uint64_t slot_pages) noexcept nogil:
    """The page of a key: monotone in the hash, so a builder can fill the table window by window."""
    return ocspd_mulhi(key_hash, slot_pages)


cdef void *contents(int descriptor, size_t size) except NULL
cdef str header_fault(const uint8_t *base, uint64_t size, Header *header)
cdef uint32_t *issuer_table(const IssuerKey *issuers, uint64_t count, uint32_t *mask) except NULL
cdef bint issuer_good(const IssuerKey *issuer) noexcept nogil
cdef bint template_good(const Header *header, const Template *template) noexcept nogil
