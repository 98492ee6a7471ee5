"""No message shows a secret that stands where a file name, a number or a word belongs."""

from __future__ import annotations

import base64
import io
import json
import logging
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from ocspd.authority.api.api_response import failure_of
from ocspd.certdb.dbconf import parse_db_config
from ocspd.certdb.dsn import parse_data_source
from ocspd.cli.flags import Kind
from ocspd.cli.main import _VERBS, find_verb, main
from ocspd.client.transport import parse_address
from ocspd.errors import CodedError, OCSPDError
from ocspd.logs import logger, setup
from ocspd.pki import keys
from ocspd.pki.config_json import parse_config
from ocspd.shown import masked, shown
from tests.pki.chain import make_key

if TYPE_CHECKING:
    from pathlib import Path

PEM = keys.key_to_pem(make_key("ecdsa-256"))
SECRETS = {
    "PEM": PEM,
    "PEM without line breaks": PEM.replace("\n", " "),
    "base64": "".join(PEM.splitlines()[1:-1]),
    "hexadecimal": "8f3a1c5e7b9d2046af13579bdf02468ace13579b",
    "hexadecimal with a colon": "8f3a1c5e7b9d2046:af13579bdf02468ace13579b",
}
SERVING = {"demo", "serve", "ocspserve", "refresh"}


def shows(text: str, secret: str) -> bool:
    """Whether twelve characters in a row of the secret are in the text."""
    words = [word for word in secret.replace(":", " ").split() if len(word) >= 12]
    assert words
    return any(word[at : at + 12] in text for word in words for at in range(len(word) - 11))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("verb", sorted(_VERBS.keys() - SERVING))
