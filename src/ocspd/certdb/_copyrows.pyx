# cython: language_level=3
"""Reading status rows from PostgreSQL's binary COPY. Public surface in _copyrows.pyi.

A pass over a table costs 16 us a row for a P-256 signature; asyncpg's records and reading them in
Python took 4 us more (2026-11-25, 2 CPUs of a virtual machine).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    object PyLong_FromString(const char *text, char **end, int base)

cdef enum:
    COLUMNS = 6
    SERIAL = 0
    AKI = 1
    STATUS = 2
    REASON = 3
    REVOKED_AT = 4
    EXPIRY = 5
    MAX_DIGITS = 60
    MAX_COLUMN = 1 << 30

cdef const char *SIGNATURE = b"PGCOPY\n\xff\r\n\0"
cdef int64_t EPOCH_S = 946_684_800  # timestamps count from 2000-01-01

# years 1970 to 2199: outside, Go's zero time and infinity among it, a row is unusual
cdef int64_t EARLIEST_US = -946_684_800_000_000
cdef int64_t LATEST_US = 6_311_433_600_000_000

cdef struct Column:
    const uint8_t *p
    Py_ssize_t n  # -1: NULL


cdef inline uint32_t uint32_at(const uint8_t *p) noexcept nogil:
    return <uint32_t> p[0] << 24 | <uint32_t> p[1] << 16 | <uint32_t> p[2] << 8 | p[3]


cdef int read_row(const uint8_t **at, const uint8_t *end, Column *columns) noexcept nogil:
    """Read one row: 1, 0 at the end of what is whole, -1 for what is no row; `at` moves behind a row only."""
    cdef const uint8_t *p = at[0]
    cdef int32_t size
    cdef int i
    if end - p < 2:
        return 0
    if p[0] == 0xFF and p[1] == 0xFF:
        return 0  # the trailer
    if p[0] != 0 or p[1] != COLUMNS:
        return -1
    p += 2
    for i in range(COLUMNS):
        if end - p < 4:
            return 0
        size = <int32_t> uint32_at(p)
        p += 4
        if size < -1 or size > MAX_COLUMN:
            return -1
        columns[i].p = p
        columns[i].n = size
        if size > 0:
            if end - p < size:
                return 0
            p += size
    at[0] = p
    return 1


cdef inline bint is_word(const Column *column, const char *word, Py_ssize_t size) noexcept nogil:
    return column.n == size and memcmp(column.p, word, <size_t> size) == 0


cdef int status_of(const Column *column) noexcept nogil:
    """The CertStatus tag, -1 for another word."""
    if is_word(column, "good", 4):
        return 0
    if is_word(column, "revoked", 7):
        return 1
    return 2 if is_word(column, "unknown", 7) else -1


cdef object serial_of(const Column *column):
    """The serial number, None for what is not a usual one."""
    cdef char digits[MAX_DIGITS + 1]
    cdef Py_ssize_t i
    if column.n < 1 or column.n > MAX_DIGITS or (column.p[0] == c"0" and column.n > 1):
        return None
    for i in range(column.n):
        if not c"0" <= column.p[i] <= c"9":
            return None
    memcpy(digits, column.p, <size_t> column.n)
    digits[column.n] = 0
    return PyLong_FromString(digits, NULL, 10)


cdef object row_of(const Column *columns):
    """The row as a tuple, None when it is unusual."""
    cdef int status = status_of(&columns[STATUS])
    cdef const uint8_t *p
    cdef int64_t us
    cdef int32_t reason = 0
    cdef object revoked = None
    if status < 0 or columns[AKI].n < 1 or columns[EXPIRY].n != 8:
        return None
    if status != 1:
        pass  # nobody asks for the reason
    elif columns[REASON].n == 4:
        reason = <int32_t> uint32_at(columns[REASON].p)
    elif columns[REASON].n >= 0:
        return None
    if status == 1 and columns[REVOKED_AT].n >= 0:
        if columns[REVOKED_AT].n != 8:
            return None
        p = columns[REVOKED_AT].p
        us = <int64_t> (<uint64_t> uint32_at(p) << 32 | uint32_at(p + 4))
        if us < EARLIEST_US or us >= LATEST_US:
            return None
        # whole seconds, as GeneralizedTime has, of a sum that is never below zero
        revoked = <double> ((us + EPOCH_S * 1_000_000) // 1_000_000)
    serial = serial_of(&columns[SERIAL])
    return None if serial is None else (serial, status, reason, revoked)


cdef tuple fields_of(const Column *columns):
    cdef int i
    return tuple([
        None if columns[i].n < 0 else PyBytes_FromStringAndSize(<const char *> columns[i].p, columns[i].n)
        for i in range(COLUMNS)
    ])


def header_size(bytes data not None):
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef uint32_t extension
    if size < 19 or memcmp(p, SIGNATURE, 11) != 0 or uint32_at(p + 11) & 0xFFFF0000:
        raise ValueError("no header of PostgreSQL's binary COPY")
    extension = uint32_at(p + 15)
    if 19 + <Py_ssize_t> extension > size:
        raise ValueError("the header of PostgreSQL's binary COPY is cut off")
    return 19 + <Py_ssize_t> extension


def whole_rows(bytes data not None):
    cdef const uint8_t *start = <const uint8_t *> PyBytes_AS_STRING(data)
    cdef const uint8_t *at = start
    cdef Column columns[COLUMNS]
    cdef Py_ssize_t count = 0
    cdef int code = 1
    while code == 1:
        code = read_row(&at, start + PyBytes_GET_SIZE(data), columns)
        count += code == 1
    if code < 0:
        raise ValueError(f"no row of PostgreSQL's binary COPY at byte {at - start}")
    return at - start, count


def unpack(bytes data not None):
    cdef const uint8_t *at = <const uint8_t *> PyBytes_AS_STRING(data)
    cdef const uint8_t *end = at + PyBytes_GET_SIZE(data)
    cdef Column columns[COLUMNS]
    cdef bytes aki = b""
    cdef list rows = None, unusual = []
    cdef dict groups = {}
    while read_row(&at, end, columns) == 1:
        row = row_of(columns)
        if row is None:
            unusual.append(fields_of(columns))
            continue
        if rows is None or not is_word(&columns[AKI], PyBytes_AS_STRING(aki), PyBytes_GET_SIZE(aki)):
            aki = PyBytes_FromStringAndSize(<const char *> columns[AKI].p, columns[AKI].n)
            rows = <list> groups.setdefault(aki, [])
        rows.append(row)
    if at != end:
        raise ValueError("not whole rows of PostgreSQL's binary COPY")
    return groups, unusual
