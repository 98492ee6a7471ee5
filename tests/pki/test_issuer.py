from __future__ import annotations

import base64
import json
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from ocspd.clock import ManualClock
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.model import CertStatus
from ocspd.pki import ca, certs, csr, issuer, keys, pem
from ocspd.pki.config_json import parse_config
from ocspd.pki.extensions import Extension
from ocspd.pki.issuer import Issuer, SignRequest
from tests.pki.chain import make_key

NOW = datetime(2026, 5, 4, 3, 2, 31, tzinfo=UTC)
NULL = base64.b64encode(b"\x05\x00").decode()
LOCAL = {"expiry": "10h", "usages": ["signing", "server auth"]}


def make_ca(fields: dict[str, Any] | None = None) -> tuple[x509.Certificate, Any]:
    request = csr.parse_request(json.dumps({"CN": "root", **(fields or {})}).encode())
    key = make_key("ecdsa-256")
    made = ca.init_ca(request, ManualClock(NOW), key)
    return certs.load_certificate(made.cert.encode()), key


def sign(
    profile: dict[str, Any],
    csr_fields: dict[str, Any] | None = None,
    /,
    *,
    authority: dict[str, Any] | None = None,
    now: datetime = NOW,
    **request: Any,
) -> x509.Certificate:
    certificate, key = make_ca(authority)
    config = parse_config(json.dumps({"signing": {"default": profile}}).encode())
    wanted = csr.parse_request(json.dumps({"CN": "leaf", **(csr_fields or {})}).encode())
    csr_pem = csr.make_csr(wanted, make_key("ecdsa-256", 1))
    return Issuer(certificate, key, config, ManualClock(now)).sign(SignRequest(csr_pem=csr_pem, **request))


