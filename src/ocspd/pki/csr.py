"""Certificate signing requests: CFSSL's JSON form, and the PKCS #10 request made from it (RFC 2986).

`csr_reader.load_csr`, here under its name too, is the way back.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ocspd import wire
from ocspd.errors import Code, CodedError, DERError
from ocspd.logs import logger
from ocspd.pki import der, extensions, keys, pem, sans
from ocspd.pki.csr_reader import EXTENSION_REQUEST, ReceivedCSR, csr_text, load_csr
from ocspd.pki.extensions import BasicConstraints, Extension
from ocspd.pki.names import EMAIL, Name, is_oid
from ocspd.shown import shown

if TYPE_CHECKING:
    from ocspd.pki.keys import PrivateKey

__all__ = [
    "CAConfig",
    "CertificateRequest",
    "KeyRequest",
    "NameEntry",
    "ReceivedCSR",
    "Subject",
    "csr_text",
    "load_csr",
    "make_csr",
    "new_key",
    "parse_request",
    "parse_subject",
    "request_from_fields",
    "subject_from_fields",
]

NO_HOSTS = """\
This certificate lacks a "hosts" field. This makes it unsuitable for
websites. For more information see the Baseline Requirements for the Issuance and Management
of Publicly-Trusted Certificates, v.1.1.6, from the CA/Browser Forum (https://cabforum.org);
specifically, section 10.2.3 ("Information Requirements")."""
"""CFSSL's warning, to the letter."""
_REQUEST_KEYS = (
    "CN",
    "hosts",
    "names",
    "key",
    "ca",
    "serialnumber",
    "delegation_enabled",
    "extensions",
    "crl_url",
)
_NAME_KEYS = ("C", "ST", "L", "O", "OU", "E", "SerialNumber", "OID")
_TWICE = (
    "the extension {oid} is in `extensions` twice, or also follows from `ca` or `delegation_enabled`: "
    "a request may have it only once (RFC 5280 §4.2)"
)
_CA_KEYS = ("expiry", "pathlen", "pathlenzero", "backdate")


@dataclass(frozen=True, slots=True, kw_only=True)
class NameEntry:
    """One element of `names`; `oids` are (dotted OID, value) in the order of the JSON."""

    country: str = ""
    province: str = ""
    locality: str = ""
    organization: str = ""
    unit: str = ""
    email: str = ""
    oids: tuple[tuple[str, str], ...] = ()

    def is_blank(self) -> bool:
        """Whether all fields are empty, for CFSSL's check of CA requests."""
        standard = (self.country, self.province, self.locality, self.organization, self.unit)
        return not any(value.strip() for value in standard)


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """`key`: the kind of key to generate; the size is in bits."""

    algo: str = "ecdsa"
    size: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CAConfig:
    """`ca`: the properties of a self-signed CA; durations as written, "" for the default."""

    expiry: str = ""
    backdate: str = ""
    path_len: int = 0
    path_len_zero: bool = False

    def constraints(self) -> BasicConstraints:
        """Return the constraints of a request made from this; zero counts only with its own flag."""
        if self.path_len > 0:
            return BasicConstraints(ca=True, path_len=self.path_len)
        zero = self.path_len == 0 and self.path_len_zero
        return BasicConstraints(ca=True, path_len=0 if zero else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """CFSSL's CSR JSON. `hosts` None means that the key is absent; `unknown` are keys nothing reads."""

    common_name: str = ""
    hosts: tuple[str, ...] | None = None
    names: tuple[NameEntry, ...] = ()
    key: KeyRequest = KeyRequest()
    ca: CAConfig | None = None
    serial_number: str = ""
    delegation_enabled: bool = False
    extensions: tuple[Extension, ...] = ()
    crl_url: str = ""
    unknown: tuple[str, ...] = ()

    def name(self) -> Name:
        """Return the subject; CodedError 9300 for an invalid OID."""
        name = _standard_name(self.names, self.common_name, self.serial_number)
        extra: list[tuple[str, str]] = []
        for entry in self.names:
            for oid, value in entry.oids:
                if not is_oid(oid):
                    raise CodedError(Code.CSR_BAD_REQUEST, f"invalid OID {shown(oid, 60)!r} in names")
                extra.append((oid, value))
            if entry.email:
                extra.append((EMAIL, entry.email))
        return replace(name, extra=tuple(extra))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """CFSSL's JSON subject that goes with a request and overrides the CSR's."""

    common_name: str = ""
    names: tuple[NameEntry, ...] = ()
    serial_number: str = ""

    def name(self) -> Name:
        """Return the subject; E and OID entries are ignored here, as in CFSSL."""
        return _standard_name(self.names, self.common_name, self.serial_number)

    def over(self, requested: Name) -> Name:
        """Return this subject with missing fields from the CSR's, whose other attributes are dropped."""
        mine = self.name()
        return Name(
            common_name=mine.common_name or requested.common_name,
            serial_number=mine.serial_number or requested.serial_number,
            country=mine.country or requested.country,
            province=mine.province or requested.province,
            locality=mine.locality or requested.locality,
            organization=mine.organization or requested.organization,
            unit=mine.unit or requested.unit,
        )

    def to_json(self) -> dict[str, Any]:
        """Return CFSSL's JSON form, as a client sends it."""
        entries = []
        for entry in self.names:
            members = {
                "C": entry.country,
                "ST": entry.province,
                "L": entry.locality,
                "O": entry.organization,
                "OU": entry.unit,
                "E": entry.email,
                "OID": dict(entry.oids),
            }
            entries.append({key: value for key, value in members.items() if value})
        return {"CN": self.common_name, "names": entries, "SerialNumber": self.serial_number}


def _standard_name(entries: tuple[NameEntry, ...], common_name: str, serial_number: str) -> Name:
    return Name(
        common_name=common_name,
        serial_number=serial_number,
        country=tuple(entry.country for entry in entries if entry.country),
        province=tuple(entry.province for entry in entries if entry.province),
        locality=tuple(entry.locality for entry in entries if entry.locality),
        organization=tuple(entry.organization for entry in entries if entry.organization),
        unit=tuple(entry.unit for entry in entries if entry.unit),
    )


def parse_request(data: bytes) -> CertificateRequest:
    """Read CSR JSON; JSONError in Go's words."""
    return request_from_fields(wire.Fields(wire.loads(data), "CertificateRequest"))


def parse_subject(data: bytes) -> Subject:
    """Read the JSON of a SUBJECT file; JSONError in Go's words."""
    return subject_from_fields(wire.Fields(wire.loads(data), "Subject"))


def subject_from_fields(fields: wire.Fields) -> Subject:
    """Read a subject that is part of a larger JSON object."""
    entries = tuple(_name_entry(item) for item in fields.items("names", "Name"))
    return Subject(
        common_name=fields.string("CN"), names=entries, serial_number=fields.string("SerialNumber")
    )


def request_from_fields(fields: wire.Fields) -> CertificateRequest:
    """Read CSR JSON that is part of a larger JSON object; JSONError in Go's words."""
    unknown = fields.strangers(*_REQUEST_KEYS)
    entries = []
    for item in fields.items("names", "Name"):
        entries.append(_name_entry(item))
        unknown += [f"names.{key}" for key in item.strangers(*_NAME_KEYS)]
    key, ca = fields.child("key", "KeyRequest"), fields.child("ca", "CAConfig")
    if key is not None:
        unknown += [f"key.{name}" for name in key.strangers("algo", "size")]
    if ca is not None:
        unknown += [f"ca.{name}" for name in ca.strangers(*_CA_KEYS)]
    hosts = fields.strings("hosts")
    return CertificateRequest(
        common_name=fields.string("CN"),
        hosts=None if hosts is None else tuple(hosts),
        names=tuple(entries),
        key=KeyRequest()
        if key is None
        else KeyRequest(key.string("algo", "ecdsa"), key.integer("size", 256)),
        ca=None if ca is None else _ca_config(ca),
        serial_number=fields.string("serialnumber"),
        delegation_enabled=fields.boolean("delegation_enabled"),
        extensions=tuple(_extension(item) for item in fields.items("extensions", "Extension")),
        crl_url=fields.string("crl_url"),
        unknown=tuple(unknown),
    )


def _name_entry(fields: wire.Fields) -> NameEntry:
    oids = fields.mapping("OID", "string") or {}
    for oid, value in oids.items():
        if value is not None and not isinstance(value, str):
            raise wire.JSONError(f"json: cannot unmarshal OID {oid[:60]} into Go value of type string")
    fields.string("SerialNumber")  # typed, and ignored as in CFSSL
    return NameEntry(
        country=fields.string("C"),
        province=fields.string("ST"),
        locality=fields.string("L"),
        organization=fields.string("O"),
        unit=fields.string("OU"),
        email=fields.string("E"),
        oids=tuple((oid, value or "") for oid, value in oids.items()),
    )


def _ca_config(fields: wire.Fields) -> CAConfig:
    return CAConfig(
        expiry=fields.string("expiry"),
        backdate=fields.string("backdate"),
        path_len=fields.integer("pathlen"),
        path_len_zero=fields.boolean("pathlenzero"),
    )


def _extension(fields: wire.Fields) -> Extension:
    arcs = fields.get("Id")
    text = ".".join(map(str, arcs)) if isinstance(arcs, list) else ""
    if not is_oid(text):
        raise wire.JSONError("json: an extension's Id is not a list of the numbers of an object identifier")
    try:
        value = base64.b64decode(fields.string("Value").encode("ascii", "replace"), validate=True)
    except binascii.Error:
        raise wire.JSONError("json: an extension's Value is not base64") from None
    return Extension(text, fields.boolean("Critical"), value)


def new_key(request: CertificateRequest) -> tuple[PrivateKey, str]:
    """Generate the requested key and return it with its PEM text (2400 when that is impossible)."""
    logger.info("generate received request")
    logger.info("received CSR")
    logger.info("generating key: %s-%d", request.key.algo[:40], request.key.size)
    key = keys.generate_key(request.key.algo, request.key.size)
    return key, keys.key_to_pem(key)


def make_csr(request: CertificateRequest, key: PrivateKey) -> str:
    """Create and sign a PKCS #10 request (PEM); CodedError 9300 for values that cannot be encoded.

    Extensions are in CFSSL's order: names, basicConstraints with a `ca` section, delegation, others.
    """
    try:
        info = der.sequence(
            der.integer(0), request.name().encode(), keys.public_key_info(key), _attributes(request)
        )
    except DERError as err:
        raise CodedError(Code.CSR_BAD_REQUEST, str(err)) from err
    signature = der.tlv(der.BIT_STRING, b"\0", keys.sign(key, info))
    logger.info("encoded CSR")
    return pem.encode("CERTIFICATE REQUEST", der.sequence(info, keys.signature_algorithm(key), signature))


def _attributes(request: CertificateRequest) -> bytes:
    wanted = []
    alternative = sans.classify(request.hosts or ())
    # Go leaves its own out when `extensions` has one
    if alternative and extensions.find(request.extensions, extensions.SUBJECT_ALT_NAME) is None:
        wanted.append(Extension(extensions.SUBJECT_ALT_NAME, critical=False, value=alternative.encode()))
    if request.ca is not None:
        wanted.append(extensions.basic_constraints(request.ca.constraints()))
    if request.delegation_enabled:
        wanted.append(extensions.delegation_usage())
    wanted += request.extensions
    if len(wanted) > extensions.MAX_EXTENSIONS:
        raise CodedError(
            Code.CSR_BAD_REQUEST,
            f"{len(wanted)} extensions, more than the {extensions.MAX_EXTENSIONS} a request may have",
        )
    seen: set[str] = set()
    for extension in wanted:
        if extension.oid in seen:
            raise CodedError(Code.CSR_BAD_REQUEST, _TWICE.format(oid=extension.oid))
        seen.add(extension.oid)
    tag = der.context(0, constructed=True)
    if not wanted:
        return der.tlv(tag)
    value = der.sequence(*(extension.encode() for extension in wanted))
    return der.tlv(tag, der.sequence(der.oid(EXTENSION_REQUEST), der.tlv(0x31, value)))
