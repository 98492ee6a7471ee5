"""DER encoding of the few types an OCSPResponse consists of (X.690; RFC 6960 §4.2.1).

A writer, and a way to split a certificate: names and keys must be hashed and compared as they are encoded
in it, never re-encoded. Reading is in `der_reader`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ocspd.errors import DERError
from ocspd.pki import _elements
from ocspd.pki.der_reader import elements, span

if TYPE_CHECKING:
    from datetime import datetime

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = b"\x05\x00"
OBJECT_IDENTIFIER = 0x06
ENUMERATED = 0x0A
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30


tlv = _elements.tlv
"""tlv(tag, *parts): encode one element whose content is the parts in order."""
sequence = _elements.sequence
"""sequence(*parts): encode a SEQUENCE (or SEQUENCE OF) of encoded elements."""


def context(tag_number: int, *, constructed: bool) -> int:
    """Return the identifier octet of a context-specific tag below 31."""
    return 0x80 | tag_number | (0x20 if constructed else 0)


def header(tag: int, length: int) -> bytes:
    """Encode identifier and definite, minimal length octets (X.690 §10.1)."""
    if length < 0x80:
        return bytes((tag, length))
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets


def integer(value: int) -> bytes:
    """Encode an INTEGER in the fewest octets of two's complement (X.690 §8.3)."""
    size = ((value if value >= 0 else ~value).bit_length() >> 3) + 1
    return tlv(INTEGER, value.to_bytes(size, "big", signed=True))


@lru_cache(1024)
def oid(dotted: str) -> bytes:
    """Encode an OBJECT IDENTIFIER from its dotted form (X.690 §8.19)."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = bytearray()
    for arc in (first * 40 + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        content += bytes(reversed(septets))
    return tlv(OBJECT_IDENTIFIER, bytes(content))


def generalized_time(instant: datetime) -> bytes:
    """Encode an aware UTC datetime: seconds present, no fraction, Zulu (RFC 5280 §4.1.2.5.2)."""
    return tlv(GENERALIZED_TIME, time_text(instant))


def time_text(instant: datetime) -> bytes:
    """Write the content octets of a GeneralizedTime; fractions of a second are dropped."""
    # strftime pads years below 1000 differently from one C library to the next
    return b"%04d%02d%02d%02d%02d%02dZ" % instant.timetuple()[:6]


def children(element: bytes) -> list[bytes]:
    """Split a constructed element into its encoded children; DERError when lengths do not add up."""
    _, position, end = span(element, 0, len(element))
    if end != len(element):
        raise DERError("trailing bytes after a DER element")
    return [child.raw for child in elements(element[position:end])]


def content(element: bytes) -> bytes:
    """Return the content octets of one encoded element."""
    _, start, end = span(element, 0, len(element))
    return element[start:end]
