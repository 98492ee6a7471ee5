from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocspd.errors import Code, CodedError, ConfigError, OCSPDError
from ocspd.pki.config_json import parse_config
from ocspd.pki.profiles import DEFAULT_USAGES, CAConstraint, Profile, SigningConfig, default_config
from ocspd.pki.usages import EXTENDED_KEY_USAGES, KEY_USAGES, parse_usages
from tests.authority.ct_log import spki
from tests.pki.chain import make_key

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"expiry": "1h", "usages": ["signing"]}
CT = {"expiry": "1h", "ct_log_servers": ["https://ct.example/"]}
P256, P384 = (base64.b64encode(spki(make_key(kind))).decode() for kind in ("ecdsa-256", "ecdsa-384"))
KEY = {"type": "standard", "key": "0123456789ABCDEF"}


def config(default: Any = None, *, profiles: dict[str, Any] | None = None, **sections: Any) -> SigningConfig:
    signing: dict[str, Any] = {"profiles": profiles or {}}
    if default is not None:
        signing["default"] = default
    return parse_config(json.dumps({"signing": signing, **sections}).encode())


def test_an_empty_signing_section_is_the_built_in_profile() -> None:
    built_in = parse_config(b'{"signing":{}}').default
    assert built_in == default_config().default
    assert built_in.usages == DEFAULT_USAGES
    assert built_in.expiry == timedelta(days=365)
    assert built_in.expiry_text == "8760h"


def test_a_configuration_without_signing_section_is_refused() -> None:
    with pytest.raises(ConfigError, match="signing"):
        parse_config(b"{}")