def refused(code: int, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(CodedError) as caught:
        sign(*args, **kwargs)
    assert caught.value.code == code
    return caught.value.message


def oids(certificate: x509.Certificate) -> list[str]:
    return [extension.oid.dotted_string for extension in certificate.extensions]


@pytest.mark.parametrize(
    ("now", "start"),
    [
        (datetime(2026, 5, 4, 3, 2, 29, 999999, tzinfo=UTC), datetime(2026, 5, 4, 2, 57, tzinfo=UTC)),
        (datetime(2026, 5, 4, 3, 2, 30, tzinfo=UTC), datetime(2026, 5, 4, 2, 58, tzinfo=UTC)),
        (datetime(2026, 12, 31, 23, 59, 31, tzinfo=UTC), datetime(2026, 12, 31, 23, 55, tzinfo=UTC)),
    ],
)
def test_the_validity_begins_five_minutes_before_the_nearest_minute(now: datetime, start: datetime) -> None:
    made = sign(LOCAL, now=now)
    assert made.not_valid_before_utc == start
    assert made.not_valid_after_utc == start + timedelta(hours=10)


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001  (made aware below)
def test_rounding_moves_by_half_a_minute_at_most(instant: datetime) -> None:
    aware = instant.replace(tzinfo=UTC)
    rounded = issuer.rounded_minute(aware)
    assert (rounded.second, rounded.microsecond) == (0, 0)
    assert -timedelta(seconds=30) < rounded - aware <= timedelta(seconds=30)


def test_a_validity_beyond_2049_is_generalized_time() -> None:
    made = sign({**LOCAL, "expiry": "262800h"})
    assert made.not_valid_after_utc.year == 2056
    assert b"\x18\x0f2056" in made.tbs_certificate_bytes
    assert b"\x17\x0d26" in made.tbs_certificate_bytes


def test_a_validity_that_cannot_be_is_5200() -> None:
    assert "empty" in refused(5200, {**LOCAL, "not_after": "2020-01-01T00:00:00Z"})
    assert "9999" in refused(5200, {**LOCAL, "expiry": "2000000h", "not_before": "9990-01-01T00:00:00Z"})


def test_without_usages_nothing_is_signed() -> None:
    assert refused(5100, {"expiry": "1h"}) == "Invalid policy: no key usage available"


def test_serials_are_159_random_bits() -> None:
    serials = {sign(LOCAL).serial_number for _ in range(20)}
    assert len(serials) == 20
    assert max(serials).bit_length() in range(150, 160)
    assert all(serial > 0 for serial in serials)


def test_a_client_gives_the_serial_where_the_profile_says_so() -> None:
    profile = {**LOCAL, "ClientProvidesSerialNumbers": True}
    assert sign(profile, serial=77).serial_number == 77
    refused(1400, profile)
    refused(1300, profile, serial=0)
    refused(1300, profile, serial=1 << 160)
    assert sign(LOCAL, serial=77).serial_number != 77


@pytest.mark.parametrize(
    ("authority", "wanted", "allowed"),
    [
        ({}, {}, True),
        ({}, {"pathlen": 5}, True),
        ({"ca": {"pathlen": 2}}, {"pathlen": 1}, True),
        ({"ca": {"pathlen": 2}}, {}, True),
        ({"ca": {"pathlen": 2}}, {"pathlen": 2}, False),
        ({"ca": {"pathlenzero": True}}, {}, False),
        ({"ca": {"pathlenzero": True}}, {"pathlenzero": True}, False),
    ],
)
def test_a_request_for_a_ca_must_fit_under_its_issuer(
    authority: dict[str, Any], wanted: dict[str, Any], *, allowed: bool
) -> None:
    profile = {"expiry": "1h", "usages": ["cert sign"], "ca_constraint": {"is_ca": True}}
    if allowed:
        assert certs.basic_constraints(sign(profile, {"ca": wanted}, authority=authority)).ca
    else:
        refused(5300, profile, {"ca": wanted}, authority=authority)


def test_a_request_for_a_ca_needs_a_profile_that_makes_cas() -> None:
    assert "ca_constraint" in refused(5300, LOCAL, {"ca": {}})


def test_a_ca_keeps_no_names_but_addresses() -> None:
    profile = {"expiry": "1h", "usages": ["cert sign"], "ca_constraint": {"is_ca": True}}
    made = sign(profile, {"hosts": ["a.example", "x@y", "10.0.0.1", "spiffe://a/b"]})
    assert certs.alternative_names(made).to_hosts() == ["10.0.0.1"]


def test_a_profile_may_make_a_ca_under_a_path_length_of_zero_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    profile = {"expiry": "1h", "usages": ["cert sign"], "ca_constraint": {"is_ca": True}}
    sign(profile, authority={"ca": {"pathlenzero": True}})
    assert "pathLenConstraint is 0" in caplog.text


def test_a_profile_that_is_not_there_is_the_default_one_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sign(LOCAL, profile="clinet\n")
    assert "there is no profile 'clinet\\n' (available: none): using the default one" in caplog.text
    caplog.clear()
    sign(LOCAL)
    assert "profile" not in caplog.text


def test_a_leaf_may_outlive_its_issuer_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sign({**LOCAL, "expiry": "100000h"})
    assert re.search(r"valid until \S+ [\d:]{8} UTC, but its issuer only until \S+ [\d:]{8} UTC", caplog.text)


def test_hosts_null_keeps_names_and_an_empty_list_takes_them_away() -> None:
    fields = {"hosts": ["a.example"]}
    assert certs.alternative_names(sign(LOCAL, fields)).dns == ("a.example",)
    assert not certs.alternative_names(sign(LOCAL, fields, hosts=[]))
    assert certs.alternative_names(sign(LOCAL, fields, hosts=["b"])).dns == ("b",)


@pytest.mark.parametrize("subject", [{}, {"CN": "x"}])
def test_names_are_critical_exactly_when_there_is_no_subject(subject: dict[str, Any]) -> None:
    made = sign(LOCAL, {"CN": "", "hosts": ["a.example"], **subject})
    extension = made.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert extension.critical == (not subject)


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"CN": "a.example", "hosts": ["b.example", "spiffe://c.example"]}, True),
        ({"CN": "a.example", "hosts": ["10.0.0.1"]}, True),
        ({"CN": "", "hosts": ["10.0.0.1"]}, True),
        ({"CN": "a.example.com"}, False),
        ({"CN": "a.example", "hosts": ["x@b.org"]}, False),
        ({"CN": "a.example", "hosts": ["spiffe://b.org"]}, False),
        ({"CN": "a.example", "hosts": ["b.org"]}, False),
    ],
)
def test_every_name_but_an_address_must_match_the_whitelist(fields: dict[str, Any], *, allowed: bool) -> None:
    profile = {**LOCAL, "name_whitelist": r"\.example$"}
    if allowed:
        sign(profile, fields)
    else:
        refused(5500, profile, fields)


