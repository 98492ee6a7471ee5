# The segment format as C structures (_index.pyx documents it), and what opening a segment consists of.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

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
    ETAG_OCTETS = 16
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

cdef void *contents(int descriptor, size_t size) except NULL
cdef bint inside(uint64_t offset, uint64_t count, uint64_t unit, uint64_t size) noexcept nogil
cdef bint issuer_good(const IssuerKey *issuer) noexcept nogil
cdef bint template_good(const Header *header, const Template *template) noexcept nogil