def test_keys_are_read_in_any_case_and_unknown_ones_are_named() -> None:
    found = parse_config(b'{"SIGNING":{"Default":{"EXPIRY":"1h","usage":[]}, "x":1}, "y": 2}')
    assert found.default.expiry == timedelta(hours=1)
    assert set(found.unknown) == {"profile default: usage (did you mean usages?)", "signing.x", "y"}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('{"signing": {"defaults": {}}}', "unknown key defaults: did you mean default?"),
        ('{"signing": {"defualt": {}}}', "did you mean default?"),
        ('{"signing": {"profile": {}}}', "unknown key profile: did you mean profiles?"),
        ('{"signing": {}, "acess": {}}', "unknown key acess: did you mean access?"),
        ('{"signing": {}, "accesses": {}}', "did you mean access?"),
    ],
)
def test_what_holds_restrictions_is_not_ignored_when_it_is_misspelt(text: str, meant: str) -> None:
    """Otherwise the built-in profile would sign for anyone, and the API be open to everybody."""
    with pytest.raises(CodedError) as caught:
        parse_config(text.encode())
    assert caught.value.code is Code.POLICY_INVALID
    assert meant in caught.value.message


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ({}, "empty expiry"),
        ({"expiry": ""}, "empty expiry"),
        ({"expiry": "1d"}, "expiry: time: "),
        ({"expiry": "5"}, "missing unit"),
        ({"expiry": "-1h"}, "negative"),
        ({"expiry": "9999999999h"}, "expiry"),
        ({"expiry": "1h", "backdate": "x"}, "backdate"),
        ({"expiry": "1h", "not_before": "yesterday"}, "not_before"),
        ({"expiry": "1h", "not_before": "2020-01-01"}, "not_before"),
        (
            {"expiry": "1h", "not_before": "2021-01-01T00:00:00Z", "not_after": "2020-01-01T00:00:00Z"},
            "not_after is not later",
        ),
        (
            {"expiry": "1h", "policies": [{"ID": "1.2", "Qualifiers": [{"Type": "x", "Value": ""}]}]},
            "qualifier",
        ),
        ({"expiry": "1h", "policies": [{"ID": "policy"}]}, "object identifier"),
        ({"expiry": "1h", "allowed_extensions": ["x"]}, "object identifier"),
        ({"expiry": "1h", "name_whitelist": "("}, "name_whitelist"),
        ({"expiry": "1h", "name_whitelist": "(?=a)"}, "name_whitelist"),
        ({"expiry": "1h", "auth_key": "k"}, "auth_keys section"),
        ({"expiry": "1h", "prev_auth_key": "k"}, "auth_keys section"),
        ({"remote": "r"}, "remotes section"),
        ({"auth_remote": {"remote": "r", "auth_key": "k"}}, "remotes section"),
        ({"auth_remote": {"auth_key": "k"}}, "no remote"),
        ({"auth_remote": {"remote": "here"}}, "no auth_key"),
        ({"auth_remote": {"remote": "here", "auth_key": "k"}}, "auth_keys section"),
        ({"remote": "here", "auth_remote": {"remote": "here", "auth_key": "k"}}, "both"),
        ({"expiry": "1h", "lint_error_level": 8}, "bad LintStatus JSON value: 8"),
        ({"expiry": "1h", "lint_error_level": 0}, "bad LintStatus JSON value: 0"),
        ({"expiry": "1h", "lint_error_level": None}, "bad LintStatus JSON value: null"),
        ({"expiry": "1h", "Lint_Error_Level": True}, "bad LintStatus JSON value: true"),
        ({"expiry": "1h", "lint_error_level": 3.0}, "bad LintStatus JSON value: 3.0"),
        ({"expiry": "1h", "lint_error_level": "notice"}, "is one of reserved, NA, NE, pass, info, warn"),
        ({"expiry": "1h", "ct_log_servers": [""]}, "'' is not the URL of a log"),
        ({"expiry": "1h", "ct_log_servers": ["ct.example"]}, "ct.example' is not the URL of a log"),
        ({"expiry": "1h", "ct_log_servers": ["ftp://ct.example"]}, "not the URL of a log"),
        ({"expiry": "1h", "ct_log_servers": ["https://u:p@ct.example"]}, "not the URL of a log"),
        ({"expiry": "1h", "ct_log_servers": ["https://ct.example:x/"]}, "not the URL of a log"),
        ({"expiry": "1h", "ct_log_servers": ["https://ct.example/?a"]}, "not the URL of a log"),
        ({"expiry": "1h", "ct_log_servers": [f"https://ct.example/{n}" for n in range(17)]}, "17 logs"),
        ({"expiry": "1h", "ct_log_servers": "https://ct.example"}, "cannot unmarshal"),
        ({**CT, "ct_log_keys": {"https://ct.exampel": ""}}, "did you mean https://ct.example?"),
        ({**CT, "ct_log_keys": {"https://ct.example": "???"}}, "it is not base64"),
        ({**CT, "ct_log_keys": {"https://ct.example": "MAA="}}, "not the public key of a log"),
        ({**CT, "ct_log_keys": {"https://ct.example": P384}}, "neither a P-256 key nor an RSA key"),
        ({**CT, "ct_log_keys": {"https://ct.example": 1}}, "cannot unmarshal"),
        ({"expiry": "1h", "ct_log_keys": {"https://ct.example": P256}}, "is not in ct_log_servers"),
        ({"expiry": "1h", "name_whitelst": "x"}, "unknown key name_whitelst: did you mean name_whitelist?"),
        ({"expiry": "1h", "Name-Whitelist": "x"}, "did you mean name_whitelist?"),
        ({"expiry": "1h", "dns_whitelist": "x"}, "did you mean"),
        ({"expiry": "1h", "authkey": "x"}, "did you mean auth_key?"),
        ({"expiry": "1h", "notAfter": "2030-01-01T00:00:00Z"}, "did you mean not_after?"),
        ({"expiry": "1h", "ca_constraint": {"is_ca": True, "maxPathLen": 1}}, "did you mean max_path_len?"),
        ({"expiry": "1h", "NameWhitelist": "("}, "name_whitelist"),
        ({"expiry": "1h", "NameWhitelist": "x", "name_whitelist": "y"}, "both name_whitelist and NameW"),
        ({"expiry": "1h", "CSRWhitelist": {}, "csr_whitelist": {}}, "both CSRWhitelist and csr_whitelist"),
        ({"expiry": "1h", "Provider": {"key": "x"}}, "Provider cannot be set"),
        ({"expiry": "1h", "prevprovider": "x"}, "PrevProvider cannot be set"),
        ({"Expiry": "1h"}, "Expiry is Go's field for nanoseconds: write expiry"),
        ({"expiry": "1h", "Backdate": "1h"}, "Backdate is Go's field"),
        ({"Expiry": 3_600_000_000_000}, "empty expiry string"),
        ({"expiry": "1h", "usages": "signing"}, "cannot unmarshal"),
        ({"expiry": 3600}, "cannot unmarshal"),
        ({"expiry": "0h"}, "expiry is zero"),
    ],
)
def test_a_wrong_profile_is_refused_with_5200_and_the_reason(profile: dict[str, Any], text: str) -> None:
    with pytest.raises(CodedError) as caught:
        config(profile, remotes={"here": "a:1"})
    assert caught.value.code == Code.POLICY_INVALID
    assert text in caught.value.message
    assert "default" in caught.value.message or "unmarshal" in caught.value.message


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (None, "null"),
        ({"expiry": "1h"}, "no usages"),
        ({"expiry": "1h", "usages": []}, "no usages"),
        ({"expiry": "1h", "usages": ["web", "Signing"]}, "web, Signing"),
        ({"usages": ["signing"]}, "empty expiry"),
    ],
)
def test_a_wrong_named_profile_is_refused_by_its_name(profile: Any, text: str) -> None:
    with pytest.raises(CodedError) as caught:
        config(GOOD, profiles={"mine": profile})
    assert caught.value.code == Code.POLICY_INVALID
    assert "profile mine" in caught.value.message
    assert text in caught.value.message


