"""Distinguished names in Go's order and string types (pkix.Name), which CFSSL's certificates have.

 1. Order: C, ST, L, street, postal code, O, OU, CN, serialNumber, then every other attribute.
 2. All values of one of these types are one multi-valued RDN, sorted as DER sorts a SET OF; every other
    attribute is an RDN of its own.
 3. Another attribute of one of these types replaces rule 2 for its type.
 4. A value is a PrintableString if its characters allow it, otherwise a UTF8String, including e-mail.

Issuer matching and CertID hashes compare bytes, so this is encoded here and not by a library.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from ocspd.errors import DERError
from ocspd.pki import der
from ocspd.pki import der_reader as reader

COMMON_NAME = "2.5.4.3"
SERIAL_NUMBER = "2.5.4.5"
EMAIL = "1.2.840.113549.1.9.1"

MAX_ATTRIBUTES = 1000
"""The limit for names written here: a few hundred occur in practice, and each costs every reader time."""

_PLAIN_CHARS = 64
"""The limit of RFC 5280 for most attributes, and the lowest (appendix A.1)."""

_MULTI_VALUED = {
    "2.5.4.6": "country",
    "2.5.4.8": "province",
    "2.5.4.7": "locality",
    "2.5.4.9": "street",
    "2.5.4.17": "postal_code",
    "2.5.4.10": "organization",
    "2.5.4.11": "unit",
}
"""In the order of rule 1."""

_PRINTABLE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")
_PRINTABLE_STRING = 0x13
_BMP_STRING = 0x1E
_ALPHABETS = {
    0x12: frozenset("0123456789 "),
    _PRINTABLE_STRING: frozenset(map(chr, _PRINTABLE)) | frozenset("*&"),
}
_CODECS = {
    0x0C: "utf-8",
    0x12: "ascii",  # NumericString
    0x13: "ascii",  # PrintableString
    0x14: "latin-1",  # T61String, as everyone reads it
    0x16: "ascii",  # IA5String
    0x1A: "ascii",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A subject or issuer; `extra` holds (dotted OID, value) of the attributes without a field."""

    common_name: str = ""
    serial_number: str = ""
    country: tuple[str, ...] = ()
    province: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()
    street: tuple[str, ...] = ()
    postal_code: tuple[str, ...] = ()
    organization: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()
    extra: tuple[tuple[str, str], ...] = field(default=())

    def is_plain(self) -> bool:
        """Return whether every reader takes it as it is: short printable values in standard fields only."""
        groups = [getattr(self, attribute) for attribute in _MULTI_VALUED.values()]
        values = [value for group in groups for value in group]
        return (
            not self.extra
            and all(0 < len(value) <= _PLAIN_CHARS and value.isprintable() for value in values)
            and all(len(value) == 2 and value.isascii() for value in self.country)
            and max(len(self.common_name), len(self.serial_number)) <= _PLAIN_CHARS
            and (self.common_name + self.serial_number).isprintable()
        )

    def encode(self) -> bytes:
        """Return the DER of the Name; DERError for text not expressible in UTF-8, or too many attributes."""
        count = len(self.extra) + sum(len(getattr(self, each)) for each in _MULTI_VALUED.values())
        if count > MAX_ATTRIBUTES:
            raise DERError(f"{count} attributes, more than the {MAX_ATTRIBUTES} a name may have")
        replaced = {oid for oid, _ in self.extra}
        groups: list[tuple[str, tuple[str, ...]]] = [
            (oid, getattr(self, attribute)) for oid, attribute in _MULTI_VALUED.items()
        ]
        groups.append((COMMON_NAME, (self.common_name,) if self.common_name else ()))
        groups.append((SERIAL_NUMBER, (self.serial_number,) if self.serial_number else ()))
        rdns = [_rdn(oid, values) for oid, values in groups if values and oid not in replaced]
        rdns += [_rdn(oid, (value,)) for oid, value in self.extra]
        return der.sequence(*rdns)


def _rdn(oid: str, values: tuple[str, ...]) -> bytes:
    attributes = [der.sequence(der.oid(oid), directory_string(value)) for value in values]
    return der.tlv(0x31, *sorted(attributes))


