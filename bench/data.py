"""Responses and requests to measure with: some are really signed, the others are patched copies.

The responder does not verify signatures, so for it a copy is as good as an original. CFSSL verifies every
response it loads; it gets only the originals, and all requests are for those.
"""

from __future__ import annotations

import base64
import random
import struct
import urllib.parse
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ocspd._der import parse_response
from ocspd.certdb.packed import PackedRows
from ocspd.clock import SystemClock
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertStatus
from ocspd.pki.ocsp import OCSPSigner
from ocspd.pki.signing_policy import SigningPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from ocspd.model import StatusRow
    from ocspd.pki.ocsp_template import ResponseBatch

SERIAL_OCTETS = 16
_TOP = 1 << 126  # serials keep 16 bytes and a clear top bit, so every response of a kind has one length
_STRIDE = 0x2545F4914F6CDD1D9E3779B97F4A7C15  # odd: multiplying by it permutes the 126-bit numbers
_POOL_OCTETS = 1 << 22
_REVOKED_EVERY = 100
_PACKED_ROWS = 500
_BATCH = b"N" * 12


def serial_of(number: int) -> int:
    """Return the serial of the certificate with this number; different numbers have different serials."""
    return _TOP | (number * _STRIDE & (_TOP - 1))


Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA with a delegated OCSP signer."""

    signer: OCSPSigner
    ca_key: Key
    responder_key: Key

    def write(self, directory: Path) -> None:
        """Write ca.pem, ca-key.pem, ocsp.pem and ocsp-key.pem."""
        for name, certificate, key in (
            ("ca", self.signer.issuer, self.ca_key),
            ("ocsp", self.signer.responder, self.responder_key),
        ):
            (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
            (directory / f"{name}-key.pem").write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )

    def certificate(self, number: int) -> bytes:
        """Return a leaf certificate in PEM with the serial of this number, for programs that want one."""
        now = datetime.now(UTC)
        issuer = self.signer.issuer
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"host-{number}.example.com")]))
            .issuer_name(issuer.subject)
            .public_key(self.responder_key.public_key())
            .serial_number(serial_of(number))
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=30))
            .sign(self.ca_key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )


def make_signer(kind: str) -> OCSPSigner:
    """Return the signer of `make_authority` alone."""
    return make_authority(kind).signer


def make_authority(kind: str) -> Authority:
    """Return a CA with a delegated signer, both of one key kind (`p256` or `rsa2048`)."""

    def key() -> Key:
        if kind == "p256":
            return ec.generate_private_key(ec.SECP256R1())
        return rsa.generate_private_key(65537, 2048)

    now = datetime.now(UTC)
    ca_key, responder_key = key(), key()
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "My intermediate CA")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "OCSP signer")])

    def builder(
        subject: x509.Name, public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )

    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    responder = (
        builder(name, responder_key.public_key())
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False)
        .add_extension(x509.OCSPNoCheck(), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    signer = OCSPSigner(ca, responder, responder_key, SigningPolicy(certid_hashes=("sha1",)), SystemClock())
    return Authority(signer, ca_key, responder_key)


def _sign(batch: ResponseBatch, number: int) -> bytes:
    if number % _REVOKED_EVERY == 1:
        return batch.sign(serial_of(number), CertStatus.REVOKED, 1, datetime(2026, 3, 1, tzinfo=UTC))
    return batch.sign(serial_of(number))


@dataclass(frozen=True, slots=True)
class _Mould:
    """The constant parts of a response; between them go the serial and the random parts of a signature."""

    head: bytes
    middle: bytes
    inner: bytes  # between ECDSA's r and s; empty for RSA
    tail: bytes
    first: int  # random bytes before `inner`
    second: int  # and after

    def fill(self, serial: bytes, noise: bytes, at: int) -> bytes:
        split = at + self.first
        return b"".join(
            (
                self.head,
                serial,
                self.middle,
                noise[at:split],
                self.inner,
                noise[split : split + self.second],
                self.tail,
            )
        )


def _mould(der: bytes, number: int) -> _Mould:
    serial = serial_of(number).to_bytes(SERIAL_OCTETS, "big")
    serial_at = der.index(serial)
    signature = parse_response(der).signature
    at = der.index(signature)
    head, middle = der[:serial_at], der[serial_at + SERIAL_OCTETS : at]
    tail = der[at + len(signature) :]
    if signature[0] != 0x30 or len(signature) > 72:  # RSA: the first byte keeps the number below the modulus
        return _Mould(head, middle + signature[:1], b"", tail, len(signature) - 1, 0)
    # SEQUENCE { INTEGER r, INTEGER s }: the leading bytes stay, so both keep sign and length.
    r_start = 4 + signature[3] - 31
    s_header = 4 + signature[3]
    s_start = len(signature) - 31
    return _Mould(head, middle + signature[:r_start], signature[s_header:s_start], tail, 31, 31)


class AnswerSource:
    """Answers for certificate numbers 0, 1, 2, …"""

    def __init__(self, signer: OCSPSigner, *, real_every: int) -> None:
        """Sign the response of every `real_every`-th certificate; make up the others."""
        self._batch = signer.batch()
        self._real_every = real_every
        self._noise = random.Random(1).randbytes(_POOL_OCTETS)
        # ECDSA signatures come in three common lengths: find a mould for each, for good and for revoked.
        moulds: tuple[dict[int, _Mould], dict[int, _Mould]] = ({}, {})
        for number in range(3200):
            for revoked, at in ((False, number * _REVOKED_EVERY), (True, number * _REVOKED_EVERY + 1)):
                der = _sign(self._batch, at)
                length = len(parse_response(der).signature)
                if length not in moulds[revoked] and length >= 70:
                    moulds[revoked][length] = _mould(der, at)
            if all(len(found) == 3 or 256 in found for found in moulds):
                break
        good, revoked_ = ([found[length] for length in sorted(found)] for found in moulds)
        self._good = [good[0], *good[1:2] * 2, *good[2:]]  # 71 bytes are twice as common
        self._revoked = [revoked_[0], *revoked_[1:2] * 2, *revoked_[2:]]

    def der(self, number: int) -> bytes:
        """Return one response."""
        if number % self._real_every == 0:
            return _sign(self._batch, number)
        moulds = self._revoked if number % _REVOKED_EVERY == 1 else self._good
        return moulds[number % len(moulds)].fill(
            serial_of(number).to_bytes(SERIAL_OCTETS, "big"), self._noise, number * 67 % (_POOL_OCTETS - 600)
        )

    def ders(self, count: int) -> Iterator[bytes]:
        """Yield the responses of the first `count` certificates."""
        return map(self.der, range(count))


class RequestSource:
    """OCSP requests for certificate numbers."""

    def __init__(self, signer: OCSPSigner) -> None:
        serial = serial_of(1)
        key = signer.issuer.public_key()
        placeholder = (
            x509.CertificateBuilder()
            .subject_name(signer.issuer.subject)
            .issuer_name(signer.issuer.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(datetime.now(UTC))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        )
        request = ocsp.OCSPRequestBuilder().add_certificate(placeholder, signer.issuer, hashes.SHA1()).build()
        der = request.public_bytes(serialization.Encoding.DER)
        self._head, self._tail = der.split(serial.to_bytes(SERIAL_OCTETS, "big"))

    def der(self, number: int) -> bytes:
        """Return the OCSPRequest for a certificate."""
        return self._head + serial_of(number).to_bytes(SERIAL_OCTETS, "big") + self._tail

    def get(self, number: int) -> bytes:
        """Return it as an HTTP GET, percent-encoded as in RFC 6960 App. A.1."""
        path = urllib.parse.quote(base64.b64encode(self.der(number)), safe="")
        return f"GET /{path} HTTP/1.1\r\nHost: ocsp.example.com\r\nAccept: */*\r\n\r\n".encode()

    def post(self, number: int) -> bytes:
        """Return it as an HTTP POST."""
        der = self.der(number)
        return (
            b"POST / HTTP/1.1\r\nHost: ocsp.example.com\r\nAccept: */*\r\n"
            b"Content-Type: application/ocsp-request\r\nContent-Length: %d\r\n\r\n%b" % (len(der), der)
        )


class Rows:
    """The status of `count` certificates, as PostgreSQL sends it; no row is stored.

    Rows are made five hundred at a time from one mould, or making them would cost more than fetching them.
    """

    name = "made-up rows"

    def __init__(self, count: int, aki: str, *, revoked_every: int = _REVOKED_EVERY) -> None:
        self._count, self._revoked_every = count, revoked_every
        key_id = aki.encode()
        self._good = _columns(key_id, b"good", _number(0), None, _time(2099))
        self._revoked = _columns(key_id, b"revoked", _number(1), _time(2026), _time(2099))

    async def stream_packed(self) -> AsyncIterator[PackedRows]:
        mould = self._mould(_PACKED_ROWS)
        for batch in range(self._count // _PACKED_ROWS):
            yield PackedRows(mould.replace(_BATCH, b"%012d" % batch), _PACKED_ROWS)
        rest = self._count % _PACKED_ROWS
        if rest:
            yield PackedRows(self._mould(rest).replace(_BATCH, b"9" * len(_BATCH)), rest)

    def _mould(self, rows: int) -> bytes:
        """Encode rows whose serial numbers lack the batch's: 39 digits in all, which are 16 bytes."""
        return b"".join(
            struct.pack(">h", 6)
            + _columns(b"10%b%025d" % (_BATCH, number * _STRIDE % 10**25))
            + (self._good if number % self._revoked_every else self._revoked)
            for number in range(rows)
        )

    def stream_status(self) -> AsyncIterator[list[StatusRow]]:
        raise AssertionError("rows are read where they are signed")

    async def get_certificate(self, serial: int, aki: str) -> None:
        return None

    async def upsert_ocsp(self, rows: Sequence[object]) -> None:
        raise AssertionError("no table is written")