@pytest.mark.parametrize("url", ["https://ct.example", " https://ct.example/ "])
@pytest.mark.parametrize("key", [P256, f"-----BEGIN PUBLIC KEY-----\n{P256}\n-----END PUBLIC KEY-----\n"])
def test_the_key_of_a_log_is_found_by_its_url(url: str, key: str) -> None:
    servers = ["https://ct.example/", "https://ct.example", "http://other.example/log/"]
    found = config({**GOOD, "ct_log_servers": servers, "ct_log_keys": {url: key}}).default.ct_logs
    assert [log.url for log in found] == ["https://ct.example", "http://other.example/log"]
    assert [log.key_info for log in found] == [base64.b64decode(P256), b""]


@pytest.mark.parametrize("level", [None, "reserved"])
def test_without_a_level_nothing_is_linted(level: str | None) -> None:
    given = {} if level is None else {"lint_error_level": level}
    assert config({**GOOD, **given}).default.lint is None


@pytest.mark.parametrize(
    ("level", "number"), [("NA", 1), ("NE", 2), ("pass", 3), ("info", 4), ("warn", 5), ("error", 6), (7, 7)]
)
def test_a_level_is_a_word_of_zlint_or_its_number(level: str | int, number: int) -> None:
    found = config({**GOOD, "lint_error_level": level}).default.lint
    assert found is not None
    assert found.level == number


def test_a_remote_profile_neither_lints_nor_logs() -> None:
    fields = {"remote": "here", "lint_error_level": "error", **CT}
    found = config(fields, remotes={"here": "a:1"}).default
    assert (found.lint, found.ct_logs) == (None, ())


def test_a_default_without_usages_is_accepted_until_it_signs() -> None:
    assert config({"expiry": "1h"}).default.usages is None


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"signing": 5}', b"\xff", b'{"signing":{"profiles":[]}}']
)
def test_unreadable_json_is_5200(data: bytes) -> None:
    with pytest.raises(OCSPDError) as caught:
        parse_config(data)
    assert "failed to unmarshal configuration" in str(caught.value)