def directory_string(text: str) -> bytes:
    """Encode text as PrintableString or, if its characters do not allow that, as UTF8String."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise DERError(f"{text[:64]!r} cannot be written in UTF-8") from None
    return der.tlv(0x13 if _PRINTABLE.issuperset(data) else 0x0C, data)


def parse(data: bytes, *, lenient: bool = False) -> Name:
    """Read the DER of a Name as Go does; DERError when it is not one.

    Of CN and serialNumber the last one counts. Attributes whose value is not text are left out. With
    `lenient`, characters that a string type does not allow are accepted, as by OpenSSL: for existing names.
    """
    single = {COMMON_NAME: "", SERIAL_NUMBER: ""}
    multi: dict[str, list[str]] = {oid: [] for oid in _MULTI_VALUED}
    extra: list[tuple[str, str]] = []
    for oid, value in attributes(data, lenient=lenient):
        if oid in single:
            single[oid] = value
        elif oid in multi:
            multi[oid].append(value)
        else:
            extra.append((oid, value))
    fields = {attribute: tuple(multi[oid]) for oid, attribute in _MULTI_VALUED.items()}
    return Name(
        common_name=single[COMMON_NAME], serial_number=single[SERIAL_NUMBER], extra=tuple(extra), **fields
    )


def attributes(data: bytes, *, lenient: bool = False) -> list[tuple[str, str]]:
    """Return (dotted OID, text) of every textual attribute of an encoded Name, in encoded order."""
    return [found for rdn in rdns(data, lenient=lenient) for found in rdn]


def rdns(data: bytes, *, lenient: bool = False) -> list[list[tuple[str, str]]]:
    """Return the textual attributes of an encoded Name, RDN by RDN; `lenient` as for `parse`."""
    found = []
    for rdn in reader.elements(reader.single(data, reader.SEQUENCE, "a name")):
        if rdn.tag != reader.SET:
            raise DERError("a part of a name is not a SET")
        texts = []
        for attribute in reader.elements(rdn.content):
            if attribute.tag != reader.SEQUENCE:
                raise DERError("an attribute of a name is not a SEQUENCE")
            parts = reader.elements(attribute.content)
            kind = reader.expect(parts, 0, reader.OBJECT_IDENTIFIER, "the type of a name's attribute")
            oid = reader.object_identifier(kind.content, lenient=lenient)
            if len(parts) < 2:
                raise DERError("an attribute of a name has no value")
            text = string(parts[1].tag, parts[1].content, lenient=lenient)
            if text is not None:
                texts.append((oid, text))
        found.append(texts)
    return found


_SHORT = {
    COMMON_NAME: "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.1": "UID",
}
_ESCAPED = re.compile(r'[,+"\\<>;]|^[# ]| \Z')


def to_text(data: bytes) -> str:
    """Write an encoded Name for messages, in the form of RFC 4514; "" when it is malformed."""
    try:
        parts = rdns(data, lenient=True)
    except DERError:
        return ""
    return ",".join(
        "+".join(
            f"{_SHORT.get(oid, oid)}={_ESCAPED.sub(lambda found: chr(92) + found[0], text)}"
            for oid, text in rdn
        )
        for rdn in reversed(parts)
    )


def comparable(data: bytes) -> tuple[frozenset[tuple[str, str]], ...]:
    """Return a form of an encoded Name that is equal for names that match by RFC 5280 §7.1.

    Case, spacing, string types and the order within an RDN do not matter. DERError when it is not a name.
    """
    return tuple(frozenset((oid, _folded(text)) for oid, text in rdn) for rdn in rdns(data, lenient=True))


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def string(tag: int, content: bytes, *, lenient: bool = False) -> str | None:
    """Return the text of a string of any type, None for another type.

    DERError for characters that its type does not allow, unless `lenient`. A PrintableString may have `*`
    and `&`, as they are common and Go reads them; a T61String is read as ISO 8859-1, as everywhere.
    """
    codec = _CODECS.get(tag)
    if codec is None:
        return None
    if tag == _BMP_STRING and content[-2:] == b"\0\0":
        content = content[:-2]  # some programs end it as a C string (as in Go)
    try:
        text = content.decode(codec)
        unexpected = set(text) - _ALPHABETS[tag] if tag in _ALPHABETS else set()
    except UnicodeDecodeError:
        if lenient:
            return content.decode("latin-1" if codec in {"ascii", "utf-8"} else codec, "replace")
        raise DERError("an attribute of a name has characters that its string type does not allow") from None
    if unexpected and not lenient:
        shown = " ".join(sorted(map(repr, unexpected)))[:60]
        kind = "PrintableString" if tag == _PRINTABLE_STRING else "NumericString"
        raise DERError(f"an attribute of a name is a {kind} but has {shown}: encode it as a UTF8String")
    return text


def is_oid(text: str) -> bool:
    """Return whether a text is an object identifier in dotted form that can be encoded (X.660)."""
    arcs = text.split(".")
    if len(arcs) < 2 or len(text) > 256 or not all(arc.isascii() and arc.isdigit() for arc in arcs):
        return False
    return int(arcs[0]) <= 2 and (int(arcs[0]) == 2 or int(arcs[1]) < 40)
