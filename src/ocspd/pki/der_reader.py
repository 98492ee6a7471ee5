"""Reading DER that other programs wrote, with the tolerance of Go's encoding/asn1, as in CFSSL.

 1. Lengths are definite and in the fewest octets; tags are below 31. BER is rejected, as by Go.
 2. Extra elements at the end of a SEQUENCE are ignored: X.509 was extended that way.
 3. The order of a SET, explicit defaults and NULL parameters that should be absent do not matter.

Everything here is linear in its input and raises DERError only.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ocspd.errors import DERError
from ocspd.pki._elements import split

if TYPE_CHECKING:
    from collections.abc import Iterator

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
SET = 0x31

_MAX_OID_BYTES = 63
"""A limit that every reader of our certificates accepts, including the one we verify them with."""
_MAX_FOREIGN_OID_BYTES = 512
_MAX_ARC = 1 << 127
_TIMES = {
    UTC_TIME: re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(Z|[+-]\d{4})"),
    GENERALIZED_TIME: re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(?:[.,]\d{1,20})?(Z|[+-]\d{4})"),
}
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(microsecond=0, tzinfo=UTC)
_NAMES = {
    BOOLEAN: "a BOOLEAN",
    INTEGER: "an INTEGER",
    BIT_STRING: "a BIT STRING",
    OCTET_STRING: "an OCTET STRING",
    OBJECT_IDENTIFIER: "an object identifier",
    SEQUENCE: "a SEQUENCE",
    SET: "a SET",
}


class Element(NamedTuple):
    """One element: identifier octet, content octets, and the whole element."""

    tag: int
    content: bytes
    raw: bytes


def span(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Return tag, start and end of the content of the element at `position` of a container up to `end`."""
    if position + 2 > end:
        raise DERError("truncated element")
    tag, length = data[position], data[position + 1]
    if tag & 0x1F == 0x1F:
        raise DERError("tag number above 30")
    start = position + 2
    if length & 0x80:
        count = length & 0x7F
        if count == 0:
            raise DERError("indefinite length, which is BER and not DER")
        if count > 4:
            raise DERError("length above 4 GiB")
        if start + count > end:
            raise DERError("truncated element")
        length = int.from_bytes(data[start : start + count], "big")
        if length < 0x80 or length >> (8 * (count - 1)) == 0:
            raise DERError("length not in the fewest bytes, which is BER and not DER")
        start += count
    if start + length > end:
        raise DERError("an element exceeds its container")
    return tag, start, start + length


def each(content: bytes) -> Iterator[Element]:
    """Yield the elements that make up a content."""
    position, size = 0, len(content)
    while position < size:
        tag, start, end = span(content, position, size)
        yield Element(tag, content[start:end], content[position:end])
        position = end


def elements(content: bytes) -> list[Element]:
    """Return the elements that make up a content."""
    return split(content, Element)


def single(data: bytes, tag: int, what: str) -> bytes:
    """Return the content of the one element that `data` is; `what` names it in errors."""
    if not data:
        raise DERError(f"{what} is missing")
    found, start, end = span(data, 0, len(data))
    if found != tag:
        raise DERError(f"{what} is not {_NAMES.get(tag, f'an element with tag {tag:#04x}')}")
    if end != len(data):
        raise DERError(f"trailing bytes after {what}")
    return data[start:end]


def expect(parts: list[Element], position: int, tag: int, what: str) -> Element:
    """Return element `position` of a SEQUENCE, which must have this tag."""
    if position >= len(parts):
        raise DERError(f"{what} is missing")
    if parts[position].tag != tag:
        raise DERError(f"{what} is not {_NAMES.get(tag, f'an element with tag {tag:#04x}')}")
    return parts[position]


def boolean(content: bytes, *, lenient: bool = False) -> bool:
    """Read the content of a BOOLEAN: 0x00 or 0xFF. With `lenient` any other octet is true, as in OpenSSL."""
    if len(content) != 1 or not (lenient or content in {b"\x00", b"\xff"}):
        raise DERError("a BOOLEAN that is neither 0x00 nor 0xFF")
    return content != b"\x00"


def integer(content: bytes, *, lenient: bool = False) -> int:
    """Read the content of an INTEGER. With `lenient` it may have unnecessary octets, as in OpenSSL."""
    if not content:
        raise DERError("an empty INTEGER")
    if not lenient and len(content) > 1 and content[0] in {0, 0xFF} and (content[0] ^ content[1]) < 0x80:
        raise DERError("an INTEGER not in the fewest bytes")
    return int.from_bytes(content, "big", signed=True)


def bits(content: bytes) -> bytes:
    """Read the content of a BIT STRING of whole octets."""
    if not content or content[0] != 0:
        raise DERError("a BIT STRING that does not consist of whole bytes")
    return content[1:]


@lru_cache(1024)
def object_identifier(content: bytes, *, lenient: bool = False) -> str:
    """Read the content of an OBJECT IDENTIFIER of at most 63 octets, or 512 with `lenient`.

    With `lenient` its numbers may have unnecessary octets, as in older versions of Go and elsewhere.
    """
    if not content or content[-1] & 0x80:
        raise DERError("truncated object identifier")
    limit = _MAX_FOREIGN_OID_BYTES if lenient else _MAX_OID_BYTES
    if len(content) > limit:
        raise DERError(f"an object identifier of more than {limit} bytes")
    arcs: list[int] = []
    value, begins = 0, True
    for octet in content:
        if begins and octet == 0x80 and not lenient:
            raise DERError("an object identifier with a number not in the fewest bytes")
        value = value << 7 | octet & 0x7F
        begins = octet & 0x80 == 0
        if begins:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def is_common(dotted: str) -> bool:
    """Return whether `cryptography` supports an object identifier, so that it can be in a strict copy."""
    arcs = dotted.split(".")
    return len(dotted) <= _MAX_OID_BYTES and all(int(arc) < _MAX_ARC for arc in arcs)


def algorithm(content: bytes) -> tuple[str, Element | None]:
    """Read the content of an AlgorithmIdentifier: its OID and its parameters, None when absent."""
    parts = elements(content)
    oid = expect(parts, 0, OBJECT_IDENTIFIER, "the algorithm's identifier")
    return object_identifier(oid.content), parts[1] if len(parts) > 1 else None


def moment(tag: int, content: bytes) -> datetime:
    """Read a UTCTime or GeneralizedTime as an aware UTC datetime.

    Seconds may be absent and there may be an offset or a fraction, as old programs write them (Go accepts
    the first two in a UTCTime); a fraction is dropped. Times before the year 1 or after 9999 (the year 0,
    or an offset at the end) become the first or last second of that range.
    """
    form = _TIMES.get(tag)
    match = form.fullmatch(content) if form else None
    if match is None:
        raise DERError("malformed time")
    year, month, day, hour, minute = (int(part) for part in match.groups()[:5])
    if tag == UTC_TIME:
        year += 1900 if year >= 50 else 2000
    zone = match[7]
    try:
        # the year 0 was a leap year, as 4 is
        found = datetime(year or 4, month, day, hour, minute, int(match[6] or 0), tzinfo=UTC)
    except ValueError:
        raise DERError("a time that does not exist") from None
    if year == 0:
        return _FIRST
    if zone == b"Z":
        return found
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:]))
    try:
        return found + offset if zone[:1] == b"-" else found - offset
    except OverflowError:
        return _LAST if zone[:1] == b"-" else _FIRST
