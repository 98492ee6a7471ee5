from __future__ import annotations

import datetime as dt
from contextlib import suppress
from email.utils import formatdate

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from ocspd._der import OCSPRequest, OCSPResponse, parse_request, parse_response
from ocspd._text import http_date
from ocspd.errors import DERError
from tests.native.answers import HASHES, NOW
from tests.native.oracle import certid
from tests.native.strategies import DERS
from tests.native.world import GOOD, authorities, stored

CA = authorities()[0]
DER = CA.request(GOOD)
SHA1 = bytes.fromhex("06052b0e03021a")


def tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    octets = len(content).to_bytes((len(content).bit_length() + 7) // 8 or 1, "big")
    return bytes((tag,)) + (octets if len(content) < 128 else bytes((0x80 | len(octets),)) + octets) + content


ALGORITHM = tlv(0x30, SHA1, b"\x05\x00")


def cert_id(serial: bytes = b"\x07", algorithm: bytes = ALGORITHM, *more: bytes) -> bytes:
    return tlv(0x30, algorithm, tlv(4, b"n" * 20), tlv(4, b"k" * 20), tlv(2, serial), *more)


def request(*tbs: bytes, after: bytes = b"") -> bytes:
    return tlv(0x30, tlv(0x30, *tbs), after)


def asks(*certids: bytes, extensions: bytes = b"") -> bytes:
    return tlv(0x30, *(tlv(0x30, one, extensions) for one in certids))


def extensions(tag: int, *pairs: tuple[bytes, bytes]) -> bytes:
    return tlv(tag, tlv(0x30, *(tlv(0x30, tlv(6, oid), tlv(4, value)) for oid, value in pairs)))


NONCE = bytes.fromhex("2b0601050507300102")


@pytest.mark.parametrize("der", DERS)
def test_requests_read_as_cryptography_reads_them(der: bytes) -> None:
    ours, theirs = parse_request(der), ocsp.load_der_ocsp_request(der)
    assert (ours.serial, ours.issuer_name_hash, ours.issuer_key_hash) == (
        theirs.serial_number,
        theirs.issuer_name_hash,
        theirs.issuer_key_hash,
    )
    assert ours.hash_name == theirs.hash_algorithm.name
    assert (ours.hash_name, ours.issuer_name_hash, ours.issuer_key_hash, ours.serial) == certid(der)
    assert ours.count == 1
    nonces = [e.value.public_bytes() for e in theirs.extensions if e.oid == x509.OCSPNonce.oid]
    assert ours.nonce == (nonces[0] if nonces else None)


@pytest.mark.parametrize("answer", stored())
def test_answers_read_as_cryptography_reads_them(answer: object) -> None:
    der: bytes = answer.der  # type: ignore[attr-defined]
    ours, theirs = parse_response(der), ocsp.load_der_ocsp_response(der)
    single = next(theirs.responses)
    assert ours.serial == single.serial_number
    assert ours.hash_name == single.hash_algorithm.name
    assert ours.status == {"GOOD": 0, "REVOKED": 1, "UNKNOWN": 2}[single.certificate_status.name]
    assert ours.tbs == theirs.tbs_response_bytes
    assert ours.signature == theirs.signature
    assert ours.certificates == [one.public_bytes(Encoding.DER) for one in theirs.certificates]
    assert ours.produced_at == theirs.produced_at_utc.timestamp()
    assert ours.this_update == single.this_update_utc.timestamp()
    assert ours.next_update == (single.next_update_utc.timestamp() if single.next_update_utc else None)
    assert ours.revoked_at == (single.revocation_time_utc.timestamp() if single.revocation_time_utc else None)
    reasons = {x509.ReasonFlags.key_compromise: 1, None: None}
    assert ours.reason == reasons[single.revocation_reason]
    assert ours.responder_id == tlv(0xA2, tlv(4, theirs.responder_key_hash or b""))


ACCEPTED = {
    "plain": request(asks(cert_id())),
    "no parameters": request(asks(cert_id(algorithm=tlv(0x30, SHA1)))),
    "version 0": request(tlv(0xA0, b"\x02\x01\x00"), asks(cert_id())),
    "version 9": request(tlv(0xA0, b"\x02\x01\x09"), asks(cert_id())),
    "requestor": request(tlv(0xA1, tlv(0xA4, b"\x30\x00")), asks(cert_id())),
    "signature": request(asks(cert_id()), after=tlv(0xA0, b"\x30\x00")),
    "extension": request(asks(cert_id()), extensions(0xA2, (b"\x2a", b""))),
    "single extension": request(asks(cert_id(), extensions=extensions(0xA0, (NONCE, b"")))),
    "unwrapped nonce": request(asks(cert_id()), extensions(0xA2, (NONCE, b"raw"))),
    "zero serial": request(asks(cert_id(b"\x00"))),
    "negative serial": request(asks(cert_id(b"\xff"))),
    "long serial": request(asks(cert_id(b"\x01" * 60))),
    "21 octets": request(asks(cert_id(b"\x00" + b"\xff" * 20))),
}
REFUSED = {
    "nothing": b"",
    "null": b"\x05\x00",
    "trailing": request(asks(cert_id())) + b"\x00",
    "no certificate": request(asks()),
    "no list": request(),
    "empty serial": request(asks(cert_id(b""))),
    "md5": request(asks(cert_id(algorithm=tlv(0x30, bytes.fromhex("06082a864886f70d0205"))))),
    "sha224": request(asks(cert_id(algorithm=tlv(0x30, bytes.fromhex("0609608648016503040204"))))),
    "other parameters": request(asks(cert_id(algorithm=tlv(0x30, SHA1, b"\x30\x00")))),
    "long null": request(asks(cert_id(algorithm=tlv(0x30, SHA1, b"\x05\x01\x00")))),
    "more in certid": request(asks(cert_id(b"\x07", ALGORITHM, b"\x05\x00"))),
    "duplicate extension": request(asks(cert_id()), extensions(0xA2, (b"\x2a", b""), (b"\x2a", b"x"))),
    "empty oid": request(asks(cert_id()), extensions(0xA2, (b"", b""))),
    "33 extensions": request(asks(cert_id()), extensions(0xA2, *((bytes((n,)), b"") for n in range(1, 34)))),
    "second certid broken": request(asks(cert_id(), cert_id(b""))),
    "indefinite": b"\x30\x80" + request(asks(cert_id()))[2:] + b"\0\0",
    "length of five octets": b"\x30\x85\0\0\0\0\x01\x00",
    "not minimal": b"\x30\x81\x05\x30\x03\x30\x01\x00",
    "leading zero length": b"\x30\x82\x00\x90" + bytes(0x90),
    "long tag": b"\x3f\x01\x00",
    "huge length": b"\x30\x84\xff\xff\xff\xff",
    "huge inner length": b"\x30\x06\x30\x84\x7f\xff\xff\xff",
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_H12_H13_tolerated_requests_are_read(name: str) -> None:
    found = parse_request(ACCEPTED[name])
    assert found.count == 1
    assert found.issuer_key_hash == b"k" * 20
    assert found.serial == certid(ACCEPTED[name])[3]


# What is said is what went wrong first: a reader that has failed reads on, and finds nothing else to say.
REASONS = {
    "nothing": "the data ends inside an element",
    "null": "unexpected ASN.1 tag",
    "trailing": "trailing data after the end of a structure",
    "no certificate": "the list of certificates is empty",
    "no list": "the data ends inside an element",
    "empty serial": "the serial number is empty",
    "md5": "the CertID hash algorithm is not SHA-1, SHA-256, SHA-384 or SHA-512",
    "sha224": "the CertID hash algorithm is not SHA-1, SHA-256, SHA-384 or SHA-512",
    "other parameters": "unexpected ASN.1 tag",
    "long null": "trailing data after the end of a structure",
    "more in certid": "trailing data after the end of a structure",
    "duplicate extension": "duplicate extension",
    "empty oid": "an extension has an empty identifier",
    "33 extensions": "too many extensions",
    "second certid broken": "the serial number is empty",
    "indefinite": "indefinite, non-minimal or oversized ASN.1 length",
    "length of five octets": "indefinite, non-minimal or oversized ASN.1 length",
    "not minimal": "indefinite, non-minimal or oversized ASN.1 length",
    "leading zero length": "indefinite, non-minimal or oversized ASN.1 length",
    "long tag": "unexpected ASN.1 tag",
    "huge length": "the data ends inside an element",
    "huge inner length": "the data ends inside an element",
}


@pytest.mark.parametrize("name", REFUSED)
def test_H14_what_is_no_request_is_refused_with_what_went_wrong_first(name: str) -> None:
    with pytest.raises(DERError) as refused:
        parse_request(REFUSED[name])
    assert str(refused.value) == f"OCSP request: {REASONS[name]}"


def test_a_failure_is_not_forgotten_over_what_is_well_behind_it() -> None:
    with pytest.raises(DERError, match=r": the serial number is empty$"):
        parse_request(request(asks(cert_id(b""), *[cert_id()] * 40)))
    with pytest.raises(DERError, match=r": an extension has an empty identifier$"):
        parse_request(request(asks(cert_id()), extensions(0xA2, (b"", b""), (b"\x2a", b""))))


def test_H11_several_certificates_are_counted() -> None:
    found = parse_request(request(asks(cert_id(), cert_id(b"\x08"), cert_id(b"\x09"))))
    assert (found.count, found.serial) == (3, 7)


def test_C35_a_nonce_in_the_wrong_place_is_no_nonce() -> None:
    assert parse_request(ACCEPTED["single extension"]).nonce is None
    assert parse_request(ACCEPTED["unwrapped nonce"]).nonce == b"raw"


@settings(deadline=None, max_examples=1000)
@given(
    der=st.sampled_from([*DERS, *(answer.der for answer in stored()), *ACCEPTED.values()]),
    edits=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, 600),
)
def test_damaged_structures_are_read_or_refused(
    der: bytes, edits: list[tuple[int, int]], cut: int | None
) -> None:
    damaged = bytearray(der)
    for place, octet in edits:
        damaged[place % len(der)] = octet
    for parse in (parse_request, parse_response):
        with suppress(DERError):
            parse(bytes(damaged[:cut]))


@pytest.mark.parametrize("status", [1, 2, 3, 5, 6])
def test_error_answers_are_not_successful(status: int) -> None:
    with pytest.raises(DERError, match="not successful"):
        parse_response(bytes((0x30, 3, 10, 1, status)))


@settings(max_examples=500)
@given(st.integers(-62_000_000_000, 253_402_300_799))
def test_http_dates_agree_with_the_standard_library(seconds: int) -> None:
    instant = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    text = http_date(seconds)
    assert text == f"{instant:%a, %d %b} {instant.year:04d} {instant:%H:%M:%S} GMT"
    if seconds >= 0:
        assert text == formatdate(seconds, usegmt=True)


@pytest.mark.parametrize("seconds", [253_402_300_800, -62_167_219_201, 1 << 62])
def test_times_outside_four_digit_years_have_no_date(seconds: int) -> None:
    with pytest.raises(ValueError, match="no HTTP date"):
        http_date(seconds)


def test_the_results_cannot_be_made_by_hand() -> None:
    for kind in (OCSPRequest, OCSPResponse):
        with pytest.raises(TypeError):
            kind()


def test_every_hash_algorithm_is_known_by_its_name() -> None:
    assert [parse_request(CA.request(GOOD, name)).hash_name for name in HASHES] == list(HASHES)
    assert parse_response(CA.answer(GOOD)).this_update == NOW.timestamp()


@pytest.mark.parametrize(
    "der", [DERS[-1], *(stored()[n].der for n in (1, 3, 6))], ids=["request", "good", "revoked", "endless"]
)
def test_every_single_octet_may_be_wrong_or_the_last(der: bytes) -> None:
    for place in range(len(der)):
        for octet in (0, 0x02, 0x30, 0x80, 0x82, 0xA0, 0xFF, der[place] ^ 1, der[place] + 1 & 0xFF):
            for damaged in (der[:place] + bytes((octet,)) + der[place + 1 :], der[:place] + der[place + 1 :]):
                for parse in (parse_request, parse_response):
                    with suppress(DERError):
                        parse(damaged)


def test_an_answer_of_status_unknown_is_read() -> None:
    der = CA.answer(GOOD).replace(b"\x80\x00\x18\x0f", b"\x82\x00\x18\x0f")
    assert parse_response(der).status == 2
