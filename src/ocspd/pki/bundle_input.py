"""The certificates and the key to bundle, in any of the forms that CFSSL reads.

PEM (certificates and PKCS #7), DER (a certificate, several one after the other, PKCS #7), and PKCS #12, whose
key is used when no other is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import pkcs12

from ocspd.errors import Code, CodedError, DERError
from ocspd.pki import der_reader as reader
from ocspd.pki.certs import load_certificates
from ocspd.pki.keys import supported

if TYPE_CHECKING:
    from cryptography import x509

    from ocspd.pki.keys import PrivateKey

MAX_CERTIFICATES = 100
"""The most one input may have."""


def read_bundle_input(
    data: bytes, password: bytes | None
) -> tuple[list[x509.Certificate], PrivateKey | None]:
    """Return the certificates of an input, at least one, and its key if it is PKCS #12.

    With `password` None PKCS #12 is refused: how long it takes to open one is up to who made it. CodedError
    1002 or 1003 when it cannot be read, 1300 when it has more than MAX_CERTIFICATES.
    """
    found: list[x509.Certificate]
    key = None
    if _is_pkcs12(data):
        found, key = _read_pkcs12(data, password)
    elif data[:1] == b"\x30":
        found = [each for part in _parts(data) for each in load_certificates(part)]
    else:
        found = load_certificates(data)
    if len(found) > MAX_CERTIFICATES:
        raise CodedError(
            Code.CERT_BAD_REQUEST,
            f"{len(found)} certificates, more than the {MAX_CERTIFICATES} of one bundle",
        )
    return found, key


def _is_pkcs12(data: bytes) -> bool:
    """Return whether it is a PFX (RFC 7292 §4), which begins with an INTEGER."""
    if data[:1] != b"\x30" or len(data) < 4:
        return False
    octets = data[1] & 0x7F if data[1] & 0x80 else 0  # BER, with an indefinite length, included
    return data[2 + octets : 5 + octets] == b"\x02\x01\x03"


def _read_pkcs12(data: bytes, password: bytes | None) -> tuple[list[x509.Certificate], PrivateKey | None]:
    if password is None:
        raise CodedError(
            Code.CERT_DECODE_FAILED, "Failed to decode certificate: PKCS #12 is not accepted here: send PEM"
        )
    # an empty password and none are two different things, and programs write either
    opened = _opened(data, password) or (None if password else _opened(data, None))
    if opened is None:
        raise CodedError(
            Code.CERT_DECODE_FAILED,
            "Failed to decode certificate: the PKCS #12 object cannot be opened: give its password with "
            "-password",
        )
    stored = [opened.cert, *opened.additional_certs]
    certificates = [each.certificate for each in stored if each is not None]
    if not certificates:
        raise CodedError(
            Code.CERT_DECODE_FAILED, "Failed to decode certificate: the PKCS #12 object has no certificate"
        )
    return _in_order(certificates), None if opened.key is None else supported(opened.key)


def _opened(data: bytes, password: bytes | None) -> pkcs12.PKCS12KeyAndCertificates | None:
    try:
        return pkcs12.load_pkcs12(data, password)
    except Exception:  # noqa: BLE001  (whatever a library does not like of it)
        return None


def _in_order(certificates: list[x509.Certificate]) -> list[x509.Certificate]:
    """Put the issuers behind the first certificate in the order of the chain, where there is one."""
    ordered, rest = certificates[:1], certificates[1:]
    while rest:
        following = next((each for each in rest if each.subject == ordered[-1].issuer), rest[0])
        ordered.append(following)
        rest.remove(following)
    return ordered


def _parts(data: bytes) -> list[bytes]:
    """Return the elements that follow each other in DER; all of it when it is something else."""
    parts: list[bytes] = []
    position = 0
    while position < len(data):
        try:
            _, _, end = reader.span(data, position, len(data))
        except DERError:
            if parts and not data[position:].strip(b" \r\n"):
                break
            return [data]
        parts.append(data[position:end])
        position = end
    return parts
