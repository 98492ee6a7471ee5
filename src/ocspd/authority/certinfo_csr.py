"""What `certinfo -csr` shows of a request: CFSSL writes out Go's x509.CertificateRequest as JSON.

Octets are base64, object identifiers lists of numbers, an empty list is null, algorithms are Go's numbers.
The signature is not checked, as in CFSSL: a request can be looked at before anybody trusts it.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocspd import wire
from ocspd.authority.certinfo import ip_text, time_text
from ocspd.errors import Code, CodedError, DERError, OCSPDError
from ocspd.pki import der_reader as reader
from ocspd.pki import extensions, go_hosts, names, pem
from ocspd.pki.csr_reader import extension_request
from ocspd.pki.go_algorithms import key_name, key_number, signature_number
from ocspd.pki.public_keys import check_point

if TYPE_CHECKING:
    from ocspd.pki.der_reader import Element
    from ocspd.pki.extensions import Extension

MAX_NUMBER_BITS = 65536
"""Of a number in a public key: converting to decimal takes time that grows with the square."""

_ATTRIBUTES = 0xA0
_ED25519_BYTES = 32
_EMAIL, _DNS, _URI, _IP = 0x81, 0x82, 0x86, 0x87
_DIGITS = 4000
"""Python converts a number of no more than 4300 digits at once."""
_CHUNK = 10**_DIGITS
_MAX_INTEGER_BYTES = 8
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""What Go's encoder writes as an escape, and Python's as it is."""
_NAME_LISTS = {
    "Country": "2.5.4.6",
    "Organization": "2.5.4.10",
    "OrganizationalUnit": "2.5.4.11",
    "Locality": "2.5.4.7",
    "Province": "2.5.4.8",
    "StreetAddress": "2.5.4.9",
    "PostalCode": "2.5.4.17",
}
_NAME_TEXTS = {"SerialNumber": names.SERIAL_NUMBER, "CommonName": names.COMMON_NAME}


@dataclass(frozen=True, slots=True)
class Number:
    """A number of any size, for JSON."""

    value: int

    def __str__(self) -> str:
        """Return its decimal digits."""
        parts = []
        rest = abs(self.value)
        while rest >= _CHUNK:
            rest, part = divmod(rest, _CHUNK)
            parts.append(str(part).zfill(_DIGITS))
        return ("-" if self.value < 0 else "") + "".join([str(rest), *reversed(parts)])


def describe_request(text: bytes) -> str:
    """Return the JSON of a request in PEM or DER, indented.

    CodedError 9002 for text without PEM; OCSPDError with the cause when it is not a request.
    """
    data = text
    if text[:1] != b"\x30":
        found = pem.blocks(text)
        if not found:
            raise CodedError(Code.CSR_DECODE_FAILED, f"CSR Decode failed{pem.hint(text)}")
        data = found[0].content
    try:
        return _indented(_request(data), "")
    except DERError as err:
        raise OCSPDError(f"CSR parse failed: {err}") from err


def _request(data: bytes) -> dict[str, Any]:
    outer = reader.elements(reader.single(data, reader.SEQUENCE, "the request"))
    info = reader.expect(outer, 0, reader.SEQUENCE, "the request's information")
    algorithm = reader.expect(outer, 1, reader.SEQUENCE, "the signature algorithm").content
    signature = reader.expect(outer, 2, reader.BIT_STRING, "the signature").content
    fields = reader.elements(info.content)
    version = _integer(reader.expect(fields, 0, reader.INTEGER, "the version").content)
    subject = reader.expect(fields, 1, reader.SEQUENCE, "the subject").raw
    key_info = reader.expect(fields, 2, reader.SEQUENCE, "the public key").raw
    attributes = fields[3].content if len(fields) > 3 and fields[3].tag == _ATTRIBUTES else b""
    wanted = extension_request(attributes)
    key_algorithm, key = _public_key(key_info)
    return {
        "Raw": _base64(data),
        "RawTBSCertificateRequest": _base64(info.raw),
        "RawSubjectPublicKeyInfo": _base64(key_info),
        "RawSubject": _base64(subject),
        "Version": version,
        "Signature": _base64(_aligned(signature)),
        "SignatureAlgorithm": signature_number(algorithm),
        "PublicKeyAlgorithm": key_algorithm,
        "PublicKey": key,
        "Subject": _name(subject),
        "Attributes": [found for each in reader.each(attributes) if (found := _attribute(each))] or None,
        "Extensions": [_extension(each) for each in wanted] or None,
        "ExtraExtensions": None,
        **_alternative_names(wanted),
    }


