"""Certificates that are not read before they are signed are those that every reader takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from ocspd.errors import CodedError, DERError
from ocspd.pki import der, der_reader, keys
from ocspd.pki.certs import to_row
from ocspd.pki.extensions import Extension
from ocspd.pki.names import Name
from ocspd.pki.sans import AlternativeNames
from ocspd.pki.template import CertificateTemplate, IssuerParts, SigningKey
from ocspd.pki.usages import parse_usages
from tests.pki.chain import make_key

if TYPE_CHECKING:
    from ocspd.pki.template import Issued

NOW = datetime(2026, 5, 4, 3, 2, 31, tzinfo=UTC)
KEY = SigningKey.of(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))  # the same signature each time
CA = IssuerParts(Name(common_name="CA").encode(), b"k" * 20)
KEY_INFO = keys.public_key_info(make_key("ecdsa-256"))
USAGES = parse_usages(["signing", "server auth"])

texts = st.one_of(
    st.text(max_size=70),
    st.text("abcXYZ019.-*@/: ", min_size=1, max_size=70),
    st.sampled_from(["", "DE", "de", "D", "ä", "\u2028", "a\x00b", "x" * 64, "x" * 65, "例え"]),
)
lists = st.lists(texts, max_size=3).map(tuple)
names = st.builds(
    Name,
    common_name=texts,
    serial_number=texts,
    country=lists,
    organization=lists,
    unit=lists,
    locality=lists,
    extra=st.lists(st.tuples(st.sampled_from(["2.5.4.3", "2.5.4.42", "1.2.3.4"]), texts), max_size=1).map(
        tuple
    ),
)
alternatives = st.builds(
    AlternativeNames,
    dns=lists,
    emails=lists,
    uris=lists,
    ips=st.lists(st.sampled_from([b"\x01\x02\x03\x04", bytes(16)]), max_size=2).map(tuple),
)
times = st.datetimes(datetime(1930, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001  (made aware below)


def template(
    subject: Name, alternative: AlternativeNames, start: datetime = NOW, **more: object
) -> CertificateTemplate:
    return CertificateTemplate(
        serial=1 << 150,
        subject=subject,
        key_info=KEY_INFO,
        not_before=start,
        not_after=start + timedelta(days=90),
        usages=USAGES,
        alternative_names=alternative,
        **more,  # type: ignore[arg-type]
    )


def issued(wanted: CertificateTemplate) -> Issued | str:
    try:
        return wanted.issue(KEY, CA)
    except CodedError as err:
        return err.message


@given(subject=names, alternative=alternatives, start=times)
def test_what_is_not_rehearsed_is_what_would_have_passed(
    subject: Name, alternative: AlternativeNames, start: datetime
) -> None:
    aware = start.replace(tzinfo=UTC)
    # an URL of its own: these constant parts have not been read, so the certificate is
    rehearsed = issued(
        template(
            subject,
            alternative,
            aware,
            ocsp_urls=(f"http://x/{subject}"[:60].encode("ascii", "replace").decode(),),
        )
    )
    issued(template(Name(common_name="plain"), AlternativeNames()))
    direct = issued(template(subject, alternative, aware))
    if isinstance(direct, str) or isinstance(rehearsed, str):
        assert direct == rehearsed
        return
    found = direct.certificate()
    assert direct.row(label="a", issued_at=NOW) == to_row(found, label="a", issued_at=NOW)
    assert issued(template(subject, alternative, aware)) == direct
    if subject.is_plain() and alternative.is_plain() and aware.year >= 1950:
        assert isinstance(found, x509.Certificate)


def test_the_row_says_what_an_extension_of_the_request_says() -> None:
    """Where a request brings extensions that take the place of ours, the row is read from the certificate."""
    other = AlternativeNames(dns=("other.example",))
    san = Extension("2.5.29.17", critical=False, value=other.encode())
    aki = Extension("2.5.29.35", critical=False, value=bytes.fromhex("30068004") + b"abcd")
    for _ in range(2):
        found = issued(template(Name(common_name="x"), AlternativeNames(dns=("x",)), extra=(san, aki)))
        assert not isinstance(found, str)
        assert (found.dns, found.aki) == (("other.example",), b"abcd".hex())


@pytest.mark.parametrize("size", [10, 5000])
def test_large_extensions_of_requests_are_not_kept(size: int) -> None:
    from ocspd.pki.template import _constant

    before = _constant.cache_info().currsize
    odd = Extension("1.2.3.4.5", critical=False, value=size.to_bytes(2, "big") * (size // 2))
    wanted = template(Name(common_name="x"), AlternativeNames(), extra=(odd,))
    first, second = issued(wanted), issued(wanted)
    assert first == second
    assert not isinstance(first, str)
    assert odd.value in first.der
    assert _constant.cache_info().currsize - before == (1 if size < 4096 else 0)


@pytest.mark.parametrize("size", [4100, 1_000_000])
def test_a_long_url_of_a_request_is_not_kept_either(size: int) -> None:
    from ocspd.pki.template import _constant

    before = _constant.cache_info().misses
    for _ in range(2):
        issued(template(Name(common_name="x"), AlternativeNames(), crl_urls=(f"http://{size:a>{size}}",)))
    assert _constant.cache_info().misses == before


def outcome(read: object, data: bytes) -> object:
    try:
        return list(read(data))  # type: ignore[operator]
    except DERError as err:
        return str(err)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.tuples(
                st.integers(0, 255),
                st.sampled_from([b"", b"\x81", b"\x82\x00", b"\x84\xff", b"\x85", b"\x80"]),
                st.binary(max_size=140),
            ),
            max_size=4,
        ).map(
            lambda parts: b"".join(
                bytes((tag,)) + (odd or bytes((min(len(rest), 127),))) + rest for tag, odd, rest in parts
            )
        ),
    )
)
def test_native_and_python_split_der_alike(data: bytes) -> None:
    assert outcome(der_reader.elements, data) == outcome(der_reader.each, data)


@pytest.mark.parametrize(
    "data",
    [b"", b"0", b"0\x00", b"0\x01", b"0\x01a", b"0\x81\x7f" + bytes(127), b"0\x81\x80" + bytes(128),
     b"0\x82\x00\x80" + bytes(128), b"0\x84\x7f\xff\xff\xff", b"0\x84\xff\xff\xff\xff",
     b"0\x85\x01\x00\x00\x00\x00", b"0\x80\x00\x00", b"\x1f\x01a", b"0\x82\x01",
     b"0\x82\x01\x00" + bytes(256) + b"1"],
)  # fmt: skip
def test_lengths_at_their_limits_are_read_alike(data: bytes) -> None:
    assert outcome(der_reader.elements, data) == outcome(der_reader.each, data)


def joined(tag: int, *parts: bytes) -> bytes:
    """What X.690 §10.1 says, in Python."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    octets = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 129, 255, 256, 257, 65535, 65536, 1 << 24])
def test_elements_are_joined_with_lengths_in_the_fewest_bytes(size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    half = size // 2
    for parts in ((content,), (content[:half], content[half:]), (b"", content, b"")):
        assert der.tlv(0xA3, *parts) == joined(0xA3, *parts)
        assert der.sequence(*parts) == joined(0x30, *parts)
        assert der_reader.elements(der.sequence(*parts))[0].content == content


@pytest.mark.parametrize("part", [None, "text", bytearray(b"x"), 1])
def test_only_bytes_are_joined(part: object) -> None:
    with pytest.raises(TypeError):
        der.sequence(b"", part)  # type: ignore[arg-type]