BLOCKED = sorted(issuer.NEVER_COPIED)


@pytest.mark.parametrize("oid", BLOCKED)
def test_copy_extensions_never_lets_a_request_choose(oid: str) -> None:
    arcs = [int(arc) for arc in oid.split(".")]
    try:
        made = sign({**LOCAL, "copy_extensions": True}, {"extensions": [{"Id": arcs, "Value": NULL}]})
    except CodedError as err:  # a request whose names or constraints are NULL is refused before
        assert err.code == Code.CSR_PARSE_FAILED  # noqa: PT017  (either is right)
        return
    assert all(value != b"\x05\x00" for value in _values(made, oid))


def _values(made: x509.Certificate, oid: str) -> list[bytes]:
    from ocspd.pki.extensions import of_certificate

    return [extension.value for extension in of_certificate(made) if extension.oid == oid]


def test_copy_extensions_takes_the_others_with_their_criticality() -> None:
    fields = {
        "hosts": ["a.example"],
        "delegation_enabled": True,
        "extensions": [
            {"Id": [1, 2, 3, 4], "Critical": True, "Value": NULL},
            {"Id": [1, 3, 6, 1, 5, 5, 7, 1, 24], "Value": base64.b64encode(b"0\x03\x02\x01\x05").decode()},
        ],
    }
    allowed = {"copy_extensions": True, "allowed_extensions": ["1.2.3.4"]}
    made = sign({**LOCAL, **allowed, "ocsp_no_check": True}, fields)
    assert oids(made)[-4:] == [
        "1.3.6.1.4.1.44363.44",
        "1.2.3.4",
        "1.3.6.1.5.5.7.1.24",
        "1.3.6.1.5.5.7.48.1.5",
    ]
    copied = made.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.2.3.4"))
    assert copied.critical
    assert oids(sign(LOCAL, fields))[-1] == "1.3.6.1.4.1.44363.44"


HARMFUL = {
    "policyMappings": "2.5.29.33",
    "policyConstraints": "2.5.29.36",
    "inhibitAnyPolicy": "2.5.29.54",
    "freshestCRL": "2.5.29.46",
    "subjectInfoAccess": "1.3.6.1.5.5.7.1.11",
    "CT poison": "1.3.6.1.4.1.11129.2.4.3",
    "CT list": "1.3.6.1.4.1.11129.2.4.2",
    "Microsoft SID": "1.3.6.1.4.1.311.25.2",
    "Microsoft application policies": "1.3.6.1.4.1.311.21.10",
    "Microsoft template": "1.3.6.1.4.1.311.21.7",
    "Netscape certificate type": "2.16.840.1.113730.1.1",
    "qcStatements": "1.3.6.1.5.5.7.1.3",
    "OCSP no check": "1.3.6.1.5.5.7.48.1.5",
    "subjectDirectoryAttributes": "2.5.29.9",
    "privateKeyUsagePeriod": "2.5.29.16",
    "private": "1.2.3.4",
}


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize("name", HARMFUL)
def test_A7_copy_extensions_takes_nothing_that_was_not_listed(name: str, *, critical: bool) -> None:
    oid = HARMFUL[name]
    arcs = [int(arc) for arc in oid.split(".")]
    fields = {"extensions": [{"Id": arcs, "Critical": critical, "Value": NULL}]}
    values = (profile_values(oid, listed, fields) for listed in ([], [oid]))
    assert list(values) == [[], [] if oid in issuer.NEVER_COPIED else [b"\x05\x00"]]