def _public_key(key_info: bytes) -> tuple[int, Any]:
    """Return Go's number of the algorithm, and the key with Go's fields; None if it is unknown to Go."""
    parts = reader.elements(reader.single(key_info, reader.SEQUENCE, "the public key"))
    identifier = reader.expect(parts, 0, reader.SEQUENCE, "the public key's algorithm")
    bits = _aligned(reader.expect(parts, 1, reader.BIT_STRING, "the public key").content)
    oid, parameters = reader.algorithm(identifier.content)
    number = key_number(oid)
    match key_name(oid):
        case "RSA":
            return number, _rsa(parameters, bits)
        case "DSA":
            return number, _dsa(parameters, bits)
        case "ECDSA":
            check_point(parameters, bits, key_info)
            half = len(bits) // 2 + 1
            x, y = int.from_bytes(bits[1:half], "big"), int.from_bytes(bits[half:], "big")
            return number, {"Curve": {}, "X": Number(x), "Y": Number(y)}
        case "Ed25519":
            if parameters is not None or len(bits) != _ED25519_BYTES:
                raise DERError("an Ed25519 key with parameters, or not of 32 bytes")
            return number, _base64(bits)
        case _:
            return number, None


def _rsa(parameters: Element | None, bits: bytes) -> dict[str, Any]:
    if parameters is None or parameters.tag != reader.NULL:
        raise DERError("an RSA key without the NULL parameters that RFC 3279 requires")
    parts = reader.elements(reader.single(bits, reader.SEQUENCE, "the RSA public key"))
    modulus = reader.integer(reader.expect(parts, 0, reader.INTEGER, "the RSA modulus").content)
    exponent = _integer(reader.expect(parts, 1, reader.INTEGER, "the RSA exponent").content)
    if modulus <= 0 or exponent <= 0:
        raise DERError("its RSA modulus or exponent is not a positive number")
    return {"N": _number(modulus), "E": exponent}


def _dsa(parameters: Element | None, bits: bytes) -> dict[str, Any]:
    if parameters is None or parameters.tag != reader.SEQUENCE:
        raise DERError("a DSA key without parameters")
    parts = reader.elements(parameters.content)
    p, q, g = (
        reader.integer(reader.expect(parts, at, reader.INTEGER, "a DSA parameter").content) for at in range(3)
    )
    y = reader.integer(reader.single(bits, reader.INTEGER, "the DSA public key"))
    if min(p, q, g, y) <= 0:
        raise DERError("a number of its DSA key is not positive")
    return {"P": _number(p), "Q": _number(q), "G": _number(g), "Y": _number(y)}


def _number(value: int) -> Number:
    if value.bit_length() > MAX_NUMBER_BITS:
        raise DERError(f"its key has {value.bit_length()} bits, more than the limit of {MAX_NUMBER_BITS}")
    return Number(value)


def _name(data: bytes) -> dict[str, Any]:
    pairs: list[tuple[str, Any]] = []
    for rdn in reader.each(reader.single(data, reader.SEQUENCE, "a name")):
        if rdn.tag != reader.SET:
            raise DERError("a part of a name is not a SET")
        pairs += [_pair(attribute) for attribute in reader.each(rdn.content)]
    texts = [(oid, value) for oid, value in pairs if isinstance(value, str)]
    return {
        **{
            field: [value for oid, value in texts if oid == wanted] or None
            for field, wanted in _NAME_LISTS.items()
        },
        **{
            field: next((value for oid, value in reversed(texts) if oid == wanted), "")
            for field, wanted in _NAME_TEXTS.items()
        },
        "Names": [{"Type": _arcs(oid), "Value": value} for oid, value in pairs] or None,
        "ExtraNames": None,
    }


def _pair(element: Element) -> tuple[str, Any]:
    """Read a SEQUENCE of an object identifier and anything."""
    if element.tag != reader.SEQUENCE:
        raise DERError("an attribute is not a SEQUENCE")
    parts = reader.elements(element.content)
    kind = reader.expect(parts, 0, reader.OBJECT_IDENTIFIER, "the type of an attribute")
    if len(parts) < 2:
        raise DERError("an attribute has no value")
    return reader.object_identifier(kind.content), _any(parts[1])


