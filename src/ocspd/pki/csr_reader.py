"""Reading a PKCS #10 request made by others (RFC 2986), and checking its signature.

Read byte by byte with the tolerance of Go (`der_reader`), because CFSSL issues for requests that a
strict parser rejects: unsorted SETs, another version number, `*` in a PrintableString.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocspd.errors import Code, CodedError, DERError
from ocspd.pki import der_reader as reader
from ocspd.pki import extensions, names, pem, sans
from ocspd.pki.public_keys import UnsupportedKeyError, read_public_key
from ocspd.pki.signatures import SignatureError, verify

if TYPE_CHECKING:
    from ocspd.pki.extensions import BasicConstraints, Extension
    from ocspd.pki.keys import PublicKey

EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_LABELS = {"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"}
_ATTRIBUTES = 0xA0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedCSR:
    """The content of a verified request."""

    subject: names.Name
    alternative_names: sans.AlternativeNames
    basic_constraints: BasicConstraints | None
    extensions: tuple[Extension, ...]
    public_key: PublicKey
    key_info: bytes
    """DER of the SubjectPublicKeyInfo, as it is in the request."""


def load_csr(text: bytes, *, allow_weak_rsa: bool = False) -> ReceivedCSR:
    """Read a request, PEM or DER, and verify its signature.

    CodedError: 9002 no PEM, 9300 another kind of PEM, a wrong signature or an unsupported key,
    9003 not a request. `allow_weak_rsa` is that of `read_public_key`.
    """
    data = _der(text)
    try:
        return _read(data, allow_weak_rsa=allow_weak_rsa)
    except UnsupportedKeyError as err:
        raise CodedError(Code.CSR_BAD_REQUEST, f"the CSR's key is not supported: {err}") from err
    except SignatureError as err:
        raise CodedError(Code.CSR_BAD_REQUEST, f"the CSR {err}") from err
    except DERError as err:
        raise CodedError(Code.CSR_PARSE_FAILED, f"CSR Parse failed: {err}") from err


def csr_text(data: bytes) -> str:
    """Return the content of a CSR file as text: a request in DER becomes PEM, other text is unchanged.

    CodedError 9002 for UTF-16, which could not be recognised afterwards.
    """
    if data[:1] == b"\x30":
        return pem.encode("CERTIFICATE REQUEST", data)
    if not pem.blocks(data) and "UTF-16" in pem.hint(data):
        raise CodedError(Code.CSR_DECODE_FAILED, f"CSR Decode failed{pem.hint(data)}")
    return data.decode("utf-8", "replace")


def _der(text: bytes) -> bytes:
    if text[:1] == b"\x30":
        return text
    found = pem.blocks(text)
    if not found:
        raise CodedError(Code.CSR_DECODE_FAILED, f"CSR Decode failed{pem.hint(text)}")
    if found[0].label not in _LABELS:
        raise CodedError(Code.CSR_BAD_REQUEST, "not a csr")
    return found[0].content


def _read(data: bytes, *, allow_weak_rsa: bool) -> ReceivedCSR:
    outer = reader.elements(reader.single(data, reader.SEQUENCE, "the request"))
    info = reader.expect(outer, 0, reader.SEQUENCE, "the request's information")
    algorithm = reader.expect(outer, 1, reader.SEQUENCE, "the signature algorithm").content
    signature = reader.bits(reader.expect(outer, 2, reader.BIT_STRING, "the signature").content)
    fields = reader.elements(info.content)
    # whatever the version says: Go reads a number of 64 bits there and never looks at it
    if reader.integer(reader.expect(fields, 0, reader.INTEGER, "the version").content).bit_length() > 63:
        raise DERError("the version is too large")
    subject = names.parse(reader.expect(fields, 1, reader.SEQUENCE, "the subject").raw)
    key_info = reader.expect(fields, 2, reader.SEQUENCE, "the public key").raw
    public_key = read_public_key(key_info, allow_weak_rsa=allow_weak_rsa)
    # RFC 2986 wants [0] even when empty; Java programs leave it out
    wanted = extension_request(fields[3].content) if len(fields) > 3 and fields[3].tag == _ATTRIBUTES else ()
    constraints = extensions.find(wanted, extensions.BASIC_CONSTRAINTS)
    alternative = extensions.find(wanted, extensions.SUBJECT_ALT_NAME)
    found = ReceivedCSR(
        subject=subject,
        alternative_names=sans.parse(alternative.value) if alternative else sans.AlternativeNames(),
        basic_constraints=extensions.parse_basic_constraints(constraints.value) if constraints else None,
        extensions=wanted,
        public_key=public_key,
        key_info=key_info,
    )
    # SHA-1: the signature only shows that the sender has the key; nobody relies on it later
    verify(public_key, algorithm, signature, info.raw, allow_sha1=True)
    return found


def extension_request(attributes: bytes) -> tuple[Extension, ...]:
    """Return the requested extensions; a malformed attribute, or one without a value, is ignored as in Go."""
    wanted: list[Extension] = []
    for attribute in reader.elements(attributes):
        try:
            parts = reader.elements(attribute.content) if attribute.tag == reader.SEQUENCE else []
            kind = reader.object_identifier(
                reader.expect(parts, 0, reader.OBJECT_IDENTIFIER, "the attribute's type").content
            )
            values = reader.elements(reader.expect(parts, 1, reader.SET, "the attribute's values").content)
        except DERError:
            continue
        if kind == EXTENSION_REQUEST and values:
            wanted += extensions.parse_extensions(values[0].raw)
    seen: set[str] = set()
    for extension in wanted:
        if extension.oid in seen:
            raise DERError(f"the extension {extension.oid} is requested twice")
        seen.add(extension.oid)
    return tuple(wanted)
