"""The member `access` of the configuration: what it means, and that nothing in it is ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocspd.authority.access.policy import (
    OPEN,
    CertificateRule,
    Policy,
    Right,
    changes,
    parse_access,
    right_for,
)
from ocspd.authority.access.tokens import digest, new_token
from ocspd.authority.api.endpoints import NAMES
from ocspd.errors import CodedError
from ocspd.pki.auth import AuthKey
from ocspd.pki.go_regexp import Pattern

TOKEN, HASH = new_token()
KEYS = {"k": AuthKey(b"01234567"), "other": AuthKey(b"76543210")}
PROFILES = ("www", "client")


def parsed(**access: Any) -> Policy:
    policy = parse_access(json.dumps({"access": access}).encode(), KEYS, PROFILES)
    assert policy is not None
    return policy


def refused(**access: Any) -> str:
    with pytest.raises(CodedError) as caught:
        parsed(**access)
    assert caught.value.code == 5200
    return caught.value.message.removeprefix("Invalid or unknown policy: access: ")


def test_without_the_member_there_is_no_policy() -> None:
    assert parse_access(b'{"signing": {}}', KEYS, PROFILES) is None
    assert parse_access(b'{"access": null}', KEYS, PROFILES) is None


def test_an_empty_policy_closes_everything_but_health_and_info() -> None:
    policy = parsed()
    assert (policy.clients, policy.open) == ((), OPEN)


def test_endpoints_can_be_opened_and_closed() -> None:
    assert parsed(open=["newkey"], closed=["info"]).open == {"health", "newkey"}


def test_a_client_has_the_rights_it_is_given() -> None:
    policy = parsed(
        clients={
            "a": {"token": HASH, "issue": ["www", "default"], "revoke": True},
            "b": {"auth_key": "k", "read": True, "administer": True, "revoke": False},
            "c": {"auth_key": "other", "issue": ["*"]},
        }
    )
    a, b, c = policy.clients
    assert a.rights == {Right.ISSUE, Right.REVOKE}
    assert b.rights == {Right.READ, Right.ADMINISTER}
    assert [a.may_issue(name) for name in ("www", "client", "default")] == [True, False, True]
    assert [b.may_issue(name) for name in ("www", "default")] == [False, False]
    assert [c.may_issue(name) for name in ("www", "client", "default")] == [True, True, True]


def test_a_client_is_found_by_its_token_or_its_hmac() -> None:
    other, other_hash = new_token()
    policy = parsed(
        clients={
            "a": {"token": HASH, "prev_token": other_hash},
            "b": {"auth_key": "k"},
            "c": {"auth_key": "other"},
        }
    )
    names = [
        found.name if (found := policy.by_token(digest(text))) else "" for text in (TOKEN, other, HASH, "")
    ]
    assert names == ["a", "a", "", ""]
    found = policy.by_hmac(b"data", KEYS["other"].token(b"data"))
    assert found is not None
    assert found.name == "c"
    assert policy.by_hmac(b"other data", KEYS["other"].token(b"data")) is None
    assert policy.by_hmac(b"", b"") is None


CERTIFICATE = {
    "subject": (
        (("organizationName", "ACME"),),
        (("organizationalUnitName", "PKI"),),
        (("organizationalUnitName", "Ops"),),
        (("commonName", "ra-1"),),
    ),
    "subjectAltName": (("DNS", "ra-1.example"), ("IP Address", "192.0.2.1")),
}


@pytest.mark.parametrize(
    ("rule", "accepted"),
    [
        ({"CN": "ra-[0-9]+"}, True),
        ({"CN": "ra"}, False),
        ({"CN": "a-1"}, False),
        ({"OU": "Ops"}, True),
        ({"OU": "Op"}, False),
        ({"OU": "ACME"}, False),
        ({"SAN": r"ra-\d\.example"}, True),
        ({"SAN": r"192\.0\.2\.1"}, True),
        ({"SAN": "example"}, False),
        ({"CN": "ra-1", "OU": "PKI", "SAN": ".*"}, True),
        ({"CN": "ra-1", "OU": "Sales"}, False),
        ({"CN": "ra-1|admin"}, True),
        ({"CN": "admin|ra"}, False),
    ],
)
def test_certificate_rules_match_whole_names(rule: dict[str, str], *, accepted: bool) -> None:
    policy = parsed(clients={"ra": {"certificate": rule}})
    assert (policy.by_certificate(CERTIFICATE, "ra-1") is not None) == accepted
    assert policy.by_certificate({}, None) is None


@pytest.mark.parametrize("name", ["ra-1\n", "ra-1\0", "ra-1 ", "x\nra-1", "\u0433a-1"])
def test_a_common_name_that_only_looks_alike_is_not_accepted(name: str) -> None:
    rule = CertificateRule(common_name=Pattern("^ra-1$"))
    assert not rule.accepts({"subject": ((("commonName", name),),)}, name)


def test_a_certificate_without_names_matches_no_rule() -> None:
    policy = parsed(clients={"a": {"certificate": {"OU": ".*"}}, "b": {"certificate": {"SAN": ".*"}}})
    assert policy.by_certificate({"subject": (), "serialNumber": "01"}, "") is None


@pytest.mark.parametrize(
    ("client", "why"),
    [
        ({}, "has no token, auth_key or certificate"),
        ({"token": ""}, "has no token, auth_key or certificate"),
        ({"issue": ["www"]}, "has no token, auth_key or certificate"),
        ({"token": TOKEN}, "the token itself stands in the configuration"),
        ({"token": "abc"}, "token: not sha256: and 64 hexadecimal digits"),
        ({"token": HASH + "0"}, "not sha256:"),
        ({"token": HASH, "prev_token": "x"}, "prev_token: not sha256:"),
        ({"auth_key": "missing"}, "auth_key 'missing' is not in the auth_keys section"),
        ({"token": HASH, "issue": ["wwww"]}, "issue: there is no profile 'wwww'"),
        ({"token": HASH, "isue": ["www"]}, "unknown key isue; use one of token"),
        ({"token": HASH, "roles": ["revoke"]}, "unknown key roles"),
        ({"certificate": {}}, "certificate: needs CN, OU or SAN"),
        ({"certificate": {"cn": "", "OU": ""}}, "certificate: needs CN, OU or SAN"),
        ({"certificate": {"CN": "("}}, "certificate: CN: not an RE2 expression"),
        ({"certificate": {"DN": "x"}}, "certificate: unknown key DN"),
    ],
)
def test_a_client_that_is_not_understood_is_refused_by_name(client: dict[str, Any], why: str) -> None:
    text = refused(clients={"deploy": client})
    assert text.startswith("client deploy: ")
    assert why in text
    assert TOKEN not in text


@pytest.mark.parametrize(
    ("access", "why"),
    [
        ({"client": {}}, "unknown key client; use one of clients, open, closed"),
        ({"open": ["sing"]}, "'sing' is not the name of an endpoint"),
        ({"open": ["sign"], "closed": ["sign"]}, "sign is both in open and in closed"),
        ({"clients": {"": {"token": HASH}}}, "a client has no name"),
        (
            {"clients": {"a\n": {"token": HASH}}},
            "a client has no name, or one that is too long or not printable",
        ),
        (
            {"clients": {"a": {"token": HASH}, "b": {"prev_token": HASH}}},
            "clients a and b have the same credential",
        ),
        (
            {"clients": {"a": {"auth_key": "k"}, "b": {"auth_key": "k"}}},
            "clients a and b have the same credential",
        ),
    ],
)
def test_a_policy_that_is_not_understood_is_refused(access: dict[str, Any], why: str) -> None:
    assert why in refused(**access)


@pytest.mark.parametrize(
    "access",
    [
        [],
        1,
        "x",
        {"clients": []},
        {"clients": {"a": 1}},
        {"open": "sign"},
        {"clients": {"a": {"token": HASH, "revoke": "yes"}}},
        {"clients": {"a": {"token": 7}}},
    ],
)
def test_a_wrong_type_is_refused(access: Any) -> None:
    with pytest.raises(CodedError, match="cannot unmarshal") as caught:
        parse_access(json.dumps({"access": access}).encode(), KEYS, PROFILES)
    assert caught.value.code == 5200


def test_an_endpoint_that_is_not_known_demands_the_right_to_administer() -> None:
    assert right_for("something") is Right.ADMINISTER
    assert changes("something")


def test_every_endpoint_has_its_right() -> None:
    for name in NAMES:
        assert right_for(name) is not Right.ADMINISTER or name in {
            "newkey",
            "init_ca",
            "ocspsign",
            "gencrl",
            "certadd",
        }, name


def test_tokens_have_256_random_bits_and_are_not_in_a_repr() -> None:
    tokens = {new_token()[0] for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == len("ocspd_") + 43 for token in tokens)
    policy = parsed(clients={"a": {"token": HASH, "auth_key": "k"}})
    assert HASH.removeprefix("sha256:")[:16] not in repr(policy)
    assert "01234567" not in repr(policy)