def _any(element: Element) -> Any:
    """Return a value of any type as Go's asn1 and json packages show it: null for a type unknown to them."""
    content = element.content
    match element.tag:
        case reader.BOOLEAN:
            return reader.boolean(content)
        case reader.INTEGER:
            return _integer(content)
        case reader.BIT_STRING:
            if not content or content[0] > 7:
                raise DERError("a malformed BIT STRING")
            return {"Bytes": _base64(content[1:]), "BitLength": 8 * len(content[1:]) - content[0]}
        case reader.OCTET_STRING:
            return _base64(content)
        case reader.OBJECT_IDENTIFIER:
            return _arcs(reader.object_identifier(content))
        case reader.UTC_TIME | reader.GENERALIZED_TIME:
            return time_text(reader.moment(element.tag, content))
        case tag:
            return names.string(tag, content)


def _attribute(element: Element) -> dict[str, Any] | None:
    """Return an attribute whose values are lists of (type, value); Go leaves out those that are not."""
    try:
        parts = reader.elements(element.content) if element.tag == reader.SEQUENCE else []
        kind = reader.expect(parts, 0, reader.OBJECT_IDENTIFIER, "the attribute's type")
        values = []
        for value in reader.each(reader.expect(parts, 1, reader.SET, "the attribute's values").content):
            if value.tag != reader.SEQUENCE:
                return None
            pairs = [_pair(each) for each in reader.each(value.content)]
            values.append([{"Type": _arcs(oid), "Value": inner} for oid, inner in pairs])
        return {"Type": _arcs(reader.object_identifier(kind.content)), "Value": values}
    except DERError:
        return None


def _extension(extension: Extension) -> dict[str, Any]:
    return {
        "Id": _arcs(extension.oid),
        "Critical": extension.critical,
        "Value": _base64(extension.value),
    }


def _alternative_names(wanted: tuple[Extension, ...]) -> dict[str, Any]:
    found: dict[int, list[Any]] = {_DNS: [], _EMAIL: [], _IP: [], _URI: []}
    extension = extensions.find(wanted, extensions.SUBJECT_ALT_NAME)
    listed = reader.single(extension.value, reader.SEQUENCE, "subjectAltName") if extension else b""
    for name in reader.each(listed):
        if name.tag == _IP:
            if len(name.content) not in {4, 16}:
                raise DERError(f"an IP address in subjectAltName has {len(name.content)} bytes, not 4 or 16")
            found[_IP].append(ip_text(name.content))
        elif name.tag in found:
            if not name.content.isascii():
                raise DERError("a name in subjectAltName is not ASCII")
            text = name.content.decode()
            found[name.tag].append(_uri(text) if name.tag == _URI else text)
    return {
        "DNSNames": found[_DNS] or None,
        "EmailAddresses": found[_EMAIL] or None,
        "IPAddresses": found[_IP] or None,
        "URIs": found[_URI] or None,
    }


def _uri(text: str) -> dict[str, Any]:
    fields = go_hosts.uri_fields(text)
    if fields is None:
        raise DERError(f"cannot parse the URI {text[:200]!r} in subjectAltName")
    return fields


def _integer(content: bytes) -> int:
    value = reader.integer(content)
    if len(content) > _MAX_INTEGER_BYTES:
        raise DERError("a number is too large")
    return value


def _arcs(oid: str) -> list[int]:
    return [int(arc) for arc in oid.split(".")]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _aligned(content: bytes) -> bytes:
    """Return the bits of a BIT STRING, shifted to the right if they are not whole octets, as Go does."""
    if not content or content[0] > 7 or (content[0] and len(content) == 1):
        raise DERError("a malformed BIT STRING")
    size = len(content) - 1
    return (int.from_bytes(content[1:], "big") >> content[0]).to_bytes(size, "big")


def _indented(value: Any, indent: str) -> str:
    """Write JSON as `wire.dumps_indented`, with numbers of any size."""
    inner = indent + "  "
    match value:
        case Number():
            return str(value)
        case dict() if value:
            members = [f"{inner}{wire.dumps(key)}: {_indented(each, inner)}" for key, each in value.items()]
            return "{\n" + ",\n".join(members) + f"\n{indent}}}"
        case list() if value:
            return "[\n" + ",\n".join(inner + _indented(each, inner) for each in value) + f"\n{indent}]"
        case _:
            return _NOT_UTF8.sub(r"\\ufffd", wire.dumps(value))