def profile_values(oid: str, listed: list[str], fields: dict[str, Any]) -> list[bytes]:
    profile = {**LOCAL, "copy_extensions": True, "allowed_extensions": listed}
    return _values(sign(profile, fields), oid)


@pytest.mark.parametrize("copying", [{}, {"copy_extensions": True, "allowed_extensions": ["1.2.3.4"]}])
def test_A7_a_whitelist_lets_no_extension_of_a_request_through(copying: dict[str, Any]) -> None:
    whitelist = {"Subject": True, "PublicKey": True, "PublicKeyAlgorithm": True, "DNSNames": True}
    fields = {
        "CN": "a",
        "hosts": ["a.example"],
        "delegation_enabled": True,
        "extensions": [
            {"Id": [int(arc) for arc in oid.split(".")], "Critical": True, "Value": NULL}
            for oid in (*HARMFUL.values(), "1.3.6.1.5.5.7.1.24")
        ],
    }
    bare = {"CN": "a", "hosts": ["a.example"]}
    assert oids(sign({**LOCAL, **copying, "CSRWhitelist": whitelist}, fields)) == oids(sign(LOCAL, bare))


def test_what_nobody_could_read_is_not_signed(caplog: pytest.LogCaptureFixture) -> None:
    long_oid = "1.2." + ".".join(["123456789"] * 17)  # 69 bytes
    extension = Extension(long_oid, critical=False, value=b"\x05\x00")
    caplog.set_level(logging.INFO)
    refused(1300, {**LOCAL, "allowed_extensions": [long_oid]}, extensions=(extension,))
    refused(1300, LOCAL, label="a\0b")
    assert caplog.text.count("signed certificate") == 2  # the two CAs that were asked


def test_request_extensions_must_be_allowed_and_may_replace_a_standard_one() -> None:
    extension = Extension("2.5.29.37", critical=True, value=b"0\n\x06\x08+\x06\x01\x05\x05\x07\x03\x04")
    assert "allowed_extensions" in refused(1300, LOCAL, extensions=(extension,))
    made = sign({**LOCAL, "allowed_extensions": ["2.5.29.37"]}, extensions=(extension,))
    assert oids(made).count("2.5.29.37") == 1
    assert oids(made)[-1] == "2.5.29.37"


def test_a_csr_whitelist_without_the_key_is_explained() -> None:
    with pytest.raises(OCSPDError, match="CSRWhitelist must include PublicKey") as caught:
        sign({**LOCAL, "CSRWhitelist": {"Subject": True}})
    assert not isinstance(caught.value, CodedError)  # CFSSL has no number for it


@pytest.mark.parametrize("key", ["name_whitelist", "NameWhitelist", "NAMEWHITELIST", "Name_Whitelist"])
def test_a_name_whitelist_counts_under_each_name_that_cfssl_reads(key: str) -> None:
    refused(5500, {**LOCAL, key: "^x$"}, {"CN": "leaf"})
    assert sign({**LOCAL, key: "^leaf$"}, {"CN": "leaf"})


@pytest.mark.parametrize("key", ["CSRWhitelist", "csrwhitelist", "csr_whitelist", "CSR_WHITELIST"])
def test_a_csr_whitelist_counts_under_the_name_one_expects_too(key: str) -> None:
    allowed = {"publickey": True, "PublicKeyAlgorithm": True}
    made = sign({**LOCAL, key: allowed}, {"CN": "leaf", "hosts": ["a.example"]})
    assert "2.5.29.17" not in oids(made)
    assert not list(made.subject)