def test_no_flag_shows_a_secret(
    verb: str,
    secret: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", None)
    found = find_verb(verb)
    assert found is not None
    value = SECRETS[secret]
    declared = [flag for flag in found.declared() if flag.name != "remote"]  # which would be asked for
    lines = [[verb, f"-{flag.name}={value}"] for flag in declared]
    names = [] if verb == "scan" else ["x", "y"]  # it would look for these hosts every time
    lines += [[verb, f"-{flag.name}", value, *names] for flag in declared]
    lines += [[verb, value], [verb, "x", value], [verb, f"-{value}"], [value]]
    texts = [flag.name for flag in declared if flag.kind is Kind.STRING]
    lines += [[verb, f"-{name}={prefix}:{value}"] for name in texts for prefix in ("env", "file")]
    for line in lines:
        main(line)
        out, err = capsys.readouterr()
        assert not shows(out + err, value), line[1].partition("=")[0]


@pytest.mark.parametrize("verb", sorted(SERVING))
@pytest.mark.parametrize("secret", SECRETS)
def test_no_flag_of_a_server_shows_a_secret(
    verb: str, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = find_verb(verb)
    assert found is not None
    value = SECRETS[secret]
    lines = [[verb, f"-{flag.name}={value}"] for flag in found.declared() if flag.kind is not Kind.STRING]
    lines += [[verb, f"-{name}={value}"] for name in ("config", "db-config", "tls-cert")]
    for line in [*lines, [verb, "x", value], [verb, f"-{value}"]]:
        main([*line, "-port=-1"])
        out, err = capsys.readouterr()
        assert not shows(out + err, value), line[1].partition("=")[0]


AUTH = "8f3a1c5e7b9d2046af13579bdf02468a"


@pytest.mark.parametrize(
    "config",
    [
        {"auth_keys": {"k": {"type": "standard", "key": f"{AUTH}:{AUTH}"}}},
        {"auth_keys": {"k": {"type": "standard", "key": f"{AUTH}x"}}},
        {"auth_keys": {"k": {"type": "standard", "key": f"env:{AUTH}"}}},
        {"auth_keys": {"k": {"type": "standard", "key": f"file:{AUTH}"}}},
        {"auth_keys": {"k": {"type": AUTH, "key": "standard"}}},
        {"signing": {"default": {"expiry": "1h", "auth_key": AUTH}}},
        {"signing": {"default": {"expiry": "1h", "prev_auth_key": AUTH}}},
        {"signing": {"default": {"auth_remote": {"remote": "r", "auth_key": AUTH}}}, "remotes": {"r": "h"}},
        {"signing": {"default": {"auth_remote": {"remote": AUTH, "auth_key": "x"}}}},
        {"signing": {"default": {"remote": AUTH}}},
        {"signing": {"default": {"expiry": AUTH}}},
        {"signing": {"default": {"expiry": "1h", "not_before": AUTH}}},
        {"signing": {"default": {"expiry": "1h", "policies": [{"ID": AUTH}]}}},
        {
            "signing": {
                "default": {"expiry": "1h", "policies": [{"ID": "1.2", "Qualifiers": [{"Type": AUTH}]}]}
            }
        },
        {"signing": {"default": {"expiry": "1h", "allowed_extensions": [AUTH]}}},
        {"signing": {"default": {AUTH: 1, AUTH.upper(): 2}}},
    ],
)
def test_no_configuration_shows_an_auth_key(config: dict[str, object]) -> None:
    with pytest.raises(OCSPDError) as caught:
        parse_config(json.dumps({"signing": {}, **config}).encode())
    assert not shows(str(caught.value), AUTH)


@pytest.mark.parametrize(
    "source",
    [
        "postgres://user:s3cret/w0rdpass@host/db",
        "postgres://user:12/s3cretw0rdpass@host/db",
        "postgres://user:12?s3cretw0rdpass@host/db",
        "postgres://user:s3cretw0rdpass@host:s3cretw0rdpass/db",
        "postgres://user:a@s3cretw0rdpass:x@host:y/db",
        "host=h password=s3cretw0rdpass port=s3cretw0rdpass",
        "host=h password=s3cretw0rdpass sslmode=s3cretw0rdpass",
        "host=h password='s3cretw0rdpass",
        "password=s3cretw0rdpass nonsense",
    ],
)
def test_no_data_source_shows_a_password(source: str) -> None:
    with pytest.raises(CodedError) as caught:
        parse_data_source(source)
    assert not shows(str(caught.value), "s3cretw0rdpass")


def test_a_data_source_in_the_place_of_the_driver_is_not_shown() -> None:
    wrong = {"driver": "postgres://user:s3cretw0rdpass@host/db", "data_source": "postgres"}
    with pytest.raises(OCSPDError) as caught:
        parse_db_config(json.dumps(wrong).encode())
    assert not shows(str(caught.value), "s3cretw0rdpass")


def test_the_address_of_a_remote_shows_no_password() -> None:
    with pytest.raises(CodedError) as caught:
        parse_address("https://user:s3cretw0rdpass@host")
    assert not shows(str(caught.value), "s3cretw0rdpass")


def test_logs_and_answers_are_masked_whoever_wrote_them() -> None:
    stream = io.StringIO()
    before = logger.handlers[:], logger.propagate, logger.level
    try:
        setup(0, stream)
        logger.error("unexpected: %s", PEM)
        logger.error("cannot reach postgres://user:s3cretw0rdpass@host/db?sslmode=disable")
    finally:
        logger.handlers[:], logger.propagate, level = before[0], before[1], before[2]
        logger.setLevel(level)
    text = stream.getvalue() + failure_of(OCSPDError(f"no: {PEM}")).text
    assert not shows(text, PEM)
    assert not shows(text, "s3cretw0rdpass")
    assert "host/db?sslmode=disable" in text
    assert logging.getLogger("ocspd") is logger


@pytest.mark.parametrize(
    "text",
    [
        "ca-key.pem",
        "/etc/ocspd/intermediate-ca-2026/intermediate-key.pem",
        "127.0.0.1:8888",
        "https://ca.example.com:8888/",
        "1001",
        "477302139182209583112093812093812093812",
        "2.5.29.37",
        "gencertificate",
    ],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert shown(text) == text
    assert masked(text) == text


@given(st.text(max_size=300))
def test_what_is_shown_is_printable_and_short(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 12 * 200


@pytest.mark.parametrize("kind", ["ecdsa-256", "ecdsa-521", "rsa-2048", "ed25519"])
@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_a_key_without_its_armour_is_hidden_in_any_line(kind: str, form: str) -> None:
    if (kind, form) == ("ed25519", "TraditionalOpenSSL"):
        form = "PKCS8"
    encoded = base64.b64encode(
        make_key(kind).private_bytes(
            serialization.Encoding.DER,
            getattr(serialization.PrivateFormat, form),
            serialization.NoEncryption(),
        )
    ).decode()
    assert masked(f"what is {encoded}?") == "what is (hidden)?"
    assert masked(f"what is {encoded[:60]}?") == "what is (hidden)?"


def test_a_password_with_an_at_sign_is_hidden_whole() -> None:
    assert masked("at postgres://u:a@b:c@host/db") == "at postgres://u:(hidden)@host/db"