def _columns(*values: bytes | None) -> bytes:
    """Encode columns of a row in binary COPY format."""
    return b"".join(
        b"\xff" * 4 if value is None else struct.pack(">i", len(value)) + value for value in values
    )


def _number(value: int) -> bytes:
    return struct.pack(">i", value)


def _time(year: int) -> bytes:
    """Encode the beginning of a year: microseconds since that of 2000."""
    return struct.pack(
        ">q", (datetime(year, 1, 1, tzinfo=UTC) - datetime(2000, 1, 1, tzinfo=UTC)).days * 86_400_000_000
    )


def closing(request: bytes) -> bytes:
    """Return the HTTP request with `Connection: close`."""
    head, body = request.split(b"\r\n\r\n", 1)
    return head + b"\r\nConnection: close\r\n\r\n" + body


def write_index_txt(path: Path, numbers: Iterator[int]) -> None:
    """Write certificates with these numbers as the database of `openssl ca`, a hundredth revoked."""
    with path.open("w") as file:
        for number in numbers:
            revoked = number % _REVOKED_EVERY == 1
            state, when = ("R", "260301000000Z,keyCompromise") if revoked else ("V", "")
            file.write(
                f"{state}\t491231235959Z\t{when}\t{serial_of(number):032X}\tunknown\t/CN=host-{number}\n"
            )


def write_requests(path: Path, requests: Iterator[bytes]) -> None:
    """Write HTTP requests for the load generators: each after its length (32 bits, little-endian)."""
    with path.open("wb") as file:
        for request in requests:
            file.write(struct.pack("<I", len(request)) + request)


def build_index(
    directory: Path, source: AnswerSource, count: int, *, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Write an index of `count` responses, one CertID each; `progress` receives the number done so far."""
    index = IndexDirectory(directory)
    now_s = int(datetime.now(UTC).timestamp())
    with index.lock():
        with index.writer(now_s) as writer:
            for number, der in enumerate(source.ders(count)):
                writer.add(der)
                if number % 1_000_000 == 0:
                    progress(number)
            writer.finish()
        (segment,) = directory.glob("new-*.seg")
        index.publish([index.adopt(segment)], now_s)
