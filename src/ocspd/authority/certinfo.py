"""What `certinfo` shows of a certificate, as CFSSL does: the keys in its order, the empty ones left out.

Every name attribute is shown, in the order in which it is encoded, but of the alternative names only DNS
names and IP addresses.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from ocspd.authority.hosts import DIAL_S, split_host
from ocspd.errors import Code, CodedError, DERError, OCSPDError
from ocspd.model import normalize_aki, parse_serial
from ocspd.pki import certs, der_reader, names
from ocspd.pki.certid import parts_of
from ocspd.pki.go_algorithms import signature_name

if TYPE_CHECKING:
    from datetime import datetime

    from ocspd.authority.fetching import Outbound
    from ocspd.certdb.base import CertDB
    from ocspd.model import CertificateRow
    from ocspd.pki.certs import Certificate

NOT_FOUND = "no certificate found"


def describe(certificate: Certificate) -> dict[str, Any]:
    """Return what CFSSL shows of a certificate; CodedError 1003 when its names cannot be read."""
    try:
        parts = parts_of(certificate)
        subject, issuer = _name(parts.subject), _name(parts.issuer)
        algorithm = signature_of(certificate)
    except (DERError, IndexError) as err:
        raise CodedError(Code.CERT_PARSE_FAILED, f"Failed to parse certificate: {err}") from err
    alternative = certs.alternative_names(certificate)
    sans = [*alternative.dns, *map(ip_text, alternative.ips)]
    return {
        "subject": subject,
        "issuer": issuer,
        "serial_number": str(certs.serial_of(certificate)),
        **({"sans": sans} if sans else {}),
        "not_before": time_text(certificate.not_valid_before_utc),
        "not_after": time_text(certificate.not_valid_after_utc),
        "sigalg": algorithm,
        "authority_key_id": _pairs(certs.aki_hex(certificate)),
        "subject_key_id": _pairs(certs.ski_hex(certificate)),
        "pem": certs.certificate_to_pem(certificate),
    }


def served_certificate(domain: str, outbound: Outbound) -> Certificate:
    """Return the certificate that `host` or `host:port` serves, unverified; FetchError when there is none."""
    from ocspd.authority.fetching import Deadline  # noqa: PLC0415  (ssl and http.client, for this only)

    host, port = split_host(domain)
    served = outbound.served_certificates(host, port, Deadline(DIAL_S))
    return certs.load_certificate(served[0])


async def find_certificate(db: CertDB, serial_text: str, aki: str) -> Certificate:
    """Return the certificate with a serial number and a key identifier, in any notation, of a database.

    OCSPDError when there is none; CodedError when its PEM or the database cannot be read.
    """
    try:
        serial = parse_serial(serial_text)
    except CodedError as err:
        raise OCSPDError(f"{NOT_FOUND}: {err.message}") from err
    wanted = normalize_aki(aki.strip())
    rows = await db.find_certificates(serial)
    row = next((row for row in rows if normalize_aki(row.aki) == wanted), None)
    if row is None:
        # Debian's CFSSL 1.2.0 stores no key identifier
        row = next((row for row in rows if not row.aki and _has_identifier(row, wanted)), None)
    if row is None:
        raise OCSPDError(NOT_FOUND)
    return certs.load_certificate(row.pem.encode("utf-8", "replace"))


def _has_identifier(row: CertificateRow, aki: str) -> bool:
    try:
        return certs.aki_hex(certs.load_certificate(row.pem.encode("utf-8", "replace"))) == aki
    except CodedError:
        return False


def _name(data: bytes) -> dict[str, Any]:
    name = names.parse(data, lenient=True)
    fields = {
        "common_name": name.common_name,
        "serial_number": name.serial_number,
        "country": ",".join(name.country),
        "organization": ",".join(name.organization),
        "organizational_unit": ",".join(name.unit),
        "locality": ",".join(name.locality),
        "province": ",".join(name.province),
        "street_address": ",".join(name.street),
        "postal_code": ",".join(name.postal_code),
        "names": [text for _, text in names.attributes(data, lenient=True)],
    }
    return {key: value for key, value in fields.items() if value}


def signature_of(certificate: Certificate) -> str:
    """Return CFSSL's name of the algorithm a certificate is signed with."""
    return signature_name(_signature_algorithm(certificate))


def _signature_algorithm(certificate: Certificate) -> bytes:
    fields = der_reader.elements(
        der_reader.single(certificate.tbs_certificate_bytes, der_reader.SEQUENCE, "the certificate")
    )
    if fields and fields[0].tag == 0xA0:  # the version, absent in version 1
        del fields[0]
    return der_reader.expect(fields, 1, der_reader.SEQUENCE, "the signature algorithm").content


def ip_text(octets: bytes) -> str:
    """Write an IP address as Go does: an IPv4-mapped one as IPv4."""
    address = ipaddress.ip_address(octets)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def time_text(instant: datetime) -> str:
    """Write a time as Go's JSON encoder does (RFC 3339)."""
    # strftime pads years below 1000 differently from one C library to the next
    return "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z".format(*instant.timetuple()[:6])


def _pairs(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()
