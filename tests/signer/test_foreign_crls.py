"""CRLs in the encodings of other programs: imported, and no entry says less than it does."""

from __future__ import annotations

from typing import Any

import pytest

from ocspd.errors import ConfigError
from ocspd.pki.certs import load_certificate
from ocspd.pki.crl import CRLInfo, Entry, Listed, load_crls
from ocspd.pki.der import oid, tlv
from tests.pki import encodings as e
from tests.pki.chain import make_key

LONG_OID = tlv(6, b"\x2a" + b"\x81\x01" * 35)
TRUE, FALSE, ONE = b"\x01\x01\xff", b"\x01\x01\x00", b"\x01\x01\x01"
SUBJECT = e.name(
    e.attribute(e.COUNTRY, b"FR", e.PRINTABLE), e.attribute(e.COMMON_NAME, b"Example  CA", e.PRINTABLE)
)
CA = load_certificate(
    e.certificate(subject=SUBJECT, extensions=[e.extension(e.BASIC_CONSTRAINTS, e.sequence(TRUE), TRUE)])
)
WHEN = tlv(0x17, b"260101000000Z")
REASON, INVALIDITY, ISSUER, NUMBER, SCOPE = "2.5.29.21", "2.5.29.24", "2.5.29.29", "2.5.29.20", "2.5.29.28"


def reason(value: int, critical: bytes = b"") -> bytes:
    return e.extension(REASON, bytes((10, 1, value)), critical)


def entry(*extensions: bytes, serial: bytes = b"\x05", when: bytes = WHEN) -> bytes:
    return e.sequence(tlv(2, serial), when, e.sequence(*extensions) if extensions else b"")


def crl(
    *entries: bytes,
    issuer: bytes = SUBJECT,
    algorithm: bytes = b"",
    version: bytes = tlv(2, b"\1"),
    times: bytes = WHEN + tlv(0x17, b"360101000000Z"),
    extensions: tuple[bytes, ...] = (e.extension(NUMBER, tlv(2, b"\x07")),),
    key: Any = None,
) -> bytes:
    key = key or make_key("ecdsa-256")
    algorithm = algorithm or e.algorithm(key)
    body = e.sequence(
        version,
        algorithm,
        issuer,
        times,
        e.sequence(*entries) if entries else b"",
        tlv(0xA0, e.sequence(*extensions)) if extensions else b"",
    )
    return e.sequence(body, algorithm, tlv(3, b"\0", e.sign(key, body)))


def read(data: bytes) -> tuple[CRLInfo, list[Entry]]:
    (found,) = load_crls(data, "a.crl")
    return found.heading([CA]), list(found.entries())


@pytest.mark.parametrize(
    "data",
    [
        crl(entry(reason(1))),
        crl(entry(reason(1)), algorithm=e.sequence(oid(e.ECDSA_SHA256), e.NULL)),
        crl(entry(reason(1, FALSE))),
        crl(entry(reason(1, ONE))),
        crl(entry(reason(1), when=tlv(0x17, b"2601010000Z"))),
        crl(entry(reason(1), when=tlv(0x17, b"260101010000+0100"))),
        crl(entry(reason(1), when=tlv(0x18, b"20260101000000.5Z"))),
        crl(entry(reason(1), serial=b"\0\x05")),
        crl(entry(reason(1)), times=tlv(0x17, b"2601010000Z") + tlv(0x18, b"20360101000000Z")),
        crl(entry(reason(1)), times=WHEN),
        crl(entry(reason(1)), version=b""),
        crl(entry(reason(1))) + b"\r\n",
        crl(
            entry(reason(1)), extensions=(e.extension(NUMBER, tlv(2, b"\x07")), e.sequence(LONG_OID, tlv(4)))
        ),
        crl(entry(reason(1)), extensions=(e.extension(NUMBER, tlv(2, b"\0\x07"), FALSE),)),
        crl(entry(reason(1)), extensions=(e.extension(NUMBER, tlv(2, b"\x07")), e.extension("1.2.3", b"?"))),
    ],
)
def test_a_crl_that_is_not_strict_der_is_read(data: bytes) -> None:
    heading, entries = read(data)
    assert (heading.number, heading.entries) == (7 if b"\x55\x1d\x14" in data else None, 1)
    assert entries == [Entry(5, Listed.REVOKED, 1, 1767225600, invalidity=False, unreadable=False)]


@pytest.mark.parametrize(
    "issuer",
    [
        e.name(e.attribute(e.COUNTRY, b"fr", e.PRINTABLE), e.attribute(e.COMMON_NAME, b"EXAMPLE ca")),
        e.name(e.attribute(e.COUNTRY, b"FR", e.IA5), e.attribute(e.COMMON_NAME, b" Example CA  ", e.T61)),
        e.name(
            e.attribute(e.COUNTRY, b"FR"),
            e.attribute(e.COMMON_NAME, "example ca".encode("utf-16-be"), e.BMP),
        ),
    ],
)
def test_an_issuer_that_differs_in_case_spacing_or_string_type_is_the_same(issuer: bytes) -> None:
    assert read(crl(issuer=issuer))[0].issuer == 0


