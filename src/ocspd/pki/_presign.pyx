# cython: language_level=3
"""The loop of presigning. Public surface in _presign.pyi, the encoding is `pki.ocsp_template`'s.

A P-256 signature takes 16 us, so a microsecond around it is six per cent of every pass: in Python the
loop took 1.6 us a row (2026-11-25, 2 CPUs of a virtual machine).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy


cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *at)


cdef enum:
    LENGTHS_SHIFT = 20  # two lengths in one integer
    MAX_SERIAL_BITS = 511  # what an index has room for, sign included
    MAX_SINGLE_BITS = 8191  # of a response that is signed by itself, which needs no index
    YIELD_NS = 50_000  # every fourth P-256 signature, every RSA one; the call takes 0.4 us


cdef inline long long monotonic_ns() noexcept nogil:
    cdef timespec at
    clock_gettime(CLOCK_MONOTONIC, &at)
    return at.tv_sec * 1_000_000_000LL + at.tv_nsec


cdef inline char *put(char *at, bytes part) noexcept:
    memcpy(at, PyBytes_AS_STRING(part), <size_t> PyBytes_GET_SIZE(part))
    return at + PyBytes_GET_SIZE(part)


cdef class Presigner:
    """See _presign.pyi."""
    cdef object _sign
    cdef object _prefix
    cdef object _frame
    cdef bytes _tail
    cdef dict _prefixes  # by CertID hash: by both lengths
    cdef dict _frames

    def __init__(self, sign, *, prefix, frame, bytes tail not None):
        self._sign = sign
        self._prefix = prefix
        self._frame = frame
        self._tail = tail
        self._prefixes = {}
        self._frames = {}

    cdef dict _prefixes_of(self, str certid_hash):
        return self._prefixes.setdefault(certid_hash, {})

    cdef bytes _sign_one(self, str certid_hash, dict prefixes, bytes content, bytes rest):
        """Sign one response; `prefixes` are those of the CertID hash."""
        cdef bytes prefix, data, signature, head, middle, der
        cdef char *at
        # keys are plain integers: a tuple would cost a twentieth of a microsecond
        if PyBytes_GET_SIZE(content) >> LENGTHS_SHIFT or PyBytes_GET_SIZE(rest) >> LENGTHS_SHIFT:
            raise ValueError("a serial or the rest of a response is longer than 1 MiB")
        lengths = PyBytes_GET_SIZE(content) << LENGTHS_SHIFT | PyBytes_GET_SIZE(rest)
        known = prefixes.get(lengths)
        if known is None:
            known = prefixes[lengths] = self._prefix(certid_hash, len(content), len(rest))
        prefix = known
        data = PyBytes_FromStringAndSize(
            NULL, PyBytes_GET_SIZE(prefix) + PyBytes_GET_SIZE(content) + PyBytes_GET_SIZE(rest)
        )
        put(put(put(PyBytes_AS_STRING(data), prefix), content), rest)
        signature = self._sign(data)
        if PyBytes_GET_SIZE(signature) >> LENGTHS_SHIFT:
            raise ValueError("a signature is longer than 1 MiB")
        lengths = PyBytes_GET_SIZE(data) << LENGTHS_SHIFT | PyBytes_GET_SIZE(signature)
        known = self._frames.get(lengths)
        if known is None:
            known = self._frames[lengths] = self._frame(len(data), len(signature))
        head, middle = <tuple> known
        der = PyBytes_FromStringAndSize(
            NULL,
            PyBytes_GET_SIZE(head) + PyBytes_GET_SIZE(data) + PyBytes_GET_SIZE(middle)
            + PyBytes_GET_SIZE(signature) + PyBytes_GET_SIZE(self._tail),
        )
        at = put(put(put(PyBytes_AS_STRING(der), head), data), middle)
        put(put(at, signature), self._tail)
        return der

    cdef bytes _content(self, object serial, int limit):
        """The content of a serial number's INTEGER; None for a negative one and one of more bits than that."""
        if serial < 0 or serial.bit_length() > limit:
            return None
        return serial.to_bytes((serial.bit_length() >> 3) + 1, "big")

    def sign(self, serial not None, bytes rest not None, certid_hashes not None):
        cdef bytes content = self._content(serial, MAX_SINGLE_BITS)
        if content is None:
            raise ValueError("the serial number is negative or longer than 1024 bytes")
        return [self._sign_one(name, self._prefixes_of(name), content, rest) for name in certid_hashes]

    def sign_rows(
        self, rows not None, *, bytes good not None, other, certid_hashes not None, writer, due_s, bint keep,
        bint yielding
    ):
        cdef bytes content, rest, der
        cdef Py_ssize_t made = 0
        cdef long long yielded_ns = monotonic_ns() if yielding else 0
        cdef list signed = [], group
        cdef list names = [(name, self._prefixes_of(name)) for name in certid_hashes]
        add = None if writer is None else writer.add
        for serial, status, reason, revoked_s in rows:
            rest = good
            if status != 0:
                found = other(status, reason, revoked_s)
                if isinstance(found, str):
                    signed.append(found)
                    continue
                rest = found
            content = self._content(serial, MAX_SERIAL_BITS)
            if content is None:
                signed.append("bad serial")
                continue
            group = []
            for name, prefixes in names:
                if yielding and monotonic_ns() >= yielded_ns + YIELD_NS:
                    sched_yield()
                    yielded_ns = monotonic_ns()
                der = self._sign_one(name, prefixes, content, rest)
                if add is not None:
                    add(der, due_s)
                if keep:
                    group.append(der)
            made += len(names)
            signed.append(group)
        return signed, made
