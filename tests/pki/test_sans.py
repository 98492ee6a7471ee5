from __future__ import annotations

import ipaddress
import json
import subprocess

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from ocspd.errors import Code, CodedError, DERError
from ocspd.pki.sans import MAX_NAMES, AlternativeNames, classify, has_control, parse
from tests.tools import need

ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126))
IP, EMAIL, URI, DNS = "ip", "email", "uri", "dns"

# what Go 1.19 makes of each, in CFSSL's order of tests
TABLE = [
    ("10.0.0.1", IP, "10.0.0.1"),
    ("::1", IP, "::1"),
    ("::ffff:1.2.3.4", IP, "1.2.3.4"),
    ("a@b.c", EMAIL, "a@b.c"),
    ("user@host", EMAIL, "user@host"),
    ("Bob <bob@x.y>", EMAIL, "bob@x.y"),
    ("Bob B. <bob@x.y>", EMAIL, "bob@x.y"),
    ('"Bob, B" <bob@x.y> (home)', EMAIL, "bob@x.y"),
    ("<bob@x.y>", EMAIL, "bob@x.y"),
    ('"a b"@x.y', EMAIL, "a b@x.y"),
    ("a.b+c@x.y", EMAIL, "a.b+c@x.y"),
    (" a@b.c ", EMAIL, "a@b.c"),
    ("https://x/z", URI, "https://x/z"),
    ("HTTPS://x/z?q=1", URI, "https://x/z?q=1"),
    ("https://x/a b", URI, "https://x/a%20b"),
    ("https://u:p@x:80/", URI, "https://u:p@x:80/"),
    ("https://[::1]:8/", URI, "https://[::1]:8/"),
    ("spiffe://a/b", URI, "spiffe://a/b"),
    ("mailto:a@b", URI, "mailto:a@b"),
    ("urn:uuid:f81d4fae", URI, "urn:uuid:f81d4fae"),
    ("host:8080", URI, "host:8080"),
    ("system:node:n1", URI, "system:node:n1"),
    ("*", URI, "*"),
    ("/abs/path", URI, "/abs/path"),
    ("fe80::1%eth0", URI, "fe80::1%eth0"),
    ("*.foo.com", DNS, "*.foo.com"),
    ("localhost", DNS, "localhost"),
    ("foo_bar", DNS, "foo_bar"),
    ("010.0.0.1", DNS, "010.0.0.1"),
    ("1.2.3.4:80", DNS, "1.2.3.4:80"),
    ("", DNS, ""),
    (" sp ", DNS, " sp "),
    ("a b", DNS, "a b"),
    ("%zz", DNS, "%zz"),
    ("https://x/%zz", DNS, "https://x/%zz"),
    ("https://a b/", DNS, "https://a b/"),
    ("https://x:port/", DNS, "https://x:port/"),
    (":8080", DNS, ":8080"),
    ("a@", DNS, "a@"),
    (".a@b", DNS, ".a@b"),
    ("a..b@c", DNS, "a..b@c"),
    ("a@b, c@d", DNS, "a@b, c@d"),
    ("münchen.de", DNS, "münchen.de"),
    ("a\nb:c", DNS, "a\nb:c"),
]


def by_kind(names: AlternativeNames) -> list[tuple[str, str]]:
    return [
        *((IP, str(ipaddress.ip_address(octets))) for octets in names.ips),
        *((EMAIL, text) for text in names.emails),
        *((URI, text) for text in names.uris),
        *((DNS, text) for text in names.dns),
    ]


@pytest.mark.parametrize(("host", "kind", "text"), TABLE)
def test_a_host_is_of_the_kind_that_go_takes_it_for(host: str, kind: str, text: str) -> None:
    assert by_kind(classify([host])) == [(kind, text)]


def test_cfssl_tells_addresses_and_emails_from_names_as_we_do() -> None:
    # 1.2.0 has no URIs: what is one here is a DNS name there
    hosts = [host for host, kind, _ in TABLE if kind != URI and host.isascii() and host.isprintable()]
    result = subprocess.run(
        [need("cfssl"), "genkey", "-"],
        input=json.dumps({"CN": "x", "hosts": hosts}).encode(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    request = x509.load_pem_x509_csr(json.loads(result.stdout)["csr"].encode())
    theirs = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert theirs.public_bytes() == classify(hosts).encode()


def test_names_are_encoded_dns_first_then_email_ip_and_uri_in_input_order() -> None:
    names = classify(["https://x/", "b.example", "10.0.0.1", "x@y.z", "a.example", "::1"])
    decoded = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), names.encode())
    tags = [decoded.value[position] for position in _starts(decoded.value)]
    assert tags == [0x82, 0x82, 0x81, 0x87, 0x87, 0x86]
    assert names.dns == ("b.example", "a.example")


def _starts(value: bytes) -> list[int]:
    found, position = [], 2
    while position < len(value):
        found.append(position)
        position += 2 + value[position + 1]
    return found


def test_a_name_that_is_not_ascii_cannot_be_encoded() -> None:
    with pytest.raises(DERError, match="cannot be encoded as an IA5String"):
        classify(["münchen.de"]).encode()


@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_hosts_are_sorted_and_either_round_trip_or_are_refused(hosts: list[str]) -> None:
    names = classify(hosts)
    assert len(by_kind(names)) == len(hosts)
    try:
        encoded = names.encode()
    except DERError:
        assert any(not text.isascii() or has_control(text) for _, text in by_kind(names))
    else:
        assert parse(encoded, lenient=True) == names


@pytest.mark.parametrize("name", ["a\0.example", "a\n.example", "\x7f"])
def test_a_control_character_never_reaches_a_certificate(name: str) -> None:
    with pytest.raises(DERError, match="control character"):
        classify([name]).encode()
    with pytest.raises(DERError, match="control character"):
        parse(bytes((0x30, len(name) + 2, 0x82, len(name))) + name.encode())


def test_more_names_than_a_certificate_can_have_are_refused_with_a_code() -> None:
    classify(["a"] * MAX_NAMES)
    with pytest.raises(CodedError, match="one certificate may have") as caught:
        classify(["a"] * (MAX_NAMES + 1))
    assert caught.value.code == Code.CSR_BAD_REQUEST
    with pytest.raises(DERError, match="more than one certificate may have"):
        parse(AlternativeNames(dns=("a",) * (MAX_NAMES + 1)).encode())


@given(st.ip_addresses())
def test_every_address_is_an_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    (octets,) = classify([str(address)]).ips
    mapped = getattr(address, "ipv4_mapped", None)
    assert octets == (mapped or address).packed


@given(
    st.builds(
        AlternativeNames,
        dns=st.lists(ASCII, max_size=3).map(tuple),
        emails=st.lists(ASCII, max_size=3).map(tuple),
        ips=st.lists(st.binary(min_size=4, max_size=4), max_size=3).map(tuple),
        uris=st.lists(ASCII, max_size=3).map(tuple),
    )
)
def test_names_read_back_as_they_were_written(names: AlternativeNames) -> None:
    assert parse(names.encode(), lenient=True) == names


@pytest.mark.parametrize("value", [b"", b"\x30", b"\x30\x03\x87\x01\x01", b"\x30\x03\x82\x01\xff"])
def test_malformed_names_are_an_error_and_no_crash(value: bytes) -> None:
    with pytest.raises(DERError):
        parse(value)