def test_a_csr_whitelist_needs_nothing_but_the_key_and_hides_a_request_for_a_ca() -> None:
    """As in CFSSL, which copies what is listed to an empty template and looks at that."""
    made = sign({**LOCAL, "CSRWhitelist": {"PublicKey": True, "Subject": True}}, {"CN": "leaf", "ca": {}})
    assert not certs.basic_constraints(made).ca
    refused(5300, LOCAL, {"CN": "leaf", "ca": {}})


def test_other_attributes_of_a_request_survive_in_their_order() -> None:
    made = sign(LOCAL, {"names": [{"OID": {"0.9.2342.19200300.100.1.25": "org"}, "E": "a@b", "C": "FR"}]})
    found = [attribute.oid.dotted_string for attribute in made.subject]
    assert found == ["2.5.4.6", "2.5.4.3", "0.9.2342.19200300.100.1.25", "1.2.840.113549.1.9.1"]


def test_the_issuer_name_is_copied_octet_by_octet() -> None:
    certificate, key = make_ca({"names": [{"O": "é"}]})
    made = Issuer(certificate, key, parse_config(b'{"signing":{}}'), ManualClock(NOW)).sign(
        SignRequest(csr_pem=csr.make_csr(csr.parse_request(b'{"CN":"x"}'), make_key("ed25519")))
    )
    made.verify_directly_issued_by(certificate)


@pytest.mark.parametrize("name", ["root", "Root"])
def test_a_certificate_names_its_issuers_key_also_when_it_has_the_issuers_name(name: str) -> None:
    made = sign(LOCAL, {"CN": name})
    assert certs.aki_hex(made) == certs.ski_hex(make_ca()[0]) != ""
    assert certs.to_row(made, label="", issued_at=NOW).aki == certs.aki_hex(made)


def test_a_key_of_another_certificate_is_1000_as_in_cfssl() -> None:
    certificate, _ = make_ca()
    with pytest.raises(CodedError) as caught:
        Issuer(certificate, make_key("ecdsa-256", 9), parse_config(b'{"signing":{}}'), ManualClock(NOW))
    assert caught.value.code == Code.CERT_UNKNOWN


def test_the_serial_is_logged_as_scripts_expect_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ocspd"):
        made = sign(LOCAL)
    assert f"signed certificate with serial number {made.serial_number}" in caplog.messages


def test_a_row_has_the_values_cfssl_writes() -> None:
    made = sign(LOCAL, {"hosts": ["a.example", "10.0.0.1"]})
    row = certs.to_row(made, label="label", issued_at=NOW)
    identifier = made.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier is not None
    assert (row.serial, row.aki, row.ca_label) == (made.serial_number, identifier.hex(), "label")
    assert (row.status, row.reason, row.revoked_at, row.metadata) == (CertStatus.GOOD, 0, None, None)
    assert (row.expiry, row.not_before) == (made.not_valid_after_utc, made.not_valid_before_utc)
    assert (row.sans, row.common_name, row.issued_at) == (["a.example"], "leaf", NOW)
    assert row.pem == certs.certificate_to_pem(made)
    assert certs.to_row(sign(LOCAL), label="", issued_at=NOW).sans is None


def test_info_describes_the_profile() -> None:
    certificate, key = make_ca()
    config = parse_config(json.dumps({"signing": {"default": LOCAL}}).encode())
    info = Issuer(certificate, key, config, ManualClock(NOW)).info("unknown")
    assert list(info) == ["certificate", "usages", "expiry"]
    assert info["certificate"] == certs.certificate_to_pem(certificate).strip()
    assert (info["usages"], info["expiry"]) == (LOCAL["usages"], "10h")


