from __future__ import annotations

import base64
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.pki import csr, pem
from ocspd.pki.csr import CAConfig, KeyRequest, load_csr, make_csr, parse_request
from ocspd.wire import JSONError
from tests.pki.chain import make_key
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path


def request(**fields: Any) -> csr.CertificateRequest:
    return parse_request(json.dumps(fields).encode())


def made(**fields: Any) -> x509.CertificateSigningRequest:
    text = make_csr(request(**fields), make_key("ecdsa-256"))
    parsed = x509.load_pem_x509_csr(text.encode())
    assert parsed.is_signature_valid
    return parsed


def test_what_is_not_said_has_the_defaults_of_cfssl() -> None:
    found = request()
    assert found.key == KeyRequest("ecdsa", 256)
    assert found.hosts is None
    assert found.ca is None
    assert request(key={}).key == request(key=None).key == KeyRequest("ecdsa", 256)
    assert request(key={"algo": "rsa"}).key == KeyRequest("rsa", 256)
    assert request(hosts=[]).hosts == ()


def test_keys_match_in_any_case_and_unknown_ones_are_named() -> None:
    found = request(cn="x", HOSTS=["a"], ca={"expire": "1h"}, names=[{"c": "FR", "X": 1}], extra=1)
    assert (found.common_name, found.hosts, found.ca) == ("x", ("a",), CAConfig())
    assert set(found.unknown) == {"extra", "ca.expire (did you mean expiry?)", "names.X"}
    assert request(Hots=["a"]).unknown == ("Hots (did you mean hosts?)",)


@pytest.mark.parametrize(
    "fields",
    [
        {"CN": 5},
        {"hosts": "a"},
        {"hosts": [1]},
        {"names": {}},
        {"names": [{"OID": {"1.2": 3}}]},
        {"names": [{"C": 1}]},
        {"key": []},
        {"key": {"size": "256"}},
        {"ca": {"pathlen": "1"}},
        {"delegation_enabled": "yes"},
        {"extensions": [{"Id": "1.2", "Value": ""}]},
        {"extensions": [{"Id": [1], "Value": ""}]},
        {"extensions": [{"Id": [1, 2], "Value": "%"}]},
    ],
)
def test_a_wrong_type_is_an_error_that_names_json(fields: dict[str, Any]) -> None:
    with pytest.raises(JSONError, match=r"^json: "):
        request(**fields)


@pytest.mark.parametrize("name", ["x", "1", "1.2.a", "9.9", "1.40.1"])
def test_an_attribute_that_is_no_oid_is_9300(name: str) -> None:
    with pytest.raises(CodedError) as caught:
        make_csr(request(names=[{"OID": {name: "v"}}]), make_key("ecdsa-256"))
    assert caught.value.code == Code.CSR_BAD_REQUEST


def test_a_host_that_is_not_ascii_is_9300_where_cfssl_crashes() -> None:
    with pytest.raises(CodedError) as caught:
        made(hosts=["münchen.de"])
    assert (
        str(caught.value)
        == '{"code":9300,"message":"x509: \\"münchen.de\\" cannot be encoded as an IA5String"}'
    )


def test_extensions_are_in_the_order_names_constraints_delegation_others() -> None:
    value = base64.b64encode(b"\x05\x00").decode()
    found = made(
        hosts=["a.example"],
        ca={"pathlen": 2},
        delegation_enabled=True,
        extensions=[
            {"Id": [1, 2, 3, 4], "Critical": True, "Value": value},
            {"Id": [1, 2, 5], "Value": value},
        ],
    )
    shown = [(extension.oid.dotted_string, extension.critical) for extension in found.extensions]
    assert shown == [
        ("2.5.29.17", False),
        ("2.5.29.19", True),
        ("1.3.6.1.4.1.44363.44", False),
        ("1.2.3.4", True),
        ("1.2.5", False),
    ]
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 2)


@pytest.mark.parametrize(
    ("ca", "path_length"),
    [
        ({}, None),
        ({"pathlen": 0}, None),
        ({"pathlenzero": True}, 0),
        ({"pathlen": 3, "pathlenzero": True}, 3),
    ],
)
def test_a_path_length_of_zero_needs_its_flag(ca: dict[str, Any], path_length: int | None) -> None:
    constraints = made(ca=ca).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.path_length == path_length


def test_a_request_without_extensions_has_an_empty_attribute_set() -> None:
    assert made(CN="x").tbs_certrequest_bytes.endswith(b"\xa0\x00")


