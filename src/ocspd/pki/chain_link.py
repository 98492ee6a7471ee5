"""One certificate of a chain: what building chains and describing them asks of it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from ocspd.errors import CodedError, DERError
from ocspd.pki import certs, extensions, names
from ocspd.pki import der_reader as reader
from ocspd.pki.certid import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from cryptography import x509

    from ocspd.pki.extensions import BasicConstraints, Extension

_CERT_SIGN = 5
"""The bit of keyUsage, RFC 5280 §4.2.1.3."""
_OCSP = "1.3.6.1.5.5.7.48.1"
_CA_ISSUERS = "1.3.6.1.5.5.7.48.2"
_URI = 0x86


class Link:
    """A certificate, with what building a chain asks of it; each is read when it is first asked for."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self.certificate = certificate
        self.der = certificate.public_bytes(serialization.Encoding.DER)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Link) and other.der == self.der

    def __hash__(self) -> int:
        return hash(self.der)

    @cached_property
    def _outer(self) -> list[reader.Element]:
        return reader.elements(reader.single(self.der, reader.SEQUENCE, "the certificate"))

    @cached_property
    def signature(self) -> bytes:
        """The signature, by which CFSSL recognizes a certificate."""
        return reader.bits(self._outer[2].content)

    @property
    def tbs(self) -> bytes:
        """The bytes that are signed."""
        return self._outer[0].raw

    @property
    def algorithm_identifier(self) -> bytes:
        """The content of the AlgorithmIdentifier it is signed with."""
        return self._outer[1].content

    @cached_property
    def algorithm(self) -> str:
        """The OID of the algorithm it is signed with."""
        return reader.algorithm(self._outer[1].content)[0]

    @cached_property
    def version(self) -> int:
        """1 to 3."""
        first = reader.elements(self._outer[0].content)[0]
        if first.tag != 0xA0:
            return 1
        return reader.integer(reader.single(first.content, reader.INTEGER, "the version"), lenient=True) + 1

    @cached_property
    def serial(self) -> int:
        """The serial number; unlike the library's, without a warning about a negative one."""
        fields = reader.elements(self._outer[0].content)[:2]  # the version may come first
        parts = [part for part in fields if part.tag == reader.INTEGER]
        return reader.integer(
            reader.expect(parts, 0, reader.INTEGER, "the serial number").content, lenient=True
        )

    @cached_property
    def subject(self) -> bytes:
        """The DER of its subject."""
        return parts_of(self.certificate).subject

    @cached_property
    def issuer(self) -> bytes:
        """The DER of its issuer."""
        return parts_of(self.certificate).issuer

    @cached_property
    def key_info(self) -> bytes:
        """The DER of its SubjectPublicKeyInfo."""
        return parts_of(self.certificate).key_info

    @cached_property
    def public_key(self) -> object | None:
        """Its public key, None if it cannot be read or is of an unknown kind."""
        try:
            return self.certificate.public_key()
        except (UnsupportedAlgorithm, ValueError, TypeError):
            return None

    @cached_property
    def extensions(self) -> tuple[Extension, ...]:
        """Its extensions as encoded."""
        return extensions.of_certificate(self.certificate)

    @cached_property
    def key_id(self) -> bytes:
        """The subject key identifier, b"" without one."""
        return certs.subject_key_id(self.certificate) or b""

    @cached_property
    def issuer_key_id(self) -> bytes:
        """The authority key identifier, b"" without one."""
        return bytes.fromhex(certs.aki_hex(self.certificate))

    @cached_property
    def alternative_names(self) -> Extension | None:
        """The extension subjectAltName."""
        return extensions.find(self.extensions, extensions.SUBJECT_ALT_NAME)

    @cached_property
    def constraints(self) -> BasicConstraints | None:
        """Its basicConstraints, None without any."""
        found = extensions.find(self.extensions, extensions.BASIC_CONSTRAINTS)
        return None if found is None else certs.basic_constraints(self.certificate)

    @property
    def is_ca(self) -> bool:
        """Whether basicConstraints says so."""
        return self.constraints is not None and self.constraints.ca

    @cached_property
    def may_sign_certificates(self) -> bool:
        """Whether keyUsage allows it, or there is none."""
        found = extensions.find(self.extensions, extensions.KEY_USAGE)
        if found is None:
            return True
        try:
            content = reader.single(found.value, reader.BIT_STRING, "keyUsage")
        except DERError:
            return True
        return not any(content[1:]) or bool(content[1] & 0x80 >> _CERT_SIGN)

    @cached_property
    def urls(self) -> dict[str, list[str]]:
        """The URLs of authorityInfoAccess by access method."""
        found = extensions.find(self.extensions, extensions.AUTHORITY_INFO_ACCESS)
        urls: dict[str, list[str]] = {_OCSP: [], _CA_ISSUERS: []}
        if found is None:
            return urls
        try:
            for part in reader.each(reader.single(found.value, reader.SEQUENCE, "authorityInfoAccess")):
                method, place = reader.elements(part.content)[:2]
                if place.tag == _URI:
                    urls.setdefault(reader.object_identifier(method.content, lenient=True), []).append(
                        place.content.decode("ascii", "replace")
                    )
        except (DERError, ValueError):
            pass
        return urls

    @property
    def issuer_urls(self) -> list[str]:
        """Where the issuer's certificate can be fetched (AIA caIssuers)."""
        return self.urls[_CA_ISSUERS]

    @property
    def ocsp_urls(self) -> list[str]:
        """The OCSP servers."""
        return self.urls[_OCSP]

    @cached_property
    def crl_urls(self) -> list[str]:
        """The URLs of cRLDistributionPoints."""
        found = extensions.find(self.extensions, extensions.CRL_DISTRIBUTION_POINTS)
        return [] if found is None else list(_point_urls(found.value))

    @cached_property
    def name(self) -> names.Name:
        """Its subject in CFSSL's fields; an empty one if it cannot be read."""
        try:
            return certs.subject_name(self.certificate)
        except CodedError:
            return names.Name()

    @property
    def not_before(self) -> datetime:
        """The beginning of its validity."""
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """The end of its validity."""
        return self.certificate.not_valid_after_utc

    def label(self) -> str:
        """Return the name that Go's errors use."""
        name = self.name
        return name.common_name or next(iter(name.organization), f"serial:{self.serial}")


def _point_urls(value: bytes) -> Iterator[str]:
    """Yield the URLs of the full names in cRLDistributionPoints."""
    try:
        for point in reader.each(reader.single(value, reader.SEQUENCE, "cRLDistributionPoints")):
            for field in reader.each(point.content):
                if field.tag != 0xA0:
                    continue
                for full in reader.each(field.content):
                    if full.tag == 0xA0:
                        for name in reader.each(full.content):
                            if name.tag == _URI:
                                yield name.content.decode("ascii", "replace")
    except DERError:
        return
