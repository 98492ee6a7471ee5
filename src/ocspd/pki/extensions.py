"""X.509 extensions as bytes: read from requests and certificates, and encoded as Go encodes them.

Extensions are passed through unparsed where possible, so that a request's extensions reach the
certificate byte by byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.errors import DERError
from ocspd.pki import der
from ocspd.pki import der_reader as reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

SUBJECT_KEY_ID = "2.5.29.14"
KEY_USAGE = "2.5.29.15"
SUBJECT_ALT_NAME = "2.5.29.17"
ISSUER_ALT_NAME = "2.5.29.18"
BASIC_CONSTRAINTS = "2.5.29.19"
NAME_CONSTRAINTS = "2.5.29.30"
CRL_DISTRIBUTION_POINTS = "2.5.29.31"
CERTIFICATE_POLICIES = "2.5.29.32"
AUTHORITY_KEY_ID = "2.5.29.35"
EXTENDED_KEY_USAGE = "2.5.29.37"
AUTHORITY_INFO_ACCESS = "1.3.6.1.5.5.7.1.1"
OCSP_NO_CHECK = "1.3.6.1.5.5.7.48.1.5"
DELEGATION_USAGE = "1.3.6.1.4.1.44363.44"
CT_POISON = "1.3.6.1.4.1.11129.2.4.3"
CT_SCT_LIST = "1.3.6.1.4.1.11129.2.4.2"

MAX_EXTENSIONS = 200
"""The limit for one request or certificate that is made here."""

_OCSP = "1.3.6.1.5.5.7.48.1"
_CA_ISSUERS = "1.3.6.1.5.5.7.48.2"
_CPS = "1.3.6.1.5.5.7.2.1"
_USER_NOTICE = "1.3.6.1.5.5.7.2.2"
_TRUE = b"\x01\x01\xff"


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension: dotted OID, criticality, and the DER inside its OCTET STRING."""

    oid: str
    critical: bool
    value: bytes

    def encode(self) -> bytes:
        """Return the DER of the Extension (RFC 5280 §4.1)."""
        critical = _TRUE if self.critical else b""
        return der.sequence(der.oid(self.oid), critical, der.tlv(der.OCTET_STRING, self.value))


@dataclass(frozen=True, slots=True)
class BasicConstraints:
    """RFC 5280 §4.2.1.9; `path_len` None is no limit."""

    ca: bool = False
    path_len: int | None = None


def parse_extensions(data: bytes, *, lenient: bool = False) -> tuple[Extension, ...]:
    """Read the DER of an Extensions SEQUENCE; DERError when it is not one.

    `critical FALSE` may be written out. With `lenient` any BOOLEAN is accepted, as in OpenSSL, otherwise only
    those that Go accepts.
    """
    found = []
    for element in reader.elements(reader.single(data, reader.SEQUENCE, "the list of extensions")):
        if element.tag != reader.SEQUENCE:
            raise DERError("an extension is not a SEQUENCE")
        found.append(parse_extension(element.content, lenient=lenient))
    return tuple(found)


def parse_extension(content: bytes, *, lenient: bool = False) -> Extension:
    """Read the content of one Extension; DERError when it is not one."""
    parts = reader.elements(content)
    kind = reader.expect(parts, 0, reader.OBJECT_IDENTIFIER, "the identifier of an extension").content
    critical = False
    if len(parts) > 1 and parts[1].tag == reader.BOOLEAN:
        critical = reader.boolean(parts[1].content, lenient=lenient)
        del parts[1]
    value = reader.expect(parts, 1, reader.OCTET_STRING, "the value of an extension")
    return Extension(reader.object_identifier(kind, lenient=lenient), critical, value.content)


def of_certificate(certificate: x509.Certificate) -> tuple[Extension, ...]:
    """Return the extensions of a certificate as they are encoded; an empty list if they cannot be read."""
    try:
        for field in der.children(certificate.tbs_certificate_bytes):
            if field[0] == der.context(3, constructed=True):
                return parse_extensions(der.content(field), lenient=True)
    except (DERError, IndexError):
        return ()
    return ()


def find(extensions: Sequence[Extension], oid: str) -> Extension | None:
    """Return the first extension with this OID, None when there is none."""
    return next((extension for extension in extensions if extension.oid == oid), None)


