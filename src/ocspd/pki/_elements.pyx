# cython: language_level=3
"""Splitting DER into elements, for `der_reader`: a request has fifty, and in Python each takes a microsecond.

Rule: no byte is read before it is known to lie in the content. Where an element would end is compared with the
content's size; a length has at most 32 bits, so the sum cannot overflow.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

from ocspd.errors import DERError

cdef object new = tuple.__new__


def split(bytes content not None, kind):
    """Return the elements that make up a content, each as `kind` (a class of tuples) of tag, content and raw.

    DERError with the messages of `der_reader.span`.
    """
    cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(content)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(content)
    cdef Py_ssize_t position = 0, start, count, i
    cdef uint64_t length
    cdef list found = []
    while position < size:
        if position + 2 > size:
            raise DERError("truncated element")
        if data[position] & 0x1F == 0x1F:
            raise DERError("tag number above 30")
        length = data[position + 1]
        start = position + 2
        if length & 0x80:
            count = <Py_ssize_t> (length & 0x7F)
            if count == 0:
                raise DERError("indefinite length, which is BER and not DER")
            if count > 4:
                raise DERError("length above 4 GiB")
            if start + count > size:
                raise DERError("truncated element")
            length = 0
            for i in range(count):
                length = length << 8 | data[start + i]
            if length < 0x80 or data[start] == 0:
                raise DERError("length not in the fewest bytes, which is BER and not DER")
            start += count
        if start + <Py_ssize_t> length > size:
            raise DERError("an element exceeds its container")
        found.append(
            new(
                kind,
                (
                    data[position],
                    PyBytes_FromStringAndSize(<const char *> data + start, <Py_ssize_t> length),
                    PyBytes_FromStringAndSize(
                        <const char *> data + position, start - position + <Py_ssize_t> length
                    ),
                ),
            )
        )
        position = start + <Py_ssize_t> length
    return found