def test_four_settings_are_inherited_and_no_others() -> None:
    default = {
        "expiry": "5h",
        "usages": ["server auth"],
        "ocsp_url": "http://o",
        "crl_url": "http://c",
        "issuer_urls": ["http://i"],
        "auth_key": "k",
        "backdate": "1h",
        "name_whitelist": "x",
        "ca_constraint": {"is_ca": True},
    }
    found = config(
        default,
        profiles={
            "a": {"expiry": "0h", "usages": ["signing"]},
            "b": {**GOOD, "ocsp_url": "http://own", "crl_url": "http://own", "issuer_urls": []},
        },
        auth_keys={"k": KEY},
    )
    a, b = found.profiles["a"], found.profiles["b"]
    assert (a.expiry, a.ocsp_url, a.crl_url, a.issuer_urls) == (
        timedelta(hours=5),
        "http://o",
        "http://c",
        ("http://i",),
    )
    assert (a.auth_key, a.backdate, a.name_whitelist, a.ca_constraint.is_ca) == (None, timedelta(), "", False)
    assert (b.expiry, b.ocsp_url, b.crl_url, b.issuer_urls) == (
        timedelta(hours=1),
        "http://own",
        "http://own",
        (),
    )
    assert found.default.auth_key is not None


def test_an_unknown_profile_is_the_default_one_unless_signing_is_partly_remote() -> None:
    local = config(GOOD, profiles={"a": GOOD})
    assert local.profile("nope") == local.profile("") == local.default
    mixed = config(GOOD, profiles={"far": {"remote": "r"}}, remotes={"r": "ca.example"})
    assert mixed.is_mixed
    assert mixed.profile("far").remote_server == "ca.example"
    assert mixed.profile("") == mixed.default
    with pytest.raises(CodedError) as caught:
        mixed.profile("nope")
    assert caught.value.code == Code.POLICY_UNKNOWN_PROFILE
    remote = mixed.with_remote("elsewhere:1")
    assert remote.profile("nope").remote_server == "elsewhere:1"
    assert remote.profile("far").remote_server == "elsewhere:1"


def test_an_authenticated_remote_has_its_key() -> None:
    found = config(
        GOOD,
        profiles={"far": {"auth_remote": {"remote": "r", "auth_key": "k"}}},
        remotes={"r": "ca.example"},
        auth_keys={"k": KEY},
    )
    remote = found.profiles["far"].auth_remote
    assert remote is not None
    assert remote.key.key == bytes.fromhex(KEY["key"])


@pytest.mark.parametrize(
    "key",
    [
        {"type": "other", "key": "00"},
        {"type": "standard", "key": "xyz"},
        {"type": "standard", "key": ""},
        {"type": "standard", "key": "env:OCSPD_TEST_UNSET"},
        {"type": "standard", "key": "file:/nonexistent/key"},
        {"type": "standard", "key": "vault:secret"},
    ],
)
def test_an_unusable_auth_key_is_refused_without_being_shown(key: dict[str, str]) -> None:
    with pytest.raises(CodedError) as caught:
        config(GOOD, auth_keys={"name-of-key": key})
    assert caught.value.code == Code.POLICY_INVALID
    assert "name-of-key" in caught.value.message
    assert "xyz" not in caught.value.message


def test_an_auth_key_may_be_in_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("00ff00ff00ff00ff\n")
    monkeypatch.setenv("OCSPD_TEST_KEY", "00ff" * 4)
    specs = {"a": "00ff" * 4, "b": f"file:{tmp_path / 'key'}", "c": "env:OCSPD_TEST_KEY"}
    found = config(GOOD, auth_keys={name: {"type": "standard", "key": spec} for name, spec in specs.items()})
    assert {key.key for key in found.auth_keys.values()} == {b"\x00\xff" * 4}
    assert "ff" not in repr(found.auth_keys["a"])


