from __future__ import annotations

import contextlib
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from ocspd.errors import DERError
from ocspd.pki.names import Name, directory_string, is_oid, parse

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=3).map(tuple)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def test_values_of_a_type_are_one_rdn_sorted_as_a_set() -> None:
    name = Name(organization=("bb", "a&b", "aa"), country=("FR",))
    key = ec.generate_private_key(ec.SECP256R1())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        organization = [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, text, _type=kind)
            for text, kind in (
                ("bb", _ASN1Type.PrintableString),
                ("a&b", _ASN1Type.UTF8String),
                ("aa", _ASN1Type.PrintableString),
            )
        ]
    country = x509.NameAttribute(NameOID.COUNTRY_NAME, "FR")
    theirs = x509.Name(
        [x509.RelativeDistinguishedName([country]), x509.RelativeDistinguishedName(organization)]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(theirs).sign(key, hashes.SHA256())
    assert name.encode() == theirs.public_bytes()
    assert name.encode() in request.tbs_certrequest_bytes


def test_attributes_are_in_the_order_of_go() -> None:
    name = Name(
        common_name="cn",
        serial_number="sn",
        country=("C",),
        province=("ST",),
        locality=("L",),
        street=("street",),
        postal_code=("post",),
        organization=("O",),
        unit=("OU",),
        extra=(("1.2.3", "x"), ("1.2.840.113549.1.9.1", "a@b")),
    )
    data = name.encode()
    order = [b"C", b"ST", b"L", b"street", b"post", b"O", b"OU", b"cn", b"sn", b"x", b"a@b"]
    tags = [0x0C if b"@" in text else 0x13 for text in order]
    positions = [data.index(bytes([tag, len(text)]) + text) for tag, text in zip(tags, order, strict=True)]
    assert positions == sorted(positions)


def test_an_extra_attribute_of_a_standard_type_takes_its_place() -> None:
    name = Name(common_name="replaced", country=("FR",), extra=(("2.5.4.3", "kept"),))
    assert b"replaced" not in name.encode()
    assert parse(name.encode()) == Name(common_name="kept", country=("FR",))


PRINTABLE = "ABCZabcz0189 '()+,-./:=?"


@pytest.mark.parametrize("char", PRINTABLE)
def test_a_printable_character_needs_no_utf8(char: str) -> None:
    assert directory_string(char)[0] == 0x13


@pytest.mark.parametrize("char", '*&@_!"#$%;<>[]^`{|}~é€\n')
def test_any_other_character_makes_it_utf8(char: str) -> None:
    assert directory_string(f"a{char}b")[0] == 0x0C


@given(
    st.builds(
        Name,
        common_name=TEXT,
        serial_number=TEXT,
        country=TEXTS,
        province=TEXTS,
        locality=TEXTS,
        street=TEXTS,
        postal_code=TEXTS,
        organization=TEXTS,
        unit=TEXTS,
        extra=st.lists(st.tuples(st.sampled_from(["1.2.3.4", "0.9.2342.19200300.100.1.25"]), TEXT)).map(
            tuple
        ),
    )
)
def test_a_name_reads_back_as_it_was_written_but_for_the_order_in_an_rdn(name: Name) -> None:
    encoded = name.encode()
    again = parse(encoded)
    assert again.encode() == encoded
    assert (again.common_name, again.serial_number, again.extra) == (
        name.common_name,
        name.serial_number,
        name.extra,
    )
    assert sorted(again.organization) == sorted(name.organization)


@pytest.mark.parametrize(
    ("tag", "content", "text"),
    [
        (0x0C, "é".encode(), "é"),
        (0x13, b"a", "a"),
        (0x14, b"\xe9", "é"),
        (0x16, b"a@b", "a@b"),
        (0x1E, "é".encode("utf-16-be"), "é"),
        (0x12, b"12", "12"),
    ],
)
def test_every_string_type_is_read(tag: int, content: bytes, text: str) -> None:
    value = bytes([tag, len(content)]) + content
    attribute = b"\x06\x03\x55\x04\x03" + value
    inner = b"\x30" + bytes([len(attribute)]) + attribute
    rdn = b"\x31" + bytes([len(inner)]) + inner
    assert parse(b"\x30" + bytes([len(rdn)]) + rdn).common_name == text


@given(st.binary(max_size=60))
def test_garbage_is_an_error_and_no_crash(data: bytes) -> None:
    with contextlib.suppress(DERError):
        parse(data)


@pytest.mark.parametrize("text", ["1.2", "2.999.1", "1.3.6.1.4.1.44363.44"])
def test_dotted_numbers_are_an_oid(text: str) -> None:
    assert is_oid(text)


@pytest.mark.parametrize("text", ["", "1", "1.", "3.1", "1.40", "1.2.x", "1..2", "-1.2", "1.2 "])
def test_anything_else_is_no_oid(text: str) -> None:
    assert not is_oid(text)