def parse_basic_constraints(value: bytes, *, lenient: bool = False) -> BasicConstraints:
    """Read basicConstraints; DERError for any other value. Lenient as OpenSSL, otherwise as Go."""
    parts = reader.elements(reader.single(value, reader.SEQUENCE, "basicConstraints"))
    ca, path_len = False, None
    if parts and parts[0].tag == reader.BOOLEAN:
        ca = reader.boolean(parts.pop(0).content, lenient=lenient)
    if parts and parts[0].tag == reader.INTEGER:
        path_len = reader.integer(parts.pop(0).content, lenient=lenient)
    if parts and not lenient:
        raise DERError("basicConstraints contains something other than cA and pathLenConstraint")
    if path_len is not None and path_len.bit_length() > 31:
        if not lenient:
            raise DERError("the pathLenConstraint is too large")
        path_len = None  # longer than any chain
    return BasicConstraints(ca, None if path_len is None or path_len < 0 else path_len)


def basic_constraints(constraints: BasicConstraints) -> Extension:
    """Encode basicConstraints, critical; FALSE is the default and therefore not written."""
    parts = [_TRUE] if constraints.ca else []
    if constraints.ca and constraints.path_len is not None:
        parts.append(der.integer(constraints.path_len))
    return Extension(BASIC_CONSTRAINTS, critical=True, value=der.sequence(*parts))


def key_usage(bits: int) -> Extension:
    """Encode keyUsage, critical; bit n of the bit is bit n of RFC 5280 §4.2.1.3."""
    size = bits.bit_length()
    octets = bytearray((size + 7) // 8)
    for bit in range(size):
        if bits >> bit & 1:
            octets[bit // 8] |= 0x80 >> bit % 8
    unused = -size % 8
    return Extension(KEY_USAGE, critical=True, value=der.tlv(der.BIT_STRING, bytes((unused,)), bytes(octets)))


def extended_key_usage(oids: Sequence[str]) -> Extension:
    """Encode extKeyUsage, in the order given."""
    value = der.sequence(*(der.oid(dotted) for dotted in oids))
    return Extension(EXTENDED_KEY_USAGE, critical=False, value=value)


def subject_key_id(identifier: bytes) -> Extension:
    """Encode subjectKeyIdentifier."""
    return Extension(SUBJECT_KEY_ID, critical=False, value=der.tlv(der.OCTET_STRING, identifier))


def authority_key_id(identifier: bytes) -> Extension:
    """Encode authorityKeyIdentifier with a keyIdentifier only."""
    value = der.sequence(der.tlv(der.context(0, constructed=False), identifier))
    return Extension(AUTHORITY_KEY_ID, critical=False, value=value)


def authority_info_access(ocsp: Sequence[str], ca_issuers: Sequence[str]) -> Extension:
    """Encode authorityInfoAccess: OCSP servers first, then the issuer's certificates."""
    places = [(_OCSP, url) for url in ocsp] + [(_CA_ISSUERS, url) for url in ca_issuers]
    value = der.sequence(*(der.sequence(der.oid(kind), _uri(url)) for kind, url in places))
    return Extension(AUTHORITY_INFO_ACCESS, critical=False, value=value)


def crl_distribution_points(urls: Sequence[str]) -> Extension:
    """Encode cRLDistributionPoints, one point for each URL."""
    points = []
    for url in urls:
        full_name = der.tlv(der.context(0, constructed=True), _uri(url))
        points.append(der.sequence(der.tlv(der.context(0, constructed=True), full_name)))
    return Extension(CRL_DISTRIBUTION_POINTS, critical=False, value=der.sequence(*points))


def certificate_policies(policies: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> Extension:
    """Encode certificatePolicies: (OID, [(qualifier type, text)]) with the types of RFC 5280 §4.2.1.4."""
    encoded = []
    for policy, qualifiers in policies:
        parts = [der.oid(policy)]
        if qualifiers:
            parts.append(der.sequence(*(_qualifier(kind, text) for kind, text in qualifiers)))
        encoded.append(der.sequence(*parts))
    return Extension(CERTIFICATE_POLICIES, critical=False, value=der.sequence(*encoded))


def _qualifier(kind: str, text: str) -> bytes:
    if kind == "id-qt-cps":
        return der.sequence(der.oid(_CPS), der.tlv(0x16, ia5(text)))
    return der.sequence(der.oid(_USER_NOTICE), der.sequence(der.tlv(0x0C, text.encode())))


def ocsp_no_check() -> Extension:
    """Encode id-pkix-ocsp-nocheck (RFC 6960 §4.2.2.2.1)."""
    return Extension(OCSP_NO_CHECK, critical=False, value=der.NULL)


def delegation_usage() -> Extension:
    """Encode DelegationUsage (RFC 9345 §4.2)."""
    return Extension(DELEGATION_USAGE, critical=False, value=der.NULL)


def _uri(url: str) -> bytes:
    return der.tlv(der.context(6, constructed=False), ia5(url))


def ia5(text: str) -> bytes:
    """Return the bytes of an IA5String; DERError in Go's words when the text has other characters."""
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise DERError(f'x509: "{text[:200]}" cannot be encoded as an IA5String') from None