def test_tokens_are_hmac_sha256() -> None:
    # the vector of RFC 4231 §4.2
    key = config(GOOD, auth_keys={"k": {"type": "standard", "key": (b"\x0b" * 20).hex()}}).auth_keys["k"]
    data = b"Hi There"
    token = bytes.fromhex("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
    assert key.token(data) == token
    assert key.verify(data, token)
    assert not key.verify(data + b"!", token)
    assert not key.verify(data, token[:-1])
    assert not key.verify(data, b"")


def test_absolute_times_are_read_in_any_zone() -> None:
    found = config({**GOOD, "not_before": "2030-01-01T01:00:00+01:00", "not_after": "2030-01-02T00:00:00.5Z"})
    assert found.default.not_before == datetime(2030, 1, 1, tzinfo=UTC)
    assert found.default.not_after == datetime(2030, 1, 2, 0, 0, 0, 500000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("constraint", "path_len"),
    [
        ({}, None),
        ({"max_path_len": 0}, None),
        ({"max_path_len_zero": True}, 0),
        ({"max_path_len": 2}, 2),
        ({"max_path_len": 2, "max_path_len_zero": True}, 2),
        ({"max_path_len": -1, "max_path_len_zero": True}, None),
    ],
)
def test_a_path_length_of_zero_counts_only_with_its_flag(
    constraint: dict[str, Any], path_len: int | None
) -> None:
    assert config({**GOOD, "ca_constraint": constraint}).default.ca_constraint.path_len() == path_len


def test_a_whitelist_is_searched_for_anywhere_in_the_name() -> None:
    profile = Profile(name_whitelist=r"\.example$")
    assert profile.allows_name("a.example")
    assert not profile.allows_name("a.example.com")
    assert Profile().allows_name("anything")


@given(st.lists(st.sampled_from([*KEY_USAGES, *EXTENDED_KEY_USAGES, "Signing", "1.3.6.1.5.5.7.3.1"])))
def test_usages_are_bits_in_any_order_and_purposes_in_list_order(words: list[str]) -> None:
    found = parse_usages(words)
    assert found.key_usage == sum({1 << KEY_USAGES[word] for word in words if word in KEY_USAGES})
    assert list(found.extended) == [
        EXTENDED_KEY_USAGES[word] for word in words if word in EXTENDED_KEY_USAGES
    ]
    assert set(found.unknown) <= {"Signing", "1.3.6.1.5.5.7.3.1"}
    assert bool(found) == any(word in KEY_USAGES or word in EXTENDED_KEY_USAGES for word in words)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "usages",
        "expiry",
        "backdate",
        "not_before",
        "ca_constraint",
        "issuer_urls",
        "policies",
        "allowed_extensions",
        "CSRWhitelist",
        "name_whitelist",
        "auth_key",
        "remote",
        "auth_remote",
        "ct_log_servers",
        "ct_log_keys",
        "lint_error_level",
        "RemoteServer",
    ]
)


@given(st.dictionaries(KEYS, JSON | st.just("1h")))
def test_any_profile_is_read_or_refused_by_a_clear_error(profile: dict[str, Any]) -> None:
    try:
        config(profile, profiles={"p": profile})
    except OCSPDError as err:
        assert str(err)  # noqa: PT017  (either outcome is right, a traceback is not)