def test_renewing_keeps_name_key_lifetime_and_addresses() -> None:
    certificate, key = make_ca(
        {
            "names": [{"C": "FR", "O": "b", "OU": "u"}, {"O": "a", "E": "lost@x"}],
            "hosts": ["10.0.0.1"],
            "ca": {"expiry": "100h30m", "pathlen": 1},
            "serialnumber": "4",
        }
    )
    later = ManualClock(NOW + timedelta(days=1))
    renewed = certs.load_certificate(ca.renew_ca(certificate, key, later).encode())
    assert renewed.not_valid_after_utc - renewed.not_valid_before_utc == timedelta(hours=100, minutes=30)
    assert renewed.not_valid_before_utc > certificate.not_valid_before_utc
    assert certs.basic_constraints(renewed) == certs.basic_constraints(certificate)
    assert certs.ski_hex(renewed) == certs.ski_hex(certificate)
    assert certs.alternative_names(renewed) == certs.alternative_names(certificate)
    assert "lost@x" not in renewed.subject.rfc4514_string()
    renewed.verify_directly_issued_by(renewed)


def test_only_a_ca_is_renewed_and_only_with_its_key() -> None:
    certificate, _key = make_ca()
    with pytest.raises(CodedError) as caught:
        ca.renew_ca(certificate, make_key("ecdsa-256", 9), ManualClock(NOW))
    assert caught.value.code == Code.KEY_MISMATCH
    with pytest.raises(Exception, match="not a CA"):
        ca.renew_ca(sign(LOCAL), make_key("ecdsa-256", 1), ManualClock(NOW))


@pytest.mark.parametrize(
    "fields", [{"CN": ""}, {"CN": "", "names": [{}]}, {"CN": "", "names": [{"O": "x"}, {"E": "y"}]}]
)
def test_a_ca_needs_a_subject(fields: dict[str, Any]) -> None:
    with pytest.raises(CodedError) as caught:
        make_ca(fields)
    assert caught.value.code == Code.POLICY_INVALID_REQUEST
    assert "missing subject information" in caught.value.message


def test_a_new_ca_takes_backdate_and_crl_url_and_a_given_key_does_not() -> None:
    request = csr.parse_request(b'{"CN":"x","ca":{"backdate":"1h"},"crl_url":"http://c"}')
    fresh = certs.load_certificate(ca.init_ca(request, ManualClock(NOW)).cert.encode())
    assert fresh.not_valid_before_utc == datetime(2026, 5, 4, 2, 3, tzinfo=UTC)
    assert "2.5.29.31" in oids(fresh)
    given_key = ca.init_ca(request, ManualClock(NOW), make_key("ecdsa-256"))
    again = certs.load_certificate(given_key.cert.encode())
    assert again.not_valid_before_utc == datetime(2026, 5, 4, 2, 58, tzinfo=UTC)
    assert "2.5.29.31" not in oids(again)
    assert given_key.key == ""


@pytest.mark.parametrize("text", ["x", "5", "99999999999h"])
def test_a_ca_expiry_that_is_no_duration_has_no_number_as_in_cfssl(text: str) -> None:
    with pytest.raises(OCSPDError, match=r"^ca\.expiry: time: ") as caught:
        make_ca({"ca": {"expiry": text}})
    assert not isinstance(caught.value, CodedError)


def test_a_self_signed_certificate_copies_what_its_request_asks_for() -> None:
    request = csr.parse_request(
        json.dumps({"CN": "x", "hosts": ["a"], "extensions": [{"Id": [1, 2, 3], "Value": NULL}]}).encode()
    )
    profile = parse_config(
        json.dumps({"signing": {"default": {**LOCAL, "ocsp_url": "http://o"}}}).encode()
    ).default
    cert_pem, csr_pem = ca.self_sign(request, make_key("ecdsa-256"), profile, ManualClock(NOW))
    made = certs.load_certificate(cert_pem.encode())
    assert oids(made) == ["2.5.29.15", "2.5.29.37", "2.5.29.19", "2.5.29.14", "2.5.29.17", "1.2.3"]
    assert made.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert made.not_valid_after_utc == NOW + timedelta(hours=10)
    assert csr.load_csr(csr_pem.encode()).subject.common_name == "x"
    made.verify_directly_issued_by(made)