def test_other_attributes_follow_the_standard_ones() -> None:
    found = made(CN="x", names=[{"E": "a@b", "OID": {"1.2.3.4": "v"}, "C": "FR"}], serialnumber="7")
    oids = [attribute.oid.dotted_string for attribute in found.subject]
    assert oids == ["2.5.4.6", "2.5.4.3", "2.5.4.5", "1.2.3.4", "1.2.840.113549.1.9.1"]


def test_what_we_make_we_read_back() -> None:
    text = make_csr(
        request(CN="x", hosts=["a.example", "10.0.0.1", "x@y", "spiffe://a/b"], ca={"pathlenzero": True}),
        make_key("ed25519"),
    )
    found = load_csr(text.encode())
    assert found.subject.common_name == "x"
    assert found.alternative_names.to_hosts() == ["10.0.0.1", "a.example", "x@y", "spiffe://a/b"]
    assert found.basic_constraints is not None
    assert (found.basic_constraints.ca, found.basic_constraints.path_len) == (True, 0)


def foreign(key: Any, algorithm: Any = None, label: str = "CERTIFICATE REQUEST") -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    )
    der = builder.sign(key, algorithm or hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return pem.encode(label, der).encode()


def test_both_labels_and_text_around_the_block_are_accepted() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert (
        load_csr(b"Subject: x\n" + foreign(key, label="NEW CERTIFICATE REQUEST")).subject.common_name == "x"
    )
    assert load_csr(foreign(key).replace(b"\n", b"\r\n")).subject.common_name == "x"


@pytest.mark.parametrize("key", [["rsa:2048"], ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]])
def test_a_request_signed_with_sha1_is_accepted(tmp_path: Path, key: list[str]) -> None:
    words = ["req", "-new", "-newkey", *key, "-nodes", "-sha1", "-subj", "/CN=old"]
    words += ["-keyout", str(tmp_path / "k.pem"), "-out", str(tmp_path / "r.csr")]
    subprocess.run([need("openssl"), *words], check=True, capture_output=True, timeout=120)
    text = (tmp_path / "r.csr").read_bytes()
    assert load_csr(text).subject.common_name == "old"
    (block,) = pem.blocks(text)
    with pytest.raises(CodedError, match="does not verify"):
        load_csr(pem.encode("CERTIFICATE REQUEST", block.content.replace(b"old", b"new")).encode())


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (b"", 9002, "CSR Decode failed"),
        (b"junk", 9002, "CSR Decode failed"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 9300, "not a csr"),
        (
            b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            9003,
            "CSR Parse",
        ),
    ],
)
def test_what_is_no_request_has_a_code(text: bytes, code: int, message: str) -> None:
    with pytest.raises(CodedError) as caught:
        load_csr(text)
    assert caught.value.code == code
    assert caught.value.message.startswith(message)


def test_a_request_changed_after_signing_is_9300() -> None:
    (block,) = pem.blocks(foreign(ec.generate_private_key(ec.SECP256R1())))
    changed = block.content.replace(b"\x0c\x01x", b"\x0c\x01y")
    assert changed != block.content
    with pytest.raises(CodedError) as caught:
        load_csr(pem.encode("CERTIFICATE REQUEST", changed).encode())
    assert caught.value.code == Code.CSR_BAD_REQUEST


@given(st.integers(min_value=0), st.integers(0, 255))
def test_a_damaged_request_is_refused_with_a_code_and_no_crash(position: int, octet: int) -> None:
    (block,) = pem.blocks(DAMAGED)
    content = bytearray(block.content)
    content[position % len(content)] = octet
    if bytes(content) == block.content:
        return
    with pytest.raises(CodedError):
        load_csr(pem.encode("CERTIFICATE REQUEST", bytes(content)).encode())


DAMAGED = make_csr(
    request(CN="x", names=[{"O": "o"}], hosts=["a.example", "10.0.0.1"], ca={"pathlen": 1}),
    make_key("ecdsa-256"),
).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAME = st.dictionaries(st.sampled_from(["C", "O", "E", "OID", "SerialNumber"]), JSON)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "CN": st.text() | JSON,
            "hosts": st.lists(st.text()) | JSON,
            "names": st.lists(NAME) | JSON,
            "ca": JSON,
            "serialnumber": st.text(),
            "extensions": JSON,
        },
    )
)
def test_any_request_is_made_or_refused_by_a_clear_error(fields: dict[str, Any]) -> None:
    try:
        text = make_csr(request(**fields), make_key("ecdsa-256"))
    except OCSPDError as err:
        assert str(err)  # noqa: PT017  (either outcome is right, a traceback is not)
    else:
        assert load_csr(text.encode())