@pytest.mark.parametrize(
    ("profile", "key", "meant"),
    [
        ({"expirey": "1h"}, "expirey", "expiry"),
        (
            {"ca_constraint": {"isca": True}},
            "ca_constraint.isca",
            "is_ca",
        ),
        ({"CSRWhitelist": {"DnsName": True}}, "CSRWhitelist.DnsName", "DNSNames"),
        ({"policies": [{"ID": "1.2.3", "Qualifier": []}]}, "policies.Qualifier", "Qualifiers"),
        (
            {"policies": [{"ID": "1.2.3", "Qualifiers": [{"Type": "id-qt-cps", "Valu": "a"}]}]},
            "Valu",
            "Value",
        ),
    ],
)
def test_unknown_keys_are_named_at_every_level_with_the_one_that_is_meant(
    profile: dict[str, Any], key: str, meant: str
) -> None:
    whole = {"expiry": "1h", "usages": ["cert sign"], **profile}
    config = parse_config(json.dumps({"signing": {"default": whole}}).encode())
    assert any(f"{key} (did you mean {meant}?)" in unknown for unknown in config.unknown), config.unknown


def test_a_misspelt_usage_is_refused_with_the_one_that_is_meant() -> None:
    whole = {"expiry": "1h", "usages": ["signing", "server_auth"]}
    with pytest.raises(CodedError, match=r"unknown usages: server_auth: did you mean 'server auth'"):
        parse_config(json.dumps({"signing": {"default": whole}}).encode())


@pytest.mark.parametrize(
    ("usages", "is_ca", "doubt"),
    [
        (["cert sign"], False, "cert sign without"),
        (["signing"], True, "is_ca without"),
        (["cert sign"], True, ""),
        (["signing"], False, ""),
    ],
)
def test_what_will_not_verify_is_told_when_it_is_read(usages: list[str], *, is_ca: bool, doubt: str) -> None:
    whole = {"expiry": "1h", "usages": usages, "ca_constraint": {"is_ca": is_ca}}
    doubts = parse_config(json.dumps({"signing": {"default": whole}}).encode()).doubts
    assert [doubt in text for text in doubts] == ([True] if doubt else [])


@pytest.mark.parametrize("text", ["2026-W01-1T00:00:00Z", "20260101T000000Z", "2026-01-01T00Z", "2026-01-01"])
def test_a_time_that_is_not_rfc_3339_is_refused(text: str) -> None:
    whole = {"expiry": "1h", "usages": ["signing"], "not_before": text}
    with pytest.raises(CodedError, match="not_before"):
        parse_config(json.dumps({"signing": {"default": whole}}).encode())


def test_gos_own_backdate_counts_in_nanoseconds_as_in_cfssl() -> None:
    assert config({**GOOD, "Backdate": 120_000_000_000}).default.backdate == timedelta(minutes=2)
    assert config({**GOOD, "backdate": "1m", "Backdate": 120_000_000_000}).default.backdate == timedelta(
        minutes=1
    )


@pytest.mark.parametrize(
    ("text", "expiry", "doubt"),
    [
        ('{"expiry":"1h","EXPIRY":"2h"}', "2h", "expiry and EXPIRY are the same key"),
        ('{"EXPIRY":"2h","expiry":"1h"}', "1h", "EXPIRY and expiry are the same key"),
        ('{"EXPIRY":"2h","expiry":null}', "2h", "EXPIRY and expiry are the same key"),
    ],
)
def test_of_one_key_in_two_cases_the_last_counts_and_is_reported(text: str, expiry: str, doubt: str) -> None:
    read = parse_config(b'{"signing":{"default":%s}}' % text.encode())
    assert read.default.expiry_text == expiry
    assert [doubt in each for each in read.doubts] == [True]


def test_a_restriction_in_one_of_two_objects_of_the_same_name_is_kept() -> None:
    text = b"""{"signing": {"default": {"expiry": "1h", "auth_key": "k"}},
        "auth_keys": {"k": {"type": "standard", "key": "0123456789abcdef"}},
        "Signing": {"Default": {"expiry": "2h", "ca_constraint": {"max_path_len_zero": true}},
                    "default": {"CA_constraint": {"is_ca": true}}}}"""
    read = parse_config(text).default
    assert read.auth_key is not None
    assert read.expiry_text == "2h"
    assert read.ca_constraint == CAConstraint(is_ca=True, max_path_len_zero=True)