def test_one_certificate_is_loaded_and_several_are_refused() -> None:
    certificate, _ = make_ca()
    text = certs.certificate_to_pem(certificate).encode()
    assert certs.load_certificate(b"text before\n" + text) == certificate
    (block,) = pem.blocks(text)
    assert certs.load_certificate(block.content) == certificate
    assert len(certs.load_certificates(text + text)) == 2
    cases = [(text + text, 1003), (b"", 1002), (b"junk", 1002), (text.replace(b"MII", b"AAA", 1), 1003)]
    for data, code in cases:
        with pytest.raises(CodedError) as caught:
            certs.load_certificate(data)
        assert caught.value.code == code


def test_a_certificate_inside_pkcs7_is_found() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

    certificate, _ = make_ca()
    wrapped = pkcs7.serialize_certificates([certificate], Encoding.PEM)
    assert certs.load_certificate(wrapped) == certificate
    assert keys.public_key_info(make_key("ecdsa-256")) in certificate.tbs_certificate_bytes


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(min_value=0), st.integers(0, 255))
def test_a_damaged_certificate_is_loaded_or_refused_and_no_crash(position: int, octet: int) -> None:
    (block,) = pem.blocks(certs.certificate_to_pem(make_ca()[0]).encode())
    content = bytearray(block.content)
    content[position % len(content)] = octet
    try:
        certificate = certs.load_certificate(bytes(content))
        certs.to_row(certificate, label="", issued_at=NOW)
    except CodedError as err:
        assert err.code in {1002, 1003}  # noqa: PT017  (either outcome is right, a traceback is not)
    else:
        certs.basic_constraints(certificate)
        certs.ski_hex(certificate)


TLS_FEATURE = [1, 3, 6, 1, 5, 5, 7, 1, 24]


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("MAMCAQU=", True),  # status_request
        ("MAYCAQUCARE=", True),  # and status_request_v2
        ("MAA=", True),
        ("MAMCAQE=", True),  # max_fragment_length, which is odd and well-formed
        ("BQA=", False),
        ("", False),
        ("MAUCAwEAAA==", False),  # 65536
        ("MAMCAf8=", False),
        ("MAMBAf8=", False),
        ("MIACAQUAAA==", False),
        ("/////w==", False),
    ],
)
def test_A7_a_tls_feature_is_copied_when_it_is_one(value: str, *, allowed: bool) -> None:
    profile = {**LOCAL, "copy_extensions": True}
    fields = {"hosts": ["a.example"], "extensions": [{"Id": TLS_FEATURE, "Value": value}]}
    if allowed:
        assert "1.3.6.1.5.5.7.1.24" in oids(sign(profile, fields))
    else:
        assert "1.3.6.1.5.5.7.1.24" in refused(9003, profile, fields)


@pytest.mark.parametrize(
    ("code", "fields", "request_fields", "cause"),
    [
        (9300, {"names": [{"OU": "x"}] * 1001}, {}, "1001 attributes"),
        (9300, {"names": [{"E": "x"}] * 1001}, {}, "1001 attributes"),
        (1300, {}, {"subject": csr.Subject(names=(csr.NameEntry(unit="x"),) * 1001)}, "1001 attributes"),
        (1300, {"CN": "x" * 600_000}, {}, "600[0-9]{3} bytes"),
        (1300, {}, {"hosts": ["a" * 170] * 5000}, "8[0-9]{5} bytes"),
        (1300, {}, {"crl_url": "a" * 600_000}, "600[0-9]{3} bytes"),
        (9300, {"extensions": [{"Id": [1, 2, n], "Value": ""} for n in range(201)]}, {}, "201 extensions"),
    ],
)
def test_A3_a_certificate_that_nobody_would_read_is_not_signed(
    code: int, fields: dict[str, Any], request_fields: dict[str, Any], cause: str
) -> None:
    message = refused(code, LOCAL, fields, **request_fields)
    assert re.search(cause, message), message
