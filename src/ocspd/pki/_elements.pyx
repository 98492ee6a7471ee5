# cython: language_level=3
"""Splitting DER into elements for `der_reader`, and joining it for `der`.

A request has fifty elements and a certificate thirty, and in Python each takes a microsecond.

Rules: no byte is read before it is known to lie in the content. Where an element would end is compared with the
content's size; a length has at most 32 bits, so the sum cannot overflow. What is written is measured first, from
the same tuple of bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

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


def tlv(uint8_t tag, /, *parts):
    """Encode one element whose content is the parts in order; identifier and minimal length first (X.690 §10.1)."""
    return _joined(tag, parts)


def sequence(*parts):
    """Encode a SEQUENCE (or SEQUENCE OF) of encoded elements."""
    return _joined(0x30, parts)


cdef bytes _joined(uint8_t tag, tuple parts):
    cdef Py_ssize_t size = 0, head = 2, octets = 0, rest, i
    cdef uint8_t *out
    cdef bytes part, made
    for part in parts:
        if part is None:
            raise TypeError("an element is made of bytes")
        size += PyBytes_GET_SIZE(part)
    if size >= 0x80:
        rest = size
        while rest:
            octets += 1
            rest >>= 8
        head += octets
    made = PyBytes_FromStringAndSize(NULL, head + size)
    out = <uint8_t *> PyBytes_AS_STRING(made)
    out[0] = tag
    if head == 2:
        out[1] = <uint8_t> size
    else:
        out[1] = <uint8_t> (0x80 | octets)
        rest = size
        for i in range(octets + 1, 1, -1):
            out[i] = <uint8_t> (rest & 0xFF)
            rest >>= 8
    out += head
    for part in parts:
        memcpy(out, PyBytes_AS_STRING(part), <size_t> PyBytes_GET_SIZE(part))
        out += PyBytes_GET_SIZE(part)
    return made