@pytest.mark.parametrize(
    "issuer",
    [
        e.name(e.attribute(e.COUNTRY, b"FR"), e.attribute(e.COMMON_NAME, b"ExampleCA")),
        e.name(e.attribute(e.COMMON_NAME, b"Example CA"), e.attribute(e.COUNTRY, b"FR")),
        e.sequence(),
    ],
)
def test_another_issuer_stays_another(issuer: bytes) -> None:
    with pytest.raises(ConfigError, match="none of the given CA certificates"):
        read(crl(issuer=issuer))


def test_an_issuer_of_the_same_name_with_another_key_is_refused() -> None:
    other = make_key("ecdsa-384")
    with pytest.raises(ConfigError, match="its signature is not that of 'CN=Example  CA,C=FR'"):
        read(crl(key=other))


UTC_INVALIDITY = e.extension(INVALIDITY, tlv(0x17, b"260101000000Z"))
BROKEN = e.sequence(oid("1.2.3"))


@pytest.mark.parametrize("bad", [UTC_INVALIDITY, BROKEN, e.extension("1.2.3", b"\xff\xff")])
@pytest.mark.parametrize("first", [True, False])
def test_an_unreadable_extension_hides_no_reason(bad: bytes, *, first: bool) -> None:
    both = (bad, reason(1)) if first else (reason(1), bad)
    _, (found,) = read(crl(entry(*both)))
    assert (found.listed, found.reason) == (Listed.REVOKED, 1)
    assert found.unreadable == (bad is BROKEN)
    assert found.invalidity == (bad is UTC_INVALIDITY)


@pytest.mark.parametrize("bad", [UTC_INVALIDITY, BROKEN, reason(7), reason(11)])
@pytest.mark.parametrize(
    ("other", "cause"),
    [
        (e.extension(ISSUER, e.sequence(tlv(0xA4, SUBJECT)), TRUE), "of another issuer"),
        (e.extension("1.2.3.4", b"", TRUE), r"critical extension 1\.2\.3\.4"),
        (e.extension("1.2.3.4", b"", ONE), r"critical extension 1\.2\.3\.4"),
    ],
)
def test_an_unreadable_extension_hides_nothing_that_stops_the_import(
    bad: bytes, other: bytes, cause: str
) -> None:
    with pytest.raises(ConfigError, match=cause):
        read(crl(entry(bad, other)))


@pytest.mark.parametrize(
    "extensions",
    [
        (reason(7),),
        (reason(11),),
        (e.extension(REASON, tlv(2, b"\1")),),
        (reason(8), reason(1)),
        (b"\x30\x05\x06",),
    ],
)
def test_an_entry_whose_reason_cannot_be_read_is_revoked_without_one(extensions: tuple[bytes, ...]) -> None:
    _, (found,) = read(crl(e.sequence(tlv(2, b"\5"), WHEN, tlv(0x30, *extensions))))
    assert (found.listed, found.reason, found.unreadable) == (Listed.REVOKED, 0, True)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (crl()[:-1], "exceeds its container"),
        (crl() + b"\0", "trailing bytes"),
        (b"\x30\x80\0\0", "indefinite length"),
        (b"\x30\0", "its content is missing"),
        (crl(b"\x30\x01\x02"), "an entry cannot be read"),
        (crl(e.sequence(tlv(2, b""), WHEN)), "serial number"),
        (crl(entry(when=tlv(0x17, b"260231000000Z"))), "a time that does not exist"),
        (crl(tlv(0x31, tlv(2, b"\5"), WHEN)), "not a SEQUENCE"),
        (crl(extensions=(e.extension(NUMBER, b"x"),)), "cannot read the CRL's extensions"),
        (crl(extensions=(e.extension(NUMBER, tlv(2, b"\1")),) * 2), "is a duplicate"),
        (crl(extensions=(e.extension("1.2.3", b"", TRUE),)), r"critical extension 1\.2\.3"),
        (crl(extensions=(e.extension(SCOPE, e.sequence(tlv(0x84, b"\1")), TRUE),)), "indirect CRL"),
        (crl(issuer=e.sequence(e.sequence())), "not a CRL, or damaged"),
        (crl(entry(e.sequence(LONG_OID, TRUE, tlv(4, b"x")))), "critical extension 1.2.129.129"),
        (
            crl(entry(e.sequence(tlv(6, b"\x2a" * 600), TRUE, tlv(4)))),
            "critical extension that cannot be read",
        ),
        (
            crl(entry(e.sequence(tlv(6, b""), ONE, tlv(4)), reason(1))),
            "critical extension that cannot be read",
        ),
        (crl(extensions=(e.extension(NUMBER, tlv(2, b"\x7f" * 2500)),)), "a CRL number of 2500 bytes"),
        (
            crl(entry(e.extension(ISSUER, e.sequence(tlv(0xA4, SUBJECT)), TRUE), serial=b"\x7f" * 2500)),
            "entry with a serial number of 2500 bytes is of another issuer",
        ),
    ],
)
def test_a_crl_that_cannot_be_used_is_refused_with_its_cause(data: bytes, cause: str) -> None:
    with pytest.raises(ConfigError, match=cause) as caught:
        read(data)
    assert str(caught.value).startswith("a.crl: ")
